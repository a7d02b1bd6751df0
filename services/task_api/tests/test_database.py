"""What a database may do to a service that runs: hang, be locked, replaced, read-only, full, or behind a pooler."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from task_api.config import Settings
from task_api.store.migrations import migrate
from task_core import database as database_module
from task_core import postgresql, prepared, sqlite
from task_core.database import Database, Unusable
from task_core.errors import down
from task_core.postgresql import REQUEST
from tooling.service import free_port

from .conftest import Client, Serve, client_of

only = pytest.mark.parametrize
SQLITE = only("settings", ["sqlite"], indirect=True)
POSTGRESQL = only("settings", ["postgresql"], indirect=True)


@contextmanager
def connected(settings: Settings, limits: postgresql.Limits = REQUEST) -> Iterator[Database]:
    database = Database(settings, limits)
    try:
        yield database
    finally:
        database.engine.dispose()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)


@POSTGRESQL
def test_a_server_that_hangs_is_given_up_and_its_connection_is_not_used_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "RETRY_SECONDS", 0)
    with connected(settings, REQUEST._replace(answer_seconds=0.2)) as database:
        with database.read() as connection:
            process = connection.scalar(text("SELECT pg_backend_pid()"))
            os.kill(process, signal.SIGSTOP)
            try:
                with pytest.raises(OperationalError, match=r"did not answer within 0\.2 seconds") as caught:
                    connection.scalar(text("SELECT 1"))
            finally:
                os.kill(process, signal.SIGCONT)
        assert caught.value.connection_invalidated
        with database.read() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) != process


@POSTGRESQL
def test_a_write_that_hangs_is_503_and_says_when_to_try_again(serve: Serve) -> None:
    client = serve()
    database: Database = client.application.extensions["service_kit"].database
    with database.read() as connection:
        process = connection.scalar(text("SELECT pg_backend_pid()"))
        postgresql.driver(connection).answer_seconds = 0.2
    os.kill(process, signal.SIGSTOP)
    try:
        answer = client.post("/tasks", json={"title": "t"}, headers={"Idempotency-Key": "k"})
    finally:
        os.kill(process, signal.SIGCONT)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


@POSTGRESQL
def test_a_request_ends_within_15_seconds_whatever_the_database_does(settings: Settings) -> None:
    with connected(settings) as database:
        pool_seconds = database.engine.pool.timeout()  # type: ignore[attr-defined]
    one = pool_seconds + postgresql.CONNECT_SECONDS + (REQUEST.answer_seconds or 99)
    queued = 2 * (REQUEST.answer_seconds or 99)  # behind one that hangs, then as the one that tries again
    assert max(one, queued) < 15


@POSTGRESQL
def test_after_a_hang_others_fail_at_once_until_the_database_answers_one_that_tries_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(postgresql, "monotonic", lambda: now[0])
    with connected(settings, REQUEST._replace(answer_seconds=0.2)) as database:
        with database.read() as connection:
            process = connection.scalar(text("SELECT pg_backend_pid()"))
            os.kill(process, signal.SIGSTOP)
            try:
                with pytest.raises(OperationalError):
                    connection.scalar(text("SELECT 1"))
            finally:
                os.kill(process, signal.SIGCONT)
        for use in (database.read, database.write, database.check):
            with pytest.raises(Unusable, match="a moment ago"), use() or nullcontext():
                pass
        now[0] += postgresql.RETRY_SECONDS
        database._breaker.check()  # the one that tries again
        with pytest.raises(Unusable, match="a moment ago"):
            database.read()
        now[0] += postgresql.RETRY_SECONDS
        database.check()
        database.check()


@SQLITE
@pytest.mark.parametrize("act", ["deleted", "replaced"])
def test_a_file_that_is_deleted_or_replaced_is_an_error_at_once_and_none_when_it_is_back(
    client: Client, settings: Settings, act: str
) -> None:
    assert client.post("/tasks", json={"title": "t"}).status_code == 201
    path = Path(settings.db_path)
    away = path.rename(path.with_suffix(".away"))
    if act == "replaced":
        shutil.copy(away, path)
    seen = [
        client.post("/tasks", json={"title": "t"}).status_code,
        client.get("/tasks").status_code,
        client.get("/readyz").status_code,
        client.get("/livez").status_code,
    ]
    away.rename(path)
    assert seen == [503, 503, 503, 200]
    assert client.get("/readyz").status_code == 200
    assert len(client.get("/tasks").json) == 1


@SQLITE
def test_a_write_whose_file_disappears_meanwhile_is_not_acknowledged(database: Database, settings: Settings) -> None:
    with pytest.raises(Unusable, match="was there at start"), database.write():
        Path(settings.db_path).unlink()


@SQLITE
def test_a_worker_that_connects_later_refuses_another_file_too(settings: Settings) -> None:
    with connected(settings) as database:
        database.check()
        database.close()  # as after a fork
        path = Path(settings.db_path)
        Path(shutil.copy(path, path.with_suffix(".copy"))).replace(path)
        with pytest.raises(Unusable, match="another file than at start"), database.engine.connect():
            pass


@pytest.mark.usefixtures("short_waits")
@SQLITE
def test_a_lock_that_another_process_holds_makes_it_not_ready_and_reads_go_on(
    client: Client, settings: Settings
) -> None:
    other = sqlite3.connect(settings.db_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    seen = [client.get(path).status_code for path in ("/readyz", "/tasks")]
    other.execute("ROLLBACK")
    other.close()
    assert seen == [503, 200]
    assert client.get("/readyz").status_code == 200


@SQLITE
@pytest.mark.parametrize(("waited", "left"), [(0, None), (7, 3000), (11, 0)])
def test_a_write_waits_for_writers_of_its_process_and_of_others_together(
    database: Database, monkeypatch: pytest.MonkeyPatch, waited: int, left: int | None
) -> None:
    with database.read() as connection:
        usual = connection.scalar(text("PRAGMA busy_timeout"))
    commands: list[str] = []
    command = prepared.command

    def spy(connection: Connection, sql: str) -> None:
        commands.append(sql)
        command(connection, sql)

    monkeypatch.setattr(database_module, "command", spy)
    monkeypatch.setattr(database_module, "monotonic", iter((0.0, float(waited))).__next__)
    with database.write() as connection:
        after = connection.scalar(text("PRAGMA busy_timeout"))
    assert commands[:1] == ["BEGIN IMMEDIATE" if left is None else f"PRAGMA busy_timeout = {left}"]
    assert after == usual == 10_000


@pytest.mark.usefixtures("short_waits")
@SQLITE
def test_a_write_gives_up_when_the_writers_of_its_process_take_too_long(database: Database) -> None:
    raised = threading.Event()

    def write() -> None:
        with pytest.raises(Unusable, match="took longer"), database.write():
            pass
        raised.set()

    with database.write():
        other = threading.Thread(target=write)
        other.start()
        other.join()
    assert raised.is_set()


@pytest.mark.usefixtures("short_waits")
@POSTGRESQL
def test_a_table_that_is_locked_makes_it_not_ready(client: Client, settings: Settings) -> None:
    with psycopg.connect(settings.database_url) as other:
        other.execute("LOCK TABLE tasks IN SHARE MODE")
        assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").status_code == 200


@POSTGRESQL
def test_a_read_only_postgresql_is_not_ready(settings: Settings) -> None:
    name = settings.database_url.rpartition("/")[2]
    with psycopg.connect(settings.database_url, autocommit=True) as other:
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            with connected(settings) as database, pytest.raises(Unusable, match="primary server"):
                database.check()
        finally:
            other.execute("SET default_transaction_read_only = off")
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@SQLITE
def test_a_read_only_sqlite_is_not_ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(settings) as database:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = on")  # root may write to any file
            with pytest.raises(OperationalError, match="readonly"):
                connection.exec_driver_sql("CREATE TABLE t (x)")
        monkeypatch.setattr(database_module, "BEGIN_SQLITE", "CREATE TABLE t (x)")
        with pytest.raises(OperationalError, match="readonly"):
            database.check()


@SQLITE
def test_a_full_disk_makes_it_not_ready(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(f_bavail=1, f_bfree=1, f_frsize=4096)
    with monkeypatch.context() as patch:
        patch.setattr("os.statvfs", lambda _: full)
        assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("empty_settings", ["sqlite"], indirect=True)
def test_a_new_file_is_its_owners_alone(empty_settings: Settings) -> None:
    with connected(empty_settings) as database:
        migrate(database)
        files = list(Path(empty_settings.db_path).parent.glob("tasks.db*"))
        assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
        assert database.notes == []
        Path(empty_settings.db_path).chmod(0o644)
        assert "chmod 600" in database.notes[0]


@POSTGRESQL
def test_the_connections_have_the_name_of_the_service(settings: Settings) -> None:
    with connected(settings) as database, database.read() as connection:
        assert connection.scalar(text("SELECT current_setting('application_name')")) == "task-api"


@POSTGRESQL
def test_options_and_other_parameters_of_the_url_go_before_the_defaults(settings: Settings) -> None:
    query = "?options=-csearch_path%3Dapp%20-c%20work_mem%3D8MB&application_name=mine&connect_timeout=9"
    changed = msgspec.structs.replace(settings, database_url=settings.database_url + query)
    with connected(changed) as database, database.read() as connection:
        names = ("search_path", "work_mem", "application_name", "statement_timeout", "TimeZone")
        shown = [connection.scalar(text(f"SELECT current_setting('{name}')")) for name in names]
        parameters = postgresql.driver(connection).info.get_parameters()
    assert shown == ["app", "8MB", "mine", "5s", "UTC"]
    assert parameters["connect_timeout"] == "9"


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
def test_tables_are_made_in_the_schema_that_the_url_names(empty_settings: Settings) -> None:
    url = empty_settings.database_url + "?options=-csearch_path%3Dapp"
    with psycopg.connect(empty_settings.database_url, autocommit=True) as other:
        other.execute("CREATE SCHEMA app")
        try:
            with connected(msgspec.structs.replace(empty_settings, database_url=url)) as database:
                migrate(database)
                database.check()
            counted = other.execute("SELECT table_schema, count(*) FROM information_schema.tables GROUP BY 1")
            schemas = {schema for schema, _ in counted}
        finally:
            other.execute("DROP SCHEMA app CASCADE")
    assert "app" in schemas
    assert "public" not in schemas


@contextmanager
def pgbouncer(url: str, folder: Path, **options: str) -> Iterator[str]:
    """Run PgBouncer in transaction mode in front of a server; yield the URL of the database `url` through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt install pgbouncer)")
    server, port = urlsplit(url), free_port()
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 2,
        **options,
    }
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=postgres\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    folder.chmod(0o755)
    user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}  # it refuses to run as root
    log = folder / "log"
    with configuration.open() as readable, log.open("wb") as written:  # the user nobody may not look into the folder
        process = subprocess.Popen([program, "/dev/stdin"], stdin=readable, stdout=written, stderr=written, **user)
    try:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield f"postgresql://postgres@127.0.0.1:{port}{server.path}"
    finally:
        process.terminate()
        process.wait()


@POSTGRESQL
@pytest.mark.parametrize("options", [{}, {"ignore_startup_parameters": "options"}])
def test_behind_pgbouncer_in_transaction_mode_it_works_with_the_same_limits(
    settings: Settings, tmp_path: Path, options: dict[str, str]
) -> None:
    with (
        pgbouncer(settings.database_url, tmp_path, **options) as url,
        connected(msgspec.structs.replace(settings, database_url=url)) as database,
    ):
        database.check()
        client = client_of(msgspec.structs.replace(settings, database_url=url), database)
        with ThreadPoolExecutor(4) as clients:
            post = partial(client.application.test_client().post, "/tasks", json={"title": "t"})
            assert {answer.status_code for answer in clients.map(lambda _: post(), range(40))} == {201}
        listed = client.get("/tasks?limit=1").json
        with database.write() as connection:
            limits = [connection.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]
        with database.read() as connection:
            assert postgresql.driver(connection).pooled
    assert limits == ["5s", "4s"]
    assert listed[0]["created_at"].endswith("Z")


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
def test_behind_pgbouncer_it_migrates(empty_settings: Settings, tmp_path: Path) -> None:
    with (
        pgbouncer(empty_settings.database_url, tmp_path) as url,
        connected(msgspec.structs.replace(empty_settings, database_url=url)) as database,
    ):
        migrate(database)
        database.check()


@POSTGRESQL
def test_an_option_that_pgbouncer_drops_is_refused_with_the_remedy(settings: Settings, tmp_path: Path) -> None:
    with pgbouncer(settings.database_url, tmp_path, ignore_startup_parameters="options") as url:
        changed = msgspec.structs.replace(settings, database_url=f"{url}?options=-csearch_path%3Dapp")
        with connected(changed) as database, pytest.raises(OperationalError, match=r"ALTER ROLE .* SET search_path"):
            database.revision()


@POSTGRESQL
def test_postgresql_is_down_when_it_takes_no_connection_or_does_not_answer(settings: Settings) -> None:
    with connected(settings) as database, database.read() as connection:
        connection.execute(text("SET statement_timeout = '10ms'"))
        with pytest.raises(OperationalError) as answered:
            connection.execute(text("SELECT pg_sleep(5)"))
        assert not down(answered.value)
        connection.invalidate()
        database._breaker.unanswered()
        with pytest.raises(Unusable) as unanswered:
            database.check()
        assert down(unanswered.value)
    nowhere = f"postgresql://127.0.0.1:{free_port()}/tasks"
    with connected(msgspec.structs.replace(settings, database_url=nowhere)) as database:
        with pytest.raises(OperationalError) as refused:
            database.check()
        assert down(refused.value)
