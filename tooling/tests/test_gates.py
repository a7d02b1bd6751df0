"""What gates read, and how canaries judge them; `nox -s canaries` shows each real gate going red."""

import functools
import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gate_canaries import Canary, prove
from tooling import canaries, check, sast, tools
from tooling.canaries import trivy_database
from tooling.findings import Finding, NotAssessed, NotConfigured, Scan, Severity, Unreachable
from tooling.images import scan
from tooling.project import ROOT, services


def test_a_lock_names_what_the_image_holds(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "flask[async]==3.1.3 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n    # via task-api\n"
        "tzdata==2026.1 ; sys_platform == 'win32' \\\n    --hash=sha256:22\n"
        "Typing_Extensions==4.16.0 ; python_full_version < '3.14' \\\n    --hash=sha256:33\n"
    )
    assert scan.locked(lock) == {"flask", "typing-extensions"}
    assert sast.requirements(lock) == {"flask": "3.1.3", "tzdata": "2026.1", "Typing_Extensions": "4.16.0"}


@pytest.mark.parametrize("repository", [True, False])
def test_files_are_those_that_git_would_commit_without_the_tests(
    *, repository: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("a.py", "tests/b.py", "ignored.py", "k/c.py", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    if repository:
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert tools.tracked(tmp_path, "*.py") == ["a.py", "k/c.py"]


def test_the_repositorys_gates_have_something_to_look_at() -> None:
    for patterns in (sast.PYTHON, sast.DOCKERFILES, sast.WORKFLOWS, sast.ACTIONS):
        assert tools.tracked(ROOT, *patterns)
    assert sast.overlays()
    assert all(scan.locked(one.lock) for one in services())


PLACES = {"base", "metrics-server", "load", "monitoring", "dashboards", "files"}
"""Folders with a kustomization that is no overlay: what overlays are made of, and what is applied beside them."""

OF_PROOFS = {"e2e/broken", "e2e/queue-age"}
"""Folders of overlays that proofs alone deploy, on a cluster of their own."""


def test_an_overlay_lies_where_the_gates_find_it() -> None:
    """A folder of manifests anywhere else would be rendered by no gate."""
    files = [name for name in tools.tracked(ROOT, "*") if Path(name).name.lower().startswith("kustomization")]
    folders = {str(Path(name).parent) for name in files if not name.endswith(".jinja")}
    elsewhere = {one for one in folders - set(sast.overlays()) if Path(one).name not in PLACES}
    elsewhere = {one for one in elsewhere if "components" not in Path(one).parent.parts}
    assert {one for one in elsewhere if str(Path(one).parent) not in OF_PROOFS} == set()
    assert set(sast.overlays()) <= folders


@pytest.mark.parametrize(("hours", "usable"), [(71, True), (73, False)])
def test_an_old_database_is_not_used(tmp_path: Path, hours: int, *, usable: bool) -> None:
    trivy_database.write(tmp_path, {}, age=timedelta(hours=hours))
    if usable:
        assert scan.database(tmp_path, timedelta(hours=72), refresh=False).fixture
    else:
        with pytest.raises(Unreachable, match="older than 72 hours"):
            scan.database(tmp_path, timedelta(hours=72), refresh=False)


def test_coverage_below_the_limit_names_the_worst_files(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.coverage.report]\nfail_under = 97\n")
    measured = tmp_path / "coverage.json"
    files = {name: {"summary": {"missing_lines": lacking}} for name, lacking in (("a.py", 1), ("b.py", 9))}
    measured.write_text(json.dumps({"totals": {"percent_covered": 96.99}, "files": files}))
    (finding,) = check.coverage(tmp_path, measured, "tests")
    assert "b.py lacks 9 lines, a.py lacks 1 lines" in finding.message
    measured.write_text(json.dumps({"totals": {"percent_covered": 97.0}, "files": files}))
    assert check.coverage(tmp_path, measured, "tests") == []


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "Success: no issues found in 3 source files\n", []),
        (
            1,
            "a.py:7: error: Wrong  [return-value]\nFound 1 error in 1 file (checked 3 source files)\n",
            [("return-value", 7)],
        ),
        (1, "Found 1 error in 1 file (errors prevented further checking)\n", None),
        (0, "", None),
    ],
)
def test_mypy_is_clean_only_where_it_reports_that_it_checked(
    monkeypatch: pytest.MonkeyPatch, code: int, output: str, expected: list[tuple[str, int]] | None
) -> None:
    done = subprocess.CompletedProcess(["mypy"], code, output, "")
    monkeypatch.setattr(check, "run", lambda *_, **__: done)
    monkeypatch.setattr(tools, "version", lambda _: "2")
    if expected is None:
        with pytest.raises(NotAssessed, match="mypy broke"):
            check.types(Path())
    else:
        scan = check.types(Path())
        assert scan.targets == ("3 source files",)
        assert [(finding.rule, finding.line) for finding in scan.findings] == expected


def red(gate: str, plant: Callable[[Path], Scan], **expected: str) -> bool:
    return prove(Canary(gate, "d", functools.partial(canaries.judged, gate, plant), **expected)).red


def planted(rule: str = "B602", *, path: str = "a.py", blocks: bool = True, problem: str = "") -> Scan:
    finding = Finding(tool="bandit", rule=rule, severity=Severity.HIGH, message="m", path=path, blocks=blocks)
    return Scan(tool="bandit", version="1", targets=("a.py",), findings=(finding,) if rule else (), problem=problem)


@pytest.mark.parametrize(
    ("scan", "caught"),
    [
        (planted(), True),
        (planted("B404"), False),
        (planted(path="b.py"), False),
        (planted(blocks=False), False),
        (planted(""), False),
        (planted("", problem="it broke"), False),
    ],
)
def test_a_canary_counts_only_the_finding_that_it_expects(scan: Scan, *, caught: bool) -> None:
    assert red("sast/bandit", lambda _: scan, rule="B602", path="a.py") is caught


@pytest.mark.parametrize(("problem", "caught"), [("no database", True), ("another", False), ("", False)])
def test_a_canary_counts_only_the_problem_that_it_expects(problem: str, *, caught: bool) -> None:
    scan = planted("", problem=problem)
    assert red("sast/bandit", lambda _: scan, problem="no database") is caught


@pytest.mark.parametrize("problem", [Unreachable, NotConfigured])
def test_a_canary_judges_its_gate_as_in_ci_and_as_one_that_must_be_configured(problem: type[NotAssessed]) -> None:
    def without_key(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
        raise problem("no key")

    assert red("sast/safety", without_key, problem="no key")


def test_a_canary_that_itself_breaks_is_not_caught() -> None:
    def broken(folder: Path) -> Scan:
        raise NotAssessed(f"{folder} is not what it needs")

    assert not red("sast/bandit", broken, rule="B602", path="a.py")


def test_a_gate_without_a_canary_fails_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(canaries, "REPORTS", tmp_path)
    monkeypatch.setattr(canaries, "CANARIES", [])
    monkeypatch.setattr("importlib.import_module", lambda _: sast)
    assert canaries.main(["sast"]) == 1
    assert "NO CANARY sast/gitleaks" in capsys.readouterr().out
    assert "sast/gitleaks" in (tmp_path / "canaries" / "report.html").read_text()
