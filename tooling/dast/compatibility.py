"""The OpenAPI document of a running service, held against the last release's: no client of that may break."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tooling import tools
from tooling.dast.target import Target, described
from tooling.findings import Finding, NotAssessed, Scan, Severity, Unreachable
from tooling.project import Service
from tooling.tools import MissingTool, report

Document = dict[str, Any]
TOOL = "compatibility"
REMEDY = (
    "Expand first: add the new beside the old and leave it optional, declare the old with `deprecation=`, and take it"
    " away with the next major version"
)
WARNING = 2
"""From this level on oasdiff calls a change breaking, or possibly so."""

BREAKS_TOO = {
    "api-operation-id-removed",  # what clients are generated from
    "api-path-removed-with-deprecation",  # a minor version takes nothing away, whatever was announced
    "api-removed-with-deprecation",
    "optional-response-header-removed",
    "request-parameter-default-value-changed",
    "request-property-default-value-changed",
    "response-media-type-name-specialized",
    "response-non-success-status-removed",
    "response-optional-property-removed",
}
"""What oasdiff calls information, and a client notices all the same."""


def scan(target: Target) -> Scan:
    """Compare the document of the service with the last release's."""
    return compare(released(target.service), target.document)


def released(one: Service) -> Document:
    """Return the last release's document. Raises `NotAssessed` where there is none."""
    if not one.released.exists():
        raise NotAssessed(f"no release yet: run `./dev openapi {one.name}` and commit {one.path}/{one.released.name}")
    document: Document = json.loads(one.released.read_text())
    return document


def compare(before: Document, now: Document) -> Scan:
    """Return a finding for each change that breaks clients of `before`; none fails where the major version is new."""
    operations = tuple(f"{method} {path}" for method, path, _ in described(before))
    if not operations or not any(described(now)):
        raise NotAssessed("one of the documents describes no operation")
    major = version(now)[0] > version(before)[0]
    findings = []
    for rule, severity, places in [*by_oasdiff(before, now), *unseen(before, now)]:
        (place, text), *others = places
        more = f" (and in {len(others)} more)" if others else ""
        findings.append(
            Finding(
                tool=TOOL,
                rule=rule,
                severity=severity,
                message=f"{text}{more}, which breaks clients of {before['info']['version']}. {REMEDY}",
                path=place,
                subject="; ".join(f"{at}: {what}" for at, what in places),
                blocks=not major,
            )
        )
    return Scan(
        tool=TOOL, version=f"oasdiff {tools.described('oasdiff')}", targets=operations, findings=tuple(findings)
    )


def version(document: Document) -> list[int]:
    """Return the version's numbers: [1, 2, 3]. Raises `NotAssessed` for one that is not semantic."""
    numbers = tools.numbers(str(document["info"]["version"]))
    if not numbers:
        raise NotAssessed(f"the version {document['info']['version']!r} has no major number")
    return numbers


Change = tuple[str, Severity, list[tuple[str, str]]]
"""A rule, its severity, and the places that it is about, each with what is changed there."""


def by_oasdiff(before: Document, now: Document) -> Iterator[Change]:
    """Yield oasdiff's changes. What one schema brings to many responses is one change in many places."""
    with TemporaryDirectory() as folder:
        files = []
        for name, document in (("before.json", before), ("now.json", now)):
            files.append(Path(folder, name))
            files[-1].write_text(json.dumps(document, indent=1))  # each schema has lines of its own
        try:
            changes = report("oasdiff", "changelog", "--format=json", *files, cwd=Path(folder), OASDIFF_CONFIG="")
        except MissingTool as error:
            raise Unreachable(str(error)) from error
    grouped: dict[tuple[str, ...], list[Document]] = {}
    for change in changes:
        if change["level"] >= WARNING or change["id"] in BREAKS_TOO:
            lines = [str(change.get(source, {}).get("line", "")) for source in ("baseSource", "revisionSource")]
            grouped.setdefault((change["id"], *lines), []).append(change)
    for (rule, *_), same in grouped.items():
        severity = Severity.HIGH if same[0]["level"] > WARNING else Severity.MEDIUM
        yield rule, severity, sorted((place_of(change), change["text"]) for change in same)


def place_of(change: Document) -> str:
    """Return the operation that a change of oasdiff is about; `document` where it is about none."""
    return f"{change['operation']} {change['path']}" if change.get("operation") else "document"


def unseen(before: Document, now: Document) -> Iterator[Change]:
    """Yield the changes that oasdiff 1.37 passes over."""
    newer = {(method, path): operation for method, path, operation in described(now)}
    for method, path, old in described(before):
        new = newer.get((method, path))
        if new is None:
            continue
        gone = [
            ("request-media-type-removed", "the media type of the body", name)
            for name in media_types(old) - media_types(new)
        ]
        gone += [("link-removed", "the link", name) for name in links(old) - links(new)]
        gone += [
            ("request-parameter-choice-removed", "a choice of the parameter", name)
            for name in choices(old) - choices(new)
        ]
        for rule, what, name in sorted(gone):
            yield rule, Severity.HIGH, [(f"{method} {path}", f"{what} `{name}` is gone")]
    for name, schema in before.get("components", {}).get("schemas", {}).items():
        strict = now.get("components", {}).get("schemas", {}).get(name, {"additionalProperties": True})
        if strict.get("additionalProperties") is False:
            for field in sorted(schema.get("properties", {}).keys() - strict.get("properties", {}).keys()):
                if schema["properties"][field].get("readOnly"):
                    yield "ignored-field-refused", Severity.HIGH, [(name, f"it refuses `{field}`, which it ignored")]


def media_types(operation: Document) -> set[str]:
    """Return what a request's body may be. oasdiff takes application/json for application/merge-patch+json."""
    return set(operation.get("requestBody", {}).get("content", {}))


def links(operation: Document) -> set[str]:
    """Return the links of all responses."""
    return {
        f"{status} {name}" for status, response in operation["responses"].items() for name in response.get("links", ())
    }


def choices(operation: Document) -> set[str]:
    """Return each schema of which a parameter may meet one."""
    return {
        f"{parameter['name']}` in {parameter['in']}, `{json.dumps(one, sort_keys=True)}"
        for parameter in operation.get("parameters", ())
        for one in parameter.get("schema", {}).get("anyOf", ())
    }
