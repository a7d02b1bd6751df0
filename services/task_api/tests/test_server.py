"""The service as it is run: gunicorn, several workers, signals."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from service_kit import server
from task_api.config import Settings
from task_api.http.app import create_app
from task_api.http.context import Services
from task_core.database import Database
from tooling.service import NO_AUTHORITIES, command_line, environment, free_port, listening, running

from .conftest import KEY, Migrated

QUIET = {"LOG_LEVEL": "warning", "RATE_LIMIT": "off"}
CLOSE = {"Connection": "close"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def base(request: pytest.FixtureRequest, migrated: Migrated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = migrated(request.param, "served", tmp_path_factory.mktemp("served"))
    database = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.db_path}
    with running({**QUIET, **database, "STREAMS": "1000"}, workers=3) as url:
        yield url


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Opens a connection for every request, so that any worker may get it."""
    with httpx.Client(timeout=60, headers=CLOSE, verify=NO_AUTHORITIES) as client:
        yield client


def scrape(http: httpx.Client, url: str, name: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for family in text_string_to_metric_families(http.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                counted[sample.labels.get("status", "")] += int(sample.value)
    return counted


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_eight_clients_that_write_at_once_get_no_5xx_and_lose_nothing_and_metrics_add_up(
    base: str, http: httpx.Client
) -> None:
    def write(number: int) -> list[int]:
        with httpx.Client(base_url=base, timeout=60, verify=NO_AUTHORITIES) as client:
            answers = [client.post("/tasks", json={"title": f"{number}-{count}"}) for count in range(25)]
            assert {answer.status_code for answer in answers} == {201}
            return [answer.json()["id"] for answer in answers]

    created = scrape(http, base, "api_requests_total")["201"]
    with ThreadPoolExecutor(8) as clients:
        written = [identity for batch in clients.map(write, range(8)) for identity in batch]
    assert len(set(written)) == 200
    assert {task["id"] for task in http.get(f"{base}/tasks", params={"limit": 200, "sort": "-id"}).json()} == {*written}
    assert scrape(http, base, "api_requests_total")["201"] == created + 200
    assert sum(scrape(http, base, "api_request_duration_seconds_count").values()) >= created + 200


def test_sixty_open_streams_hold_no_thread_and_each_gets_the_change(base: str, http: httpx.Client) -> None:
    host, port = "127.0.0.1", int(base.rpartition(":")[2])
    request = b"GET /tasks/changes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection((host, port), timeout=60)) for _ in range(60)]
        for client in opened:
            client.sendall(request)
        created = http.post(f"{base}/tasks", json={"title": "seen by all"})
        assert created.status_code == 201
        for client in opened:
            received = b""
            while b"seen by all" not in received:
                data = client.recv(1 << 16)
                assert data, received
                received += data
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert scrape(http, base, "api_streams_open")[""] == 60
    while scrape(http, base, "api_streams_open")[""]:
        time.sleep(0.05)


def test_an_idempotency_key_is_done_once_whichever_workers_get_it(base: str, http: httpx.Client) -> None:
    def post(_: int) -> httpx.Response:
        return http.post(f"{base}/tasks", json={"title": "done once"}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(post, range(16)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(http.get(f"{base}/tasks", params={"q": "done once"}).json()) == 1


def test_what_is_no_http_is_answered_with_a_problem_and_the_health_check_asks_the_running_service(base: str) -> None:
    port = base.rpartition(":")[2]
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    done = subprocess.run(
        command_line("healthcheck"), env=environment({"PORT": port}), capture_output=True, text=True, check=False
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "alive"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def serve(tmp_path: Path, **settings: str) -> tuple[str, dict[str, str]]:
    port = free_port()
    return f"http://127.0.0.1:{port}", {
        **QUIET,
        "PORT": str(port),
        "DB_PATH": str(tmp_path / "tasks.db"),
        **settings,
    }


def test_counts_survive_the_death_of_a_worker_and_its_gauges_do_not(
    tmp_path: Path, log: Path, http: httpx.Client
) -> None:
    url, settings = serve(tmp_path, DB_POOL_SIZE="6")
    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log) as process:
        for _ in range(20):
            http.get(f"{url}/tasks")
        deadline = time.monotonic() + 20
        while scrape(http, url, "db_pool_size")[""] < 2 * 6:
            assert time.monotonic() < deadline, "the second worker did not start"
            time.sleep(0.05)
        victim = children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while victim in children(process.pid) or len(children(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(20):
            http.get(f"{url}/tasks")
        families = text_string_to_metric_families(http.get(f"{url}/metrics").text)
        counted = sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "api_requests_total" and sample.labels["endpoint"] == "/tasks"
        )
        assert counted == 40
        assert scrape(http, url, "db_pool_size")[""] <= 2 * 6


def test_sigterm_under_load_drops_no_request_and_readiness_falls_first(
    tmp_path: Path, log: Path, http: httpx.Client
) -> None:
    url, settings = serve(tmp_path, DRAIN_SECONDS="5")
    outcomes: Counter[str] = Counter()
    acknowledged: set[int] = set()
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.02):
            try:
                answer = http.post(f"{url}/tasks", json={"title": "t"})
            except httpx.TransportError as error:
                outcomes[f"dropped: {error!r}"] += 1
            else:
                outcomes[str(answer.status_code)] += 1
                acknowledged.add(answer.json()["id"])

    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log) as process:
        clients = [threading.Thread(target=load) for _ in range(6)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        while http.get(f"{url}/readyz").status_code == 200:
            time.sleep(0.05)
        while_draining = http.get(f"{url}/tasks")
        assert while_draining.status_code == 200
        assert while_draining.headers["connection"] == "close"  # so that clients go elsewhere before the end
        stop.set()  # as clients do that no longer get its address; what comes when it closes its port is lost
        for client in clients:
            client.join()
        assert process.wait(60) == 0
    assert set(outcomes) == {"201"}, outcomes
    assert outcomes["201"] > 10
    with closing(sqlite3.connect(settings["DB_PATH"])) as database:
        assert acknowledged <= {identity for (identity,) in database.execute("SELECT id FROM tasks")}


def refused(settings: dict[str, str]) -> str:
    """Start the service, which must not start, and return its message."""
    ended = subprocess.run(
        command_line("serve"), env=environment(settings), capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_a_service_that_may_not_start_touches_nothing_of_the_one_that_runs(
    tmp_path: Path, log: Path, http: httpx.Client
) -> None:
    metrics = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    url, settings = serve(tmp_path, **metrics)
    other = serve(tmp_path, **metrics, DB_PATH=str(tmp_path / "other.db"), LOG_LEVEL="error")[1]
    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log):
        http.get(f"{url}/tasks")
        taken = refused({**other, "PORT": settings["PORT"]})
        assert f"PORT: {settings['PORT']} on 127.0.0.1 is taken" in taken
        assert not (tmp_path / "other.db").exists()
        assert "PROMETHEUS_MULTIPROC_DIR: another service" in refused(other)
        assert scrape(http, url, "api_requests_total")["200"] >= 1


def test_an_address_that_is_not_this_machines_is_refused_in_a_line(tmp_path: Path) -> None:
    _, settings = serve(tmp_path, HOST="192.0.2.1", AUTH="on", JWT_KEYS=f"k1:{KEY.secret}")
    assert "HOST, PORT: 192.0.2.1" in refused(settings)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_service_ends_with_its_terminal_unless_it_is_told_to_outlive_it(
    tmp_path: Path, log: Path, http: httpx.Client, ignored: bool
) -> None:
    url, settings = serve(tmp_path)
    program = [*(["nohup"] if ignored else []), *command_line("serve")]
    with listening(program, settings, ready=f"{url}/readyz", log=log) as process:
        for pid in (process.pid, *children(process.pid)):  # the whole group gets it
            os.kill(pid, signal.SIGHUP)
        if ignored:
            time.sleep(0.5)
            assert http.get(f"{url}/livez").status_code == 200
        else:
            assert process.wait(30) == 0


SLOW_START = """
import time
from service_kit import server
from task_api import cli
start = server.Server.start_worker
server.Server.start_worker = lambda self: (print("forked", flush=True), time.sleep(1), start(self))
cli.main(["serve"])
"""


def test_a_sigterm_to_workers_that_are_still_starting_is_not_lost(tmp_path: Path) -> None:
    _, settings = serve(tmp_path, GRACEFUL_TIMEOUT="25")
    command = [sys.executable, "-c", SLOW_START]
    with subprocess.Popen(command, env=environment(settings), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "forked\n":
                break
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(40) == 0
        process.stdout.read()
    assert time.monotonic() - began < 20


def test_the_logs_of_a_running_service_are_json_lines_and_say_what_is_weaker(
    tmp_path: Path, log: Path, http: httpx.Client
) -> None:
    url, settings = serve(tmp_path, LOG_LEVEL="info", RATE_LIMIT="off")
    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log):
        http.get(f"{url}/tasks")
        assert http.get(f"{url}/health").status_code == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    weaker = [line["message"] for line in lines if line["level"] == "warning"]
    assert any(message.startswith("AUTH=off") for message in weaker)
    assert any(message.startswith("RATE_LIMIT=off") for message in weaker)
    assert [line["route"] for line in lines if line["message"] == "request"] == ["/tasks", "/health"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Receives spans by OTLP over HTTP."""
    received: list[ExportTraceServiceRequest] = []

    @Request.application
    def receive(request: Request) -> Response:
        received.append(ExportTraceServiceRequest.FromString(request.get_data()))
        return Response(status=200)

    listener = make_server("127.0.0.1", free_port(), receive, threaded=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}", received
    listener.shutdown()
    thread.join()


def test_one_request_is_one_trace_whose_id_is_in_the_log(
    tmp_path: Path, log: Path, http: httpx.Client, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    endpoint, received = collector
    url, settings = serve(
        tmp_path, LOG_LEVEL="info", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, AUTH="on", JWT_KEYS=f"k1:{KEY.secret}"
    )
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    credentials = {"email": "ada@example.org", "password": "a horse and its battery"}
    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log):
        http.post(f"{url}/auth/register", json=credentials)
        token = http.post(f"{url}/auth/login", json=credentials).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        assert http.post(f"{url}/tasks", json={"title": "traced"}, headers=headers).status_code == 201
        own = http.get(f"{url}/tasks", headers={"Authorization": f"Bearer {token}"})
        assert own.status_code == 200
    spans = [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == trace
    ]
    (root,) = [span for span in spans if span.name == "POST /tasks"]
    assert root.parent_span_id.hex() == "00f067aa0ba902b7"
    statements = [span for span in spans if span.name == "INSERT"]
    assert statements
    assert all(span.parent_span_id == root.span_id for span in spans if span is not root)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines if line.get("trace_id") == trace] == [201]
    listed = next(line for line in lines if line.get("method") == "GET" and line.get("route") == "/tasks")
    assert re.fullmatch(r"[0-9a-f]{32}", listed["trace_id"])


def test_the_token_in_a_calendars_address_is_in_no_log_trace_metric_or_response(
    tmp_path: Path, log: Path, http: httpx.Client, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    endpoint, received = collector
    url, settings = serve(
        tmp_path, LOG_LEVEL="debug", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, AUTH="on", JWT_KEYS=f"k1:{KEY.secret}"
    )
    credentials = {"email": "ada@example.org", "password": "a horse and its battery"}
    with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=log):
        http.post(f"{url}/auth/register", json=credentials)
        session = http.post(f"{url}/auth/login", json=credentials).json()["access_token"]
        new = {"name": "calendar", "scopes": ["calendar:read"], "days": 1}
        token = http.post(f"{url}/auth/tokens", json=new, headers={"Authorization": f"Bearer {session}"}).json()[
            "token"
        ]
        address = f"{url}/tasks.ics?token={token}"
        responses = [
            http.get(address),
            http.head(address),
            http.get(f"{address}x"),
            http.get(f"{address}&token={token}"),
            http.get(f"{address}&other={token}"),
            http.get(f"{url}/tasks.ics?tokens={token}", headers={"Authorization": f"Bearer {session}"}),
            http.get(f"{url}/tasks.ics?token={token * 4}", headers={"Authorization": f"Bearer {session}"}),
            http.get(f"{url}/tasks.ics?token={token * 200}"),
            http.post(address),
            http.options(address),
            http.get(f"{url}/tasks?token={token}"),
            http.get(f"{url}/nothing?token={token}"),
            http.get(f"{address}%0A%ff"),
        ]
        with closing(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60)) as raw:
            raw.sendall(f"GET /tasks.ics?token={token} HTTP/1.1\r\nHo st: x\r\n\r\n".encode())
            malformed = raw.recv(1 << 16)
        kinds = ("text/plain", "application/openmetrics-text")
        responses += [http.get(f"{url}/metrics", headers={"Accept": kind}) for kind in kinds]
        (tmp_path / "tasks.db").unlink()
        responses.append(http.get(address))
    statuses = [response.status_code for response in responses]
    assert statuses == [200, 200, 401, 400, 400, 400, 400, 414, 405, 200, 401, 404, 401, 200, 200, 503]
    places = {
        "log": log.read_bytes(),
        "traces": b"".join(request.SerializeToString() for request in received),
        "metrics and responses": b"".join(repr((each.headers, each.content)).encode() for each in responses),
        "response to what is malformed": malformed,
    }
    reached = {"log": b'"route":"/tasks.ics"', "traces": b"GET /tasks.ics", "metrics and responses": b"/tasks.ics"}
    assert [place for place, mark in reached.items() if mark not in places[place]] == []
    assert malformed.startswith(b"HTTP/1.1 400 ")
    secret = token.removeprefix("taskapi_")[:20].encode()
    assert [place for place, content in places.items() if secret in content] == []


def test_an_idle_connection_is_kept_for_as_long_as_a_load_balancer_needs(tmp_path: Path) -> None:
    settings = Settings(db_path=str(tmp_path / "tasks.db"), idle_seconds=620)
    services = Services(settings, Database(settings))
    assert server.Server(services, lambda: create_app(services), socket.socket()).cfg.keepalive == 620


def test_without_an_endpoint_opentelemetry_is_not_even_loaded(tmp_path: Path) -> None:
    modules = "sys, service_kit.server, task_api.http.app"
    code = f"import {modules}; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    command = [command_line()[0], "-c", code]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"


def test_what_reads_calendars_is_loaded_by_the_command_that_does_alone(tmp_path: Path) -> None:
    code = "import sys, service_kit.server, task_api.http.app; print('icalendar' in sys.modules)"
    command = [command_line()[0], "-c", code]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"


def test_a_slow_start_of_the_database_is_waited_for_by_the_migration(tmp_path: Path) -> None:
    port = free_port()
    settings = {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/none"}
    began = time.monotonic()
    done = subprocess.run(
        command_line("migrate", "--wait", "1"),
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert time.monotonic() - began >= 1
