"""Routes: whatever the settings, all that the application answers is in its OpenAPI document.

Each setting is changed alone: to each of its choices, to the ends of its range, or to a text that it accepts. So is
each environment variable that the source reads. The service's command `routes` then lists the application's URL map.
"""

import importlib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Literal, get_args, get_origin

import msgspec

from service_kit.config import ConfigurationError, Settings, load
from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

TEXTS = (
    "off", "on", "1", "127.0.0.1", "http://127.0.0.1:9", "smtp://127.0.0.1:9", "somebody@example.com", "7/minute",
)  # fmt: skip
"""Texts of which nearly every setting without choices and range accepts one."""

NOT_TRIED = {"PROMETHEUS_MULTIPROC_DIR"}
"""A folder that must exist."""

PAGES = {"/docs", "/docs/<any(start.js, swagger_bundle.js, swagger_style.css):name>", "/problems"}
"""What people read in a browser of every service, and so is no operation of the document.

A service's record names its own such routes, each with a reason."""


def choices(field: msgspec.structs.FieldInfo) -> Iterator[str]:
    """Yield the texts to try for a setting."""
    kind, *metas = get_args(field.type) or (field.type,)
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
        return
    ranges = [bound for meta in metas if isinstance(meta, msgspec.Meta) for bound in (meta.ge, meta.le)]
    yield from (str(bound) for bound in ranges if bound is not None)
    if not any(bound is not None for bound in ranges):
        yield from TEXTS


def accepted(kind: type[Settings], base: Mapping[str, str], name: str, text: str) -> dict[str, str] | None:
    """Return the environment with one variable changed, and those that this requires; None where it is not accepted."""
    environment = {**base, name: text}
    for _ in range(len(TEXTS)):
        try:
            load(kind, environment)
        except ConfigurationError as error:
            lacking = {problem.partition(":")[0] for problem in error.problems} - {name}
            if not lacking or len(lacking) < len(error.problems):
                return None
            for other in lacking:
                environment[other] = TEXTS[
                    (TEXTS.index(environment[other]) + 1) if environment.get(other) in TEXTS else 0
                ]
        else:
            return environment
    return None


def variations(target: Target) -> tuple[list[str], list[str]]:
    """Return changes of the environment, as a shell writes them: of the settings, and what the source itself reads.

    The source may read the latter when it is imported.
    """
    kind: type[Settings] = importlib.import_module(f"{target.service.package}.config").Settings
    known: dict[str, list[str]] = {}
    for name, field in ((field.name.upper(), field) for field in msgspec.structs.fields(kind)):
        if name in NOT_TRIED:
            continue
        texts = list(choices(field))
        accepted_settings = [
            each for text in texts if (each := accepted(kind, target.settings, name, text)) is not None
        ]
        changed = [
            {key: text for key, text in each.items() if text != target.settings.get(key)} for each in accepted_settings
        ]
        shown = [shlex.join(f"{key}={text}" for key, text in each.items()) for each in changed]
        known[name] = shown[:1] if tuple(texts) == TEXTS else shown
    read = target.mentioned.variables - NOT_TRIED
    return list(filter(None, chain.from_iterable(known.values()))), [
        text for name in sorted(read) for text in known.get(name, [f"{name}=1"])
    ]


def listed(target: Target, environment: Mapping[str, str], changes: Iterable[str]) -> dict[str, list[list[str]]]:
    """Return (method, path, operation) of every route with each change. Raises `NotAssessed`."""
    arguments = list(chain.from_iterable(("--under", change) for change in changes))
    by_change: dict[str, list[list[str]]] = {}
    with TemporaryDirectory(prefix="routes-") as metrics:
        own = {**environment, "PROMETHEUS_MULTIPROC_DIR": metrics}
        for line in target.command("routes", *arguments, environment=own).splitlines():
            change = line.removeprefix("# ") if line.startswith("#") else next(reversed(by_change), "")
            routes = by_change.setdefault(change, [])
            if not line.startswith("#"):
                route, _, operation = line.rpartition("  ")
                routes.append([*route.split(maxsplit=1), operation])
    return by_change


def scan(target: Target) -> Scan:
    """Hold the URL map against the document under every setting."""
    settings, read = variations(target)
    maps = listed(target, target.settings, settings)
    for change in read:
        variables = dict(part.split("=", 1) for part in shlex.split(change))
        maps[change] = listed(target, {**target.settings, **variables}, ())[""]
    findings: dict[str, Finding] = {}
    common = PAGES | {target.service.openapi}
    for change, routes in maps.items():
        if not any(operation != "-" for *_, operation in routes):
            raise NotAssessed(f"the application has no operation with {change or 'the settings of the attack'}")
        for method, path, operation in routes:
            label = f"{method} {path}"
            if operation == "-" and label not in target.service.undocumented and path not in common:
                findings.setdefault(label, finding(label, f"no document has this route, which is there with {change}"))
    lacking = {f"{method} {path}" for routes in maps.values() for method, path, operation in routes if operation == "-"}
    for label in sorted(target.service.undocumented.keys() - lacking):
        findings[label] = finding(label, "[tool.service.undocumented] names it, and no route without a document is so")
    known = {path for routes in maps.values() for _, path, _ in routes}
    for path in sorted(target.mentioned.paths - known):
        answer = target.client.get(path)
        if answer.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            message = f"no route has this path, which is answered {answer.status_code}"
            findings.setdefault(f"GET {path}", finding(f"GET {path}", message))
    targets = tuple(f"{change or 'as attacked'}: {len(routes)} routes" for change, routes in maps.items())
    return Scan(tool="routes", version="1", targets=targets, findings=tuple(findings.values()))


def finding(label: str, message: str) -> Finding:
    """Return the finding about a route that the document lacks."""
    return Finding(tool="routes", rule="undocumented", severity=Severity.HIGH, message=message, path=label)
