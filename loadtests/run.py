"""Run Locust against a service, judge the record, and compare two versions."""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests import LoadTestError, compare, timeline
from loadtests.cluster import watching
from loadtests.gate import GateResult, Objectives, Outcome, judge
from loadtests.record import Recorder, read
from tooling import tools
from tooling.project import ROOT
from tooling.service import answers, running

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.EXCUSED: "yellow"}


class LoadError(LoadTestError):
    """Locust did not run or broke, or there is no version to compare with; the message has the remedy."""


@contextlib.contextmanager
def target(host: str | None, **more: Any) -> Iterator[str]:
    """Yield the base URL to load: `host`, or that of a service started without limits on requests."""
    if host:
        yield host
        return
    key = f"load:{secrets.token_urlsafe(48)}"
    settings = {"AUTH": "on", "JWT_KEYS": key, "RATE_LIMIT": "off", "LOGIN_LIMIT": "off", "LOG_LEVEL": "warning"}
    settings["REGISTRATION_LIMIT"] = "off"
    with running(settings | more.pop("settings", {}), workers=2, **more) as url:
        yield url


def locust(host: str, record: Path, options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Run Locust until it ends. Raises LoadError when it breaks; failed requests are the verdict's business."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, "--record", str(record)]
    command += ["--users", str(options.users), "--spawn-rate", str(options.users), "--shape", options.shape]
    command += ["--rate", str(options.rate), "--stop-timeout", "60", "--exit-code-on-error", "0"]
    command += ["--run-time", options.run_time] if options.run_time else []
    if options.headless:
        command += ["--headless", "--only-summary", "--skip-log-setup"]
    else:
        command += ["--web-host", "127.0.0.1", "--web-port", str(options.web_port)]
        threading.Thread(target=_open_browser, args=(f"http://127.0.0.1:{options.web_port}",), daemon=True).start()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([*command, *rest], env=environment, cwd=ROOT)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends Locust; the verdict comes after
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, handler)
    if status != 0:
        raise LoadError(f"Locust ended with status {status}; what it wrote above says why. The record: {record}")


def _open_browser(url: str) -> None:
    deadline = time.monotonic() + 30
    while not answers(url):
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    print(f"browser UI: {url} (Ctrl-C ends it and gives the verdict)", flush=True)
    webbrowser.open(url)


def finish(verdict: GateResult, record: Path) -> None:
    """Write the verdict into the record, as JSON beside it, and draw the page."""
    with Recorder(record) as recorder:
        recorder.event(verdict.outcome, verdict.text, **msgspec.to_builtins(verdict))
    record.with_name("verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    timeline.write(record.with_name("report.html"), record)
    show(verdict)
    print(f"{record.with_name('report.html')}\n{record}")


def show(verdict: GateResult) -> None:
    """Print what was measured and what it came to."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    measured = Table("endpoint", "requests", "per second", "failed", "P50 ms", "P95 ms", "P99 ms", title="measured")
    for row in verdict.summaries:
        values = (_both(getattr(row, p), getattr(row, f"intended_{p}")) for p in ("p50", "p95", "p99"))
        measured.add_row(row.endpoint, str(row.requests), f"{row.per_second:.1f}", str(row.failures), *values)
    if any(row.intended_p50 is not None for row in verdict.summaries):
        measured.caption = "since sent / from the intended start"
    objectives = Table("endpoint", "objective", "limit", "measured", "verdict", title="objectives")
    for check in verdict.checks:
        found = "" if check.measured is None else f"{check.measured:.2f}"
        outcome = f"[{COLOURS[check.outcome]}]{check.outcome}"
        objectives.add_row(check.endpoint, check.objective, f"{check.limit:g}", found, outcome)
    console.print(measured, objectives)
    for check in verdict.checks:  # below the table: a reason has no room in a cell
        if check.reason:
            console.print(
                f"{check.endpoint} {check.objective}: {check.reason}", highlight=False, markup=False, soft_wrap=True
            )
    console.print(f"[bold {COLOURS[verdict.outcome]}]{verdict.outcome.upper()}[/]: ", end="")
    console.print(verdict.text, highlight=False, markup=False, soft_wrap=True)


def _both(sent: float, intended: float | None) -> str:
    return f"{sent:.2f}" if intended is None else f"{sent:.2f} / {intended:.2f}"


def run(options: argparse.Namespace, rest: Sequence[str], objectives: Objectives) -> int:
    """Load one version and judge it."""
    with target(options.host) as host:
        for attempt in range(1, options.attempts + 1):
            record = options.output / (f"attempt-{attempt}" if options.attempts > 1 else "") / "record.jsonl"
            print(f"loading {host}, {options.users} users, shape {options.shape}", flush=True)
            watched = watching(record, context=options.cluster) if options.cluster else contextlib.nullcontext()
            with watched:
                locust(host, record, options, rest)
            if not record.exists():
                raise LoadError("no load was started, so there is nothing to judge")
            verdict = judge(objectives, read(record))
            finish(verdict, record)
            if verdict.outcome is not Outcome.INCONCLUSIVE:
                break
    return verdict.exit_code


@contextlib.contextmanager
def checkout(ref: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder with another version of the repository, and its short name. Raises `LoadError` if unknown."""
    name = subprocess.run(
        ["git", "rev-parse", "--short", "--verify", f"{ref}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if name.returncode:
        raise LoadError(f"git knows no version {ref!r}: give a branch, a tag or a commit")
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        yield tools.checkout(ROOT, ref, Path(folder, "checkout")), name.stdout.strip()


def against(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Load another version and this one by turns, and compare."""
    options.headless, options.shape = True, "steady"
    options.run_time = options.run_time or "13s"
    options.rate = options.rate or 60
    lock = Path("services", "task_api", "requirements.txt")
    with checkout(options.against) as (folder, name):
        if (folder / lock).read_text() != (ROOT / lock).read_text():
            print(
                f"{lock} differs: {name} runs with this checkout's libraries, so this compares the service's own code"
            )
        source = {"PYTHONPATH": os.pathsep.join(map(str, folder.glob("*/*/src")))}
        records = [options.output / "first.jsonl", options.output / "second.jsonl"]
        with target(None, settings=source) as first, target(None) as second:
            for pair in range(options.pairs):
                print(f"pair {pair + 1} of {options.pairs}", flush=True)
                for host, record in zip((first, second), records, strict=True):
                    locust(host, record, options, rest)
    found = compare.compare(read(records[0]), read(records[1]), (name, "this checkout"))
    with Recorder(records[1]) as recorder:
        recorder.event(found.difference, found.text, **msgspec.to_builtins(found))
    (options.output / "comparison.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    timeline.write(options.output / "report.html", *records)
    table = Table("endpoint", "percentile", f"{found.first}, ms", f"{found.second}, ms", "ratio (interval)", "")
    for row in found.rows:
        ratio = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        table.add_row(
            row.endpoint, f"P{row.percentile}", f"{row.first_ms:.2f}", f"{row.second_ms:.2f}", ratio, row.difference
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table, found.text)
    print(options.output / "report.html")
    return 1 if found.difference is compare.Difference.SLOWER else 0
