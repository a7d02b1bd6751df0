"""One object that gives connections: to read, or to write in a transaction."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from task_api.config import Settings
from task_api.store.prepared import WATCHED, command
from task_api.store.schema import REVISIONS

BUSY_SECONDS = 10
"""How long a connection waits for another's lock, for a free place in the pool or for a server, before it gives up."""

SERVER_SETTINGS = {
    "statement_timeout": "15s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
}

BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
"""Connections commit each statement by themselves; this begins what is to be committed as one. On SQLite it waits for
other writers at once: a transaction that read before it wrote could not wait, it would fail."""

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError)
"""What is raised when the database cannot be reached or does not answer: worth another try later."""


class SchemaBehind(Exception):
    """The database is at an older revision than the service needs."""


class Database:
    """The database that the settings name. Connects when first asked, so it may be made before a fork."""

    def __init__(self, settings: Settings) -> None:
        self.engine = _postgresql(settings) if settings.postgresql else _sqlite(settings)
        self.dialect = self.engine.dialect.name
        self._turn: AbstractContextManager[Any] = nullcontext() if settings.postgresql else Lock()
        """SQLite has one writer at a time: threads wait for theirs here, where SQLite would sleep and look again."""

    def read(self) -> Connection:
        """A connection for statements that change nothing, each its own transaction."""
        return self.engine.connect()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end, and rolled back on an exception."""
        with self._turn, self.engine.connect() as connection:
            command(connection, BEGIN[self.dialect])
            yield connection
            command(connection, "COMMIT")

    def check(self) -> None:
        """Raise one of UNAVAILABLE when the database does not answer, SchemaBehind when it has to be migrated first."""
        current = self.revision()
        if current is None or current in REVISIONS[:-1]:
            raise SchemaBehind(
                f"the schema is at {current or 'nothing'} and {REVISIONS[-1]} is needed: run `task-api migrate`"
            )

    def revision(self) -> str | None:
        """The migration that the database is at; None for an empty one."""
        with self.read() as connection:
            try:
                found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            except (OperationalError, ProgrammingError) as error:
                if "alembic_version" in str(error.orig):
                    return None
                raise
            return found

    def watched(self) -> Engine:
        """The engine, for one who listens to its statements: from now on it tells of every one."""
        self.engine.update_execution_options(**{WATCHED: True})
        return self.engine

    def close(self) -> None:
        """Give every connection back, as a child process must before its first use."""
        self.engine.dispose(close=False)


def _sqlite(settings: Settings) -> Engine:
    Path(settings.db_path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=settings.db_path),
        hide_parameters=True,  # errors are logged, and hold what people wrote
        paramstyle="named",
        connect_args={
            "timeout": BUSY_SECONDS,
            "isolation_level": None,
            "check_same_thread": False,
            "cached_statements": 512,
        },
        pool_size=max(settings.db_pool_size, settings.threads),
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _postgresql(settings: Settings) -> Engine:
    url = make_url(settings.database_url).set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "connect_timeout": BUSY_SECONDS // 2,
            "tcp_user_timeout": BUSY_SECONDS * 1000,  # a server that has vanished is not waited for
            "keepalives_idle": BUSY_SECONDS,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "application_name": "task-api",
            "options": " ".join(f"-c {name}={value}" for name, value in SERVER_SETTINGS.items()),
        },
        pool_size=settings.db_pool_size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS // 2,
    )


def await_database(database: Database, seconds: float) -> None:
    """Wait until the database answers, for a server that starts beside us. Raises what it raised last."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            database.revision()
        except DBAPIError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return
