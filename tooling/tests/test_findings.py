"""Findings, waivers, verdicts, and the three reports."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tooling import findings
from tooling.findings import (
    CLEAN,
    FINDINGS,
    NOT_ASSESSED,
    Database,
    Finding,
    NotAssessed,
    Report,
    Scan,
    Severity,
    Unreachable,
    Verdict,
    Waiver,
    check_waivers,
    read_report,
    read_waivers,
    run_gates,
    with_fingerprints,
)


def today() -> date:
    return datetime.now(UTC).date()


def a_finding(**changes: Any) -> Finding:
    given = {
        "tool": "bandit",
        "rule": "B602",
        "severity": Severity.HIGH,
        "message": "a shell",
        "path": "a.py",
        "line": 3,
    }
    return Finding(**{**given, **changes})


def a_waiver(**changes: Any) -> Waiver:
    given = {
        "tool": "bandit",
        "rule": "B602",
        "place": "a.py",
        "reason": "loopback",
        "owner": "ann",
        "expires": today(),
    }
    return Waiver(**{**given, **changes})


def a_scan(*found: Finding, **changes: Any) -> Scan:
    return Scan(**{"tool": "bandit", "version": "1", "targets": ("a.py",), "findings": found, **changes})


def judged(*scans: Scan, waivers: tuple[Waiver, ...] = (), strict: bool = False) -> Report:
    return Report.of("sast", scans, waivers, strict=strict)


def test_a_stage_without_findings_is_clean() -> None:
    report = judged(a_scan())
    assert (report.verdict, report.exit_code) == (Verdict.CLEAN, CLEAN)


def test_a_finding_fails_the_stage_and_a_noted_one_does_not() -> None:
    assert judged(a_scan(a_finding())).exit_code == FINDINGS
    assert judged(a_scan(a_finding(blocks=False))).exit_code == CLEAN


def test_a_stage_without_any_gate_is_not_assessed() -> None:
    assert judged().exit_code == NOT_ASSESSED


def test_a_gate_that_broke_fails_everywhere() -> None:
    assert judged(a_scan(problem="it broke")).exit_code == NOT_ASSESSED


def test_an_unreachable_service_warns_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = a_scan(problem="no key", unreachable=True)
    monkeypatch.delenv("CI", raising=False)
    on_a_laptop = Report.of("sast", [scan])
    monkeypatch.setenv("CI", "true")
    in_ci = Report.of("sast", [scan])
    assert on_a_laptop.verdict is in_ci.verdict is Verdict.NOT_ASSESSED
    assert (on_a_laptop.exit_code, in_ci.exit_code) == (CLEAN, NOT_ASSESSED)


@pytest.mark.parametrize(("unreachable", "code"), [(True, CLEAN), (False, NOT_ASSESSED)])
def test_a_gate_may_be_excused_in_ci_for_a_service_that_it_cannot_reach_and_for_nothing_else(
    unreachable: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("UNREACHABLE_OK", "safety other")
    report = Report.of("sast", [a_scan(tool="safety", problem="no key", unreachable=unreachable)])
    report.print()
    assert report.verdict is Verdict.NOT_ASSESSED
    assert report.exit_code == code
    assert ("excused by UNREACHABLE_OK" in capsys.readouterr().out) == unreachable
    others = [a_scan(tool="pip-audit", problem="no network", unreachable=True)]
    assert Report.of("sast", others).exit_code == NOT_ASSESSED


def test_a_finding_counts_more_than_a_gate_that_could_not_assess() -> None:
    assert judged(a_scan(a_finding()), a_scan(problem="it broke")).exit_code == FINDINGS


def test_a_waiver_in_force_excuses_its_finding_alone() -> None:
    report = judged(a_scan(a_finding(), a_finding(path="b.py")), waivers=(a_waiver(),))
    assert [(finding.path, finding.fails) for finding in report.findings] == [("b.py", True), ("a.py", False)]


@pytest.mark.parametrize("days", [-1, 91])
def test_a_waiver_that_has_expired_or_reaches_too_far_excuses_nothing(days: int) -> None:
    assert (
        judged(a_scan(a_finding()), waivers=(a_waiver(expires=today() + timedelta(days=days)),)).exit_code == FINDINGS
    )


def test_a_waiver_by_fingerprint_excuses_one_of_two_twins() -> None:
    twins = judged(a_scan(a_finding(), a_finding(line=9))).findings
    assert len({twin.fingerprint for twin in twins}) == 2
    waiver = a_waiver(rule="", place="", fingerprint=twins[1].fingerprint)
    report = judged(a_scan(a_finding(), a_finding(line=9)), waivers=(waiver,))
    assert [finding.line for finding in report.findings if finding.fails] == [3]


def test_a_waiver_of_another_tool_excuses_nothing() -> None:
    assert judged(a_scan(a_finding()), waivers=(a_waiver(tool="ruff"),)).exit_code == FINDINGS


def test_a_waiver_that_matches_nothing_is_reported_once_its_gate_has_looked() -> None:
    unused = [finding.rule for finding in judged(a_scan(), waivers=(a_waiver(),)).findings]
    assert unused == ["unused-waiver"]
    assert judged(a_scan(problem="it broke"), waivers=(a_waiver(),)).findings == []
    assert judged(a_scan(tool="ruff"), waivers=(a_waiver(),)).findings == []


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_fingerprint_outlives_moved_lines(before: int, after: int) -> None:
    first, second = (with_fingerprints([a_finding(line=line, subject="run(x)")]) for line in (before, after))
    assert first[0].fingerprint == second[0].fingerprint


@given(st.lists(st.sampled_from(["tool", "rule", "path", "subject"]), min_size=1, unique=True))
def test_a_fingerprint_tells_apart_what_differs(fields: list[str]) -> None:
    other = msgspec.structs.replace(a_finding(), **dict.fromkeys(fields, "other"))
    first, second = with_fingerprints([a_finding(), other])
    assert first.fingerprint != second.fingerprint


def waivers_file(folder: Path, **changes: str) -> Path:
    entry = {
        "tool": '"bandit"',
        "rule": '"B602"',
        "place": '"a.py"',
        "reason": '"r"',
        "owner": '"o"',
        "expires": str(today()),
    }
    lines = [f"{key} = {value}" for key, value in {**entry, **changes}.items() if value]
    path = folder / "waivers.toml"
    path.write_text("[[waiver]]\n" + "\n".join(lines) + "\n")
    return path


def test_a_waivers_file_is_read(tmp_path: Path) -> None:
    assert read_waivers(waivers_file(tmp_path)) == [a_waiver(reason="r", owner="o")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"owner": '""'}, "must say something"),
        ({"expires": ""}, "missing required field `expires`"),
        ({"place": ""}, "give either"),
        ({"fingerprint": '"0123"'}, "give either"),
        ({"severity": '"high"'}, "unknown field `severity`"),
        ({"expires": '"soon"'}, "Invalid RFC3339"),
        ({"reason": "unquoted"}, "Invalid value"),
    ],
)
def test_a_mistake_in_the_waivers_file_is_named(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(NotAssessed, match=says):
        read_waivers(waivers_file(tmp_path, **changes))


@pytest.mark.parametrize(("days", "rules"), [(-1, ["expired-waiver"]), (0, []), (90, []), (91, ["long-waiver"])])
def test_waivers_end_within_ninety_days(tmp_path: Path, days: int, rules: list[str]) -> None:
    path = waivers_file(tmp_path, expires=str(today() + timedelta(days=days)))
    assert [finding.rule for finding in check_waivers(path).findings] == rules


def test_the_repositorys_own_waivers_can_be_read() -> None:
    read_waivers()


def raising(error: Exception) -> Callable[[], Scan]:
    def gate() -> Scan:
        raise error

    return gate


def test_a_gate_that_raises_becomes_a_verdict_and_takes_no_other_down() -> None:
    gates = {
        "broken": raising(ValueError("what it read")),
        "unreachable": raising(Unreachable("no network")),
        "idle": lambda: a_scan(tool="idle", targets=()),
        "sound": lambda: a_scan(tool="sound"),
    }
    told = {scan.tool: (scan.problem, scan.unreachable) for scan in run_gates(gates, quiet=True)}
    assert told == {
        "broken": ("ValueError: what it read", False),
        "unreachable": ("no network", True),
        "idle": ("idle looked at nothing", False),
        "sound": ("", False),
    }


def test_every_tools_word_for_a_severity_is_known_or_refused() -> None:
    assert [Severity.named(word) for word in ("Informational", "warning", "HIGH", "Critical", "UNKNOWN")] == [
        1,
        2,
        3,
        4,
        2,
    ]
    with pytest.raises(KeyError):
        Severity.named("terrible")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Report, Path]:
    database = Database("planted CVEs", datetime.now(UTC) - timedelta(days=3), fixture=True)
    scans = [
        a_scan(
            a_finding(message="<script>alert(1)</script>"),
            a_finding(path="tooling/page.py", subject="s"),
            database=database,
        ),
        a_scan(tool="safety", problem="no key", unreachable=True, targets=()),
    ]
    report = judged(*scans, waivers=(a_waiver(place="tooling/page.py", reason="known"),))
    report.write(tmp_path)
    return report, tmp_path


def test_the_json_report_is_read_back_whole(written: tuple[Report, Path]) -> None:
    report, folder = written
    assert read_report(folder / "report.json") == report
    assert json.loads((folder / "report.json").read_text())["verdict"] == "findings"


def test_what_is_no_report_is_not_assessed(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"stage": "sast"}')
    with pytest.raises(NotAssessed, match=r"report\.json"):
        read_report(tmp_path / "report.json")
    with pytest.raises(NotAssessed):
        read_report(tmp_path / "none.json")


def test_the_sarif_report_holds_every_finding_with_its_place_and_suppression(written: tuple[Report, Path]) -> None:
    _, folder = written
    log = json.loads((folder / "report.sarif").read_text())
    bandit, safety = log["runs"]
    assert log["version"] == "2.1.0"
    assert len({run["automationDetails"]["id"] for run in log["runs"]}) == 2
    shell, waived = bandit["results"]
    assert shell["level"] == "error"
    assert waived["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "tooling/page.py"
    assert waived["suppressions"][0]["justification"].startswith("known")
    assert {rule["id"] for rule in bandit["tool"]["driver"]["rules"]} >= {shell["ruleId"], waived["ruleId"]}
    assert safety["invocations"][0]["executionSuccessful"] is False
    assert bandit["properties"]["database"]["fixture"] is True


def test_the_page_escapes_what_tools_say_and_names_fixtures(written: tuple[Report, Path]) -> None:
    _, folder = written
    page = (folder / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "planted CVEs. A fixture proves that the gate works" in page
    assert "a warning here, an error in CI" in page


def test_a_stage_whose_waivers_cannot_be_read_is_not_assessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings.read_waivers, "__defaults__", (tmp_path / "waivers.toml",))
    assert findings.run_stage("sast", {"bandit": a_scan}) == NOT_ASSESSED
    assert "waivers.toml" in capsys.readouterr().err
