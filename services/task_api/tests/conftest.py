"""One suite for both databases: a test that uses `database` or `client` runs on SQLite and a real PostgreSQL."""

import itertools
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import structlog
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import create_engine, delete, insert, text, update

from service_kit.http.requests import EXTENSION
from task_api.accounts import passwords
from task_api.config import Settings
from task_api.http.app import create_app
from task_api.http.context import Services
from task_api.store.migrations import migrate
from task_core.config import SecretKey
from task_core.database import Database
from task_core.schema import LOCAL_ACCOUNT, accounts, change_feed, deleted_tasks, metadata, task_changes, tasks
from tooling.postgres import postgres

KEY = SecretKey("k1", "nF7wqz0TzY5cVxk2L9bR4mJ8sH1dGpQe")
PASSWORD = "a horse and its battery"
REAL_HASHER = passwords._hasher
_numbers = itertools.count()

structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)  # tests of logs set their own


def url_of(server: str, name: str) -> str:
    """The URL of another database of the same server."""
    return server.rpartition("/")[0] + f"/{name}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A server for this process."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Use hashes that cost next to nothing; `real_passwords` restores the service's own."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", cheap)
        passwords._unknown.cache_clear()
        yield


@pytest.fixture
def real_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", REAL_HASHER)


def _execute(server: str, statement: str) -> None:
    engine = create_engine(server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def spare_databases() -> list[str]:
    """URLs of PostgreSQL databases with nothing in them: to empty one is ten times as fast as to create it."""
    return []


@pytest.fixture
def empty_postgresql(postgresql_server: str, spare_databases: list[str]) -> Iterator[Callable[[], str]]:
    """Return a function that returns the URL of an empty database, which is emptied again after the test."""
    lent = []

    def lend() -> str:
        if not spare_databases:
            name = f"empty_{next(_numbers)}"
            _execute(postgresql_server, f"CREATE DATABASE {name}")
            spare_databases.append(url_of(postgresql_server, name))
        lent.append(spare_databases.pop())
        return lent[-1]

    yield lend
    for url in lent:
        _execute(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    spare_databases += lent


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a database with nothing in it, not even tables."""
    if request.param == "sqlite":
        return Settings(db_path=str(tmp_path / "tasks.db"))
    return Settings(database_url=request.getfixturevalue("empty_postgresql")())


@cache
def connected(url: str) -> Database:
    """A PostgreSQL database whose connections outlive a test: to make one takes longer than most tests."""
    return Database(Settings(database_url=url))


Migrated = Callable[[str, str, Path], Settings]


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migrated]:
    """Return a function that returns settings of a migrated, empty database, made once for this process.

    Of SQLite's each test has a copy in its folder; PostgreSQL's they have one after the other.
    """
    made: dict[str, Database] = {}

    def once(name: str, create: Callable[[], Database]) -> Database:
        if name not in made:
            made[name] = create()
            migrate(made[name])
        return made[name]

    def settings_of(kind: str, name: str, folder: Path) -> Settings:
        if kind == "sqlite":
            template = tmp_path_factory.getbasetemp() / "template.db"
            once("sqlite", lambda: Database(Settings(db_path=str(template)))).engine.dispose()
            path = folder / f"{name}.db"
            path.write_bytes(template.read_bytes())
            return Settings(db_path=str(path), rate_limit=None, encryption_keys=(KEY,))
        server = request.getfixturevalue("postgresql_server")
        url = url_of(server, name)

        def create() -> Database:
            _execute(server, f"CREATE DATABASE {name}")
            return connected(url)

        empty(once(name, create))
        return Settings(database_url=url, rate_limit=None, encryption_keys=(KEY,))

    yield settings_of
    for database in made.values():
        database.engine.dispose()


BEGIN_AGAIN = {
    "postgresql": "SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences",
    "sqlite": "DELETE FROM sqlite_sequence",
}


def empty(database: Database) -> None:
    """Delete all that tests have left, and begin at id 1 again. Of little, DELETE is faster than TRUNCATE."""
    with database.write() as connection:
        for first in (tasks, deleted_tasks, task_changes):  # triggers keep what is deleted of each in the next
            connection.execute(delete(first))
        for table in reversed(metadata.sorted_tables):
            if table is not change_feed:
                connection.execute(delete(table))
        connection.execute(text(BEGIN_AGAIN[database.dialect]))
        connection.execute(insert(accounts), {"id": LOCAL_ACCOUNT, "email": "local", "created_at": datetime.now(UTC)})


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, migrated: Migrated, tmp_path: Path) -> Settings:
    """Settings of a migrated database."""
    return migrated(request.param, "tests", tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def other_settings(request: pytest.FixtureRequest, migrated: Migrated, tmp_path: Path) -> Settings:
    """Settings of another migrated database."""
    return migrated(request.param, "other", tmp_path)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    if settings.postgresql:
        yield connected(settings.database_url)
    else:
        database = Database(settings)
        yield database
        database.engine.dispose()


class Client(Protocol):
    """Flask's test client, whose answers are read without a check that they hold JSON."""

    @property
    def application(self) -> Flask: ...
    def open(self, *arguments: Any, **options: Any) -> Any: ...
    def get(self, *arguments: Any, **options: Any) -> Any: ...
    def post(self, *arguments: Any, **options: Any) -> Any: ...
    def put(self, *arguments: Any, **options: Any) -> Any: ...
    def patch(self, *arguments: Any, **options: Any) -> Any: ...
    def delete(self, *arguments: Any, **options: Any) -> Any: ...
    def options(self, *arguments: Any, **options: Any) -> Any: ...
    def delete_cookie(self, key: str) -> None: ...


def client_of(settings: Settings, database: Database) -> Client:
    """A client of an application made with these."""
    client: Client = create_app(Services(settings, database)).test_client()
    return client


Serve = Callable[..., Client]


@pytest.fixture
def serve(settings: Settings) -> Iterator[Serve]:
    """Return a function that makes a client of an application over the test's database, with changed settings."""
    databases = []

    def make(**changes: Any) -> Client:
        changed = msgspec.structs.replace(settings, **changes)
        database = Database(changed)
        databases.append(database)
        return client_of(changed, database)

    yield make
    for database in databases:
        database.engine.dispose()


@pytest.fixture(scope="session")
def applications() -> dict[str, Flask]:
    """Applications that tests use one after the other: to add all routes takes longer than most tests."""
    nowhere = Settings(rate_limit=None)
    guarded = msgspec.structs.replace(nowhere, auth="on", jwt_keys=(KEY,))
    return {settings.auth: create_app(Services(settings, Database(settings))) for settings in (nowhere, guarded)}


Lend = Callable[..., Client]


@pytest.fixture
def lend(applications: dict[str, Flask], settings: Settings, database: Database) -> Lend:
    """Return a function that returns a client of one of these applications, over the test's database."""

    def lent(**changes: Any) -> Client:
        changed = msgspec.structs.replace(settings, **changes)
        application = applications[changed.auth]
        application.extensions[EXTENSION] = Services(changed, database)
        client: Client = application.test_client()
        return client

    return lent


@pytest.fixture
def client(lend: Lend) -> Client:
    """A client of the service without accounts."""
    return lend()


@pytest.fixture
def guarded(lend: Lend) -> Client:
    """A client of the service with accounts."""
    return lend(auth="on", jwt_keys=(KEY,))


def log_in_confirmed(client: Client, email: str = "ada@example.org") -> dict[str, str]:
    """Do as `log_in`, with an account whose address is confirmed."""
    headers = log_in(client, email)
    database: Database = client.application.extensions[EXTENSION].database
    with database.write() as connection:
        connection.execute(update(accounts).where(accounts.c.email == email).values(verified_at=datetime.now(UTC)))
    return headers


def log_in_tokens(client: Client, email: str = "ada@example.org") -> dict[str, Any]:
    """Make an account and return the tokens of a session of it."""
    client.post("/auth/register", json={"email": email, "password": PASSWORD})
    answer = client.post("/auth/login", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json
    return tokens


def log_in(client: Client, email: str = "ada@example.org") -> dict[str, str]:
    """Make an account and return the headers of a session of it."""
    return {"Authorization": f"Bearer {log_in_tokens(client, email)['access_token']}"}
