"""What a migration may do on PostgreSQL while the version before serves requests: Squawk judges its SQL."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from task_api.config import Settings
from task_api.store.migrations import migrate
from task_core.database import Database
from task_core.schema import REVISIONS

SQUAWK = Path(sys.executable).with_name("squawk")
TASTE = (
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-robust-stmts",  # Alembic runs no migration twice that was committed
    "prefer-text-field",
    "require-lock-timeout",  # each connection that migrates has one
    "require-statement-timeout",
)
DEFINITION = re.compile(r"\s*(?:CREATE|ALTER|DROP|TRUNCATE|COMMENT|REINDEX)\b", re.IGNORECASE)
ROWS = re.compile(
    r"\s*(?:WITH\b.*?)?(INSERT INTO|UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?)\s+(\w+)", re.IGNORECASE | re.DOTALL
)
REMEDY = "expand first: add what is new beside what is there, and take the old away when no version uses it"


@contextmanager
def transactions(folder: Path) -> Iterator[None]:
    """Write the definitions of each transaction to a file, and each that has none to one without `transaction`."""
    pending: list[str] = []

    def write(kind: str, statements: Sequence[str]) -> None:
        number = len(list(folder.iterdir()))
        (folder / f"{number:04}-{kind}.sql").write_text("".join(f"{one.strip().rstrip(';')};\n" for one in statements))

    def execute(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if DEFINITION.match(statement):
            raw: Any = connection.connection.driver_connection
            if raw.autocommit:
                write("alone", [statement])
            else:
                pending.append(statement)

    def commit(_: Connection) -> None:
        if pending:
            write("transaction", pending)
            pending.clear()

    event.listen(Engine, "before_cursor_execute", execute)
    event.listen(Engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", execute)
        event.remove(Engine, "commit", commit)


def judged(folder: Path) -> dict[str, set[str]]:
    """Return the rules that each file with findings breaks."""
    broken: dict[str, set[str]] = {}
    for kind, options in (("alone", []), ("transaction", ["--assume-in-transaction"])):
        files = sorted(folder.glob(f"*-{kind}.sql"))
        if files:
            command: list[str | Path] = [
                SQUAWK,
                "--pg-version=17",
                "--reporter=json",
                f"--exclude={','.join(TASTE)}",
                *options,
                *files,
            ]
            report = subprocess.run(command, capture_output=True, text=True, check=False)
            assert report.returncode in (0, 1), report.stderr
            for finding in json.loads(report.stdout):
                broken.setdefault(Path(finding["file"]).name, set()).add(finding["rule_name"])
    return broken


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
def test_the_version_before_keeps_working_during_and_after_each_migration(
    empty_settings: Settings, tmp_path: Path
) -> None:
    database = Database(empty_settings)
    broken: dict[str, Any] = {}
    for revision in REVISIONS:
        (folder := tmp_path / revision).mkdir()
        with transactions(folder):
            migrate(database, revision)
        assert list(folder.iterdir()), f"{revision} defines nothing: is its SQL recorded?"
        if findings := judged(folder):
            broken[revision] = findings
    database.engine.dispose()
    assert broken == {}, REMEDY


@pytest.mark.parametrize(
    ("kind", "statement", "rule"),
    [
        ("transaction", "ALTER TABLE tasks RENAME COLUMN title TO name", "renaming-column"),
        ("transaction", "ALTER TABLE tasks RENAME TO todos", "renaming-table"),
        ("transaction", "ALTER TABLE tasks ADD COLUMN label text NOT NULL", "adding-required-field"),
        ("transaction", "ALTER TABLE tasks ALTER COLUMN project SET NOT NULL", "adding-not-nullable-field"),
        ("transaction", "ALTER TABLE tasks DROP COLUMN project", "ban-drop-column"),
        ("transaction", "DROP TABLE deleted_tasks", "ban-drop-table"),
        ("transaction", "ALTER TABLE tasks ALTER COLUMN version TYPE bigint", "changing-column-type"),
        (
            "transaction",
            "ALTER TABLE tasks ADD CONSTRAINT short CHECK (length(title) < 9)",
            "constraint-missing-not-valid",
        ),
        ("transaction", "CREATE INDEX ix_tasks_label ON tasks (project)", "require-concurrent-index-creation"),
        ("alone", "CREATE INDEX ix_tasks_label ON tasks (project)", "require-concurrent-index-creation"),
    ],
)
def test_a_migration_that_the_version_before_cannot_live_with_is_reported(
    tmp_path: Path, kind: str, statement: str, rule: str
) -> None:
    (tmp_path / f"0-{kind}.sql").write_text(f"{statement};\n")
    assert judged(tmp_path) == {f"0-{kind}.sql": {rule}}


KNOWN = {
    "0002": {("INSERT INTO", "accounts"), ("INSERT INTO", "_alembic_tmp_tasks")},  # the account of AUTH=off
    "0003": {("INSERT INTO", "_alembic_tmp_tasks")},  # SQLite's way to change a table
    "0004": {("INSERT INTO", "tasks_search")},  # the index of what is there
    "0008": {("INSERT INTO", "account_usage")},  # counts what is there
    "0010": {("INSERT INTO", "change_feed")},  # one row
    "0020": {("UPDATE", "account_usage")},  # counts what is there again
}
"""What changes rows in a migration, and loses nothing that anybody has stored."""


@contextmanager
def changed_rows(changes: list[tuple[str, str]]) -> Iterator[None]:
    """Collect what changes rows: the statement's first words and its table, but for Alembic's own."""

    def execute(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if (change := ROWS.match(statement)) and change[2] != "alembic_version":
            changes.append((change[1].upper(), change[2]))

    event.listen(Engine, "before_cursor_execute", execute)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", execute)


def test_a_migration_changes_only_the_rows_that_it_is_known_to_change(empty_settings: Settings) -> None:
    """A statement over a whole table locks its rows, and may lose what people have stored: it needs a reason here."""
    database = Database(empty_settings)
    changed: dict[str, list[tuple[str, str]]] = {}
    for revision in REVISIONS:
        with changed_rows(changed.setdefault(revision, [])):
            migrate(database, revision)
    database.engine.dispose()
    unknown = {revision: set(changes) - KNOWN.get(revision, set()) for revision, changes in changed.items()}
    assert {revision: changes for revision, changes in unknown.items() if changes} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tasks SET priority = 1",
        "DELETE FROM deleted_tasks",
        "TRUNCATE task_changes",
        "WITH old AS (SELECT id FROM tasks) DELETE FROM tasks USING old WHERE tasks.id = old.id",
    ],
)
def test_a_statement_that_changes_rows_is_seen(empty_settings: Settings, statement: str) -> None:
    database = Database(empty_settings)
    seen: list[tuple[str, str]] = []
    with changed_rows(seen), suppress(DBAPIError), database.engine.connect() as connection:
        connection.exec_driver_sql(statement)
    database.engine.dispose()
    assert len(seen) == 1
