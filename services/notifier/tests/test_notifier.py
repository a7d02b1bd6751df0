import json
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from sqlalchemy import select

from notifier.app import Application, create_app
from notifier.cli import main
from notifier.config import Settings
from task_api.tasks import service as tasks
from task_api.tasks.model import NewTask
from task_api.webhooks import service as webhooks
from task_core import schema
from task_core.config import parse_keys
from task_core.database import Database
from task_core.encryption import Keyring
from tooling.service import free_port, listening

KEYS = f"k1:{secrets.token_urlsafe(32)}"


class Receiver:
    """Takes messages; `hold` keeps each response back until `go`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.arrived, self.go = threading.Semaphore(0), threading.Event()

    @contextmanager
    def serving(self) -> Iterator[str]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                receiver.arrived.release()
                assert receiver.go.wait(60)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        finally:
            self.go.set()
            server.shutdown()
            thread.join()
            server.server_close()


@contextmanager
def client_of(url: str) -> Iterator[FlaskClient]:
    settings = Settings(database_url=url, encryption_keys=parse_keys(KEYS))
    database = Database(settings)
    yield create_app(Application(settings, database)).test_client()
    database.engine.dispose()


@pytest.fixture
def client(url: str) -> Iterator[FlaskClient]:
    with client_of(url) as client:
        yield client


def row_of(database: Database, webhook_id: int) -> Any:
    with database.read() as connection:
        return connection.execute(select(schema.webhooks).where(schema.webhooks.c.id == webhook_id)).one()


def test_it_is_alive_ready_and_has_metrics(client: FlaskClient) -> None:
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    metrics = client.get("/metrics").text
    assert "notifier_draining 0.0" in metrics
    assert 'db_up{dialect="postgresql"} 1.0' in metrics


def test_it_is_not_ready_before_the_task_api_has_migrated_the_database(empty_url: str) -> None:
    with client_of(empty_url) as client:
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert "task-api migrate" in refused.text
        assert client.get("/livez").status_code == 200


def test_the_backlog_is_empty_before_it_was_read(client: FlaskClient) -> None:
    assert client.get("/backlog").json == {"due_seconds": 0.0, "oldest_seconds": 0.0, "waiting": 0, "disabled": 0}


def test_the_settings_are_shown_and_what_is_missing_is_named() -> None:
    runner = CliRunner()
    good = {"DATABASE_URL": "postgresql://me:secret@db/tasks", "HOST": "0.0.0.0", "WEBHOOKS": "insecure"}
    good["ENCRYPTION_KEYS"] = KEYS
    shown = runner.invoke(main, ["check-config"], env=good).output
    assert "note: HOST" in shown
    assert "note: WEBHOOKS=insecure" in shown
    assert "secret@" not in shown
    refused = runner.invoke(main, ["serve"], env={"PORT": "x"})
    assert (refused.exit_code, "notifier: PORT:" in refused.output) == (2, True)
    assert "notifier: DATABASE_URL: name the Task API's database" in refused.output
    assert "notifier: ENCRYPTION_KEYS: set those of the Task API" in refused.output


def test_it_delivers_and_on_sigterm_it_ends_after_what_it_delivers_and_leaves_no_lease(
    database: Database, url: str, tmp_path: Path
) -> None:
    receiver, log = Receiver(), tmp_path / "log"
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": KEYS,
        "PORT": str(port),
        "WORKERS": "1",
        "WEBHOOKS": "insecure",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "DRAIN_SECONDS": "1",
    }
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "notifier", "serve"]
    with receiver.serving() as hook, listening(command, settings, ready=f"{base}/readyz", log=log) as process:
        created = webhooks.create(database, Keyring(parse_keys(KEYS)), 0, hook, insecure=True)
        before = row_of(database, created.id).change_id
        for title in ("first", "second", "third"):
            with database.write() as connection:
                tasks.create(connection, 0, NewTask(title=title))
        assert receiver.arrived.acquire(timeout=60)
        metrics = httpx.get(f"{base}/metrics").text
        assert "webhook_oldest_undelivered_seconds" in metrics
        assert 'reminder_due_seconds{stage="outbox"} 0.0' in metrics
        assert 'reminders_total{late="true",result="put_out"} 0.0' in metrics
        with database.read() as connection:
            connected = "SELECT application_name, starts_with(query, 'LISTEN') FROM pg_stat_activity"
            assert {("notifier", False), ("notifier", True)} <= set(map(tuple, connection.exec_driver_sql(connected)))
        assert "db_pool_size 5.0" in metrics
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{base}/metrics").text.find("notifier_draining 1.0") < 0:
            pass
        receiver.go.set()
        assert process.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all("message" in line for line in lines)
    row = row_of(database, created.id)
    assert row.lease is None
    assert row.change_id - before == len(receiver.messages) > 0
    webhooks.remove(database, 0, created.id)
