"""Releases and the issue of the nightly proofs: the commands of `gh`."""

import json
from pathlib import Path

import pytest

from tooling import github
from tooling.github import Disagreement
from tooling.project import ROOT, Service

CHANGELOG = "# Changelog\n\n## 1.1.0 - 2026-12-01\n\n### Added\n\n- Notes.\n\n## 1.0.0 - 2026-11-26\n\nThe first.\n"
RUN = "https://github.com/o/r/actions/runs/7"


def test_the_notes_are_the_versions_part_of_the_changelog() -> None:
    assert github.notes("1.1.0", CHANGELOG) == "Released: 2026-12-01\n\n### Added\n\n- Notes.\n"
    assert github.notes("1.0.0", CHANGELOG) == "Released: 2026-11-26\n\nThe first.\n"
    with pytest.raises(Disagreement, match=r"has no part `## 1.0 - DATE`"):
        github.notes("1.0", CHANGELOG)


def test_the_changelog_has_notes_for_the_version_of_every_service() -> None:
    assert len(github.notes(github.version(), (ROOT / "CHANGELOG.md").read_text())) > 500


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace `gh` by a fake that knows of no open issue; return the list of its commands."""
    commands: list[tuple[str, ...]] = []

    def call(_name: str, *arguments: str) -> str:
        commands.append(arguments)
        return "[]"

    monkeypatch.setattr(github, "call", call)
    return commands


@pytest.mark.parametrize(
    ("tag", "date", "kept", "problem"),
    [
        ("v1.0.0", "2026-11-26", "1.0.0", ""),
        ("v1.0.1", "2026-11-26", "1.0.0", "the tag is v1.0.1"),
        ("v1.0.0", "unreleased", "1.0.0", "write the"),
        ("v1.0.0", "2026-11-26", "0.9.0", "clock/released-openapi.json is of 0.9.0: run `./dev openapi`"),
        ("v1.0.0", "2026-11-26", "", "clock/released-openapi.json is of no version"),
    ],
)
def test_a_release_is_made_where_tag_version_changelog_and_document_agree(
    commands: list[tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
    date: str,
    kept: str,
    problem: str,
) -> None:
    service = Service(folder=tmp_path / "clock", name="clock")
    service.folder.mkdir()
    if kept:
        service.released.write_text(json.dumps({"info": {"version": kept}}))
    monkeypatch.setattr(github, "services", lambda: (service,))
    monkeypatch.setenv("GITHUB_REF_TYPE", "tag")
    monkeypatch.setenv("GITHUB_REF_NAME", tag)
    monkeypatch.setattr(github, "version", lambda: "1.0.0")
    monkeypatch.setattr(github, "ROOT", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(f"## 1.0.0 - {date}\n\nThe first.\n")
    if problem:
        with pytest.raises(Disagreement, match=problem):
            github.release(tmp_path / "release")
        assert commands == []
    else:
        github.release(tmp_path / "release")
        (command,) = commands
        assert command[:4] == ("release", "create", tag, "--verify-tag")


def test_without_a_tag_the_notes_are_written_and_nothing_is_released(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GITHUB_REF_TYPE", raising=False)
    monkeypatch.setattr(github, "version", lambda: "1.0.0")
    monkeypatch.setattr(github, "ROOT", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("## 1.0.0 - unreleased\n\nThe first.\n")
    github.release(tmp_path / "release")
    assert (tmp_path / "release" / "notes.md").read_text().endswith("The first.\n")
    assert commands == []


@pytest.mark.parametrize(
    ("result", "open_issues", "expected"),
    [
        ("failure", [], ["create"]),
        ("failure", [{"number": 4, "title": github.TITLE}], ["comment"]),
        ("failure", [{"number": 5, "title": f"{github.TITLE}, says a person"}], ["create"]),
        ("success", [{"number": 4, "title": github.TITLE}], ["close"]),
        ("success", [], []),
    ],
)
def test_failing_proofs_have_one_issue_until_they_pass(
    monkeypatch: pytest.MonkeyPatch, result: str, open_issues: list[object], expected: list[str]
) -> None:
    commands: list[tuple[str, ...]] = []

    def call(_name: str, *arguments: str) -> str:
        commands.append(arguments)
        return json.dumps(open_issues) if arguments[1] == "list" else ""

    monkeypatch.setattr(github, "call", call)
    github.proofs(result, RUN)
    assert [command[1] for command in commands[1:]] == expected
    assert all(RUN in " ".join(command) for command in commands[1:])
