"""The headers that keep a browser from doing harm (OWASP's HTTP Headers Cheat Sheet), on answers of every kind."""

import re
from collections.abc import Callable, Iterator

import httpx

from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

FOREIGN = "https://attacker.example"
REQUIRED: dict[str, Callable[[str], bool]] = {
    "X-Content-Type-Options": lambda value: value == "nosniff",
    "X-Frame-Options": lambda value: value in {"DENY", "SAMEORIGIN"},
    "Content-Security-Policy": lambda value: "default-src 'none'" in value and "frame-ancestors 'none'" in value,
    "Referrer-Policy": lambda value: value in {"no-referrer", "same-origin"},
    "Cross-Origin-Resource-Policy": lambda value: value == "same-origin",
    "Cache-Control": lambda value: "no-store" in value or "private" in value,
}
CACHEABLE = re.compile(r"/docs/.+")
"""Files of the documents' page: the same for everybody."""
VERSION = re.compile(r"\d+\.\d+")


def requests(target: Target) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Yield (method, path, headers, body): each operation without a token and with one, the documents, mistakes."""
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
    yield "PATCH", "/livez", {}, b""


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
            yield "version-disclosure", f"{name} tells a version: {answer.headers[name]}"
    if "access-control-allow-origin" in answer.headers:
        yield "foreign-origin", f"{FOREIGN} may read this: Access-Control-Allow-Origin"


def scan(target: Target) -> Scan:
    """Look at the headers of an answer of each kind."""
    findings: dict[tuple[str, str], Finding] = {}
    seen = []
    for method, path, headers, body in requests(target):
        place = target.place(method, path)
        try:
            answer = target.client.request(method, path, headers={"Origin": FOREIGN, **headers}, content=body)
        except httpx.HTTPError as error:
            raise NotAssessed(f"{place} was not answered: {error}") from error
        seen.append(f"{place}: {answer.status_code}")
        for rule, message in faults(path, answer):
            finding = Finding(tool="headers", rule=rule, severity=Severity.MEDIUM, message=message, path=place)
            findings.setdefault((rule, place), finding)
    return Scan(tool="headers", version=httpx.__version__, targets=tuple(seen), findings=tuple(findings.values()))
