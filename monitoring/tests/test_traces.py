import json
import secrets
import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from monitoring.stack import Stack, running, serving, wait
from tooling.service import command_line, free_port, listening

pytestmark = pytest.mark.prometheus


class Collector(ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, as a trace store does, and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]


class _Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.resources.append(about)
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


class Traced:
    """A service that sends its spans to `collector`, with its log and a Prometheus."""

    def __init__(self, url: str, folder: Path, collector: Collector, stack: Stack) -> None:
        self.url, self.collector, self.stack = url, collector, stack
        self.log, self.database = folder / "log", folder / "tasks.db"

    def logged(self, trace_id: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line.get("trace_id") == trace_id]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    url = f"http://127.0.0.1:{free_port()}"
    collector = Collector()
    with serving(collector) as endpoint:
        settings = {
            "PORT": url.rpartition(":")[2],
            "DB_PATH": f"{folder}/tasks.db",
            "WORKERS": "1",  # exemplars are those of the worker that answers the scrape
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with (
            listening(command_line("serve"), settings, ready=f"{url}/readyz", log=folder / "log"),
            running({"task-api": url.removeprefix("http://")}, hurry=True) as stack,
        ):
            yield Traced(url, folder, collector, stack)


def test_a_request_is_one_trace_in_spans_logs_and_metrics(traced: Traced) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    answer = httpx.post(
        f"{traced.url}/tasks", json={"title": "seen"}, headers={"traceparent": f"00-{trace_id}-{caller}-01"}
    )
    assert answer.status_code == 201

    def complete() -> list[Span]:
        spans = traced.collector.of(trace_id)
        return spans if any(span.parent_span_id.hex() == caller for span in spans) else []

    spans = wait(complete, "the request's span", seconds=30)
    (root,) = (span for span in spans if span.parent_span_id.hex() == caller)
    assert (root.name, root.kind) == ("POST /tasks", Span.SPAN_KIND_SERVER)
    statements = [span for span in spans if span is not root]
    assert any(span.name == "INSERT" for span in statements)
    assert {span.parent_span_id for span in statements} == {root.span_id}
    assert {resource["service.name"] for resource in traced.collector.resources} == {"task-api"}

    (line,) = traced.logged(trace_id)
    assert (line["route"], line["status"], line["request_id"]) == ("/tasks", 201, answer.headers["X-Request-ID"])

    def exemplars() -> list[Any]:
        series = traced.stack.data(
            "query_exemplars",
            query='api_request_duration_seconds_bucket{endpoint="/tasks", method="POST"}',
            start=str(root.start_time_unix_nano / 1e9 - 60),
            end=str(root.start_time_unix_nano / 1e9 + 600),
        )
        return [one for line in series for one in line["exemplars"] if one["labels"]["trace_id"] == trace_id]

    (exemplar,) = wait(exemplars, "the exemplar in Prometheus", seconds=30)
    assert float(exemplar["value"]) == pytest.approx(line["duration_ms"] / 1000, abs=1e-6)


def test_without_a_caller_the_service_begins_a_trace_and_logs_its_id(traced: Traced) -> None:
    answer = httpx.get(f"{traced.url}/tasks")

    def logged() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in traced.log.read_text().splitlines()]
        return [line for line in lines if line.get("request_id") == answer.headers["X-Request-ID"]]

    (line,) = wait(logged, "the log line", seconds=30)
    spans = wait(lambda: traced.collector.of(line["trace_id"]), "its spans", seconds=30)
    assert "GET /tasks" in {span.name for span in spans}


def test_a_server_error_is_an_error_in_the_trace_and_a_clients_is_not(traced: Traced) -> None:
    def root_of(path: str, expected: int) -> Span:
        trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
        answer = httpx.get(f"{traced.url}{path}", headers={"traceparent": f"00-{trace_id}-{caller}-01"})
        assert answer.status_code == expected

        def root() -> list[Span]:
            return [span for span in traced.collector.of(trace_id) if span.parent_span_id.hex() == caller]

        span: Span = wait(root, path, seconds=30)[0]
        return span

    assert root_of("/tasks/999999", 404).status.code == Status.STATUS_CODE_UNSET
    database = sqlite3.connect(traced.database, isolation_level=None)
    database.execute("ALTER TABLE tasks RENAME TO elsewhere")
    try:
        assert root_of("/tasks/1", 503).status.code == Status.STATUS_CODE_ERROR
    finally:
        database.execute("ALTER TABLE elsewhere RENAME TO tasks")
        database.close()
