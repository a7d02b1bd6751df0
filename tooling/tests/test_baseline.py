"""The baseline: what weakens it, what is held against it, and what counts as an excuse."""

import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate_canaries import Canary, Outcome
from tooling import baseline, canaries, excuses, findings, renew_baseline
from tooling.baseline import Baseline
from tooling.findings import Finding, Report, Scan, Severity, held, looked_at
from tooling.project import ROOT, ToolingError

NAMES = st.text(max_size=5)
COUNTS = st.dictionaries(NAMES, st.integers(0, 10**6), max_size=2)
FIGURES = st.builds(
    Baseline,
    because=NAMES,
    gates=COUNTS,
    canaries=COUNTS,
    tests=COUNTS,
    skips=COUNTS,
    excuses=st.dictionaries(NAMES, COUNTS, max_size=2),
    configuration=st.dictionaries(NAMES, NAMES, max_size=2),
)


@given(FIGURES)
def test_figures_are_read_as_they_were_written(figures: Baseline) -> None:
    assert baseline.parse(baseline.render(figures)) == figures


@pytest.mark.parametrize(
    ("newer", "line"),
    [
        (Baseline(gates={"sast/bandit": 1}), "sast/bandit: 1 targets instead of 2"),
        (Baseline(gates={}), "sast/bandit: 0 targets instead of 2"),
        (Baseline(gates={"sast/bandit": 2}, skips={"a.py::test_a": 1}), "a.py::test_a: 1 instead of 0"),
        (Baseline(gates={"sast/bandit": 2}, excuses={"a.py": {"noqa": 1}}), "a.py: noqa: 1 instead of 0"),
        (Baseline(gates={"sast/bandit": 2}, configuration={"ruff.toml": "0"}), "ruff.toml has changed"),
    ],
)
def test_what_asks_for_less_or_excuses_more_is_weaker(newer: Baseline, line: str) -> None:
    older = Baseline(gates={"sast/bandit": 2})
    assert older.weakened(newer) == [line]
    assert older.weakened(older) == newer.weakened(newer) == []


def test_a_last_target_that_goes_and_one_more_excuse_are_weaker_too() -> None:
    older = Baseline(canaries={"sast/bandit": 1}, skips={"a.py::test_a": 1}, excuses={"a.py": {"noqa": 1}})
    newer = Baseline(skips={"a.py::test_a": 2}, excuses={"a.py": {"noqa": 2}})
    assert older.weakened(newer) == [
        "sast/bandit: 0 canaries instead of 1",
        "a.py::test_a: 2 instead of 1",
        "a.py: noqa: 2 instead of 1",
    ]


def test_a_new_service_configures_itself_without_a_reason_and_a_known_one_does_not() -> None:
    known, new = "services/a/pyproject.toml [tool.uv]", "services/b/pyproject.toml [tool.uv]"
    older = Baseline(configuration={known: "1"})
    assert older.changed({known: "1", new: "1"}) == []
    assert older.changed({known: "2", new: "1"}) == [known]
    assert older.changed({}) == [known]
    both = Baseline(configuration={known: "1", new: "1"})
    assert both.changed({known: "1", new: "2"}) == [new]


@pytest.mark.parametrize("text", ["gates = 1", "[gates]\na = 'b'", "[gate]", "["])
def test_a_mistake_in_the_file_is_named(text: str) -> None:
    with pytest.raises(ToolingError, match=r"baseline\.toml: "):
        baseline.parse(text)


def test_a_missing_file_is_named_together_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ToolingError, match=r"`\./dev baseline"):
        baseline.read(tmp_path / "baseline.toml")


def a_scan(*targets: str, tool: str = "bandit", problem: str = "", findings: tuple[Finding, ...] = ()) -> Scan:
    return Scan(tool=tool, version="1", targets=targets, problem=problem, findings=findings)


def rules(scan: Scan) -> list[tuple[str, str]]:
    return [(finding.rule, finding.path) for finding in scan.findings if finding.fails]


def test_a_number_in_front_of_a_target_counts_as_many() -> None:
    assert looked_at(a_scan("283 source files", "a.py")) == 284


def test_a_stage_is_held_against_its_own_gates_alone() -> None:
    committed = Baseline(gates={"sast/bandit": 2, "sast/ruff": 1, "dast/log": 9})
    assert rules(held("sast", [a_scan("a", "b"), a_scan("a", tool="ruff")], committed)) == []
    assert rules(held("sast", [a_scan("a")], committed)) == [("fewer-targets", "bandit"), ("missing-gate", "ruff")]
    assert held("sast", [a_scan("a")], committed).targets == ("bandit", "ruff")
    assert held("sast", [a_scan("a")], Baseline()).targets == ("sast",)
    assert [one.rule for one in held("sast", [a_scan("a")], Baseline()).findings] == ["new-gate"]
    assert rules(held("sast", [a_scan("a")], Baseline())) == []
    assert rules(held("sast", [a_scan(problem="broke"), a_scan("a", tool="ruff")], committed)) == []


def test_a_test_that_is_skipped_as_the_baseline_allows_is_there() -> None:
    allowed = Finding(
        tool="tests", rule="skipped-test", severity=Severity.LOW, message="", path="t/test_a.py", blocks=False
    )
    committed = Baseline(tests={"t/test_a.py": 2})
    assert rules(held("test", [a_scan("t.test_a::test_b[1]", findings=(allowed,))], committed)) == []
    assert rules(held("test", [a_scan("t.test_a::test_b[1]")], committed)) == [("fewer-tests", "t/test_a.py")]
    assert rules(held("test", [a_scan("t.test_b::test_b")], committed)) == [("fewer-tests", "t/test_a.py")]
    other = msgspec.structs.replace(allowed, rule="slow-test")
    assert rules(held("test", [a_scan("t.test_a::test_b", findings=(other,))], committed)) == [
        ("fewer-tests", "t/test_a.py")
    ]
    assert rules(held("test", [a_scan("t.test_a::test_b", problem="broke")], committed)) == []
    assert rules(held("sast", [a_scan("a")], committed)) == []


def test_the_tests_of_a_class_belong_to_its_file() -> None:
    committed = Baseline(tests={"t/test_a.py": 2})
    assert rules(held("test", [a_scan("t.test_a.TestClass::test_b", "t.test_a::test_c")], committed)) == []


def test_a_whole_stage_is_held_against_the_baseline_and_a_part_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings, "REPORTS", ROOT / "reports" / tmp_path.name)
    monkeypatch.setattr(Report, "write", lambda *_: None)
    monkeypatch.setattr(baseline, "read", lambda: Baseline(gates={"sast/bandit": 2}))
    gates = {"bandit": lambda: a_scan("a.py")}
    assert findings.run_stage("sast", gates) == findings.FINDINGS
    assert findings.run_stage("sast", gates, whole=False) == findings.CLEAN
    monkeypatch.setattr(findings, "read_waivers", list)
    capsys.readouterr()
    assert findings.run_stage("sast", gates, {"log": lambda: a_scan("b.py", tool="log")}) == findings.FINDINGS
    *_, summary, place = capsys.readouterr().out.splitlines()
    assert summary == "sast: findings, 3 gates, 1 findings, 0 waived, 1 noted"
    assert place == f"report: reports/{tmp_path.name}/sast/report.html"


def test_a_gate_with_fewer_canaries_than_the_baseline_is_named() -> None:
    planted = [Canary("sast/bandit", "d", lambda _: Outcome(), rule="B602", path="a.py")]
    committed = Baseline(canaries={"sast/bandit": 1, "sast/ruff": 1, "dast/log": 1})
    (line,) = canaries.gone(planted, ["sast"], committed)
    assert line.startswith("sast/ruff has 0 canaries, the baseline has 1")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("import os  # noqa: F401", "noqa"),
        ("# ruff: noqa", "noqa"),
        ("a = 1  #noqa", "noqa"),
        ("a = b  # type: ignore[misc]", "type: ignore"),
        ("# mypy: ignore-errors", "type: ignore"),
        ("if a:  # pragma: no cover", "no cover"),
        ("if a:  # pragma: no branch", "no cover"),
        ("run(a)  # nosec B602", "nosec"),
        ("# fmt: off", "unformatted"),
        ("@pytest.mark.skipif(a, reason='b')", "skip"),
        ("@pytest.mark.xfail", "skip"),
        ("pytest.skip('later')", "skip"),
        ("pytest.importorskip('a')", "skip"),
        ("self.skipTest('later')", "skip"),
        ("@pytest.mark.docker", "deselected"),
        ("collect_ignore = ['test_a.py']", "deselected"),
        ("# zizmor: ignore[unpinned-uses]", "zizmor"),
        ("TOKEN = 'a'  # gitleaks:allow", "gitleaks"),
        ("def pytest_runtest_" + "makereport(item, call):", "outcome"),
        ("def pytest_report_" + "teststatus(report):", "outcome"),
        ("@pytest.mark.filter" + "warnings('ignore')", "warnings"),
        ("warnings.simple" + 'filter("ignore")', "warnings"),
        ("@settings(max_" + "examples=1)", "few examples"),
        ("@settings(phases" + "=[])", "few examples"),
    ],
)
def test_each_kind_of_excuse_is_seen(line: str, kind: str) -> None:
    assert list(excuses.excuses_in("a.py", f"\n{line}\n")) == [(kind, 2)]


@pytest.mark.parametrize(
    ("body", "asserts"),
    [
        ("assert a", True),
        ("with pytest.raises(ValueError):\n        run()", True),
        ("helper()", True),
        ("mock.assert_called_once()", True),
        ("expect(page).to_have_title('a')", True),
        ("run()", False),
        ("assert True", False),
        ("assert 'a comment'", False),
        ("assert 1 + 1 == 2", False),
        ("assert run() or True", False),
        ("with suppress(AssertionError):\n        assert a", False),
        ("with contextlib.suppress(ValueError, Exception):\n        helper()", False),
        ("with suppress(ValueError):\n        assert a", True),
        ("try:\n        assert a\n    except AssertionError:\n        print(a)", False),
        ("try:\n        helper()\n    except Exception as error:\n        print(error)", False),
        ("try:\n        assert a\n    except:\n        pass", False),
        ("try:\n        assert a\n    except AssertionError:\n        raise", True),
        ("try:\n        run()\n    except Exception as error:\n        assert a", True),
        ("try:\n        assert a\n    finally:\n        run()", True),
        ("pass", False),
    ],
)
def test_a_test_asserts_by_itself_or_by_a_function_of_its_file(body: str, *, asserts: bool) -> None:
    text = f"def lower():\n    assert b\n\n\ndef helper():\n    lower()\n\n\ndef test_a():\n    {body}\n"
    assert bool(list(excuses.unasserted(text, "test_a.py"))) is not asserts


@pytest.mark.parametrize(
    ("weaker", "held"),
    [
        ("MOST = 200", True),
        ('run("--skip=B1,B2")', True),
        ("Finding(blocks=severity >= HIGH)", True),
        ("def other(): pass", False),
        ("# a remark", False),
    ],
)
def test_a_setting_in_a_gates_own_code_is_held(weaker: str, *, held: bool) -> None:
    text = 'MOST = 100\nrun("--skip=B1")\nFinding(blocks=severity >= LOW)\n'
    before = excuses.settings_in(text, "gate.py")
    name = weaker.partition(" ")[0].partition("(")[0]
    lines = [weaker if line.startswith(name) else line for line in text.splitlines()]
    after = excuses.settings_in("\n".join([*lines, *[weaker] * (weaker not in lines)]), "gate.py")
    assert (after != before) is held


def test_the_settings_of_the_gates_are_in_the_baseline() -> None:
    held = {name.partition(" ")[0] for name in baseline.read().configuration if name.endswith("[settings]")}
    assert held >= {"tooling/sast.py", "tooling/check.py", "tooling/images/build.py", "tooling/dast/headers.py"}


def test_the_settings_of_a_nested_project_are_held_for_the_linter_reads_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "pyproject.toml").write_text('[tool.ruff.lint]\nignore = ["ALL"]\n')
    assert list(excuses.configuration(tmp_path, ["a/b/pyproject.toml"])) == ["a/b/pyproject.toml [tool.ruff]"]


def checkout(folder: Path, *versions: Baseline) -> Path:
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for version in versions:
        (folder / "baseline.toml").write_text(baseline.render(version))
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
        subprocess.run(["git", *identity, "commit", "--quiet", "--message=figures"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    ("because", "explained"),
    [(("first", "first"), False), (("first", "the gate moved"), True), (("", ""), False), (("first", " "), False)],
)
def test_a_weaker_figure_needs_a_reason_of_its_own(
    tmp_path: Path, because: tuple[str, str], *, explained: bool
) -> None:
    versions = [Baseline(because=why, gates={"a/b": n}) for why, n in zip(because, (2, 1), strict=True)]
    weaker = list(excuses.unexplained(checkout(tmp_path, *versions)))
    assert bool(weaker) is not explained


def test_a_weaker_figure_that_is_not_committed_needs_a_reason_too(tmp_path: Path) -> None:
    folder = checkout(tmp_path, Baseline(because="first", gates={"a/b": 2}))
    assert list(excuses.unexplained(folder)) == []
    (folder / "baseline.toml").write_text(baseline.render(Baseline(because="first", gates={"a/b": 1})))
    (line,) = excuses.unexplained(folder)
    assert line.startswith("this checkout weakens the baseline without a reason (a/b: 1 targets instead of 2)")


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 1), (["--because", "the first figures"], 1), (["--because", "moved"], 0)]
)
def test_the_command_wants_a_reason_where_a_figure_gets_weaker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    file = tmp_path / "baseline.toml"
    before = baseline.render(Baseline(because="the first figures", gates={"sast/bandit": 2}))
    file.write_text(before)
    monkeypatch.setattr(baseline, "BASELINE", file)
    monkeypatch.setattr(baseline, "read", lambda: baseline.parse(file.read_text()))
    monkeypatch.setattr(renew_baseline, "renewed", lambda old, because: Baseline(because=because or old.because))
    assert renew_baseline.main(arguments) == code
    assert "weaker: sast/bandit: 0 targets instead of 2" in capsys.readouterr().out
    assert (file.read_text() == before) is bool(code)


def test_a_report_of_some_gates_renews_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(renew_baseline, "REPORTS", tmp_path)
    names = [name.partition("/")[2] for name in canaries.gates() if name.startswith("test/")]
    scans = [Scan(tool=name, version="1", targets=("a",)) for name in names]
    assert renew_baseline.report_of("test") is None
    for ran, known in ((scans[1:], False), (scans, True)):
        Report.of("test", ran).write(tmp_path / "test")
        assert (renew_baseline.report_of("test") is not None) is known


def test_the_figures_of_the_repository_are_of_gates_that_it_has() -> None:
    committed = baseline.read()
    assert set(committed.gates) <= set(canaries.gates())
    assert set(committed.canaries) - set(canaries.gates()) == {"sast/baseline", "test/baseline"}
