"""A service under attack: the real one, on loopback, with accounts where it has them, on PostgreSQL where possible."""

import itertools
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pyotp

from tooling.dast.samples import Sampler, value_at
from tooling.dast.source import Names, names
from tooling.findings import NotAssessed
from tooling.postgres import postgres
from tooling.project import Service, shared_by
from tooling.project import service as default_service
from tooling.service import ServiceError, command_line, environment, running
from tooling.tools import MissingTool

PERSONAL = "personal_token"
"""The security scheme of personal tokens, whose scopes the document names."""

PATIENCE = 120.0
"""For how many seconds a login that is refused with Retry-After is sent again."""

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def described(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the method, the path and the description of each operation of an OpenAPI document."""
    for path, item in document.get("paths", {}).items():
        yield from ((method.upper(), path, item[method]) for method in METHODS if method in item)


@dataclass(frozen=True)
class Account:
    """Somebody who can log in."""

    email: str
    role: str = "user"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document."""

    method: str
    path: str
    declared: dict[str, Any]
    roles: frozenset[str] | None
    """None: for everybody. Empty: for whoever is logged in. Else: for these roles."""
    scopes: frozenset[str] | None = None
    """The scopes that a personal token needs; None where no personal token may."""

    @property
    def personal(self) -> bool:
        """Whether even an administrator reaches only what is their own."""
        return bool(self.declared.get("x-personal"))

    @property
    def label(self) -> str:
        """Its method and path template."""
        return f"{self.method} {self.path}"

    def parameters(self, place: str) -> list[dict[str, Any]]:
        """Its required parameters in `place`: path, query or header."""
        return [parameter for parameter in self.accepted(place) if parameter.get("required")]

    def accepted(self, place: str) -> list[dict[str, Any]]:
        """All its parameters in `place`."""
        return [parameter for parameter in self.declared.get("parameters", []) if parameter["in"] == place]

    @property
    def content(self) -> dict[str, Any]:
        """What its body may be, by content type; empty where it takes none."""
        listed: dict[str, Any] = self.declared.get("requestBody", {}).get("content", {})
        return listed

    def bodies(self, sampler: Sampler) -> Iterator[tuple[str | None, Any]]:
        """Yield each body that is to be tried, with its content type; one of None where it takes none."""
        if not self.content:
            yield None, None
        for content_type, media in self.content.items():
            for body in sampler.alternatives(media["schema"]):
                yield content_type, body


@dataclass(frozen=True)
class Target:
    """A running service, and what the tests know of it."""

    url: str
    database: str = ""
    key: str = field(default="", repr=False)
    log: Path = Path(os.devnull)
    accounts: dict[str, Account] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set, repr=False)
    """Every password and token that was sent or received."""

    service: Service = field(default_factory=default_service)
    promote: Callable[[], Account] = field(default=lambda: Account("administrator@example.com", "admin"), repr=False)
    """Makes a new administrator."""

    program: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The command that runs it, and its environment."""

    sources: tuple[Path, ...] = ()
    """The files and folders that hold the service's code."""

    @property
    def copy(self) -> dict[str, str]:
        """The settings of another copy, which has a database of its own where it migrates one."""
        own = {"DATABASE_URL", "DB_PATH", "WEBHOOK_DELIVERY"} if self.service.migrations else set()
        return {name: value for name, value in self.settings.items() if name not in own}

    def command(self, *arguments: str, environment: Mapping[str, str]) -> str:
        """Run a command of the service's and return its output. Raises `NotAssessed` where it fails."""
        ran = run_program([*self.program, *arguments], environment)
        if ran.returncode:
            problem = ran.stderr.strip()[-1000:]
            raise NotAssessed(f"{arguments[0]} ended with status {ran.returncode}: {problem}")
        return ran.stdout

    @cached_property
    def mentioned(self) -> Names:
        """What its code mentions, documented or not."""
        return names(self.sources)

    @cached_property
    def client(self) -> httpx.Client:
        """A client of the service that follows no redirect."""
        return httpx.Client(base_url=self.url, timeout=30)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document. Raises `NotAssessed` where it cannot be had."""
        try:
            answer = self.client.get(self.service.openapi).raise_for_status()
        except httpx.HTTPError as error:
            raise NotAssessed(f"{self.url} cannot be reached: {error}") from error
        document: dict[str, Any] = answer.json()
        return document

    @cached_property
    def operations(self) -> list[Operation]:
        """Every operation of the document."""
        listed = [self.operation(method, path, declared) for method, path, declared in described(self.document)]
        if not listed:
            raise NotAssessed("the OpenAPI document has no operation")
        return listed

    def operation(self, method: str, path: str, declared: dict[str, Any]) -> Operation:
        """Return an operation with the roles and the scopes (of a personal token) that its security names."""
        security = declared.get("security", self.document.get("security", []))
        if not security or {} in security:
            return Operation(method, path, declared, None)
        schemes = self.document.get("components", {}).get("securitySchemes", {})
        roles: set[str] = set()
        scopes: frozenset[str] | None = None
        for name, needed in chain.from_iterable(each.items() for each in security):
            if name == PERSONAL and name in schemes:
                scopes = frozenset(needed)
            else:
                roles |= set(needed)
        return Operation(method, path, declared, frozenset(roles), scopes)

    @cached_property
    def scopes(self) -> list[str]:
        """Every scope that a personal token can have, by the document."""
        return sorted({scope for operation in self.operations for scope in operation.scopes or ()})

    def place(self, method: str, path: str) -> str:
        """Name a request by its operation (`GET /tasks/{task_id}`), or as it is where none has such a path."""
        for template in sorted(self.document["paths"], key=lambda known: "{" in known):
            if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path):
                return f"{method} {template}"
        return f"{method} {path}"

    def patiently(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request until the service has room for it, for `PATIENCE` seconds at most; return the response.

        Attacks of the other gates keep the service busy: a refusal then has Retry-After (RFC 9110, section 10.2.3).
        """
        ends = time.monotonic() + PATIENCE
        while True:
            answer = self.client.request(method, path, **request)
            if "Retry-After" not in answer.headers or time.monotonic() > ends:
                return answer
            time.sleep(int(answer.headers["Retry-After"]))

    def personal_token(self, access_token: str, scope: str) -> str:
        """Return a personal token of one scope. Raises `NotAssessed`."""
        body = {"name": "dast", "scopes": [scope], "days": 1}
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = self.client.post("/auth/tokens", json=body, headers=headers)
        if answer.status_code != HTTPStatus.CREATED:
            raise NotAssessed(f"no personal token can be made: {answer.status_code} {answer.text[:200]}")
        token: str = answer.json()["token"]
        self.secrets.add(token)
        return token

    def tokens(self, account: Account) -> dict[str, str]:
        """Log in and return the response: access_token, refresh_token and more. Raises `NotAssessed`."""
        login = {"email": account.email, "password": account.password}
        answer = self.patiently("POST", "/auth/login", json=login)
        if answer.status_code != HTTPStatus.OK:
            raise NotAssessed(f"{account.email} cannot log in: {answer.status_code} {answer.text[:200]}")
        tokens: dict[str, str] = answer.json()
        self.secrets.update([account.password, *(tokens[name] for name in tokens if name.endswith("_token"))])
        return tokens

    def credentials(self, operation: Operation, known: Account) -> dict[str, Any]:
        """Return the credentials that an operation needs: of `known`, or of a new account where it makes one."""
        makes = operation.roles is None and "201" in operation.declared["responses"]
        account = Account(f"new-{secrets.token_hex(4)}@example.com") if makes else known
        credentials = {"email": account.email, "password": account.password, "new_password": account.password}
        resolve = Sampler(self.document, {}).resolve
        if "refresh_token" in json.dumps([resolve(media["schema"]) for media in operation.content.values()]):
            credentials["refresh_token"] = self.tokens(known)["refresh_token"]
        return credentials

    def needs_code(self, operation: Operation) -> bool:
        """Return whether an operation needs a code of the account's second factor."""
        resolve = Sampler(self.document, {}).resolve
        return any("code" in resolve(media["schema"]).get("required", ()) for media in operation.content.values())

    def code(self, operation: Operation, known: Account) -> str:
        """Enrol an authenticator for an account, and return a code that the operation accepts. Raises `NotAssessed`.

        An operation that a link leads to with a code needs the second factor on; the other one turns it on.
        """
        headers = {"Authorization": f"Bearer {self.tokens(known)['access_token']}"}
        enrolled = self.client.post("/auth/totp", json={"password": known.password}, headers=headers)
        if enrolled.status_code != HTTPStatus.OK:
            raise NotAssessed(f"no authenticator can be enrolled: {enrolled.status_code} {enrolled.text[:200]}")
        code = pyotp.TOTP(enrolled.json()["secret"]).now()
        for confirm in self.operations:
            links = confirm.declared["responses"].get("200", {}).get("links", {}).values()
            wanted = [link for link in links if link["operationId"] == operation.declared["operationId"]]
            if wanted and confirm.path == "/auth/totp/confirm":
                confirmed = self.client.post(confirm.path, json={"code": code}, headers=headers)
                if confirmed.status_code != HTTPStatus.OK:
                    raise NotAssessed(f"no code is accepted: {confirmed.status_code} {confirmed.text[:200]}")
                return str(value_at(confirmed.json(), wanted[0]["requestBody"]["code"]))
        return code

    def maker(self, operation: Operation) -> tuple[Operation | None, str]:
        """Return the operation that makes what this one is about, or lists it, and the link's expression for its id.

        It is the source of a link of the document to this operation; without one, of a link to the path above it.
        """
        nearest: tuple[Operation | None, str] = (None, "")
        for status, maker in itertools.product(("201", "200"), self.operations):
            if status == "200" and (maker.method != "GET" or maker.parameters("path")):
                continue
            for link in maker.declared["responses"].get(status, {}).get("links", {}).values():
                for expression in link.get("parameters", {}).values():
                    if link["operationId"] == operation.declared["operationId"]:
                        return maker, expression
                    below = f"{operation.path}/".startswith(f"{maker.path}/") and maker.roles is not None
                    if below and status == "201":
                        nearest = maker, expression
        return nearest

    def renew(self, name: str) -> None:
        """Make a new account for one of the callers. Raises `NotAssessed`."""
        self.accounts[name] = self.promote() if name == "admin" else self.join(name)

    def join(self, name: str) -> Account:
        """Register a new account."""
        account = Account(f"{name}-{secrets.token_hex(4)}@example.com")
        answer = self.patiently("POST", "/auth/register", json={"email": account.email, "password": account.password})
        if answer.status_code != HTTPStatus.CREATED:
            raise NotAssessed(f"no account can be made: {answer.status_code} {answer.text[:200]}")
        return account


def database(service: Service, stack: ExitStack, folder: Path, *, embedded: bool) -> dict[str, str]:
    """Return the settings of an empty database: PostgreSQL until `stack` closes, or SQLite in `folder`.

    A service that another one migrates the database of has PostgreSQL alone.
    """
    if not service.database:
        return {}
    if not embedded or not service.migrations:
        with suppress(MissingTool):
            return {"DATABASE_URL": stack.enter_context(postgres())}
    return {"DB_PATH": str(folder / "sqlite.db")}


@contextmanager
def attacked(
    service: Service, folder: Path, *, program: Sequence[str] = (), embedded: bool = False
) -> Iterator[Target]:
    """Run a service to be attacked; where it has accounts, an owner, another user and an administrator have one.

    `embedded` uses SQLite although PostgreSQL could be had. `program` replaces the service's command.
    Raises `NotAssessed` where the service does not start.
    """
    key, log = secrets.token_urlsafe(32) if service.accounts else "", folder / f"{service.name}.log"
    program = program or command_line(service=service)
    settings = {"RATE_LIMIT": "100000000/minute", "LOG_LEVEL": "debug"}  # what any level logs is looked at
    encryption_key = secrets.token_urlsafe(32)
    settings |= {"WEBHOOKS": "on", "QUOTA_WEBHOOKS": "1000", "ENCRYPTION_KEYS": f"dast:{encryption_key}"}
    if service.accounts:
        # threads for the scanners' logins: the service has few of them wait for a password hash, and refuses the others
        settings |= {"AUTH": "on", "JWT_KEYS": f"dast:{key}", "THREADS": "32"}
        settings |= dict.fromkeys(("LOGIN_LIMIT", "REGISTRATION_LIMIT"), "100000000/minute")
    with ExitStack() as stack:
        try:
            settings |= database(service, stack, folder, embedded=embedded)
            if "DATABASE_URL" in settings:
                settings["WEBHOOK_DELIVERY"] = "notifier"  # no request goes to an address that a gate has made up
            url = stack.enter_context(running(settings, log=log, program=program, service=service))
        except ServiceError as error:
            raise NotAssessed(str(error)) from error
        own = (one / "src" for one in (service.folder, *shared_by(service.folder)))
        sources = (*own, *(Path(part) for part in program if part.endswith(".py")))
        kind = "PostgreSQL" if "DATABASE_URL" in settings else "SQLite" if service.database else "no database"
        target = Target(
            url,
            kind,
            key,
            log,
            service=service,
            promote=lambda: make_admin(program, settings),
            program=tuple(program),
            settings=settings,
            sources=sources,
            secrets={encryption_key},
        )
        if service.accounts:
            target.promote()  # one that stays: the last administrator can neither be deleted nor demoted
            for name in ("owner", "other", "admin"):
                target.renew(name)
        yield target
        target.client.close()


def run_program(command: Sequence[str], settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in an environment of its own."""
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)


def make_admin(program: Sequence[str], settings: Mapping[str, str]) -> Account:
    """Make an administrator's account on the command line. Raises `NotAssessed`."""
    admin = Account(f"administrator-{secrets.token_hex(4)}@example.com", "admin")
    made = run_program([*program, "create-admin", admin.email], {**settings, "ADMIN_PASSWORD": admin.password})
    if made.returncode:
        raise NotAssessed(f"create-admin ended with status {made.returncode}: {made.stderr[-1000:]}")
    return admin


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the service's log lines; one that is not a JSON object becomes the `message` of one marked `unparsed`."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            decoded = json.loads(line)
        except json.JSONDecodeError:
            decoded = None
        lines.append(decoded if isinstance(decoded, dict) else {"message": line, "unparsed": True})
    return lines
