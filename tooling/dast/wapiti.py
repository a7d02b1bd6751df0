"""Injections, sought by Wapiti from the OpenAPI document, as a user who is logged in."""

from collections import defaultdict
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tooling import tools
from tooling.dast.samples import Sampler, constant, value_at
from tooling.dast.target import Account, Operation, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

MODULES = "csp,cookieflags,crlf,exec,file,http_headers,permanentxss,redirect,sql,xss"
"""Those that need no server of the attacker's on the Internet."""


LEFT_OUT = ("/auth/logout", "/auth/sessions*", "/auth/me/delete", "/auth/totp/*")
"""The paths that end the session or the account of the client, and those that need a code of its second factor."""

WAPITIS_BODIES = {"application/json", "application/x-www-form-urlencoded"}


class Entry(msgspec.Struct):
    """One finding of Wapiti."""

    method: str
    path: str
    info: str
    level: int
    parameter: str | None = None
    module: str = ""


class Request(msgspec.Struct):
    """A request of Wapiti."""

    method: str
    url: str


class Response(msgspec.Struct):
    """The response to it."""

    status_code: int


class Page(msgspec.Struct):
    """A request that Wapiti then attacks."""

    request: Request
    response: Response


class Infos(msgspec.Struct):
    """Wapiti's version and crawl."""

    version: str
    crawled_pages: list[Page] = []


class Document(msgspec.Struct):
    """The part of Wapiti's JSON report that this gate reads."""

    infos: Infos
    vulnerabilities: dict[str, list[Entry]]
    anomalies: dict[str, list[Entry]]


def scan(target: Target) -> Scan:
    """Attack the service with Wapiti, as an administrator of its own where the service has accounts."""
    attacker = target.promote() if target.service.accounts else Account("nobody@example.com")
    token = target.tokens(attacker)["access_token"] if target.service.accounts else ""
    return attack(target, token, concrete(target, attacker, token))


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token, or none without one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def concrete(target: Target, attacker: Account, token: str) -> dict[str, Any]:
    """Return the document with a valid value in place of each schema, for the user of this token.

    Most of Wapiti's own values are the word `default`: the service would refuse them before they reach anything.
    """
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    # Wapiti sends several requests at once: a login is refused while that account's password is changed.
    newcomer = target.join("newcomer") if target.service.accounts else attacker
    for operation in target.operations:
        account = newcomer if operation.roles is None else attacker
        sampler = Sampler(target.document, target.credentials(operation, account))
        bodies = {
            kind: {"schema": constant(sampler.full(media["schema"]))} for kind, media in operation.content.items()
        }
        paths[operation.path][operation.method.lower()] = {
            "responses": operation.declared["responses"],
            "parameters": [
                {"name": name, "in": place, "required": True, "schema": constant(value)}
                for place in ("path", "query")
                for name, value in values(target, operation, place, sampler, token).items()
            ],
            **({"requestBody": {"content": bodies}} if bodies else {}),
        }
    return {name: target.document[name] for name in ("openapi", "info")} | {"paths": paths}


def values(target: Target, operation: Operation, place: str, sampler: Sampler, token: str) -> dict[str, str]:
    """Return values of an operation's parameters in its path or its query.

    A parameter of the query whose value is refused, one that only the service can make, is left out.
    """
    parameters = [each for each in operation.declared.get("parameters", []) if each["in"] == place]
    headers = bearer(token)
    samples = {each["name"]: str(sampler.full(each["schema"])) for each in parameters}
    if place == "path" and parameters:
        maker, expression = target.maker(operation)
        if maker:
            known = target.credentials(maker, Account("nobody@example.com"))
            _, body = next(maker.bodies(Sampler(target.document, known)))
            made = target.client.request(maker.method, maker.path, json=body, headers=headers)
            samples[parameters[0]["name"]] = str(value_at(made.json(), expression))
    if place == "query" and operation.method == "GET":
        for name, value in list(samples.items()):
            if target.client.get(operation.path, params={name: value}, headers=headers).is_client_error:
                del samples[name]
    return samples


def attack(target: Target, token: str, openapi: dict[str, Any]) -> Scan:
    """Run Wapiti. `LEFT_OUT` is not attacked."""
    with TemporaryDirectory(prefix="wapiti-") as folder:
        output, document = Path(folder, "report.json"), Path(folder, "openapi.json")
        document.write_bytes(msgspec.json.encode({**openapi, "servers": [{"url": target.url}]}))
        arguments = ["--url", f"{target.url}/", "--swagger", str(document), "--module", MODULES]
        if token:
            for path in LEFT_OUT:
                arguments += ["--exclude", f"{target.url}{path}"]
            arguments += ["--header", f"Authorization: Bearer {token}"]
        arguments += ["--flush-session", "--no-bugreport", "--store-session", folder, "--store-config", folder]
        arguments += ["--verbose", "0", "--detailed-report", "2", "--format", "json", "--output", str(output)]
        tools.call("wapiti", *arguments)
        return read(target, output)


def formable(operation: Operation) -> bool:
    """Return whether Wapiti can call an operation: its bodies are JSON or a form."""
    return set(operation.content) <= WAPITIS_BODIES


def read(target: Target, output: Path) -> Scan:
    """Read Wapiti's report. Raises `NotAssessed` where there is none, nothing was crawled, or good requests refused."""
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
    if secured and not any(place in secured and status < HTTPStatus.BAD_REQUEST for place, status in pages.items()):
        raise NotAssessed("wapiti crawled no page that needs a login: its token was not accepted")
    formed = {operation.label for operation in target.operations if formable(operation)}
    refused = [
        f"{place}: {status}" for place, status in pages.items() if place in formed and status >= HTTPStatus.BAD_REQUEST
    ]
    if refused:
        raise NotAssessed(f"wapiti's requests were refused, so its attacks reach nothing: {', '.join(refused)}")
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
