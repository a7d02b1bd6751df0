"""Injections, sought by Wapiti from the OpenAPI document, as a user who is logged in."""

from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import msgspec

from tooling import tools
from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

MODULES = "csp,cookieflags,crlf,exec,file,http_headers,permanentxss,redirect,sql,xss"
"""Those that need no server of the attacker's on the Internet."""


class Entry(msgspec.Struct):
    """One thing that Wapiti found."""

    method: str
    path: str
    info: str
    level: int
    parameter: str | None = None
    module: str = ""


class Request(msgspec.Struct):
    """What Wapiti asked for."""

    method: str
    url: str


class Response(msgspec.Struct):
    """What it was answered."""

    status_code: int


class Page(msgspec.Struct):
    """A request that Wapiti then attacks."""

    request: Request
    response: Response


class Infos(msgspec.Struct):
    """What Wapiti did."""

    version: str
    crawled_pages: list[Page] = []


class Document(msgspec.Struct):
    """Wapiti's JSON report, as far as it is read here."""

    infos: Infos
    vulnerabilities: dict[str, list[Entry]]
    anomalies: dict[str, list[Entry]]


def scan(target: Target) -> Scan:
    """Attack the service with Wapiti, as a user of its own."""
    return attack(target, target.tokens(target.join("wapiti"))["access_token"])


def attack(target: Target, token: str) -> Scan:
    """Run Wapiti; logging out is left out, since it would end the attacker's session."""
    with TemporaryDirectory(prefix="wapiti-") as folder:
        output, document = Path(folder, "report.json"), Path(folder, "openapi.json")
        document.write_bytes(msgspec.json.encode({**target.document, "servers": [{"url": target.url}]}))
        arguments = ["--url", f"{target.url}/", "--swagger", str(document), "--module", MODULES]
        arguments += ["--exclude", f"{target.url}/auth/logout", "--header", f"Authorization: Bearer {token}"]
        arguments += ["--flush-session", "--no-bugreport", "--store-session", folder, "--store-config", folder]
        arguments += ["--verbose", "0", "--detailed-report", "2", "--format", "json", "--output", str(output)]
        tools.call("wapiti", *arguments)
        return read(target, output)


def read(target: Target, output: Path) -> Scan:
    """Read Wapiti's report. Raises `NotAssessed` where there is none, or where nothing was crawled."""
    try:
        document = msgspec.json.decode(output.read_bytes(), type=Document)
    except (OSError, msgspec.DecodeError) as error:
        raise NotAssessed(f"wapiti left no report: {error}") from error
    if not document.infos.crawled_pages:
        raise NotAssessed(f"wapiti crawled no page of {target.url}")
    pages = {
        target.place(page.request.method, urlsplit(page.request.url).path): page.response.status_code
        for page in document.infos.crawled_pages
    }
    secured = {operation.label for operation in target.operations if operation.roles is not None}
    if not any(place in secured and status < HTTPStatus.BAD_REQUEST for place, status in pages.items()):
        raise NotAssessed("wapiti crawled no page that asks for a login: its token was not accepted")
    findings = [
        Finding(
            tool="wapiti",
            rule=rule,
            severity=Severity(entry.level),
            message=entry.info,
            path=target.place(entry.method, urlsplit(entry.path).path),
            subject=entry.parameter or entry.module,
        )
        for kind in (document.vulnerabilities, document.anomalies)
        for rule, entries in kind.items()
        for entry in entries
    ]
    targets = tuple(f"{place}: {status}" for place, status in pages.items())
    version = document.infos.version.removeprefix("Wapiti ")
    return Scan(tool="wapiti", version=version, targets=targets, findings=tuple(findings))
