"""Changes of tables that may be large, made while others read and write them.

PostgreSQL makes such a change outside of a transaction: what the migration did before is committed first, and a
migration that was interrupted runs again from its first line. So each of its steps passes over what has been done.
SQLite has one transaction for all migrations, which its writers wait for.
"""

from alembic import op
from sqlalchemy import inspect, text

_INVALID = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")


def has_table(name: str) -> bool:
    """Return whether the table is there, from an earlier run of this migration."""
    return inspect(op.get_bind()).has_table(name)


def has_column(table: str, name: str) -> bool:
    """Return whether the column is there, from an earlier run of this migration."""
    return any(column["name"] == name for column in inspect(op.get_bind()).get_columns(table))


def validate(table: str, constraint: str) -> None:
    """Check a constraint that was added with `postgresql_not_valid` against the rows that are there."""
    if op.get_bind().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def create_indexes(**definitions: str) -> None:
    """Create indexes by name, each from what follows ON in CREATE INDEX.

    An invalid index, which an interrupted run leaves behind, is replaced.
    """
    if op.get_bind().dialect.name == "sqlite":
        for name, definition in definitions.items():
            op.execute(f"CREATE INDEX {name} ON {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in definitions.items():
            if op.get_bind().scalar(_INVALID, {"name": name}):
                op.execute(f"DROP INDEX CONCURRENTLY {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
