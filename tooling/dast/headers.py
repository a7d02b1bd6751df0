"""The headers that keep a browser from doing harm (OWASP's HTTP Headers Cheat Sheet), on answers of every kind."""

import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity
from tooling.service import running

FOREIGN = "https://attacker.example"
FORBIDDEN = 403
SAFE = {"GET", "HEAD"}
"""Methods that change nothing (RFC 9110, section 9.2.1)."""
REQUIRED: dict[str, Callable[[str], bool]] = {
    "X-Content-Type-Options": lambda value: value == "nosniff",
    "X-Frame-Options": lambda value: value in {"DENY", "SAMEORIGIN"},
    "Content-Security-Policy": lambda value: "default-src 'none'" in value and "frame-ancestors 'none'" in value,
    "Referrer-Policy": lambda value: value in {"no-referrer", "same-origin"},
    "Cross-Origin-Resource-Policy": lambda value: value == "same-origin",
    "Cache-Control": lambda value: "no-store" in value or "private" in value,
}
CACHEABLE = re.compile(r"/(docs|board)/.+")
"""Files of pages: the same for everybody."""
VERSION = re.compile(r"\d+\.\d+")


def requests(target: Target) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Yield (method, path, headers, body): each operation without a token and with one, documents, pages, mistakes."""
    owner = target.accounts.get("owner")
    login = {"Authorization": f"Bearer {target.tokens(owner)['access_token']}"} if owner else {}
    for operation in target.operations:
        path = re.sub(r"\{[^}]*\}", "1", operation.path)
        yield operation.method, path, {}, b""
        if operation.method == "GET":
            yield "GET", path, login, b""
            yield "TRACE", path, {}, b""
            yield "OPTIONS", path, {"Access-Control-Request-Method": "DELETE"}, b""
        if operation.content:
            yield operation.method, path, login | {"Content-Type": "application/json"}, b"{"
    for path in (target.service.openapi, "/docs", "/docs/start.js", "/no-such-page"):
        yield "GET", path, login, b""
    for method, path in undocumented(target):
        yield method, path, {"Accept": "text/html"}, b""
    yield "GET", "/", {"Accept": "text/html"}, b""
    yield "PATCH", "/livez", {}, b""


def undocumented(target: Target) -> list[tuple[str, str]]:
    """Return the method and path of each route that the service's record names, such as those of a page for people."""
    routes = (route.split(maxsplit=1) for route in target.service.undocumented)
    return [(method, re.sub(r"\{[^}]*\}", "1", path)) for method, path in routes]


def strained(target: Target) -> Iterator[tuple[str, httpx.Response]]:
    """Yield a path and the response of another copy of the service, beyond its rate limit and without its database.

    Raises `NotAssessed` where the document has 429 or 503, and no response is it.
    """
    documented = {status for operation in target.operations for status in operation.declared["responses"]}
    login = {"email": "nobody@example.com", "password": "a horse and its battery"}
    if "429" in documented:
        with running({**target.copy, "RATE_LIMIT": "1/minute"}, program=target.program, service=target.service) as url:
            yield "/", expected(HTTPStatus.TOO_MANY_REQUESTS, [httpx.get(url, timeout=30) for _ in range(4)])
    if "503" in documented and target.service.migrations:  # whose database is a file that can be taken away
        with TemporaryDirectory(prefix="headers-") as folder:
            file = Path(folder, "gone.db")
            settings = {**target.copy, "DB_PATH": str(file)}
            with running(settings, program=target.program, service=target.service) as url:
                for part in Path(folder).iterdir():
                    part.unlink()
                yield "/readyz", expected(HTTPStatus.SERVICE_UNAVAILABLE, [httpx.get(f"{url}/readyz", timeout=30)])
                if target.service.accounts:
                    answer = httpx.post(f"{url}/auth/login", json=login, timeout=30)
                    yield "/auth/login", expected(HTTPStatus.SERVICE_UNAVAILABLE, [answer])


def expected(status: HTTPStatus, answers: list[httpx.Response]) -> httpx.Response:
    """Return the response with that status. Raises `NotAssessed` where there is none."""
    for answer in answers:
        if answer.status_code == status:
            return answer
    raise NotAssessed(f"no response is {status}: {[answer.status_code for answer in answers]}")


def faults(path: str, answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for each header of an answer that is not as it must be."""
    for name, right in REQUIRED.items():
        if name == "Cache-Control" and CACHEABLE.fullmatch(path):
            continue
        values = answer.headers.get_list(name)
        if len(values) != 1 or not right(values[0]):
            yield name.lower(), f"{name} is {values or 'missing'}"
    for name in ("Server", "X-Powered-By"):
        if VERSION.search(answer.headers.get(name, "")):
            yield "version-disclosure", f"{name} reveals a version: {answer.headers[name]}"
    if "access-control-allow-origin" in answer.headers:
        yield "foreign-origin", f"{FOREIGN} may read this: Access-Control-Allow-Origin"


def answers(target: Target) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Yield the place and the status of an answer of each kind, and what is wrong with it."""
    pages = undocumented(target)
    for method, path, headers, body in requests(target):
        place = target.place(method, path)
        try:
            answer = target.client.request(method, path, headers={"Origin": FOREIGN, **headers}, content=body)
        except httpx.HTTPError as error:
            raise NotAssessed(f"{place} was not answered: {error}") from error
        wrong = list(faults(path, answer))
        if method not in SAFE and (method, path) in pages and answer.status_code != FORBIDDEN:
            wrong.append(("cross-site", f"a page's route takes requests from {FOREIGN}: {answer.status_code}"))
        yield place, answer.status_code, wrong
    for path, answer in strained(target):
        yield f"{answer.status_code} {path}", answer.status_code, list(faults(path, answer))


def scan(target: Target) -> Scan:
    """Look at the headers of an answer of each kind."""
    findings: dict[tuple[str, str], Finding] = {}
    seen = []
    for place, status, wrong in answers(target):
        seen.append(f"{place}: {status}")
        for rule, message in wrong:
            finding = Finding(tool="headers", rule=rule, severity=Severity.MEDIUM, message=message, path=place)
            findings.setdefault((rule, place), finding)
    return Scan(tool="headers", version=httpx.__version__, targets=tuple(seen), findings=tuple(findings.values()))
