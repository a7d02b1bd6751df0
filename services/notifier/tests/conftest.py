"""The database of the tests: a PostgreSQL of their own, that the Task API has migrated."""

from collections.abc import Iterator

import pytest

from task_api.store.migrations import migrate
from task_core.config import Settings
from task_core.database import Database
from tooling.postgres import postgres


@pytest.fixture(scope="session")
def empty_url() -> Iterator[str]:
    """The URL of a server's first database, which stays empty."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def database(empty_url: str) -> Iterator[Database]:
    """A migrated database of the same server."""
    first = Database(Settings(database_url=empty_url))
    with first.read() as connection:
        connection.exec_driver_sql("CREATE DATABASE tasks")
    first.engine.dispose()
    migrated = Database(Settings(database_url=f"{empty_url.rpartition('/')[0]}/tasks"))
    migrate(migrated)
    yield migrated
    migrated.engine.dispose()


@pytest.fixture(scope="session")
def url(database: Database) -> str:
    """The URL of the migrated database."""
    return database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
