"""The end of a run: the verdict beside its record, and what is shown for 80 columns."""

import json
from pathlib import Path

import msgspec
import pytest

from locust_verdict import VerdictError, verdict
from locust_verdict.gate import Check, GateResult, Outcome, Summary
from locust_verdict.objectives import Limits, Objectives
from locust_verdict.record import Event, Recorder, read
from locust_verdict.testing import make_run

READ = "GET /tasks"
SUMMARY = Summary(endpoint=READ, requests=1200, failures=3, per_second=20.04, p50=4.5, p95=8.25, p99=11)
CHECK = Check(endpoint=READ, objective="p95_ms", limit=12, outcome=Outcome.FAIL, measured=13.5, reason="P95 is [b]13.5")
RESULT = GateResult(outcome=Outcome.FAIL, reasons=["[b]one", "two " * 40], checks=[CHECK], summaries=[SUMMARY])


def shown(result: GateResult, capsys: pytest.CaptureFixture[str]) -> list[str]:
    verdict.show(result)
    return capsys.readouterr().out.splitlines()


def test_what_was_measured_and_judged_is_shown_in_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(RESULT, capsys)
    cells = [line.split() for line in lines]
    assert lines[0].strip() == "measured, ms since sent"
    assert ["requests", "to", "number", "a", "second", "failed", "P50", "P95", "P99"] in cells
    assert ["GET", "/tasks", "1200", "20.0", "3", "4.50", "8.25", "11.00"] in cells
    assert ["requests", "to", "objective", "limit", "measured", "verdict"] in cells
    assert ["GET", "/tasks", "p95_ms", "12", "13.50", "fail"] in cells
    assert lines[-2:] == ["GET /tasks p95_ms: P95 is [b]13.5", f"FAIL: [b]one; {'two ' * 40}"]


def test_what_is_shown_without_a_terminal_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    check = msgspec.structs.replace(CHECK, reason="slow " * 30)
    *lines, text = shown(msgspec.structs.replace(RESULT, checks=[check]), capsys)
    assert 60 < max(map(len, lines)) <= 80 < len(text)  # the last line is for logs, which wrap it themselves


def test_figures_end_and_names_begin_below_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(RESULT, capsys)
    heading, figures = (next(line for line in lines if word in line) for word in ("number", "1200"))
    assert heading.index("number") + len("number") == figures.index("1200") + len("1200")
    assert heading.index("requests to") == figures.index(READ)
    heading, figures = (next(line for line in lines if word in line) for word in ("objective ", "p95_ms "))
    assert heading.index("objective") == figures.index("p95_ms")


def test_an_open_loops_latencies_are_those_from_the_intended_start(capsys: pytest.CaptureFixture[str]) -> None:
    late = msgspec.structs.replace(SUMMARY, intended_p50=40, intended_p95=80, intended_p99=110)
    lines = shown(msgspec.structs.replace(RESULT, summaries=[late], checks=[]), capsys)
    assert lines[0].strip() == "measured, ms from the intended start"
    assert ["GET", "/tasks", "1200", "20.0", "3", "40.00", "80.00", "110.00"] in [line.split() for line in lines]


def test_a_verdict_is_written_into_its_record_and_beside_it(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    with Recorder(record) as recorder:
        for entry in make_run({READ: 5}):
            recorder.write(entry)
    result = verdict.finish(Objectives(all=Limits(error_percent=1)), record)
    text = (tmp_path / "verdict.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["outcome"] == result.outcome == Outcome.PASS
    events = [(entry.kind, entry.text) for entry in read(record) if isinstance(entry, Event)]
    assert events == [("pass", "every objective holds")]


def test_without_a_record_there_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="no load was started"):
        verdict.finish(Objectives(all=Limits(error_percent=1)), tmp_path / "record.jsonl")
