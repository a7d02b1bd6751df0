"""Isolation: what one account owns neither shows in the responses to another nor changes by its requests.

Two new accounts send the same requests, which try every parameter and every field of a body that the OpenAPI document
has, and every query parameter that the source mentions. The first account sends them while a third, the victim, owns
nothing; the second while it owns an object of each kind that the document can make. Both get the same responses, but
for their texts and ids. So nobody has to know what an operation does with a parameter.
"""

import itertools
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import httpx

from tooling.dast.samples import INSTANT, NoSampleError, Sampler, value_at
from tooling.dast.target import Account, Operation, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

EARLY = "2000-01-01T00:00:00Z"
VERSION = 1
"""That of an object which nobody has changed: what a client that has read it may send as the one it holds."""

OWNERS = {"account_id", "owner_id", "user_id"}
"""Members and parameters that name an account."""

NOWHERE = 2**40
"""An id that no object has."""

ATTEMPT = "attempt"
"""A text that the attackers send, and that the victim has too: what is matched by its name may be another's."""

VOLATILE = {
    "connection",
    "content-encoding",
    "content-length",
    "date",
    "keep-alive",
    "ratelimit",
    "transfer-encoding",
    "x-request-id",
}
"""Headers whose values or presence depend on other requests and the time."""

SAFE = {"GET", "HEAD"}
HEADERS = {"If-Match": ("*", f'"{VERSION}"'), "If-None-Match": ("*", f'"{VERSION}"')}
"""What to send in headers that are about an object; in others, what belongs to the victim."""

SHOWN, CHANGED = "shows-anothers", "changes-anothers"


@dataclass(frozen=True)
class Values:
    """What schemas are filled with: `ids` for ids of objects, `account` for one of an account, `words` for texts."""

    document: Mapping[str, Any]
    values: Mapping[str, Any]
    ids: tuple[Any, ...] = ()
    account: Any = None
    words: tuple[str, ...] = (ATTEMPT,)

    def variants(self, schema: Mapping[str, Any], name: str = "") -> list[Any]:
        """Return values of a schema: the least one first, then one for each alternative of each part."""
        schema = Sampler(self.document, {}).resolve(schema)
        if name in self.values:
            return [self.values[name]]
        choices = schema.get("anyOf", schema.get("oneOf", ()))
        if choices:
            return [value for choice in choices for value in self.variants(choice, name)]
        match schema:
            case {"enum": values}:
                return list(values)
            case {"type": "object"}:
                return self._objects(schema)
            case {"type": "array"}:
                return [[value] for value in self.variants(schema["items"])]
        return self._scalars(schema, name)

    def _objects(self, schema: Mapping[str, Any]) -> list[Any]:
        parts = {name: self.variants(each, name) for name, each in schema.get("properties", {}).items()}
        least = {name: parts[name][0] for name in schema.get("required", ())}
        changed = [{**least, name: value} for name, values in parts.items() for value in values]
        every = [least, *changed, {name: values[0] for name, values in parts.items() if values}]
        return [value for index, value in enumerate(every) if value not in every[:index]]

    def _scalars(self, schema: Mapping[str, Any], name: str) -> list[Any]:
        if name in OWNERS:
            return [self.account]
        if is_id(name):
            return list(self.ids)
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        lowest, highest = max(schema.get("minimum", VERSION), VERSION), schema.get("maximum", 100)
        kinds: dict[str | None, list[Any]] = {
            "string": [word.ljust(least, "x")[:most] for word in self.words],
            "integer": list(dict.fromkeys([lowest, highest])),
            "number": list(dict.fromkeys([lowest, highest])),
            "boolean": [True, False],
            "null": [None],
            None: list(self.ids),  # whatever it is: what is read-only has no type
        }
        dated = schema.get("format") == "date-time"
        return [schema["const"]] if "const" in schema else [INSTANT, EARLY] if dated else kinds[schema.get("type")]


def is_id(name: str) -> bool:
    """Return whether a member or parameter of that name refers to an object or an account."""
    return name == "id" or name.endswith("_id")


def shape(value: Any, name: str = "") -> Any:
    """Return what two accounts with the same past see alike of a JSON value: all but its texts and ids."""
    match value:
        case dict():
            return {key: shape(each, key) for key, each in value.items()}
        case list():
            return [shape(each) for each in value]
        case str():
            return "text"
        case int() if is_id(name):
            return "id"
    return value


@dataclass(frozen=True)
class Response:
    """A response, reduced to what does not depend on the caller."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: Any

    @classmethod
    def of(cls, response: httpx.Response) -> "Response":
        """Reduce a response: of its headers, the names and the numbers."""
        headers = sorted(
            (name, value if value.isdecimal() else "")
            for name, value in response.headers.items()
            if name not in VOLATILE
        )
        try:
            body = [shape(json.loads(line)) for line in response.text.splitlines()]  # newline-delimited JSON too
        except json.JSONDecodeError:
            body = ["no JSON"]
        return cls(response.status_code, tuple(headers), body)


@dataclass(frozen=True)
class Attempt:
    """One request of an attacker."""

    operation: Operation
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str | None = None

    @property
    def text(self) -> str:
        """Name the request without the ids and credentials in it."""
        parts = [f"with {name}" for name in (*self.query, *self.headers)]
        members = self.body if isinstance(self.body, dict) else {}
        return ", ".join([self.operation.label, *parts, *(f"with {name}" for name in members)])


class Client:
    """An account, and the requests that it sends."""

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.name = name
        self.renew()

    def renew(self) -> None:
        """Go on as a new account."""
        self.account: Account = self.target.join(self.name)
        self.log_in()
        self.id = self.send("GET", "/auth/me").json()["id"]

    def log_in(self) -> None:
        """Begin a new session."""
        self.token = self.target.tokens(self.account)["access_token"]

    def go_on(self) -> None:
        """Begin a new session where the last has ended, as a new account where that is deleted."""
        if not self.send("GET", "/auth/me").is_success:
            try:
                self.log_in()
            except NotAssessed:
                self.renew()

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, **request: Any) -> httpx.Response:
        """Send a request with the account's token."""
        headers = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return self.target.patiently(method, path, headers=headers, **request)


class Isolation:
    """Sends the requests and compares."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.operations = [
            operation
            for operation in target.operations
            if operation.roles is not None and (not operation.roles or "user" in operation.roles)
        ]
        self.victim = Client(target, "victim")
        self.word, self.secret = f"word{secrets.token_hex(8)}", f"secret{secrets.token_hex(8)}"
        self.key = secrets.token_hex(16)
        self.objects: dict[str, Any] = {}
        self.findings: dict[tuple[str, str], Finding] = {}
        self.sent: Counter[str] = Counter()

    def scan(self) -> Scan:
        """Send everything twice, and compare."""
        before = self.responses(Client(self.target, "attacker"), owning=False)
        self.fill()
        after = self.responses(Client(self.target, "attacker"), owning=True)
        for (attempt, first), (_, second) in zip(before, after, strict=False):
            if first != second:
                message = f"{attempt.text}: the response depends on what others own: {difference(first, second)}"
                self.report(attempt.operation, SHOWN, message)
        targets = tuple(f"{label}: {count} requests about another's" for label, count in self.sent.items())
        version = str(self.target.document["info"]["version"])
        return Scan(tool="authorization", version=version, targets=targets, findings=tuple(self.findings.values()))

    def report(self, operation: Operation, rule: str, message: str) -> None:
        """Add a finding, one for each operation and rule."""
        finding = Finding(
            tool="authorization", rule=rule, severity=Severity.CRITICAL, message=message, path=operation.label
        )
        self.findings.setdefault((rule, operation.label), finding)

    def fill(self) -> None:
        """Let the victim own an object for every variant of every body that makes one, and know one for each path."""
        values = Values(self.target.document, {}, words=(f"{self.word} {self.secret}", ATTEMPT))
        for making in self.operations:
            if "201" in making.declared["responses"] and not making.accepted("path"):
                for media in making.content.values():
                    for number, body in enumerate(values.variants(media["schema"])):
                        key = {"Idempotency-Key": f"{self.key}{number or ''}"}
                        self.victim.send(making.method, making.path, key, json=body)
        for operation in self.operations:
            maker, expression = self.target.maker(operation)
            if maker:
                self.objects[operation.label] = self.make(self.victim, maker, expression, self.secret)

    def make(self, client: Client, maker: Operation, expression: str, text: str) -> Any:
        """Return the id of an object that a client makes, or has already. Raises `NotAssessed`."""
        credentials = self.target.credentials(maker, client.account)
        _, body = next(maker.bodies(Sampler(self.target.document, credentials, text=text)))
        response = client.send(maker.method, maker.path, json=body)
        try:
            return value_at(response.json(), expression)
        except (ValueError, NoSampleError) as error:
            raise NotAssessed(f"{maker.label} makes nothing: {response.status_code} {response.text[:200]}") from error

    def owned(self) -> list[str]:
        """Return all that the victim sees of its own."""
        lists = [one for one in self.operations if one.method == "GET" and not one.accepted("path")]
        responses = [self.victim.send(operation.method, operation.path) for operation in lists]
        return [page.text for response in responses for page in pages(self.victim, response)]

    def responses(self, client: Client, *, owning: bool) -> list[tuple[Attempt, list[Response]]]:
        """Send every attempt; return each with its response and those of the pages after it."""
        responses = []
        owned = self.owned()
        for operation in self.operations:
            for attempt in self.attempts(operation, client, owning=owning):
                answers = list(pages(client, self.send(client, attempt)))
                responses.append((attempt, [Response.of(page) for page in answers]))
                if any(text in page.text for text in (self.secret, self.victim.account.email) for page in answers):
                    self.report(operation, SHOWN, f"{attempt.text}: the response holds what another account wrote")
                self.sent[operation.label] += 1
            if self.owned() != owned:
                self.report(operation, CHANGED, f"{operation.label}: it changed what another account owns")
                if owning:  # as a new account: what was made for this one counts for its limits
                    self.victim.renew()
                    self.fill()
                else:
                    self.victim.go_on()
                owned = self.owned()
        return responses

    def send(self, client: Client, attempt: Attempt) -> httpx.Response:
        """Send one attempt. The client has a valid session afterwards."""
        operation = attempt.operation
        content = None if attempt.content_type is None else json.dumps(attempt.body)
        headers = {**attempt.headers, **({"Content-Type": attempt.content_type} if attempt.content_type else {})}
        response = client.send(operation.method, attempt.path, headers, params=attempt.query, content=content)
        if self.target.needs_code(operation):
            client.renew()
        elif operation.method not in SAFE:
            client.go_on()
        return response

    def attempts(self, operation: Operation, client: Client, *, owning: bool) -> Iterator[Attempt]:
        """Yield the requests for an operation: about another's object and one's own, each with every variant."""
        maker, expression = self.target.maker(operation)
        if operation.accepted("path") and maker is None:
            return  # the matrix of the same gate reports it
        for own in (False, True) if operation.accepted("path") else (False,):
            ids: tuple[Any, ...] = ()
            if maker:
                mine = self.make(client, maker, expression, "attempt")
                nobodys = NOWHERE if isinstance(mine, int) else secrets.token_hex(16)
                theirs = self.objects[operation.label] if owning else nobodys
                ids = (mine, theirs) if own else (theirs, mine)
            path = operation.path
            for parameter in operation.accepted("path"):
                path = path.replace(f"{{{parameter['name']}}}", str(ids[0]))
            yield from self.variants(operation, path, client, ids)

    def variants(self, operation: Operation, path: str, client: Client, ids: tuple[Any, ...]) -> Iterator[Attempt]:
        """Yield a request for each variant of the body, of the query (also of two parameters), and of each header."""
        credentials = self.target.credentials(operation, client.account)
        if self.target.needs_code(operation):
            credentials["code"] = self.target.code(operation, client.account)
        values = Values(self.target.document, credentials, ids, self.victim.id)
        words = replace(values, words=(ATTEMPT, self.word))
        bodies = [
            {"content_type": content_type, "body": body}
            for content_type, media in operation.content.items()
            for body in words.variants(media["schema"])
        ] or [{}]
        if "code" in credentials:  # it is valid once
            del bodies[1:]
        yield from (Attempt(operation, path, **body) for body in bodies)
        singles = [
            {parameter["name"]: value}
            for parameter in operation.accepted("query")
            for value in words.variants(parameter["schema"], parameter["name"])
        ]
        pairs = [{**one, **other} for one, other in itertools.combinations(singles, 2) if one.keys() != other.keys()]
        documented = {name for one in singles for name in one}
        guessed = [
            {name: value}
            for name in sorted(self.target.mentioned.parameters - documented)
            for value in (self.victim.id, "true", "*")
        ]
        yield from (Attempt(operation, path, query, **bodies[0]) for query in [*singles, *pairs, *guessed])
        headers = [
            {parameter["name"]: text}
            for parameter in operation.accepted("header")
            for text in HEADERS.get(parameter["name"], (self.key,))
        ]
        believed = (str(self.victim.id), self.victim.account.email)
        headers += [dict.fromkeys(self.own_headers, text) for text in believed if self.own_headers]
        yield from (Attempt(operation, path, headers=each, **bodies[0]) for each in headers)

    @cached_property
    def own_headers(self) -> list[str]:
        """The headers of its own that the service may believe."""
        return sorted(name for name in self.target.mentioned.headers if name.upper().startswith("X-"))


def pages(client: Client, response: httpx.Response) -> Iterator[httpx.Response]:
    """Yield a response and the pages that its Link headers (RFC 8288) lead to."""
    yield response
    while following := response.links.get("next", {}).get("url"):
        response = client.send("GET", following)
        yield response


def difference(first: list[Response], second: list[Response]) -> str:
    """Describe the first difference between the responses to the same request."""
    if len(first) != len(second):
        return f"{len(first)} pages became {len(second)}"
    one, other = next((a, b) for a, b in zip(first, second, strict=True) if a != b)
    if one.status != other.status:
        return f"{one.status} became {other.status}"
    if one.headers != other.headers:
        return f"the headers {sorted(set(one.headers) ^ set(other.headers))} differ"
    return f"{json.dumps(one.body)[:200]} became {json.dumps(other.body)[:200]}"
