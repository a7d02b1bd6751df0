"""The end of a run: its record is judged, and the verdict written and shown."""

import sys
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from locust_verdict import VerdictError
from locust_verdict.gate import GateResult, Outcome, judge
from locust_verdict.objectives import Objectives
from locust_verdict.record import Recorder, read

COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.EXCUSED: "yellow"}
COLUMNS = 80


def place(record: Path) -> Path:
    """Return where the verdict on a record is written: verdict.json beside it."""
    return record.with_name("verdict.json")


def finish(objectives: Objectives, record: Path) -> GateResult:
    """Judge a record, write the verdict into it and beside it as JSON, and show it. Raises VerdictError."""
    if not record.exists():
        raise VerdictError("no load was started, so there is nothing to judge")
    result = judge(objectives, read(record))
    with Recorder(record) as recorder:
        recorder.event(result.outcome, result.text, **msgspec.to_builtins(result))
    place(record).write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    show(result)
    return result


def show(result: GateResult) -> None:
    """Print what was measured and what it came to, for 80 columns where there is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else COLUMNS, highlight=False)
    late = any(row.intended_p50 is not None for row in result.summaries)
    since = "from the intended start" if late else "since sent"
    measured = Table(title=f"measured, ms {since}", box=box.SIMPLE)
    objectives = Table(title="objectives", box=box.SIMPLE)
    for table, headings in (
        (measured, ("requests to", "number", "a second", "failed", "P50", "P95", "P99")),
        (objectives, ("requests to", "objective", "limit", "measured", "verdict")),
    ):
        for place, heading in enumerate(headings):
            number = place and heading not in {"objective", "verdict"}
            table.add_column(heading, overflow="fold", justify="right" if number else "left")
    for row in result.summaries:
        values = [getattr(row, f"intended_{p}" if late else p) for p in ("p50", "p95", "p99")]
        figures = [_figure(value) for value in values]
        measured.add_row(row.endpoint, str(row.requests), f"{row.per_second:.1f}", str(row.failures), *figures)
    for check in result.checks:
        outcome = f"[{COLOURS[check.outcome]}]{check.outcome}"
        objectives.add_row(check.endpoint, check.objective, f"{check.limit:g}", _figure(check.measured), outcome)
    console.print(measured, objectives)
    for check in result.checks:  # below the table: a reason has no room in a cell
        if check.reason:
            console.print(f"{check.endpoint} {check.objective}: {check.reason}", markup=False)
    console.print(f"[bold {COLOURS[result.outcome]}]{result.outcome.upper()}[/]: ", end="")
    console.print(result.text, markup=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
