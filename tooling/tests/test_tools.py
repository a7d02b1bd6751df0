"""Programs: found, pinned, or named together with how to get them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tooling import tools
from tooling.findings import NotAssessed
from tooling.project import ROOT
from tooling.tools import MissingTool, Tool


def test_a_missing_program_is_named_together_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "known", lambda: {"kind": Tool("no-such-program", get="install kind")})
    with pytest.raises(MissingTool, match="kind is missing: install kind"):
        tools.require("kind")


def test_every_program_tells_how_to_get_it_and_every_environment_has_a_lock() -> None:
    for tool in tools.known().values():
        assert tool.get
        assert tool.environment is None or (ROOT / "requirements" / f"{tool.environment}.txt").exists()
        assert (tool.go is None) == (tool.version is None)


def test_of_a_go_program_only_the_pinned_version_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "HOME", tmp_path)
    (tmp_path / "git-1").mkdir()
    (tmp_path / "git-1" / "git").touch()
    assert Tool("git", go="example.org/git", version="2").path() is None
    assert Tool("git", go="example.org/git", version="1").path() == tmp_path / "git-1" / "git"


@pytest.mark.parametrize(
    ("found", "problem"),
    [("1.32.9", "older than 1.33"), ("1.36.0", "not below 1.36"), ("1.33.0", None), ("1.35.4", None)],
)
def test_a_program_outside_its_versions_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: str, problem: str | None
) -> None:
    allowed = Tool("fake", program=sys.executable, least="1.33", below="1.36", get="install it")
    monkeypatch.setattr(tools, "known", lambda: {"fake": allowed})
    monkeypatch.setattr(tools, "version", lambda _name: found)
    if problem:
        with pytest.raises(MissingTool, match=f"fake is {found}, .*{problem}: install it"):
            tools.require("fake")
    else:
        assert tools.require("fake")


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> tuple[str, str]:
    """Make a Python program known as `fake`; give its name and arguments."""
    monkeypatch.setattr(tools, "known", lambda: {"fake": Tool("fake", program=sys.executable)})
    return "-c", code


def test_an_unexpected_exit_code_is_not_assessed_and_tells_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = program(monkeypatch, "import sys; print('found'); sys.stderr.write('it broke'); sys.exit(3)")
    with pytest.raises(NotAssessed, match="fake ended with code 3: it broke"):
        tools.run("fake", *arguments)
    assert tools.call("fake", *arguments, expect=(3,)) == "found\n"


def test_a_report_that_is_none_is_not_assessed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.report("fake", *program(monkeypatch, "print('[1]')")) == [1]
    with pytest.raises(NotAssessed, match="fake wrote no report: usage"):
        tools.report("fake", *program(monkeypatch, "print('usage')"))


def test_an_environment_without_a_lock_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tooling.tools", "no-such-environment"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2
    assert "no-such-environment" in done.stderr
