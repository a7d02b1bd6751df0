"""When a canary counts as caught, and when a suite passes."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from gate_canaries import Canary, Finding, Outcome, Proof, Result, Suite, prove

SHELL = Finding("B602", "planted.py", "a shell", 1)
CANARY = Canary("bandit", "a shell", lambda _: Outcome(), rule="B602", path="planted.py")


def grep(folder: Path) -> Outcome:
    """Report each Python file that has a shell in it."""
    return Outcome(
        tuple(Finding("B602", one.name) for one in sorted(folder.rglob("*.py")) if "shell=True" in one.read_text())
    )


def plant(folder: Path) -> None:
    (folder / "planted.py").write_text("run(shell=True)\n")


@pytest.mark.parametrize(
    ("outcome", "red"),
    [
        (Outcome((SHELL,)), True),
        (Outcome((SHELL,), problem="and it broke"), True),
        (Outcome((Finding("B404", "planted.py"),)), False),
        (Outcome((Finding("B602", "other.py"),)), False),
        (Outcome((Finding("B602", "planted.py", blocks=False),)), False),
        (Outcome(problem="it broke"), False),
        (Outcome(), False),
    ],
)
def test_a_canary_counts_only_the_finding_that_it_expects(outcome: Outcome, *, red: bool) -> None:
    assert prove(Canary("bandit", "d", lambda _: outcome, rule="B602", path="planted.py")).red is red


@pytest.mark.parametrize(
    ("outcome", "red"),
    [
        (Outcome(problem="there is no database"), True),
        (Outcome((Finding("B404", "a.py", blocks=False),), problem="no database"), True),
        (Outcome((SHELL,), problem="no database"), False),
        (Outcome(problem="another"), False),
        (Outcome(), False),
    ],
)
def test_a_canary_counts_only_the_problem_that_it_expects(outcome: Outcome, *, red: bool) -> None:
    assert prove(Canary("safety", "d", lambda _: outcome, problem="no database")).red is red


def test_what_a_gate_raises_is_its_problem() -> None:
    def broken(folder: Path) -> Outcome:
        raise RuntimeError(f"{folder.name} is not what it needs")

    proof = prove(Canary("bandit", "d", broken, rule="B602", path="planted.py"))
    assert not proof.red
    assert proof.reported.startswith("RuntimeError: canary-")


@pytest.mark.parametrize(
    "expected", [{}, {"rule": "B602"}, {"path": "a"}, {"rule": "B602", "path": "a", "problem": "none"}]
)
def test_a_canary_must_expect_one_thing(expected: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expect a rule at a path, or a problem"):
        Canary("bandit", "d", grep, **expected)


def test_a_proof_that_failed_shows_what_was_reported_instead() -> None:
    findings = (Finding("B404", "planted.py", "an import", 1), Finding("B603", "planted.py"))
    text = Proof(CANARY, Outcome(findings), 0).text
    assert text.startswith("NOT CAUGHT bandit: a shell (B602 at planted.py)\n")
    assert "it reported: B404 at planted.py:1: an import; B603 at planted.py" in text
    assert "it reported: clean" in Proof(CANARY, Outcome(), 0).text


def test_a_proof_reports_the_expected_finding_once_and_what_broke() -> None:
    twin = Finding("B602", "planted.py", "a shell", 9)
    outcome = Outcome((Finding("B404", "planted.py"), SHELL, twin), problem="and it broke")
    assert Proof(CANARY, outcome, 0).reported == "B602 at planted.py:1: a shell | and it broke"


def test_a_proof_has_the_seconds_that_its_gate_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate_canaries.canaries.time", SimpleNamespace(monotonic=iter([10.0, 12.5]).__next__))
    assert prove(CANARY).seconds == 2.5


def test_each_canary_has_a_copy_of_the_tree_and_the_tree_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "big").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("fine = 1\n")
    (tmp_path / "link").symlink_to("nowhere")
    suite = Suite({"grep": grep}, tree=tmp_path)

    @suite.canary("grep", "a shell", rule="B602", path="a.py")
    def shell(folder: Path) -> None:
        assert not (folder / ".venv").exists()
        assert (folder / "link").is_symlink()
        with (folder / "package" / "a.py").open("a") as file:
            file.write("run(shell=True)\n")

    assert suite.run().exit_code == 0
    assert grep(tmp_path) == Outcome()


def test_a_repositorys_copy_has_what_git_would_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    (tmp_path / "ignored.py").touch()
    (tmp_path / "kept" / "deep").mkdir(parents=True)
    (tmp_path / "kept" / "deep" / "kept.py").touch()
    (tmp_path / "link.py").symlink_to("nowhere.py")
    suite = Suite({"names": lambda folder: Outcome(problem=" ".join(sorted(one.name for one in folder.iterdir())))})
    canary = Canary("names", "d", suite.gates["names"], problem=".gitignore kept link.py")
    assert prove(canary, tmp_path).outcome.problem == ".gitignore kept link.py"


def test_a_finding_that_is_there_without_the_defect_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path)
    suite = Suite({"grep": grep}, tree=tmp_path)
    suite.canary("grep", "a shell", rule="B602", path="planted.py")(plant)
    assert suite.run().exit_code == 1
    assert "it reported: without the defect too: B602 at planted.py" in capsys.readouterr().out


def test_a_canary_may_run_its_gate_in_a_way_of_its_own() -> None:
    suite = Suite({"grep": grep})

    @suite.canary("grep", "a folder that is gone", problem="gone")
    def gone(folder: Path) -> Outcome:
        return Outcome(problem=f"{folder / 'x'} is gone")

    assert suite.run().exit_code == 0


def test_a_gate_without_a_canary_fails_the_suite(capsys: pytest.CaptureFixture[str]) -> None:
    suite = Suite({"grep": grep, "idle": lambda _: Outcome()})
    suite.canary("grep", "a shell", rule="B602", path="planted.py")(plant)
    assert suite.main([]) == 1
    assert "NO CANARY idle" in capsys.readouterr().out
    assert suite.main(["grep"]) == 0
    assert capsys.readouterr().out.endswith("canaries: 1 of 1 red\n")


def test_the_result_is_written_for_machines(tmp_path: Path) -> None:
    suite = Suite({"grep": grep})
    suite.canary("grep", "a shell", rule="B602", path="planted.py")(plant)
    suite.canary("grep", "nothing", rule="B602", path="other.py")(lambda _: None)
    report = tmp_path / "new" / "deep" / "report.json"
    assert [suite.main(["--report", str(report)]) for _ in range(2)] == [1, 1]
    result = json.loads(report.read_text())
    assert (result["caught"], result["planted"], result["exit_code"]) == (1, 2, 1)
    assert [row["red"] for row in result["canaries"]] == [True, False]
    text = Result([Proof(CANARY, Outcome((SHELL,)), 1.26)]).json()
    assert text.startswith('{\n  "caught": 1,\n')
    assert json.loads(text)["canaries"][0]["seconds"] == 1.3


def test_nothing_planted_is_nothing_proven() -> None:
    assert Result(()).exit_code == 1


def test_what_is_lacking_fails_the_suite_and_is_named() -> None:
    result = Result((Proof(CANARY, Outcome((SHELL,)), 0),), lacking=("bandit has 1 canaries, 2 are committed",))
    assert result.exit_code == 1
    assert result.text.startswith("FEWER CANARIES bandit has 1 canaries")


def test_a_gate_that_the_suite_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    suite = Suite({"grep": grep})
    with pytest.raises(ValueError, match="there is no gate 'gerp': the gates are grep"):
        suite.canary("gerp", "d", problem="p")
    with pytest.raises(SystemExit) as ended:
        suite.main(["gerp"])
    assert ended.value.code == 2
    assert "there is no gate gerp: the gates are grep" in capsys.readouterr().err
