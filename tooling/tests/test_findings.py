"""Findings, waivers, verdicts, and the three reports."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tooling import canaries, check, findings, page, project
from tooling.findings import (
    CLEAN,
    FINDINGS,
    NOT_ASSESSED,
    Database,
    Finding,
    Kind,
    NotAssessed,
    NotConfigured,
    Report,
    Scan,
    Severity,
    Unreachable,
    Verdict,
    Waiver,
    check_waivers,
    for_each,
    read_report,
    read_waivers,
    run_gates,
    with_fingerprints,
)
from tooling.images import third_party


def today() -> date:
    return datetime.now(UTC).date()


def a_finding(**changes: Any) -> Finding:
    defaults = {
        "tool": "bandit",
        "rule": "B602",
        "severity": Severity.HIGH,
        "message": "a shell",
        "path": "a.py",
        "line": 3,
    }
    return Finding(**{**defaults, **changes})


def fingerprint(finding: Finding) -> str:
    return with_fingerprints([finding])[0].fingerprint


def a_waiver(**changes: Any) -> Waiver:
    defaults = {
        "kind": Kind.ACCEPTED_RISK,
        "tool": "bandit",
        "rule": "B602",
        "place": "a.py",
        "reason": "loopback",
        "fingerprints": (fingerprint(a_finding()),),
        "owner": "ann",
        "expires": today(),
    }
    return Waiver(**{**defaults, **changes})


def a_scan(*findings: Finding, **changes: Any) -> Scan:
    return Scan(**{"tool": "bandit", "version": "1", "targets": ("a.py",), "findings": findings, **changes})


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


def test_a_gate_that_is_not_configured_fails_only_where_it_is_required_and_is_never_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    scans = [a_scan(), a_scan(tool="safety", problem="no key", unconfigured=True)]
    report = Report.of("sast", scans)
    report.print()
    assert (report.verdict, report.exit_code) == (Verdict.NOT_CONFIGURED, CLEAN)
    assert "not configured safety: no key" in capsys.readouterr().out
    monkeypatch.setenv("REQUIRED_GATES", "safety other")
    assert Report.of("sast", scans).exit_code == NOT_ASSESSED
    assert judged(*scans, a_scan(tool="ruff", problem="it broke")).verdict is Verdict.NOT_ASSESSED


def test_a_finding_counts_more_than_a_gate_that_could_not_assess() -> None:
    assert judged(a_scan(a_finding()), a_scan(problem="it broke")).exit_code == FINDINGS


def test_a_waiver_in_force_excuses_its_finding_alone() -> None:
    report = judged(a_scan(a_finding(), a_finding(path="b.py")), waivers=(a_waiver(),))
    assert [(finding.path, finding.fails) for finding in report.findings] == [("b.py", True), ("a.py", False)]


@pytest.mark.parametrize("days", [0, 90])
def test_a_waiver_is_in_force_up_to_its_last_day_and_for_ninety_days(days: int) -> None:
    waiver = a_waiver(expires=today() + timedelta(days=days))
    assert judged(a_scan(a_finding()), waivers=(waiver,)).exit_code == CLEAN
    assert waiver.until == str(waiver.expires)
    assert a_waiver(kind=Kind.FALSE_POSITIVE, expires=None).until == "the code changes"


@pytest.mark.parametrize("days", [-1, 91])
def test_a_waiver_that_has_expired_or_reaches_too_far_excuses_nothing(days: int) -> None:
    assert (
        judged(a_scan(a_finding()), waivers=(a_waiver(expires=today() + timedelta(days=days)),)).exit_code == FINDINGS
    )


def test_a_waiver_by_fingerprint_excuses_one_of_two_twins() -> None:
    twins = judged(a_scan(a_finding(), a_finding(line=9))).findings
    first, second = (twin.fingerprint for twin in twins)
    assert (len(first), second) == (16, f"{first}:2")
    waiver = a_waiver(kind=Kind.FALSE_POSITIVE, expires=None, fingerprints=(twins[1].fingerprint,))
    report = judged(a_scan(a_finding(), a_finding(line=9)), waivers=(waiver,))
    assert [finding.line for finding in report.findings if finding.fails] == [3]


def test_a_false_positive_is_open_again_when_its_code_changes() -> None:
    (known,) = judged(a_scan(a_finding(subject="run(x)"))).findings
    waiver = a_waiver(kind=Kind.FALSE_POSITIVE, expires=None, fingerprints=(known.fingerprint,))
    assert judged(a_scan(a_finding(subject="run(x)", line=9)), waivers=(waiver,)).exit_code == CLEAN
    changed = judged(a_scan(a_finding(subject="run(y)")), waivers=(waiver,))
    assert changed.exit_code == FINDINGS
    assert "unused-waiver" in {finding.rule for finding in changed.findings}


def test_a_waiver_excuses_as_many_findings_as_it_names() -> None:
    report = judged(a_scan(*(a_finding(line=line) for line in (3, 9, 20))), waivers=(a_waiver(),))
    assert [finding.fails for finding in report.findings] == [True, True, False]


def test_what_fails_comes_first_and_the_worst_of_it_before_the_rest() -> None:
    found = [
        a_finding(path="b.py", line=1),
        a_finding(path="a.py", line=9),
        a_finding(path="a.py", line=1),
        a_finding(path="a.py", line=None),
        a_finding(path="z.py", line=7, severity=Severity.CRITICAL),
        a_finding(path="a.py", line=2, severity=Severity.CRITICAL, blocks=False),
    ]
    places = [finding.place for finding in judged(a_scan(*found)).findings]
    assert places == ["z.py:7", "a.py", "a.py:1", "a.py:9", "b.py:1", "a.py:2"]


def test_a_waiver_of_another_tool_excuses_nothing() -> None:
    assert judged(a_scan(a_finding()), waivers=(a_waiver(tool="ruff"),)).exit_code == FINDINGS


def test_a_waiver_that_matches_nothing_is_reported_once_its_gate_has_looked() -> None:
    unused = [finding.rule for finding in judged(a_scan(), waivers=(a_waiver(),)).findings]
    assert unused == ["unused-waiver"]
    assert judged(a_scan(), waivers=(a_waiver(),)).exit_code == CLEAN
    assert judged(a_scan(problem="it broke"), waivers=(a_waiver(),)).findings == []
    assert judged(a_scan(tool="ruff"), waivers=(a_waiver(),)).findings == []


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_fingerprint_outlives_moved_lines(before: int, after: int) -> None:
    first, second = (with_fingerprints([a_finding(line=line, subject="run(x)")]) for line in (before, after))
    assert first[0].fingerprint == second[0].fingerprint


@given(st.lists(st.sampled_from(["tool", "rule", "path", "subject"]), min_size=1, unique=True))
def test_a_fingerprint_distinguishes_what_differs(fields: list[str]) -> None:
    other = msgspec.structs.replace(a_finding(), **dict.fromkeys(fields, "other"))
    first, second = with_fingerprints([a_finding(), other])
    assert first.fingerprint != second.fingerprint


def waivers_text(**changes: str) -> str:
    entry = {
        "kind": '"accepted risk"',
        "tool": '"bandit"',
        "rule": '"B602"',
        "place": '"a.py"',
        "reason": '"r"',
        "fingerprints": '["0123"]',
        "owner": '"o"',
        "expires": str(today()),
    }
    lines = [f"{key} = {value}" for key, value in {**entry, **changes}.items() if value]
    return "[[waiver]]\n" + "\n".join(lines) + "\n"


def waivers_file(folder: Path, **changes: str) -> Path:
    path = folder / "waivers.toml"
    path.write_text(waivers_text(**changes))
    return path


def test_a_waivers_file_is_read(tmp_path: Path) -> None:
    assert read_waivers(waivers_file(tmp_path)) == [a_waiver(reason="r", owner="o", fingerprints=("0123",))]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"owner": '""'}, "an accepted risk has an `owner`"),
        ({"expires": ""}, "an accepted risk has an `owner` and `expires`"),
        ({"place": ""}, "missing required field `place`"),
        ({"reason": '" "'}, "must not be empty"),
        ({"kind": '"false positive"'}, "a false positive has no `expires`"),
        ({"fingerprints": ""}, "missing required field `fingerprints`"),
        ({"fingerprints": "[]"}, "`fingerprints` must name each finding"),
        *(
            ({"tool": f'"{tool}"'}, f"findings of `{tool}` cannot be waived")
            for tool in ("service-tests", "road-tests", "types", "imports", "authorization", "waivers", "B602")
        ),
        ({"kind": '"opinion"'}, "Invalid enum value 'opinion'"),
        ({"severity": '"high"'}, "unknown field `severity`"),
        ({"expires": '"soon"'}, "Invalid RFC3339"),
        ({"reason": "unquoted"}, "Invalid value"),
    ],
)
def test_a_mistake_in_the_waivers_file_is_named(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    with pytest.raises(NotAssessed, match=problem):
        read_waivers(waivers_file(tmp_path, **changes))


@pytest.mark.parametrize(("days", "rules"), [(-1, ["expired-waiver"]), (15, []), (90, []), (91, ["long-waiver"])])
def test_accepted_risks_end_within_ninety_days(tmp_path: Path, days: int, rules: list[str]) -> None:
    path = waivers_file(tmp_path, expires=str(today() + timedelta(days=days)))
    found = check_waivers(path).findings
    assert [finding.rule for finding in found] == rules
    assert all(finding.severity is Severity.HIGH and finding.fails for finding in found)


def test_each_waiver_of_the_file_is_checked(tmp_path: Path) -> None:
    path = waivers_file(tmp_path, kind='"false positive"', owner="", expires="")
    path.write_text(path.read_text() + waivers_text(expires=str(today() - timedelta(days=1))))
    (expired,) = check_waivers(path).findings
    assert expired.message.startswith("bandit: B602 in a.py (0123) expired on ")
    assert expired.message.endswith(": fix the finding, or renew the waiver (owner: o)")


@pytest.mark.parametrize("days", [0, 1, 14])
def test_a_waiver_that_ends_within_fourteen_days_is_a_warning_and_no_failure(
    tmp_path: Path, days: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = waivers_file(tmp_path, expires=str(today() + timedelta(days=days)))
    report = judged(check_waivers(path))
    report.print()
    assert [(one.rule, one.severity) for one in report.warnings] == [("ending-waiver", Severity.MEDIUM)]
    assert report.exit_code == CLEAN
    assert "warning bandit: B602 in a.py (0123) expires" in capsys.readouterr().out


def test_a_false_positive_does_not_expire(tmp_path: Path) -> None:
    path = waivers_file(tmp_path, kind='"false positive"', fingerprints='["0123"]', owner="", expires="")
    assert check_waivers(path, today() + timedelta(days=3650)).findings == ()


def test_only_the_gates_of_scanners_can_be_waived() -> None:
    stages = {gate.partition("/")[2] for gate in canaries.gates()}
    assert stages | {third_party.TOOL} >= findings.WAIVABLE  # a proof, and no stage
    assert not findings.WAIVABLE & set(check.GATES)


def test_no_waiver_of_the_repository_ends_by_itself() -> None:
    """A copy of the repository would turn red on that day without a change."""
    assert [waiver.subject for waiver in read_waivers() if waiver.expires] == []


def raising(error: Exception) -> Callable[[], Scan]:
    def gate() -> Scan:
        raise error

    return gate


def test_a_gate_that_raises_becomes_a_verdict_and_takes_no_other_down() -> None:
    gates = {
        "broken": raising(ValueError("what it read")),
        "unreachable": raising(Unreachable("no network")),
        "unconfigured": raising(NotConfigured("no key")),
        "silent": raising(NotAssessed("")),
        "idle": lambda: a_scan(tool="idle", targets=()),
        "idle and broken": lambda: a_scan(targets=(), problem="it broke"),
        "sound": lambda: a_scan(tool="sound"),
    }
    verdicts = {scan.tool: (scan.problem, scan.verdict, scan.unreachable) for scan in run_gates(gates, quiet=True)}
    assert verdicts == {
        "broken": ("ValueError: what it read", Verdict.NOT_ASSESSED, False),
        "unreachable": ("no network", Verdict.NOT_ASSESSED, True),
        "unconfigured": ("no key", Verdict.NOT_CONFIGURED, False),
        "silent": ("NotAssessed", Verdict.NOT_ASSESSED, False),
        "idle": ("idle looked at nothing", Verdict.NOT_ASSESSED, False),
        "idle and broken": ("it broke", Verdict.NOT_ASSESSED, False),
        "sound": ("", Verdict.CLEAN, False),
    }


def test_each_gate_is_shown_in_a_line_with_its_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = iter([10.0, 12.5, 20.0, 20.5])
    monkeypatch.setattr(findings, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    gates = {"shells": lambda: a_scan(a_finding()), "long": lambda: a_scan(problem=f"[b]{'long ' * 50}")}
    scans = run_gates(gates, parallel=1)
    assert [(scan.tool, scan.seconds) for scan in scans] == [("bandit", 2.5), ("long", 0.5)]
    assert capsys.readouterr().out.splitlines() == [
        f"  shells: 1 findings, 1 targets ({page.duration(2.5)})",
        f"  long: [b]{'long ' * 50} ({page.duration(0.5)})",
    ]


def test_every_tools_word_for_a_severity_is_known_or_refused() -> None:
    assert [Severity.named(word) for word in ("Informational", "warning", "HIGH", "Critical", "UNKNOWN")] == [
        1,
        2,
        3,
        4,
        2,
    ]
    assert Severity.named("none") == 0
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
    known = fingerprint(scans[0].findings[1])
    report = judged(*scans, waivers=(a_waiver(place="tooling/page.py", fingerprints=(known,)),))
    folder = tmp_path / "reports" / "sast"
    report.write(folder)
    report.write(folder)
    return report, folder


def test_the_json_report_is_read_back_whole(written: tuple[Report, Path]) -> None:
    report, folder = written
    assert read_report(folder / "report.json") == report
    content = json.loads((folder / "report.json").read_text())
    assert content["verdict"] == "findings"
    assert [scan["verdict"] for scan in content["scans"]] == ["findings", "not assessed"]


def test_what_is_no_report_is_not_assessed(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"stage": "sast"}')
    with pytest.raises(NotAssessed, match=r"report\.json"):
        read_report(tmp_path / "report.json")
    with pytest.raises(NotAssessed):
        read_report(tmp_path / "none.json")


def test_the_sarif_report_holds_every_finding_with_its_place_but_no_waived_one(written: tuple[Report, Path]) -> None:
    _, folder = written
    log = json.loads((folder / "report.sarif").read_text())
    bandit, safety = log["runs"]
    assert log["version"] == "2.1.0"
    assert len({run["automationDetails"]["id"] for run in log["runs"]}) == 2
    (shell,) = bandit["results"]
    assert (shell["level"], shell["message"]["text"]) == ("error", "a.py: <script>alert(1)</script>")
    assert {rule["id"] for rule in bandit["tool"]["driver"]["rules"]} == {shell["ruleId"]}
    assert safety["invocations"][0]["executionSuccessful"] is False
    assert bandit["properties"]["database"]["fixture"] is True


def test_a_sarif_result_is_at_its_file_or_else_at_a_services_with_its_path() -> None:
    log = judged(a_scan(a_finding(path="tooling/page.py", line=None), a_finding(help="https://b602.example"))).sarif()
    (run,) = log["runs"]
    other, file = run["results"]
    assert file["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "tooling/page.py"}, "region": {"startLine": 1}}}
    ]
    assert file["message"]["text"] == "a shell"
    (place,) = other["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("/pyproject.toml")
    assert place["physicalLocation"]["region"]["startLine"] == 3
    assert place["logicalLocations"] == [{"fullyQualifiedName": "a.py"}]
    assert run["invocations"] == [{"executionSuccessful": True}]
    assert run["tool"]["driver"]["version"] == "1"


@pytest.mark.parametrize(("address", "text"), [("https://b602.example", "https://b602.example"), ("", "bandit B602")])
def test_a_sarif_rule_has_the_help_that_its_gate_knows(address: str, text: str) -> None:
    (run,) = judged(a_scan(a_finding(help=address), version="")).sarif()["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert (rule["help"]["text"], rule.get("helpUri", "")) == (text, address)
    assert "version" not in run["tool"]["driver"]


def test_a_report_is_printed_with_what_fails_and_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    long = "long " * 50
    scans = [
        a_scan(
            a_finding(message=f"[b]{long}"), a_finding(path="b.py"), a_finding(path="c.py", blocks=False, line=None)
        ),
        a_scan(tool="trivy", database=Database("planted CVEs", now, fixture=True)),
        a_scan(tool="pip-audit", database=Database("CVEs", now - timedelta(days=3))),
        a_scan(tool="safety", problem="no key", unconfigured=True),
        a_scan(tool="zizmor", problem="no network", unreachable=True),
        a_scan(tool="ruff", problem="it broke"),
    ]
    report = judged(*scans, waivers=(a_waiver(place="b.py", fingerprints=(fingerprint(a_finding(path="b.py")),)),))
    report.print()
    assert capsys.readouterr().out.splitlines() == [
        "fixture: planted CVEs: proves the gate, proves nothing about the real state",
        f"high bandit B602 a.py:3: [b]{long} ({fingerprint(a_finding())})",
        "not configured safety: no key (REQUIRED_GATES does not name it)",
        "not assessed zizmor: no network (a warning here, an error in CI)",
        "not assessed ruff: it broke",
        "sast: findings, 6 gates, 1 findings, 1 waived, 1 noted",
    ]
    assert timedelta(days=3) <= (scans[2].database or Database("", now)).age < timedelta(days=4)


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


def test_a_gate_over_all_services_keeps_the_findings_of_each(tmp_path: Path) -> None:
    first, second = (project.Service(folder=tmp_path / "services" / name, name=name) for name in ("first", "second"))

    def scan(service: project.Service) -> Scan:
        if service is second:
            raise NotAssessed("it has no image")
        return Scan(tool="size", version="1", targets=("a",), findings=(a_finding(path="image"),))

    merged = for_each((first, second), scan)()
    assert (merged.tool, merged.version, merged.targets) == ("size", "1", ("a",))
    assert [finding.path for finding in merged.findings] == ["image"]
    assert merged.problem == "second: it has no image"
    assert not merged.unreachable
    whole = for_each((first,), scan)()
    assert (whole.tool, whole.problem, whole.unreachable, whole.unconfigured) == ("size", "", False, False)


@pytest.mark.parametrize(
    ("errors", "unreachable", "unconfigured"),
    [
        ((Unreachable("down"), Unreachable("down")), True, False),
        ((NotConfigured("no key"), NotConfigured("no key")), False, True),
        ((Unreachable("down"), NotConfigured("no key")), False, False),
    ],
)
def test_a_gate_over_all_services_is_excused_only_where_each_that_broke_is(
    errors: tuple[Exception, Exception],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    unreachable: bool,
    unconfigured: bool,
) -> None:
    services = {project.Service(folder=tmp_path / str(n), name=str(n)): error for n, error in enumerate(errors)}
    merged = for_each(list(services), lambda service: raising(services[service])())()
    assert (merged.unreachable, merged.unconfigured) == (unreachable, unconfigured)
    assert capsys.readouterr().out == ""
