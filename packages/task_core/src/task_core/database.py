"""One object that opens connections: to read, or to write in a transaction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic, sleep
from typing import TypeVar

from sqlalchemy import Connection, Engine, text, update
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from task_core import postgresql, sqlite
from task_core.config import Settings
from task_core.errors import UNAVAILABLE, SchemaBehind, TableInUse, Unusable
from task_core.postgresql import REQUEST, Limits
from task_core.prepared import WATCHED, command
from task_core.schema import REVISIONS, task_changes

__all__ = ["UNAVAILABLE", "Database", "SchemaBehind", "TableInUse", "Unusable", "await_database"]

CHECK_SECONDS = 1.0
"""How long the readiness check waits for a lock; a database that hangs has twice that to answer."""

R = TypeVar("R")

BEGIN_SQLITE = "BEGIN IMMEDIATE"
"""Waits for other writers at once: a transaction that read before it wrote could not wait, it would fail."""
_LAST_CHANGE = text("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'task_changes'")


class Database:
    """The database that the settings name. Connects on first use, so it may be made before a fork.

    Connections commit each statement by themselves; `write` begins what is committed as one.
    """

    def __init__(self, settings: Settings, limits: Limits = REQUEST) -> None:
        self._settings = settings
        self._traceparent: Callable[[], str | None] = lambda: None
        self._file = None if settings.postgresql else sqlite.DatabaseFile(settings.sqlite_path)
        self._breaker = postgresql.Breaker()
        self._bridge = postgresql.Bridge(settings.db_wait_seconds if limits is REQUEST else 0, settings.threads)
        if self._file is None:
            self.engine = postgresql.engine(settings, limits, self._breaker)
        else:
            self.engine = sqlite.engine(settings, self._file)
        self.dialect = self.engine.dialect.name
        self._writer = Lock()
        """SQLite has one writer at a time: threads wait for their turn here, where SQLite would sleep and retry."""

    def read(self) -> Connection:
        """A connection for statements that change nothing, each its own transaction. Never waits for a write."""
        if self._file:
            self._file.check()
            return self.engine.connect()
        return self._bridge.cross(self._connect)

    def peek(self) -> Connection:
        """A connection as of `read`, for who looks again and again beside the requests.

        It waits for no database that changes hands, which takes the place of a request, and is in no trace.
        """
        connection = self.read() if self._file else self._connect()
        return connection.execution_options(**{WATCHED: False})

    def _connect(self) -> Connection:
        self._breaker.check()
        return self.engine.connect()

    def _begin(self) -> Connection:
        """Return a connection in a new transaction of PostgreSQL."""
        connection = self._connect()
        try:
            command(connection, postgresql.driver(connection).begin)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end, and rolled back on an exception.

        Raises one of UNAVAILABLE: also when SQLite's file is no longer the one that was opened, in which case what was
        committed may be lost.
        """
        if self._file:
            with self._sqlite_write(self._file, sqlite.BUSY_SECONDS) as connection:
                with self._traced(connection):
                    yield connection
                command(connection, "COMMIT")
                self._file.check()
        else:
            with self._bridge.cross(self._begin) as connection:
                with self._traced(connection):
                    yield connection
                postgresql.commit(connection)

    @contextmanager
    def _traced(self, connection: Connection) -> Iterator[None]:
        """Note on the changes that a transaction makes which span it is part of, where that is traced."""
        traceparent = self._traceparent()
        if traceparent is None:
            yield
            return
        change = task_changes.c
        made = change.transaction_id == text("pg_current_xact_id_if_assigned()::text::bigint")
        if self._file:  # one writes at a time, and ids only grow
            made = change.id > connection.scalar(_LAST_CHANGE)
        yield
        connection.execute(update(task_changes).where(made).values(traceparent=traceparent))

    def settle(self) -> None:
        """Bring SQLite's file to what is committed: until then it has what was overwritten in its log alone.

        Raises Unusable where another process reads the file as it was for longer than a write waits.
        """
        if self._file:
            with self.read() as connection:
                busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
            if busy:
                raise Unusable(
                    "DB_PATH: what was overwritten is still in SQLite's file, as another process reads it from before,"
                    " such as an export or a backup: run this again after that"
                )

    def transaction(self, work: Callable[[Connection], R]) -> R:
        """Return what `work` returns, done in a transaction; raises what `write` raises.

        Where the database is lost before COMMIT is sent, nothing of the transaction is kept, and `work` is done once
        more. After that nobody knows, and doing it again could double it.
        """
        sent = False

        def attempt() -> R:
            nonlocal sent
            with self.write() as connection:
                result = work(connection)
                sent = True
            return result

        try:
            return attempt()
        except DBAPIError as error:
            if sent or not error.connection_invalidated:
                raise
        return attempt()

    @contextmanager
    def _sqlite_write(self, file: sqlite.DatabaseFile, seconds: float) -> Iterator[Connection]:
        """A connection that holds SQLite's write lock, for which threads and processes wait `seconds` in all."""
        deadline = monotonic() + seconds
        if not self._writer.acquire(timeout=seconds):
            raise Unusable(f"the writers before this one took longer than {seconds:g} seconds")
        try:
            file.check()
            with self.engine.connect() as connection:
                left = deadline - monotonic()
                if left < 0.9 * sqlite.BUSY_SECONDS:  # else the connection's own timeout will do, for free
                    command(connection, f"PRAGMA busy_timeout = {max(0, int(left * 1000))}")
                    try:
                        command(connection, BEGIN_SQLITE)
                    finally:
                        command(connection, f"PRAGMA busy_timeout = {sqlite.BUSY_SECONDS * 1000}")
                else:
                    command(connection, BEGIN_SQLITE)
                yield connection
        finally:
            self._writer.release()

    def check(self) -> None:
        """Raise what a write would meet, without writing: Unusable, SchemaBehind or another of UNAVAILABLE."""
        if self._file:
            with self._sqlite_write(self._file, CHECK_SECONDS) as connection:
                current = _revision(connection)
                command(connection, "ROLLBACK")
            self._file.check_space()
        else:
            current = self._check_postgresql()
        if current is None or current in REVISIONS[:-1]:
            raise SchemaBehind(
                f"the schema is at {current or 'nothing'} and {REVISIONS[-1]} is needed: run `task-api migrate`"
            )

    def _check_postgresql(self) -> str | None:
        self._breaker.check()
        with self.engine.connect() as connection:
            driver = postgresql.driver(connection)
            limit, driver.answer_seconds = driver.answer_seconds, 2 * CHECK_SECONDS
            try:
                command(connection, f"BEGIN; SET LOCAL lock_timeout = {int(CHECK_SECONDS * 1000)}")
                current = _revision(connection)
                if current is not None:
                    if connection.scalar(text("SELECT current_setting('transaction_read_only')")) == "on":
                        raise Unusable(
                            "the database is read-only: DATABASE_URL has to name the primary server, and"
                            " default_transaction_read_only has to be off"
                        )
                    command(connection, "LOCK TABLE tasks IN ROW EXCLUSIVE MODE")  # as each write does
                    command(connection, "ROLLBACK")
            finally:
                driver.answer_seconds = limit
        return current

    def revision(self) -> str | None:
        """The migration that the database is at; None for an empty one."""
        with self.read() as connection:
            return _revision(connection)

    @property
    def notes(self) -> list[str]:
        """What is less safe than it could be about the database, for the log at start."""
        if self._file and self._file.readable_by_others:
            return [f"DB_PATH: other users may read {str(self._file.path)!r}: run chmod 600 on it"]
        return []

    def migrating(self) -> Engine:
        """An engine of its own for migrations: without limits, and with transactions that SQLAlchemy begins."""
        return postgresql.engine(self._settings, postgresql.MIGRATION, self._breaker)

    def watched(self) -> Engine:
        """The engine, for a listener to its statements: from now on it reports all of them."""
        self.engine.update_execution_options(**{WATCHED: True})
        return self.engine

    def trace(self, traceparent: Callable[[], str | None]) -> None:
        """Have each transaction note on its changes what the function returns; None for nothing."""
        self._traceparent = traceparent

    def close(self) -> None:
        """Forget every connection without closing it, as a child process must before its first use."""
        self.engine.dispose(close=False)


def _revision(connection: Connection) -> str | None:
    try:
        current: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except (OperationalError, ProgrammingError) as error:
        if "alembic_version" in str(error.orig):
            return None
        raise
    return current


def await_database(database: Database, seconds: float) -> None:
    """Wait until the database answers, for a server that starts beside the service. Raises the last error."""
    deadline = monotonic() + seconds
    while True:
        try:
            database.revision()
        except DBAPIError:
            if monotonic() > deadline:
                raise
            sleep(0.5)
        else:
            return
