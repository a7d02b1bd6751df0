"""What breaks a client of the last release; the canaries of dast/compatibility show what oasdiff itself reports."""

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tooling.dast import compatibility, openapi
from tooling.findings import NotAssessed, Unreachable
from tooling.project import ROOT, Service, services
from tooling.tools import MissingTool, numbers

Document = dict[str, Any]


def document(version: str = "1.0.0", **operation: Any) -> Document:
    get = {"responses": {"200": {}}, **operation}
    return {"info": {"version": version}, "paths": {"/a": {"get": get, "parameters": []}}}


def change(rule: str, level: int, path: str = "/a", line: int = 1) -> Document:
    return {"id": rule, "text": f"{rule} there", "level": level, "operation": "GET", "path": path} | {
        "baseSource": {"line": line}
    }


@pytest.fixture
def oasdiff(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets what oasdiff reports."""
    monkeypatch.setattr("tooling.tools.described", lambda _: "1")

    def reports(*changes: Document) -> None:
        monkeypatch.setattr(compatibility, "report", lambda *_, **__: list(changes))

    return reports


def test_what_breaks_a_client_is_a_finding_that_names_the_way_out(oasdiff: Callable[..., None]) -> None:
    oasdiff(change("removed", 3), change("endpoint-added", 1))
    scan = compatibility.compare(document(), document("1.1.0"))
    (finding,) = scan.findings
    assert (finding.rule, finding.path, finding.fails, scan.targets) == ("removed", "GET /a", True, ("GET /a",))
    assert finding.message.startswith("removed there, which breaks clients of 1.0.0. Expand first: add the new beside")


@pytest.mark.parametrize("rule", [*sorted(compatibility.BREAKS_TOO), "warned-of"])
def test_so_is_what_oasdiff_only_informs_of_or_warns_of(oasdiff: Callable[..., None], rule: str) -> None:
    oasdiff(change(rule, 2 if rule == "warned-of" else 1))
    assert [one.rule for one in compatibility.compare(document(), document()).findings if one.fails] == [rule]


def test_one_schema_in_many_responses_is_one_finding_whose_fingerprint_names_them_all(
    oasdiff: Callable[..., None],
) -> None:
    oasdiff(change("removed", 3, "/b"), change("removed", 3, "/a"), change("removed", 3, "/a", line=7))
    first, second = compatibility.compare(document(), document()).findings
    assert (first.path, second.path) == ("GET /a", "GET /a")
    assert "removed there (and in 1 more), which" in first.message
    assert (first.subject, second.subject) == ("GET /a: removed there; GET /b: removed there", "GET /a: removed there")


@pytest.mark.parametrize(("version", "fails"), [("1.0.0", True), ("1.9.0", True), ("0.9.0", True), ("2.0.0", False)])
def test_a_new_major_version_may_break_clients(oasdiff: Callable[..., None], version: str, *, fails: bool) -> None:
    oasdiff(change("removed", 3))
    (finding,) = compatibility.compare(document(), document(version)).findings
    assert finding.fails is fails


def body(*media: str) -> Document:
    return {"requestBody": {"content": {name: {} for name in media}}}


def choice(*values: str) -> Document:
    schema = {"anyOf": [{"const": value} for value in values]}
    return {"parameters": [{"name": "a", "in": "query", "schema": schema}]}


def link(*names: str) -> Document:
    return {"responses": {"200": {"links": {name: {} for name in names}}}}


@pytest.mark.parametrize(
    ("less", "more", "rule"),
    [
        (body("application/json"), body("application/json", "application/x+json"), "request-media-type-removed"),
        (choice("x"), choice("x", "y"), "request-parameter-choice-removed"),
        (link("next"), link("next", "self"), "link-removed"),
    ],
)
def test_what_oasdiff_passes_over_is_a_finding_where_it_is_taken_away_and_none_where_it_is_added(
    oasdiff: Callable[..., None], less: Document, more: Document, rule: str
) -> None:
    oasdiff()
    assert compatibility.compare(document(**less), document(**more)).findings == ()
    assert [one.rule for one in compatibility.compare(document(**more), document(**less)).findings] == [rule]


def test_a_field_that_was_ignored_must_not_be_refused(oasdiff: Callable[..., None]) -> None:
    oasdiff()

    def taking(fields: Document, *, strict: bool) -> Document:
        return document() | {
            "components": {"schemas": {"A": {"properties": fields, "additionalProperties": not strict}}}
        }

    before = taking({"id": {"readOnly": True}}, strict=True)
    (finding,) = compatibility.compare(before, taking({}, strict=True)).findings
    assert (finding.rule, finding.path) == ("ignored-field-refused", "A")
    assert compatibility.compare(before, taking({}, strict=False)).findings == ()


def test_a_document_without_operations_or_version_is_not_assessed(oasdiff: Callable[..., None]) -> None:
    oasdiff()
    with pytest.raises(NotAssessed, match="describes no operation"):
        compatibility.compare(document(), {"paths": {}})
    with pytest.raises(NotAssessed, match="has no major number"):
        compatibility.compare(document(), document("newest"))


def test_without_oasdiff_a_laptop_is_warned_and_ci_fails(
    oasdiff: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    oasdiff()

    def missing(*_: Any, **__: Any) -> None:
        raise MissingTool("oasdiff is missing: it needs Go")

    monkeypatch.setattr(compatibility, "report", missing)
    with pytest.raises(Unreachable, match="it needs Go"):
        compatibility.compare(document(), document())


def test_a_document_is_kept_with_its_commit_unless_it_breaks_clients(
    oasdiff: Callable[..., None], tmp_path: Path
) -> None:
    service = Service(folder=tmp_path, name="clock")
    with pytest.raises(NotAssessed, match=r"no release yet: run `\./dev openapi clock`"):
        compatibility.released(service)
    oasdiff(change("removed", 3))
    openapi.keep(service, document(), "c0ffee")
    assert compatibility.released(service) == document() | {"x-commit": "c0ffee"}
    assert openapi.keep(service, document("1.1.0"), "").exit_code == 1
    assert compatibility.released(service)["info"]["version"] == "1.0.0"
    assert openapi.keep(service, document("2.0.0"), "").exit_code == 0
    assert compatibility.released(service)["info"]["version"] == "2.0.0"


@pytest.mark.parametrize("service", [one for one in services() if one.released.exists()], ids=lambda one: one.name)
def test_the_document_that_a_service_keeps_is_of_the_version_and_the_commit_that_it_names(service: Service) -> None:
    kept = json.loads(service.released.read_text())
    here = tomllib.loads((service.folder / "pyproject.toml").read_text())["project"]["version"]
    assert numbers(kept["info"]["version"]) <= numbers(here)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    if there := git("show", f"{kept['x-commit']}:{service.path}/pyproject.toml"):  # a shallow clone does not have it
        assert kept["info"]["version"] == tomllib.loads(there)["project"]["version"]
    if tag := git("describe", "--tags", "--abbrev=0", "--match=v*"):
        assert numbers(tag) <= numbers(kept["info"]["version"]), "run `./dev openapi` before a release is tagged"
        if tag == f"v{kept['info']['version']}":
            assert json.loads(git("show", f"{tag}:{service.path}/{service.released.name}")) == kept
