"""Webhooks while the processes that deliver are killed, and PostgreSQL is restarted, in the middle of it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from task_api.config import Settings
from task_api.store.migrations import migrate
from task_api.tasks import service as tasks
from task_api.tasks.model import NewTask, TaskChanges
from task_api.webhooks import service
from task_core.database import Database
from tooling.postgres import postgres_server

CHANGES, KILLS, RESTARTS = 60, 4, 2
DELIVER = """
import sys
from datetime import timedelta
from threading import Event
from service_kit.outbound import Sender
from task_api.config import Settings
from task_core.database import Database
from task_api.webhooks import delivery
delivery.POLL_SECONDS, delivery.FIRST_DELAY, delivery.LONGEST_DELAY = 0.05, 0.05, 0.2
patience = delivery.Patience(lease=timedelta(seconds=1))
delivery.Deliverer(Database(Settings(database_url=sys.argv[1])), Sender(insecure=True), patience=patience).start()
Event().wait()
"""


class Receiver:
    """What arrives at each path; every fifth message is refused at first, so that attempts fail too."""

    def __init__(self) -> None:
        self.messages: dict[str, list[tuple[int, int]]] = {}
        self.attempts = 0
        self.changed = threading.Condition()

    def take(self, path: str, message: dict[str, Any]) -> int:
        with self.changed:
            self.attempts += 1
            status = 503 if self.attempts % 5 == 0 else 204
            if status == 204:
                self.messages.setdefault(path, []).append((message["data"]["id"], message["data"]["version"]))
            self.changed.notify_all()
            return status

    def firsts(self, path: str) -> list[tuple[int, int]]:
        """The messages at a path, each when it came first."""
        return list(dict.fromkeys(self.messages.get(path, [])))

    def wait(self, count: int) -> None:
        """Wait until so many attempts were made."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.attempts >= count, 120)


@contextmanager
def listening(receiver: Receiver) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(self.path, json.loads(body)))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # whoever sent was killed
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def replicas() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_every_change_arrives_in_order_while_deliverers_are_killed_and_the_database_is_restarted(
    replicas: list[subprocess.Popen[bytes]],
) -> None:
    receiver, chance = Receiver(), random.Random(19)
    with postgres_server() as server, listening(receiver) as url:
        settings = Settings(database_url=server.url, db_wait_seconds=30, threads=2)
        database = Database(settings)
        migrate(database)
        for path in ("/a", "/b"):
            service.create(database, 0, url + path, insecure=True)

        def replica() -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", DELIVER, server.url]
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ))

        replicas += [replica(), replica()]
        expected = []
        with database.write() as connection:
            held = tasks.create(connection, 0, NewTask(title="t"))
        expected.append((held.task.id, held.version))
        while len(expected) < CHANGES:
            with database.write() as connection:
                if chance.random() < 0.5:
                    held = tasks.create(connection, 0, NewTask(title="t"))
                else:
                    held = tasks.change(connection, held, TaskChanges(title=f"t{len(expected)}"), 0)
            expected.append((held.task.id, held.version))
        events = ["kill"] * KILLS + ["restart"] * RESTARTS
        chance.shuffle(events)
        for number, event in enumerate(events):
            receiver.wait((number + 1) * 2 * CHANGES // (len(events) + 2))
            if event == "kill":
                index = chance.randrange(2)
                replicas[index].send_signal(signal.SIGKILL)
                replicas[index].wait()
                replicas[index] = replica()
            else:
                server.stop()
                server.start()
        with receiver.changed:
            done = [(path, expected) for path in ("/a", "/b")]
            complete = receiver.changed.wait_for(
                lambda: [(path, receiver.firsts(path)) for path in ("/a", "/b")] == done, 120
            )
        assert complete, {path: receiver.firsts(path) for path in ("/a", "/b")}
        database.engine.dispose()
        repeated = sum(len(each) for each in receiver.messages.values()) - 2 * CHANGES
        print(f"{receiver.attempts} attempts, {repeated} changes delivered more than once")
