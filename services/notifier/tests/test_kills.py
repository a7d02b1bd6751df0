"""Delivery while notifiers are killed, PostgreSQL is restarted, and receivers fail in each way that they can."""

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any

import pytest
from sqlalchemy import Select, func, select, update

from task_api.store.migrations import migrate
from task_api.tasks import service as tasks
from task_api.tasks.model import NewTask, Reminder, TaskChanges
from task_api.webhooks import service
from task_core.config import Settings, parse_keys
from task_core.database import Database
from task_core.encryption import Keyring
from task_core.schema import task_changes, task_reminders
from tooling.postgres import postgres_server
from tooling.service import environment

CHANGES, KILLS, RESTARTS = 60, 4, 2
KEYS = f"k1:{secrets.token_urlsafe(32)}"
FAULTS = ("/refuses", "/redirects", "/garbage", "/closes", "/slow")
"""What each path does with every fifth attempt."""

REMINDERS, REMINDER_KILLS = 300, 6

SERVE = """
from datetime import timedelta
from functools import partial
from service_kit.outbound import Limits, Sender
from task_core import delivery, reminders, start
delivery.LISTENING_POLL_SECONDS, delivery.FIRST_DELAY, delivery.LONGEST_DELAY = 0.05, 0.05, 0.2
reminders.PIECE, reminders.POLL_SECONDS = 5, 0.02
start.Sender = partial(Sender, Limits(read=0.5, total=0.7))
start.Deliverer = partial(delivery.Deliverer, patience=delivery.Patience(lease=timedelta(seconds=1)))
from notifier.cli import main
main(["serve"])
"""
"""The service, with times that let the test end in seconds."""


class Receiver:
    """What arrives at each path."""

    def __init__(self) -> None:
        self.messages: dict[str, list[tuple[int, int]]] = {path: [] for path in FAULTS}
        self.attempts: Counter[str] = Counter()
        self.changed = threading.Condition()
        self.over = threading.Event()

    def take(self, path: str, message: dict[str, Any]) -> bool:
        """Keep a message, and return whether it was taken."""
        with self.changed:
            self.attempts[path] += 1
            taken = self.attempts[path] % 5 != 0
            if taken:
                self.messages[path].append((message["data"]["id"], message["data"]["version"]))
            self.changed.notify_all()
            return taken

    @property
    def firsts(self) -> dict[str, list[tuple[int, int]]]:
        """The messages at each path, each when it came first."""
        return {path: list(dict.fromkeys(messages)) for path, messages in self.messages.items()}

    def wait(self, count: int) -> None:
        """Wait until so many attempts were made."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.attempts.total() >= count, 120)

    @contextmanager
    def serving(self) -> Iterator[str]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.take(self.path, message):
                    self.send_response(204)
                    self.end_headers()
                else:
                    self.fail()

            def fail(self) -> None:
                match self.path:
                    case "/redirects":
                        self.send_response(307)
                        self.send_header("Location", "/elsewhere")
                        self.end_headers()
                    case "/garbage":
                        self.wfile.write(b"\0\xff 200 OK\r\n" * 10)
                    case "/closes":
                        self.connection.shutdown(socket.SHUT_RDWR)
                    case "/slow":
                        self.wfile.write(b"HTTP/1.1 ")
                        receiver.over.wait(10)
                    case _:
                        self.send_response(503)
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
            self.over.set()
            server.shutdown()
            thread.join()
            server.server_close()


class Replicas:
    """Two notifiers, each in a process group of its own: the master and its worker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.running = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "DATABASE_URL": self._url,
            "PORT": "0",
            "WORKERS": "1",
            "WEBHOOKS": "insecure",
            "ENCRYPTION_KEYS": KEYS,
        }
        command = [sys.executable, "-c", SERVE]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment(settings), start_new_session=True, **quiet)  # type: ignore[call-overload,no-any-return]

    def kill(self, index: int) -> None:
        """Kill all processes of a replica."""
        os.killpg(self.running[index].pid, signal.SIGKILL)
        self.running[index].wait()

    def replace(self, index: int) -> None:
        """Kill a replica and start another."""
        self.kill(index)
        self.running[index] = self._start()


@contextmanager
def replicated(url: str) -> Iterator[Replicas]:
    replicas = Replicas(url)
    try:
        yield replicas
    finally:
        for index in (0, 1):
            replicas.kill(index)


def test_every_change_arrives_in_order_while_notifiers_are_killed_and_the_database_is_restarted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    receiver, chance = Receiver(), random.Random(19)
    with postgres_server() as server, receiver.serving() as url:
        database = Database(Settings(database_url=server.url, db_wait_seconds=30, threads=2))
        migrate(database)
        for path in FAULTS:
            service.create(database, Keyring(parse_keys(KEYS)), 0, url + path, insecure=True)
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
        with replicated(server.url) as replicas:
            for number, event in enumerate(events):
                receiver.wait((number + 1) * len(FAULTS) * CHANGES // (len(events) + 2))
                if event == "kill":
                    replicas.replace(chance.randrange(2))
                else:
                    server.stop()
                    server.start()
            with receiver.changed:
                wanted = dict.fromkeys(FAULTS, expected)
                complete = receiver.changed.wait_for(lambda: receiver.firsts == wanted, 240)
        assert complete, receiver.firsts
        database.engine.dispose()
    repeated = sum(map(len, receiver.messages.values())) - len(FAULTS) * CHANGES
    with capsys.disabled():
        print(f"\n{receiver.attempts.total()} attempts, {repeated} messages more than once")


def counted(database: Database, statement: Select[int]) -> int:
    with database.read() as connection:
        return connection.scalar(statement) or 0


def test_every_reminder_goes_out_once_and_arrives_while_notifiers_are_killed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    receiver, chance = Receiver(), random.Random(20)
    with postgres_server() as server, receiver.serving() as url:
        database = Database(Settings(database_url=server.url, db_wait_seconds=30, threads=2))
        migrate(database)
        new = NewTask(title="t", reminders=[Reminder(at=datetime.now(UTC) + timedelta(days=1))])
        with database.write() as connection:
            ids = [tasks.create(connection, 0, new).task.id for _ in range(REMINDERS)]
        service.create(
            database, Keyring(parse_keys(KEYS)), 0, url + FAULTS[0], insecure=True
        )  # of what changes from now on
        gone_out = select(func.count()).where(task_changes.c.remind_at.is_not(None))
        killed_at = []
        with replicated(server.url) as replicas:
            with database.write() as connection:
                connection.execute(update(task_reminders).values(remind_at=datetime.now(UTC)))
            for number in range(REMINDER_KILLS):
                while (count := counted(database, gone_out)) < number * REMINDERS // REMINDER_KILLS:
                    sleep(0.01)
                killed_at.append(count)
                replicas.replace(chance.randrange(2))
            with receiver.changed:
                messages = receiver.messages[FAULTS[0]]
                complete = receiver.changed.wait_for(lambda: {task for task, _ in messages} >= set(ids), 240)
        with database.read() as connection:
            entries = connection.scalars(
                select(task_changes.c.task_id).where(task_changes.c.remind_at.is_not(None))
            ).all()
            left = connection.scalar(select(func.count()).select_from(task_reminders))
        database.engine.dispose()
    assert complete, receiver.messages
    assert (Counter(entries), left) == (Counter(ids), 0)
    repeated = len(receiver.messages[FAULTS[0]]) - REMINDERS
    with capsys.disabled():
        print(f"\n{REMINDERS} reminders, once each in the outbox; killed at {killed_at}; {repeated} arrived again")
