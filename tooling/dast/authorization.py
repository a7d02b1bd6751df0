"""Who may do what: every operation of the OpenAPI document, requested by nobody, by others and with forged tokens.

What each caller must be answered follows from the document's `security` alone. So does how an object comes to be that
somebody may own: by the document's links. An operation that cannot be tried so is itself a finding, which is why a new
route cannot escape.
"""

import base64
import itertools
import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt

from tooling.dast.samples import NoSampleError, Sampler, value_at
from tooling.dast.target import Operation, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

LIVE = ("owner", "other", "admin")
WORTHLESS = ("nobody", "expired", "tampered", "alg-none", "revoked")
CALLERS = (*WORTHLESS, "other", "admin", "owner")
WITH_SCOPE = "owner with "
"""A caller who sends a personal token of the owner's has the token's scope after this."""

AT_ONCE = 16
OK, NOT_FOUND, FORBIDDEN, UNAUTHORIZED = 200, 404, 403, 401
ID = "id"
"""The name by which bodies refer to an object."""


def encoded(part: bytes) -> str:
    """Base64url without padding, as JWTs have it (RFC 7515)."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def decoded(part: str) -> dict[str, Any]:
    """Return a header or the claims of a JWT."""
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value


@dataclass
class Callers:
    """The tokens of all callers."""

    target: Target
    tokens: dict[str, str] = field(default_factory=dict)
    lingering: bool = False
    """Whether a token was taken somewhere right after its session had ended."""
    divided: bool = False
    """Whether another worker refused it."""

    def __post_init__(self) -> None:
        """Make the worthless tokens, each of a session that is good but for its one fault."""
        header, claims = map(decoded, self.new("owner").split(".")[:2])
        if not self.accepted(self.signed(header, claims)):
            raise NotAssessed(
                "a token signed like the service's own is refused, so a refused forgery would prove nothing"
            )
        past = claims["exp"] - 2 * (claims["exp"] - claims["iat"])
        self.tokens["expired"] = self.signed(header, claims | {"iat": past - 1, "exp": past})
        head, _, signature = self.new("owner").split(".")
        self.tokens["tampered"] = f"{head}.{self.new('admin').split('.')[1]}.{signature}"
        unsigned = encoded(json.dumps(header | {"alg": "none"}).encode())
        self.tokens["alg-none"] = f"{unsigned}.{self.new('admin').split('.')[1]}."
        self.tokens["revoked"] = self.new("owner")
        if not all(self.accepted_at_once(self.tokens["revoked"])):
            raise NotAssessed("a new token is refused")
        self.target.client.post("/auth/logout", headers=bearer(self.tokens["revoked"]))
        taken = self.accepted_at_once(self.tokens["revoked"])
        self.lingering, self.divided = any(taken), any(taken) and not all(taken)

    def new(self, account: str) -> str:
        """Return the token of a new session."""
        try:
            return self.target.tokens(self.target.accounts[account])["access_token"]
        except NotAssessed:  # the last request deleted the account
            self.target.renew(account)
            return self.target.tokens(self.target.accounts[account])["access_token"]

    def replace(self, account: str) -> None:
        """Make a new account for a caller, whose tokens are not used any more."""
        self.target.renew(account)
        self.tokens = {caller: token for caller, token in self.tokens.items() if not caller.startswith(account)}

    def signed(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """Sign claims with the service's own key."""
        return jwt.encode(claims, self.target.key, algorithm=header["alg"], headers=header)

    def status(self, token: str) -> int:
        """Return the status of a request with a token, over a connection of its own."""
        headers = bearer(token) | {"Connection": "close"}
        return self.target.client.get("/auth/me", headers=headers).status_code

    def accepted(self, token: str) -> bool:
        """Return whether a token is valid."""
        return self.status(token) == OK

    def accepted_at_once(self, token: str) -> list[bool]:
        """Return that for many connections at once, so that every worker of the service is tried."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.accepted, [token] * AT_ONCE))

    def live(self, caller: str) -> str:
        """Return a valid token of a caller, a new one where the last was used up."""
        if caller not in self.tokens or self.status(self.tokens[caller]) == UNAUTHORIZED:
            scope = caller.removeprefix(WITH_SCOPE)
            new = self.target.personal_token(self.live("owner"), scope) if scope != caller else self.new(caller)
            self.tokens[caller] = new
        return self.tokens[caller]

    def headers(self, caller: str) -> dict[str, str]:
        """Return the headers that `caller` sends."""
        if caller == "nobody":
            return {}
        return bearer(self.tokens[caller] if caller in WORTHLESS else self.live(caller))


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token (RFC 6750)."""
    return {"Authorization": f"Bearer {token}"}


def callers(target: Target) -> tuple[str, ...]:
    """Return all callers: those of every service with accounts, and one for each scope of a personal token."""
    return (*CALLERS, *(f"{WITH_SCOPE}{scope}" for scope in target.scopes))


def due(operation: Operation, caller: str, role: str, *, owned: bool) -> str:
    """Return the status that the document's declarations require; 2xx is any success.

    `role` is that of an account with a valid session, `owned` whether the request is about an object of the owner's.
    """
    if operation.roles is None:
        return "2xx"
    if caller in WORTHLESS:
        return str(UNAUTHORIZED)
    if caller.startswith(WITH_SCOPE):
        allowed = operation.scopes is not None and operation.scopes <= {caller.removeprefix(WITH_SCOPE)}
        return "2xx" if allowed else str(FORBIDDEN)
    if operation.roles and role not in operation.roles:
        return str(FORBIDDEN)
    strangers = ("other", "admin") if operation.personal else ("other",)
    return str(NOT_FOUND) if owned and caller in strangers else "2xx"


@dataclass(frozen=True)
class Cell:
    """One request of the matrix: operation, caller, expected and actual status."""

    operation: str
    caller: str
    expected: str
    status: int
    faults: tuple[str, ...]


def unguarded(target: Target) -> Scan:
    """Return a finding for each operation that requires a login at a service that has no accounts."""
    findings = [
        Finding(
            tool="authorization",
            rule="no-accounts",
            severity=Severity.HIGH,
            message="its declaration requires a login, and the service has no accounts",
            path=operation.label,
        )
        for operation in target.operations
        if operation.roles is not None
    ]
    targets = tuple(f"{operation.label} as nobody" for operation in target.operations)
    version = str(target.document["info"]["version"])
    return Scan(tool="authorization", version=version, targets=targets, findings=tuple(findings))


class Matrix:
    """Requests every operation as every caller."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.operations = target.operations
        self.callers = Callers(target)
        self.caller_kinds = callers(target)
        self.secret = f"secret-of-the-owner-{secrets.token_hex(8)}"
        self.cells: list[Cell] = []
        self.findings: list[Finding] = []

    def run(self) -> None:
        """Fill the matrix, unless the workers are divided about who is logged in: each cell would be chance."""
        if self.callers.lingering:
            logout = next(operation for operation in self.operations if operation.path == "/auth/logout")
            self.report(logout, "lingering-token", "a token is still taken by a worker after its session has ended")
        if self.callers.divided:
            return
        for operation in self.operations:
            try:
                count = len(list(operation.bodies(Sampler(self.target.document, {ID: 0}))))
                for number, caller in itertools.product(range(count), self.caller_kinds):
                    self.send(
                        operation, caller, number, f"{operation.label} #{number + 1}" if count > 1 else operation.label
                    )
            except NoSampleError as error:
                self.report(operation, "untried", f"cannot be tried: {error}")

    def scan(self) -> Scan:
        """Return what is wrong in the matrix."""
        targets = tuple(f"{cell.operation} as {cell.caller}" for cell in self.cells)
        version = str(self.target.document["info"]["version"])
        return Scan(tool="authorization", version=version, targets=targets, findings=tuple(self.findings))

    def report(self, operation: Operation, rule: str, message: str) -> None:
        """Add a finding."""
        finding = Finding(
            tool="authorization",
            rule=rule,
            severity=Severity.CRITICAL,
            message=message,
            path=operation.label,
            subject=message,
        )
        if finding not in self.findings:
            self.findings.append(finding)

    def send(self, operation: Operation, caller: str, number: int, label: str) -> None:
        """Send an operation's request with its body of that `number` as `caller`."""
        maker, expression = self.target.maker(operation)
        if caller in LIVE:
            self.callers.live(caller)  # an account that was deleted is replaced before its password is sent
        coded = self.target.needs_code(operation)
        # a personal token with its own account's password, unless the request would add a second factor to that account
        holder = caller if caller in LIVE else "owner" if caller.startswith(WITH_SCOPE) and not coded else "other"
        account = self.target.accounts[holder]
        values: dict[str, Any] = self.target.credentials(operation, account)
        if coded:
            values["code"] = self.target.code(operation, account)
        if maker:
            made = self.make(maker)
            values[ID] = value_at(made.json(), expression)
        sampler = Sampler(self.target.document, values)
        path = operation.path
        for parameter in operation.parameters("path"):
            if not maker:
                raise NoSampleError(f"no link of the document leads to its parameter {parameter['name']}")
            path = path.replace(f"{{{parameter['name']}}}", str(values[ID]))
        query = {p["name"]: sampler.alternatives(p["schema"])[0] for p in operation.parameters("query")}
        content_type, body = list(operation.bodies(sampler))[number]
        content = None if content_type is None else json.dumps(body)
        owned = path != operation.path or json.dumps({ID: values.get(ID)})[1:-1] in (content or "")
        headers = self.callers.headers(caller) | ({"Content-Type": content_type} if content_type else {})
        before = self.seen(made) if owned else None
        answer = self.target.client.request(operation.method, path, params=query, content=content, headers=headers)
        role = self.target.accounts[caller].role if caller in LIVE else ""
        wanted = due(operation, caller, role, owned=owned)
        faults = list(self.faults(caller, answer, wanted))
        if before is not None and answer.status_code >= OK * 2 and self.seen(made) != before:
            faults.append("was refused, and yet the owner's object is another now")
        self.cells.append(Cell(label, caller, wanted, answer.status_code, tuple(faults)))
        for fault in faults:
            self.report(operation, f"as-{caller}", f"{caller}: {fault}")
        if "code" in values:  # the account's logins may need codes now
            self.callers.replace(holder)

    def faults(self, caller: str, answer: httpx.Response, wanted: str) -> Iterator[str]:
        """Yield what is wrong with a response."""
        if not (answer.is_success if wanted == "2xx" else answer.status_code == int(wanted)):
            yield f"was answered {answer.status_code} where {wanted} is due"
        if answer.status_code == UNAUTHORIZED and "www-authenticate" not in answer.headers:
            yield "was answered 401 without WWW-Authenticate (RFC 9110)"
        if caller in (*WORTHLESS, "other") and any(self.secret in page for page in self.pages(answer)):
            yield "was shown what the owner wrote"

    def pages(self, answer: httpx.Response) -> Iterator[str]:
        """Yield the text of an answer, and of the pages that its Link headers (RFC 8288) lead to."""
        yield answer.text
        while following := answer.links.get("next", {}).get("url"):
            headers = {"Authorization": answer.request.headers["Authorization"]}
            answer = self.target.client.get(following, headers=headers)
            yield answer.text

    def make(self, maker: Operation) -> httpx.Response:
        """Make an object of the owner's whose texts hold the secret, or list those that there are."""
        headers = self.callers.headers("owner")
        values = self.target.credentials(maker, self.target.accounts["owner"])
        _, body = next(maker.bodies(Sampler(self.target.document, values, text=self.secret)))
        made = self.target.client.request(maker.method, maker.path, json=body, headers=headers)
        if not made.is_success:
            raise NoSampleError(f"{maker.label} makes nothing: {made.status_code} {made.text[:200]}")
        return made

    def seen(self, made: httpx.Response) -> tuple[int, str]:
        """Return what the owner sees of an object."""
        place = made.headers.get("Location", str(made.request.url))
        answer = self.target.client.get(place, headers=self.callers.headers("owner"))
        return answer.status_code, answer.text
