"""The README's example, run against a small server: in this environment, and as a new user has it."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from locust_verdict.record import Durations, Event, Requests, Run, read

PACKAGE = Path(__file__).parent.parent
README = (PACKAGE / "README.md").read_text()
LOCUSTFILE, OBJECTIVES = (re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)[0] for kind in ("python", "yaml"))
ANYWHERE = "generator: {cpu_percent: 1000, lag_p95_ms: 60000}\n"  # how busy this machine is does not matter here
LENIENT = ANYWHERE + OBJECTIVES.replace("min_per_second: 5", "min_requests: 5").replace(
    "error_percent: 1 ", "error_percent: 50 "
)
LENIENT = LENIENT.replace("p95_ms: 250", "p95_ms: 60000\n    min_requests: 5")
LENIENT = LENIENT.replace("warmup_seconds: 1", "warmup_seconds: 0")
COUNTED = (  # ends after so many requests, however long they take
    LOCUSTFILE
    + """

from locust import events


@events.request.add_listener
def end(**_):
    if Visitor.environment.stats.num_requests >= 60:
        Visitor.environment.runner.quit()


@events.init.add_listener
def know(environment, **_):
    Visitor.environment = environment
"""
)
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["here", pytest.param("new user", marks=pytest.mark.index)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """Run Locust in the folder "project"; a new user's environment has the package and what it needs, alone."""
    if request.param == "new user":
        in_project: Program = request.getfixturevalue("run_in_new_project")
        installed = in_project("pip", "install", "--quiet", str(PACKAGE))
        assert installed.returncode == 0, installed.stderr
        assert list((tmp_path / "environment").glob("lib/*/site-packages/locust_verdict/py.typed"))
        return lambda *arguments: in_project("locust", *arguments)
    project = tmp_path / "project"
    project.mkdir()

    def here(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "locust", *arguments]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    return here


class Handler(BaseHTTPRequestHandler):
    """Answers with the metrics of a server that counted 100 requests, 40 of them slow."""

    def do_GET(self) -> None:
        name, labels = "http_request_duration_seconds", 'method="GET",endpoint="/"'
        counts = ((0.005, 60), (1, 100), ("+Inf", 100))
        lines = [f"# TYPE {name} histogram", *(f'{name}_bucket{{{labels},le="{le}"}} {n}' for le, n in counts)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("\n".join([*lines, ""]).encode())

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Yield the base URL of a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


def test_a_run_ends_with_0_1_or_2_and_leaves_its_record(run: Program, server: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "locustfile.py").write_text(COUNTED)

    def load(objectives: str, *more: str, host: str = server) -> subprocess.CompletedProcess[str]:
        (project / "objectives.yaml").write_text(objectives)
        options = ["-f", "locustfile.py", "--headless", "--users=4", "--spawn-rate=4", "--run-time=120s"]
        return run(*options, f"--host={host}", "--objectives=objectives.yaml", *more)

    passed = load(LENIENT, "--metrics=/metrics", "--only-summary")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "PASS: every objective holds" in passed.stdout
    table = passed.stdout[passed.stdout.index("measured, ms since sent") :].partition("PASS")[0]
    assert max(map(len, table.splitlines())) <= 80
    verdict = json.loads((project / "verdict.json").read_text())
    assert (verdict["outcome"], verdict["reasons"]) == ("pass", [])
    entries = list(read(project / "record.jsonl"))
    (began,) = (entry for entry in entries if isinstance(entry, Run))
    assert began.settings == {"host": server, "users": 4}
    assert {entry.endpoint for entry in entries if isinstance(entry, Requests)} == {"GET /"}
    counted = [entry for entry in entries if isinstance(entry, Durations)]
    assert (counted[0].endpoint, counted[0].buckets) == ("GET /", {"0.005": 60, "1": 100, "+Inf": 100})
    assert [entry.kind for entry in entries if isinstance(entry, Event)] == ["pass"]

    failed = load(LENIENT, host="http://127.0.0.1:9")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "requests failed, 100.00 %" in " ".join(failed.stdout.split())

    undecided = load(LENIENT.replace("min_requests: 5", "min_requests: 9000"), "--record=other/record.jsonl")
    assert undecided.returncode == 2, undecided.stdout + undecided.stderr
    assert "too few requests" in undecided.stdout
    assert json.loads((project / "other" / "verdict.json").read_text())["outcome"] == "inconclusive"

    refused = load(LENIENT + "p95: 1\n")
    assert refused.returncode == 2
    assert "unknown key `p95`" in refused.stderr


@pytest.mark.load
def test_workers_measure_and_the_master_judges(server: str, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    (tmp_path / "objectives.yaml").write_text(LENIENT)
    command = [sys.executable, "-m", "locust", "-f", "locustfile.py", "--headless", "--processes=2", "--users=4"]
    command += ["--run-time=8s", f"--host={server}", "--objectives=objectives.yaml", "--only-summary"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads((tmp_path / "verdict.json").read_text())["outcome"] == "pass"


def test_without_objectives_and_record_the_plugin_does_nothing(server: str, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    command = [sys.executable, "-m", "locust", "-f", "locustfile.py", "--headless", "--run-time=1s", f"--host={server}"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {one.name for one in tmp_path.iterdir()} <= {"locustfile.py", "__pycache__"}
