"""Hostile bytes over plain sockets: what no client library would send.

`python -m tooling.dast.fuzz` sends more of them than the stage does.

Each input begins as a valid request for an operation, and is spoiled in its request line, its fields, its framing or
anywhere. However it is spoiled, the service answers by whole HTTP responses or closes, in time; never by a status that
says the fault is its own; and never repeats a secret.
"""

import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from tooling.dast.samples import NoSampleError, Sampler
from tooling.dast.target import Operation, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

SEED = 20261126
INPUTS = 1500
"""Of each service, in the stage."""
SECONDS = 60.0
TIMEOUT = 10.0
RENEWED = 100
"""After so many inputs the attacker logs in again: some of them log out."""

PLANNED = {HTTPStatus.NOT_IMPLEMENTED}
"""A transfer coding that is unknown. 503 is planned too where it has a Retry-After."""

IDS = (
    "1", "0", "-1", "007", "9" * 19, "9" * 400, "%D9%A3", "%00", "..", "%2e%2e%2f", "1%2F2", "", "a", "1.0", "%", "~",
)  # fmt: skip
QUERIES = (
    b"?q=%00", b"?limit=-1", b"?limit=" + b"9" * 400, b"?cursor=%ff%fe", b"?q=" + b"a" * 3000, b"?sort=&sort=&=&&",
    b"?%", b"?status=null&priority=%F0%9F%90%8D", b"??", b"?a[]=1&a[b]=2", b"#fragment", b";a=b",
)  # fmt: skip
TARGETS = (
    b"*", b"//", b"//evil.example/tasks", b"http://evil.example/tasks", b"http://[::1", b"evil.example:80", b"/%",
    b"/\x00", b"/\xff", b"/tasks/../tasks", b"/" + b"a" * 4000, b"/" + b"a" * 40000, b"/a b", b"\\tasks", b"",
    b"/tasks\ttasks",
)  # fmt: skip
METHODS = (
    b"get", b"GET\x00", b"G", b"CONNECT", b"TRACE", b"PRI", b"A" * 30, b"\xc3\x9c", b"OPTIONS", b"PROPFIND", b"HEAD",
)  # fmt: skip
VERSIONS = (
    b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"HTTP/1.1 x", b"", b"HTTP/1,1",
)  # fmt: skip
FIELDS = (
    b"Host: evil.example", b"Host:", b"Host: a, b", b"Host: [::1", b"Host: localhost:99999999", b"Host: \xff",
    b"Host localhost", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: +5", b"Content-Length: 1_0",
    b"Content-Length: 0x5", b"Content-Length: " + b"9" * 5000, b"Content-Length: 5, 5", b"Content-Length: \xb2",
    b"Content-Length:", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding : x", b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: xchunked", b"transfer-encoding: CHUNKED", b"TE: trailers", b"Expect: 100-continue",
    b"Expect: 200-ok", b"Connection: close", b"Connection: keep-alive, upgrade", b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__", b"Upgrade: websocket", b"X-Forwarded-For: " + b"1" * 4000,
    b"X-Forwarded-For: \xff", b"X-Forwarded-Host: evil.example", b"X_Forwarded_For: 1", b"Script-Name: /x",
    b"SCRIPT_NAME: /x", b"Proxy: http://evil", b"Content-Type: application/json; charset=utf-99",
    b"Content-Type: \xff", b"Content-Type: multipart/form-data", b"Content-Type:", b"Content-Encoding: gzip",
    b"Accept: " + b"*/*," * 1000, b"Accept: \xff", b"Range: bytes=5-1,-", b'If-Match: "\xff', b"If-Match: *",
    b"If-None-Match: W/", b"If-Modified-Since: Thu, 99 Foo 99999", b"Idempotency-Key: " + b"k" * 5000,
    b"Idempotency-Key: \xc3\x28", b"traceparent: ff-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
    b'X-Request-ID: "><script>', b"Cookie: " + b"a=b;" * 1500, b"Authorization: Bearer", b"Authorization: Basic \xff",
    b"Authorization: Bearer a.b.c", b'Authorization: Digest a="', b"Origin: \xff", b"Origin: null",
    b"Access-Control-Request-Method: \x7f", b" folded: x", b"\tfolded", b": nameless", b"No-Colon", b"A B: c",
    b"A\x00: b", b"A: \x00", b"A: \r", b"A: \n b", b"A: " + b"b" * 70000, b"A: b\r\n" * 150 + b"A: b", b"", b"\r",
    b"\xff\xfe: x",
)  # fmt: skip
CHUNKS = (
    b"0x10", b"+10", b"-1", b"1_0", b"", b" 5", b"5 ", b"5;", b'5;a="b', b"5;a\nb", b"5\n", b"F" * 20,
    b"0" * 30 + b"5", b"\xb2", b"5;" + b"a" * 9000, b"5\t;a=b", b'5 ; a = "b\\""', b"g", b"5\r", b"00000000",
)  # fmt: skip
TRAILERS = (
    b"X: y", b"Content-Length: 5", b"No-Colon", b"X: y\n", b" folded", b"A: b\r\n" * 200, b"\x00", b"Host: a",
    b"X: " + b"y" * 70000,
)  # fmt: skip
BODIES = (
    b"{", b"null", b"", b"a=b&c=d", b"[" * 5000, b"\x00" * 100, b'{"a":' * 2000, b'{"title":1e999}',
    b'{"title":"\xff"}', b'{"title":"\\ud800"}', b'{"title":"' + b"a" * 20000 + b'\\u0000"}',
)  # fmt: skip
BODILESS = {b"100", b"204", b"304"}
CHUNKED = b"Transfer-Encoding: chunked"


@dataclass
class Request:
    """A request that can be spoiled in its parts, before it is bytes."""

    operation: Operation
    method: bytes
    target: bytes
    version: bytes = b"HTTP/1.1"
    fields: list[bytes] = field(default_factory=list)
    body: bytes = b""

    def encode(self) -> bytes:
        """The bytes that are sent."""
        head = b" ".join((self.method, self.target, self.version))
        return b"\r\n".join((head, *self.fields, b"", self.body))


def chunked(chance: random.Random, body: bytes) -> bytes:
    """The body in chunks, one of which may have a size or an end that is wrong, and with a trailer at times."""
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)] or [b""]
    spoiled = chance.randrange(len(pieces) * 2)
    encoded = b""
    for number, piece in enumerate(pieces):
        size = chance.choice(CHUNKS) if number == spoiled else b"%x" % len(piece)
        encoded += size + b"\r\n" + piece + chance.choice((b"\r\n",) * 30 + (b"", b"\n", b"xx", b"\r"))
    trailer = chance.choice(TRAILERS) + b"\r\n" if chance.random() < 0.5 else b""  # noqa: PLR2004
    return encoded + chance.choice((b"0\r\n", b"0\r\n", b"0\n", b"", b"000\r\n")) + trailer + b"\r\n"


def line(chance: random.Random, request: Request) -> None:
    """Spoil the request line."""
    match chance.randrange(4):
        case 0:
            request.method = chance.choice(METHODS)
        case 1:
            request.target = chance.choice(TARGETS)
        case 2:
            request.version = chance.choice(VERSIONS)
        case 3:
            request.target += chance.choice(QUERIES)


def fields(chance: random.Random, request: Request) -> None:
    """Add a field that is odd, or leave one out, or have one twice."""
    place = chance.randrange(len(request.fields) + 1)
    match chance.randrange(6):
        case 0 if request.fields:
            del request.fields[place - 1]
        case 1 if request.fields:
            request.fields.insert(place, request.fields[place - 1])
        case _:
            request.fields.insert(place, chance.choice(FIELDS))


def separators(chance: random.Random, request: Request) -> None:
    """Spoil what separates a field's name from its value: secrets then stand where none is expected."""
    index = chance.randrange(len(request.fields))
    separator = chance.choice((b" ", b"", b" : ", b":", b":\r\n ", b"\x00: ", b": \x0b", b";"))
    request.fields[index] = request.fields[index].replace(b": ", separator, 1)


def framing(chance: random.Random, request: Request) -> None:
    """Send the body in chunks, or with a length that is not its own."""
    request.fields = [each for each in request.fields if not each.lower().startswith(b"content-length")]
    if chance.random() < 0.6:  # noqa: PLR2004
        request.fields.append(CHUNKED)
        request.body = chunked(chance, request.body)
    else:
        length = max(0, len(request.body) + chance.choice((-20, -5, -1, 1, 5, 10**6, 10**9)))
        request.fields.append(b"Content-Length: %d" % length)


def content(chance: random.Random, request: Request) -> None:
    """Spoil the body, and have its length right."""
    body = chance.choice(
        (
            *BODIES,
            request.body * 2,
            b"\xef\xbb\xbf" + request.body,
            request.body.replace(b'"', b"'"),
            request.body.replace(b":", b':9999999999999999999999,"x":'),
        )
    )
    request.fields = [each for each in request.fields if not each.startswith(b"Content-Length")]
    request.fields.append(b"Content-Length: %d" % len(body))
    request.body = body


SPOILERS: tuple[Callable[[random.Random, Request], None], ...] = (line, fields, fields, separators, framing, content)


def anywhere(chance: random.Random, data: bytes) -> bytes:
    """Change, take out, repeat or cut some bytes, wherever they are."""
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 9))
    match chance.randrange(5):
        case 0:
            return data[:start] + chance.randbytes(end - start) + data[end:]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:end] * chance.randrange(1, 50) + data[end:]
        case 3:
            return data[:end]
        case _:
            return data[:start] + data[start:end].replace(b"\r", b"").replace(b" ", b"\t") + data[end:]


class Attacker:
    """An account of its own, and the requests that it can make."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target = target
        self.chance = random.Random(seed)
        self.account = target.join("raw") if target.accounts else None
        self.token = b""
        self.operations = [operation for operation in target.operations if operation.method != "TRACE"]

    @property
    def secrets(self) -> list[bytes]:
        """What no response may repeat."""
        password = self.account.password.encode() if self.account else b""
        return [secret for secret in (self.token, password) if secret]

    def log_in(self) -> None:
        """Have a token that is good."""
        if self.account:
            try:
                tokens = self.target.tokens(self.account)
            except NotAssessed:  # one of the requests changed the password, or deleted the account
                self.account = self.target.join("raw")
                tokens = self.target.tokens(self.account)
            self.token = tokens["access_token"].encode()

    def request(self) -> Request:
        """A valid request for one of the operations."""
        operation = self.chance.choice(self.operations)
        path = re.sub(r"\{[^}]*\}", lambda _: self.chance.choice(IDS), operation.path)
        request = Request(operation, operation.method.encode(), path.encode())
        request.fields = [b"Host: localhost", b"Authorization: Bearer " + self.token]
        credentials = {"email": self.account.email, "password": self.account.password} if self.account else {}
        try:
            content_type, body = self.chance.choice(list(operation.bodies(Sampler(self.target.document, credentials))))
        except NoSampleError:
            content_type, body = "application/json", {}
        if content_type:
            request.body = msgspec.json.encode(body)
            request.fields += [f"Content-Type: {content_type}".encode(), b"Content-Length: %d" % len(request.body)]
        return request

    def inputs(self) -> Iterator[tuple[Operation, bytes]]:
        """Requests without an end, each spoiled up to three times; some are followed by others on their connection."""
        while True:
            request = self.request()
            for spoil in self.chance.choices(SPOILERS, k=self.chance.randrange(4)):
                if request.fields:
                    spoil(self.chance, request)
            data = request.encode()
            if self.chance.random() < 0.3:  # noqa: PLR2004
                data = anywhere(self.chance, data)
            if self.chance.random() < 0.2:  # noqa: PLR2004
                data += self.request().encode()
            yield request.operation, data


def send(address: tuple[str, int], data: bytes) -> bytes | None:
    """Send the bytes, then end the sending side; return what is answered, None where that takes too long."""
    received = b""
    ends = time.monotonic() + TIMEOUT
    try:
        with socket.create_connection(address, TIMEOUT) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                received += piece
                if time.monotonic() > ends:
                    return None
    except TimeoutError:
        return None
    except OSError:  # closed while something was on its way: what came counts
        pass
    return received


def responses(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """The status and head of each response. Raises ValueError where these bytes are not HTTP responses."""
    while answer:
        head, end, rest = answer.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if not (status and end):
            raise ValueError(f"no response: {answer[:80]!r}")
        length = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
        whole = int(length[1]) if length and not rest.startswith(b"HTTP/1.") else 0  # HEAD has a length alone
        yield int(status[1]), head
        answer = rest[whole:] if length or status[1] in BODILESS else b""


def faults(answer: bytes | None, secrets: list[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for each fault of what was answered to one input."""
    if answer is None:
        yield "no-end", f"neither answered nor closed in {TIMEOUT:.0f} s"
        return
    if any(secret in answer for secret in secrets):
        yield "secret-in-answer", "the answer repeats a secret of the request"
    try:
        for status, head in responses(answer):
            planned = status in PLANNED or (
                status == HTTPStatus.SERVICE_UNAVAILABLE and re.search(rb"\r\nRetry-After: \d", head, re.IGNORECASE)
            )
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not planned:
                yield "server-error", f"answered {status}"
    except ValueError as error:
        yield "broken-answer", str(error)


def scan(target: Target, *, inputs: int = INPUTS, seconds: float = SECONDS, seed: int = SEED) -> Scan:
    """Send hostile inputs until so many are sent or the time is over. Raises NotAssessed where they reach nothing."""
    attacker = Attacker(target, seed)
    url = urlsplit(target.url)
    address = (url.hostname or "", url.port or 0)
    findings: dict[tuple[str, str], Finding] = {}
    answered: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    for number, (operation, data) in enumerate(attacker.inputs()):
        if number == inputs or time.monotonic() > ends:
            break
        if number % RENEWED == 0:
            attacker.log_in()
        answer = send(address, data)
        seen[operation.label] += 1
        answered[answer[9:10].decode(errors="replace") + "xx" if answer else "closed"] += 1
        for rule, message in faults(answer, attacker.secrets):
            shown = data.replace(attacker.token or b"\0\0", b"TOKEN")[:300]
            finding = Finding(
                tool="raw_http",
                rule=rule,
                severity=Severity.HIGH,
                message=f"{message}; input {number} of seed {seed}: {shown!r}",
                path=operation.label,
                subject=message,
            )
            findings.setdefault((rule, operation.label), finding)
    if not (answered["2xx"] and answered["4xx"]):
        raise NotAssessed(f"the inputs reach nothing: {dict(answered)}")
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(answered.items()))
    return Scan(
        tool="raw_http",
        version=f"seed {seed}: {counts}",
        targets=tuple(f"{label}: {count} inputs" for label, count in sorted(seen.items())),
        findings=tuple(findings.values()),
    )
