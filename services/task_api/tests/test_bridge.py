"""What requests meet while PostgreSQL changes hands: connections are ended and refused, until it serves again."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import sleep
from typing import Any, LiteralString

import httpx
import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import OperationalError

from task_api.config import Settings
from task_api.store import idempotency
from task_api.store.migrations import migrate
from task_core.database import Database
from task_core.errors import Unanswered, Unusable
from task_core.schema import LOCAL_ACCOUNT
from tooling.postgres import Server, postgres_server
from tooling.service import NO_AUTHORITIES, running

ONE = text("SELECT 1")
CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
NOTED = text("SELECT count(*) FROM noted")
NOTE = text("INSERT INTO noted VALUES (1)")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def settings(server: Server) -> Iterator[Settings]:
    """Settings of a service that waits longer than a restart takes; the database's table `noted` is empty."""
    settings = Settings(database_url=server.url, db_wait_seconds=30, threads=2)
    database = Database(settings)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS noted (number integer)"))
        connection.execute(text("DELETE FROM noted"))
    database.engine.dispose()
    yield settings
    server.stop()
    server.start()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings)
    yield database
    database.engine.dispose()


def noted(database: Database) -> int:
    with database.read() as connection:
        return int(connection.scalar(NOTED))


def test_a_connection_that_the_server_has_ended_meanwhile_is_not_used(server: Server, database: Database) -> None:
    assert noted(database) == 0
    server.stop()
    server.start()
    assert noted(database) == 0


def test_a_request_waits_for_the_next_primary(
    server: Server, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()
    connect = Database._connect

    def observed(database: Database) -> Connection:
        try:
            return connect(database)
        except OperationalError:
            tried.set()
            raise

    monkeypatch.setattr(Database, "_connect", observed)
    server.stop()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(noted, database)
        assert tried.wait(30)
        server.start()
        assert waiting.result() == 0


def test_a_request_waits_no_longer_than_the_setting(server: Server, settings: Settings) -> None:
    server.stop()
    impatient = Database(msgspec.structs.replace(settings, db_wait_seconds=0))
    with pytest.raises(OperationalError), impatient.read():
        pass
    server.start()


def test_one_thread_stays_free(server: Server, database: Database) -> None:
    assert database._bridge._places is not None
    assert database._bridge._places.acquire(blocking=False)  # of two threads, one waits already
    server.stop()
    with pytest.raises(OperationalError), database.read():
        pass
    server.start()


def test_a_service_with_one_thread_never_waits(server: Server, settings: Settings) -> None:
    server.stop()
    with pytest.raises(OperationalError), Database(msgspec.structs.replace(settings, threads=1)).read():
        pass
    server.start()


def end_session(connection: Connection) -> None:
    """End the server's process of a connection, as a primary does that steps down."""
    process = connection.scalar(text("SELECT pg_backend_pid()"))
    os.kill(process, signal.SIGTERM)


def test_a_transaction_that_was_not_sent_to_commit_is_done_once_more(database: Database) -> None:
    attempts = []

    def work(connection: Connection) -> str:
        attempts.append(connection)
        connection.execute(NOTE)
        if len(attempts) == 1:
            end_session(connection)
        connection.execute(ONE)
        return "done"

    assert database.transaction(work) == "done"
    assert (len(attempts), noted(database)) == (2, 1)


def test_a_transaction_whose_commit_was_sent_is_not_done_again(database: Database) -> None:
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(connection)
        connection.execute(NOTE)
        end_session(connection)

    with pytest.raises(OperationalError):
        database.transaction(work)
    assert len(attempts) == 1


def test_a_statement_that_the_server_refuses_is_not_sent_again(database: Database) -> None:
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(connection)
        connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(Exception, match="division by zero"):
        database.transaction(work)
    assert len(attempts) == 1


def test_a_database_that_hangs_is_not_waited_for(database: Database) -> None:
    database._breaker.unanswered()
    with pytest.raises(Unanswered), database.read():
        pass


@pytest.fixture
def unreplicated(server: Server) -> Callable[[Callable[[], object]], object]:
    """What does work while no standby is there, and cancels its wait for one; it returns what the work returns."""

    def restart(setting: LiteralString) -> None:
        with psycopg.connect(server.url, autocommit=True) as operator:
            operator.execute(setting)
        server.stop()  # a reload reaches one session after the other
        server.start()

    def run(work: Callable[[], object]) -> object:
        restart("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            with psycopg.connect(server.url, autocommit=True) as operator, ThreadPoolExecutor() as pool:
                working = pool.submit(work)
                while not (working.done() or operator.execute(CANCEL).fetchone()):
                    sleep(0.01)
                return working.result()
        finally:
            restart("ALTER SYSTEM RESET synchronous_standby_names")

    return run


def test_a_commit_that_no_standby_has_is_never_acknowledged(
    database: Database, unreplicated: Callable[[Callable[[], object]], object]
) -> None:
    def write() -> None:
        with database.write() as connection:
            connection.execute(NOTE)

    with pytest.raises(Unusable, match="on the primary alone"):
        unreplicated(write)
    assert noted(database) == 1
    write()


def test_the_result_of_a_key_is_repeated_once_a_standby_has_it(
    database: Database, unreplicated: Callable[[Callable[[], object]], object]
) -> None:
    migrate(database)
    now = datetime.now(UTC)

    def claim() -> Row[Any] | None:
        return database.transaction(
            lambda connection: idempotency.claim(connection, LOCAL_ACCOUNT, "key", b"digest", "name", now)
        )

    assert claim() is None
    with database.write() as connection:
        assert idempotency.keep(connection, LOCAL_ACCOUNT, "key", "name", b"result")
    with pytest.raises(Unusable, match="on the primary alone"):
        unreplicated(claim)
    holder = claim()
    assert holder is not None
    assert holder.response == b"result"


def test_streams_stay_open_without_a_database_and_go_on_with_it(server: Server, settings: Settings) -> None:
    values = {"DATABASE_URL": settings.database_url, "RATE_LIMIT": "off"}
    with (
        running(values, workers=1) as url,
        httpx.Client(base_url=url, timeout=60, verify=NO_AUTHORITIES) as client,
        client.stream("GET", "/tasks/changes", headers={"Accept": "text/event-stream"}) as stream,
    ):
        lines = stream.iter_lines()
        while '"more":false' not in next(lines):
            pass
        server.stop()
        while client.get("/readyz").status_code == 200:
            sleep(0.1)
        assert client.get("/livez").status_code == 200
        sleep(2)  # the service looks for changes in vain
        server.start()
        while client.post("/tasks", json={"title": "after"}).status_code != 201:
            sleep(0.1)
        while "after" not in next(lines):
            pass
