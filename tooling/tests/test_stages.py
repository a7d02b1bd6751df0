"""The stages as Nox runs them: in order, stopped where they must, recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tooling.project import ROOT, STAGES

NOXFILE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import nox
from tooling import stages
stages.REPORTS = Path("reports")
stages.FIRST_RUNS = Path("first")
nox.options.default_venv_backend = "none"

def does(name):
    def run(session):
        if name in {failing!r}:
            session.error("it failed")
    run.__name__ = name
    return stages.stage(run)

test, sast = does("test"), does("sast")
build, dast, publish, notify = does("build"), does("dast"), does("publish"), does("notify")
"""


def results(folder: Path, failing: tuple[str, ...], *arguments: str) -> tuple[int, dict[str, str]]:
    """Run the stages, of which some fail, and return Nox's exit code and each stage's result."""
    (folder / "noxfile.py").write_text(NOXFILE.format(root=str(ROOT), failing=failing))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_", "NOX"))
    }
    command = [sys.executable, "-m", "nox", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True)
    outcomes = {
        path.parent.name: json.loads(path.read_text())["result"] for path in folder.glob("reports/*/stage.json")
    }
    return done.returncode, outcomes


ALL_PASSED = dict.fromkeys(STAGES, "passed")


@pytest.mark.parametrize(
    ("failing", "changed"),
    [
        ((), {}),
        (("sast",), {"sast": "failed", "build": "skipped", "publish": "skipped"}),
        (("test",), {"test": "failed", "build": "skipped", "dast": "skipped", "publish": "skipped"}),
        (("dast",), {"dast": "failed", "publish": "skipped"}),
    ],
)
def test_a_stage_is_skipped_where_one_that_it_needs_failed(
    tmp_path: Path, failing: tuple[str, ...], changed: dict[str, str]
) -> None:
    code, outcomes = results(tmp_path, failing)
    assert outcomes == ALL_PASSED | changed
    assert bool(code) == bool(failing)


def test_one_stage_alone_runs_without_those_that_it_needs(tmp_path: Path) -> None:
    assert results(tmp_path, ("test",), "-s", "build") == (0, {"build": "passed"})


def test_the_first_passed_run_is_kept_for_comparison(tmp_path: Path) -> None:
    results(tmp_path, (), "-s", "test")
    kept = (tmp_path / "first" / "test.json").read_text()
    results(tmp_path, (), "-s", "test")
    assert (tmp_path / "first" / "test.json").read_text() == kept
    assert json.loads(kept)["seconds"] >= 0


def test_no_tool_needs_nox_as_the_sessions_install_none() -> None:
    tools = [path for path in (ROOT / "tooling").rglob("*.py") if "tests" not in path.parts]
    assert [path for path in tools if "from tooling.stages import" in path.read_text()] == []
