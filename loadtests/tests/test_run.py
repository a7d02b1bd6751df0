"""Real runs of Locust against the real service."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from locust_verdict import histogram
from locust_verdict.record import Event, Requests, Run, read
from tooling.project import ROOT
from tooling.service import running

pytestmark = pytest.mark.load

LAX = """
warmup_seconds: 1
generator: {cpu_percent: 1000, lag_p95_ms: 60000}
all: {error_percent: 5, min_requests: 20, p95_ms: 60000}
"""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Yield the base URL of a service without accounts, which makes users quick to start."""
    with running({"AUTH": "off", "RATE_LIMIT": "off", "LOG_LEVEL": "warning"}) as url:
        yield url


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests", "--headless", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_four_workers_merge_to_the_percentiles_of_all_raw_samples(service: str, tmp_path: Path) -> None:
    raw, record = tmp_path / "raw", tmp_path / "record.jsonl"
    raw.mkdir()
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("raw_locustfile.py"))]
    command += ["--headless", "--processes=4", "--host", service, "--users=12", "--rate=80", "--run-time=8s"]
    command += ["--record", str(record), "--stop-timeout=30", "--only-summary"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAW_SAMPLES": str(raw)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

    files = list(raw.iterdir())
    assert len(files) == 4
    sent, meant = defaultdict(list), defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            endpoint, latency, intended = line.split("\t")
            sent[endpoint].append(float(latency))
            meant[endpoint].append(float(intended))
    requests = [entry for entry in read(record) if isinstance(entry, Requests)]
    assert {entry.endpoint for entry in requests} == set(sent)
    for endpoint in sent:
        entries = [entry for entry in requests if entry.endpoint == endpoint]
        for values, encoded in (
            (sent[endpoint], [entry.latency for entry in entries]),
            (meant[endpoint], [entry.intended for entry in entries if entry.intended]),
        ):
            whole = histogram.new()
            for value in values:
                histogram.record(whole, value)
            merged = histogram.add(histogram.decode(text) for text in encoded)
            assert merged.tolist() == list(whole.counts)
            for percent in (50, 95, 99):
                raw_value = sorted(values)[max(-(-len(values) * percent // 100), 1) - 1]
                assert histogram.percentile(merged, percent) == pytest.approx(raw_value, rel=0.001, abs=0.0006)


def test_a_run_leaves_record_page_and_verdict_and_passes(service: str, tmp_path: Path) -> None:
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text(LAX)
    out = tmp_path / "out"
    ran = load(
        "--host", service, "--users=6", "--rate=20", "--run-time=6s", f"--objectives={objectives}", f"--output={out}"
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASS" in ran.stdout
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["outcome"] == "pass"
    assert {row["endpoint"] for row in verdict["summaries"]} >= {"GET /livez", "GET /tasks", "all"}
    assert all(row["failures"] == 0 for row in verdict["summaries"])
    entries = list(read(out / "record.jsonl"))
    assert isinstance(entries[0], Run)
    assert [entry.kind for entry in entries if isinstance(entry, Event)] == ["pass"]
    page = (out / "report.html").read_text()
    assert "P99 from intended start" in page


def test_a_server_that_is_not_there_fails_the_run(tmp_path: Path) -> None:
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text(LAX)
    ran = load(
        *["--host=http://127.0.0.1:9", "--users=6", "--rate=20", "--run-time=4s", "--metrics="],
        *[f"--objectives={objectives}", f"--output={tmp_path}"],
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "requests failed, 100.00 %" in ran.stdout


def test_a_killed_run_can_be_replayed(service: str, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--host", service]
    command += ["--users=6", "--rate=20", "--record", str(record), "--only-summary"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (record.exists() and sum(isinstance(entry, Requests) for entry in read(record)) > 10):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    replayed = subprocess.run(
        [sys.executable, "-m", "loadtests", "--replay", str(record)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "requests per second" in (tmp_path / "replay.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users=1"], "--users must be 2 or more"),
        (["--shape=wild"], "invalid choice: 'wild'"),
        (["--objectives=none.yaml"], "none.yaml"),
        (["--against=no-such-version"], "git knows no version 'no-such-version'"),
        (["--replay", "none.jsonl"], "none.jsonl"),
    ],
)
def test_what_cannot_run_says_why_with_status_2(arguments: list[str], message: str) -> None:
    ran = load(*arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
