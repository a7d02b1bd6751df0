"""From the request to the delivery: both services' code, and what they export."""

import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from notifier.app import Application
from notifier.config import Settings
from task_api.config import Settings as TaskSettings
from task_api.http.app import create_app
from task_api.http.context import Services
from task_api.webhooks import service as webhooks
from task_core.config import parse_keys
from task_core.database import Database
from task_core.encryption import Keyring
from tooling.service import free_port, listening

from .test_notifier import KEYS, Receiver

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
keys = parse_keys(KEYS)


@pytest.fixture
def hook(database: Database) -> Iterator[tuple[Receiver, int]]:
    receiver = Receiver()
    receiver.go.set()
    with receiver.serving() as url:
        created = webhooks.create(database, Keyring(keys), 0, url, insecure=True)
        yield receiver, created.id
        webhooks.remove(database, 0, created.id)


def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return what the next tracer exports to."""
    kept = InMemorySpanExporter()
    place = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"
    monkeypatch.setattr(place, lambda: kept)
    return kept


def requested(url: str, *headers: dict[str, str], traced: bool = True) -> None:
    """Create a task by the Task API's code for each of the headers."""
    database = Database(TaskSettings(database_url=url))
    service = Services(TaskSettings(database_url=url), database)
    if traced:
        service.tracer = service.start_tracer()
    client: Any = create_app(service).test_client()
    for each in headers:
        assert client.post("/tasks", json={"title": "t"}, headers=each).status_code == 201
    if service.tracer:
        service.tracer.close()
    database.engine.dispose()


def delivered(url: str, receiver: Receiver, count: int) -> None:
    """Deliver by notifier's code."""
    settings = Settings(database_url=url, webhooks="insecure", encryption_keys=keys)
    service = Application(settings, Database(settings))
    service.tracer = service.start_tracer()
    service.start_worker()
    assert service.delivery
    try:
        for _ in range(count):
            assert receiver.arrived.acquire(timeout=60)
    finally:
        for one in (*service.delivery.reminding, service.delivery.deliverer):
            one.stop()
        service.tracer.close()
        service.database.engine.dispose()


def test_a_delivery_is_linked_to_the_request_that_made_the_change(
    hook: tuple[Receiver, int], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, webhook_id = hook
    requests = exporter(monkeypatch)
    requested(url, {"traceparent": f"00-{TRACE}-{CALLER}-01"}, {})
    deliveries = exporter(monkeypatch)
    delivered(url, receiver, 2)
    servers = [span for span in requests.get_finished_spans() if span.kind is SpanKind.SERVER]
    attempts = [span for span in deliveries.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    made_by = [link.context for span in attempts for link in span.links]
    assert [(context.trace_id, context.span_id) for context in made_by] == [
        (span.context.trace_id, span.context.span_id) for span in servers
    ]
    assert made_by[0].trace_id == int(TRACE, 16)
    assert {span.name for span in attempts} == {"deliver task_changes"}
    assert all(span.parent is None for span in attempts)  # a trace of its own
    attributes = dict(attempts[0].attributes or {})
    assert str(attributes.pop("messaging.message.id")).startswith(f"msg_{webhook_id}_")
    assert attributes == {
        "messaging.system": "task-api",
        "messaging.destination.name": "task_changes",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "http.response.status_code": 204,
    }


@pytest.mark.parametrize("how", ["no tracer", "not sampled"])
def test_a_change_that_was_not_traced_is_delivered_without_a_link(
    hook: tuple[Receiver, int], url: str, database: Database, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    exporter(monkeypatch)
    requested(url, {"traceparent": f"00-{secrets.token_hex(16)}-{CALLER}-00"}, traced=how == "not sampled")
    kept = exporter(monkeypatch)
    delivered(url, hook[0], 1)
    (attempt,) = [span for span in kept.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert attempt.links == ()
    with database.read() as connection:
        newest = "SELECT traceparent FROM task_changes ORDER BY id DESC LIMIT 1"
        assert connection.exec_driver_sql(newest).scalar() is None


@pytest.fixture
def collector() -> Iterator[tuple[str, SimpleQueue[bytes]]]:
    """Takes spans by OTLP over HTTP."""
    received: SimpleQueue[bytes] = SimpleQueue()

    @Request.application
    def receive(request: Request) -> Response:
        received.put(request.get_data())
        return Response()

    listener = make_server("127.0.0.1", 0, receive, threaded=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}", received
    listener.shutdown()
    thread.join()


def test_a_running_notifier_sends_the_spans_of_its_deliveries(
    hook: tuple[Receiver, int], url: str, collector: tuple[str, SimpleQueue[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": KEYS,
        "PORT": str(port),
        "WORKERS": "1",
        "WEBHOOKS": "insecure",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[0],
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    command = [sys.executable, "-m", "notifier", "serve"]
    with listening(command, settings, ready=f"http://127.0.0.1:{port}/readyz", log=tmp_path / "log"):
        requested(url, {}, traced=False)
        assert hook[0].arrived.acquire(timeout=60)
        while b"deliver task_changes" not in collector[1].get(timeout=60):
            pass
