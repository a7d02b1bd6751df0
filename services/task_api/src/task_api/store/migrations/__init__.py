"""Alembic's migrations. They only go forward, and only add: the version before keeps working on the schema after."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from task_core import changes
from task_core.database import Database
from task_core.errors import TableInUse
from task_core.postgresql import driver
from task_core.schema import REVISIONS

MIGRATION_LOCK = 7_216_301_554
LOCK_MILLISECONDS = 2_000
"""How long a change of a table waits for it: every request that comes later waits behind the change."""

TRIES = 60
PAUSE_SECONDS = 1.0


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for this package's migrations; `connection` is an open one to run them on."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def is_newer(revision: str | None) -> bool:
    """Return whether a database's revision is of a newer version than this one; None: it has none yet."""
    return revision not in {None, *REVISIONS}


def migrate(database: Database, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the database to a revision, one migration at a time; return the revisions before and after.

    On SQLite it is one transaction. On PostgreSQL each migration has its own, so that no table is locked for longer
    than its change takes; a migration that fails can be run again. A restored dump is made part of the feed of changes
    of its new server. A revision of a newer version stays, as after a rollback. Raises TableInUse.
    """
    before = database.revision()
    if database.dialect == "sqlite":
        if not is_newer(before):
            with database.write() as connection:
                command.upgrade(configuration(connection), revision)
    else:
        engine = database.migrating()
        try:
            with _alone(engine):
                if not is_newer(before):
                    _upgrade(engine, revision)
                if revision == "head":
                    with engine.begin() as connection:
                        changes.adopt(connection)
        finally:
            engine.dispose()
    return before, database.revision()


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold the lock that no two migrations hold at once.

    CREATE INDEX CONCURRENTLY waits for the end of every transaction that it saw with a snapshot. So one that holds the
    lock must have none: it does not wait within a statement, and uses the simple query protocol, which leaves no portal
    behind. And one that waits for the lock begins anew for each try, as it has a snapshot while it tries.
    """
    with engine.connect() as connection:
        execute = partial(driver(connection).execute, prepare=False)
        execute("BEGIN")
        while execute(f"SELECT pg_try_advisory_xact_lock({MIGRATION_LOCK})").fetchone() != (True,):
            execute("ROLLBACK")
            time.sleep(PAUSE_SECONDS)
            execute("BEGIN")
        yield


def _upgrade(engine: Engine, revision: str) -> None:
    for _ in range(TRIES):
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:

            @event.listens_for(connection, "begin")
            def limit(connection: Connection) -> None:
                if not driver(connection).autocommit:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")

            try:
                command.upgrade(configuration(connection), revision)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", "") != "55P03":  # lock_not_available
                    raise
            else:
                return
        time.sleep(PAUSE_SECONDS)
    raise TableInUse(
        f"a table was in use at each of {TRIES} tries: end the transactions that hold it (see pg_stat_activity),"
        " and migrate again"
    )
