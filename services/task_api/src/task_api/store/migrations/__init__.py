"""Alembic's migrations. They only go forward, and only add: the version before keeps working on the schema after."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from task_api.store.database import Database

MIGRATION_LOCK = 7_216_301_554


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration for this package's migrations, on an open connection where one is given."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrate(database: Database, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the database to a revision, in one transaction that no other migration overlaps; gives (before, after)."""
    before = database.revision()
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        command.upgrade(configuration(connection), revision)
    return before, database.revision()
