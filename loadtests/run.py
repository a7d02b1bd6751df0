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
from locust_verdict import verdict
from locust_verdict.gate import EXIT_CODES, Outcome
from locust_verdict.objectives import load_objectives
from locust_verdict.record import Recorder, read
from tooling import tools
from tooling.project import ROOT
from tooling.service import answers, running

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
HISTOGRAM = "api_request_duration_seconds"


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


def locust(host: str, record: Path, options: argparse.Namespace, rest: Sequence[str], *judged: str) -> int:
    """Run Locust until it ends, and return its exit status, which is 0 without the options `judged`.

    Raises LoadError when it breaks; failed requests are the verdict's business.
    """
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, "--record", str(record)]
    command += ["--users", str(options.users), "--spawn-rate", str(options.users), "--shape", options.shape]
    command += ["--rate", str(options.rate), "--stop-timeout", "60", "--exit-code-on-error", "0"]
    command += ["--metrics=/metrics", f"--histogram={HISTOGRAM}", *judged]
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
    if status != 0 and not (judged and verdict.place(record).exists()):
        raise LoadError(f"Locust ended with status {status}; its output above has the reason. The record: {record}")
    return status


def _open_browser(url: str) -> None:
    deadline = time.monotonic() + 30
    while not answers(url):
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    print(f"browser UI: {url} (Ctrl-C ends it and prints the verdict)", flush=True)
    webbrowser.open(url)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Load one version, have the plugin judge it, and draw the page."""
    load_objectives(options.objectives)  # before a service is started
    with target(options.host) as host:
        for attempt in range(1, options.attempts + 1):
            record = options.output / (f"attempt-{attempt}" if options.attempts > 1 else "") / "record.jsonl"
            print(f"loading {host}, {options.users} users, shape {options.shape}", flush=True)
            watched = watching(record, context=options.cluster) if options.cluster else contextlib.nullcontext()
            verdict.place(record).unlink(missing_ok=True)
            with watched:
                status = locust(host, record, options, rest, f"--objectives={options.objectives.absolute()}")
            if not verdict.place(record).exists():
                raise LoadError("no load was started, so there is nothing to judge")
            timeline.write(record.with_name("report.html"), record)
            print(f"{record.with_name('report.html')}\n{record}")
            if status != EXIT_CODES[Outcome.INCONCLUSIVE]:
                break
    return status


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
        raise LoadError(f"git knows no version {ref!r}: name a branch, a tag or a commit")
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
    compared = compare.compare(read(records[0]), read(records[1]), (name, "this checkout"))
    with Recorder(records[1]) as recorder:
        recorder.event(compared.difference, compared.text, **msgspec.to_builtins(compared))
    (options.output / "comparison.json").write_bytes(msgspec.json.format(msgspec.json.encode(compared)) + b"\n")
    timeline.write(options.output / "report.html", *records)
    table = Table("endpoint", "percentile", f"{compared.first}, ms", f"{compared.second}, ms", "ratio (interval)", "")
    for row in compared.rows:
        ratio = f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        table.add_row(
            row.endpoint, f"P{row.percentile}", f"{row.first_ms:.2f}", f"{row.second_ms:.2f}", ratio, row.difference
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table, compared.text)
    print(options.output / "report.html")
    return 1 if compared.difference is compare.Difference.SLOWER else 0
