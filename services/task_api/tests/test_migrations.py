from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeout
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from task_api.config import Settings
from task_api.store import migrations, usage
from task_api.store.migrations import configuration, migrate
from task_api.store.migrations import online as operations
from task_api.tasks import service
from task_api.tasks.model import TaskQuery
from task_core.database import Database, SchemaBehind, TableInUse
from task_core.schema import REVISIONS, metadata

BY_HAND = ("tasks_search", "search_tasks_", "alembic_version")
"""Made by migrations, not part of the metadata: full-text search, indexes of expressions, Alembic's own table."""

AT = "'2026-01-02 03:04:05.000006+00:00'"
INSERTS = {
    "0001": "INSERT INTO tasks (title, description, status, created_at, updated_at)"
    f" VALUES ('of 0001', 'old words', 'completed', {AT}, {AT})",
    "0002": "INSERT INTO tasks (title, description, status, created_at, updated_at, owner_id)"
    f" VALUES ('of 0002', 'old words', 'pending', {AT}, {AT}, 0)",
    "0003": "INSERT INTO tasks (title, description, status, created_at, updated_at, owner_id, priority,"
    " due_at, version)"
    f" VALUES ('of 0003', 'old words', 'pending', {AT}, {AT}, 0, 2,"
    " '2027-01-01 00:00:00.000000+00:00', 5)",
}
for later in REVISIONS[REVISIONS.index("0004") :]:
    INSERTS[later] = INSERTS["0003"].replace("of 0003", f"of {later}")


def not_by_hand(_object: Any, name: str | None, _kind: str, _reflected: bool, _compare_to: Any) -> bool:
    return not (name or "").startswith(BY_HAND)


@pytest.fixture
def empty(empty_settings: Settings) -> Any:
    database = Database(empty_settings)
    yield database
    database.engine.dispose()


@pytest.fixture
def short_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_MILLISECONDS", 10)
    monkeypatch.setattr(migrations, "PAUSE_SECONDS", 0.01)


def test_the_chain_of_migrations_is_the_one_that_readiness_knows() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == REVISIONS


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_migrations_and_metadata_make_the_same_tables(empty: Database) -> None:
    migrate(empty)
    with empty.engine.connect().execution_options(reading=True) as connection:
        context = MigrationContext.configure(
            connection, opts={"include_object": not_by_hand, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("start", REVISIONS[:-1])
def test_every_revision_upgrades_to_the_newest_with_its_data(empty: Database, start: str) -> None:
    migrate(empty, start)
    with pytest.raises(SchemaBehind):
        empty.check()
    with empty.write() as connection:
        connection.execute(text(INSERTS[start]))
        columns = ", ".join(column["name"] for column in inspect(connection).get_columns("tasks"))
        before = connection.execute(text(f"SELECT {columns} FROM tasks")).mappings().one()
    assert migrate(empty) == (start, REVISIONS[-1])
    empty.check()
    with empty.read() as connection:
        after = connection.execute(text("SELECT * FROM tasks")).mappings().one()
        assert {name: after[name] for name in before} == dict(before)
        matches, _ = service.page(connection, 0, TaskQuery(q="old"))
        assert usage.of(connection, 0) == usage.Usage(1, len(f"of {start}old words"))
    assert [versioned.task.title for versioned in matches] == [f"of {start}"]
    with empty.write() as connection:
        held = service.get(connection, 0, matches[0].task.id, lock=True)
        service.delete(connection, held, 0)


TEXTS = INSERTS["0003"].replace("(title,", "(project, recurrence, time_zone, labels, reminders, title,")
TEXTS = TEXTS.replace("VALUES (", """VALUES ('\u00e9', 'FREQ=DAILY', 'UTC', '["a"]', '[60]', """)
"""A task whose texts, but for title and description, have 20 bytes beside the brackets of two lists."""


def test_texts_that_no_trigger_counted_count_after_the_migration(empty: Database) -> None:
    migrate(empty, "0019")
    with empty.write() as connection:
        connection.execute(text(TEXTS))
        connection.execute(text(INSERTS["0019"]))
        assert usage.of(connection, 0) == usage.Usage(2, 2 * len("of 0003old words") + 3)
    migrate(empty)
    with empty.write() as connection:
        assert usage.of(connection, 0) == usage.Usage(2, 2 * len("of 0003old words") + 20)
        connection.execute(text("DELETE FROM tasks WHERE title = 'of 0003'"))
        assert usage.of(connection, 0) == usage.Usage(1, len("of 0019old words"))


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("short_tries")
def test_a_task_that_is_written_while_the_usage_is_counted_anew_counts_once(empty: Database) -> None:
    migrate(empty, "0019")
    with ThreadPoolExecutor(1) as pool:
        with empty.write() as writer:
            writer.execute(text(TEXTS))
            migration = pool.submit(migrate, empty)
            with pytest.raises(FuturesTimeout):
                migration.result(0.2)
            function = writer.scalar(text("SELECT prosrc FROM pg_proc WHERE proname = 'count_account_usage'"))
            assert "recurrence" not in function, "who is within it would count by the old one afterwards"
            writer.execute(text(TEXTS))
        migration.result()
    with empty.write() as connection:
        assert usage.of(connection, 0) == usage.Usage(2, 2 * (len("of 0003old words") + 20))


def test_migrating_again_changes_nothing(empty: Database) -> None:
    migrate(empty)
    assert migrate(empty) == (REVISIONS[-1], REVISIONS[-1])


@pytest.mark.parametrize("empty_settings", ["sqlite"], indirect=True)
def test_a_failing_migration_leaves_sqlites_schema_as_it_was(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(empty, "0002")
    monkeypatch.setattr(operations, "create_indexes", fail)
    with pytest.raises(RuntimeError):
        migrate(empty)
    assert empty.revision() == "0002"
    with empty.read() as connection:
        assert "priority" not in {column["name"] for column in inspect(connection).get_columns("tasks")}


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_a_migration_that_was_interrupted_on_postgresql_is_completed_by_the_next_run(
    empty: Database, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    migrate(empty, revision)
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "execute", interrupted(Operations.execute))
        with pytest.raises(RuntimeError):
            migrate(empty)
    with empty.read() as connection:
        invalid = connection.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid"))
    assert (empty.revision(), invalid) == (revision, 1)
    migrate(empty)
    empty.check()
    with empty.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0


def fail(**_: str) -> None:
    raise RuntimeError


def interrupted(execute: Any) -> Any:
    """The operation, which leaves the first index invalid that it creates, and fails."""

    def run(operations: Any, sql: Any, *arguments: Any, **options: Any) -> None:
        execute(operations, sql, *arguments, **options)
        if "CREATE INDEX CONCURRENTLY" in str(sql):
            name = str(sql).split(" ON ")[0].rsplit(" ", 1)[1]
            invalidate = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass"
            execute(operations, f"{invalidate}('{name}')")
            raise RuntimeError

    return run


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("short_tries")
def test_a_migration_waits_for_a_table_in_short_tries_and_lets_others_read_meanwhile(
    empty: Database,
) -> None:
    migrate(empty, "0002")
    with ThreadPoolExecutor(1) as pool:
        with empty.read() as reader:
            reader.exec_driver_sql("BEGIN; LOCK TABLE tasks IN ACCESS SHARE MODE")
            migration = pool.submit(migrate, empty)
            with empty.read() as other:
                assert other.scalar(text("SELECT count(*) FROM tasks")) == 0
            with pytest.raises(FuturesTimeout):
                migration.result(0.2)
            reader.exec_driver_sql("COMMIT")
        assert migration.result() == ("0002", REVISIONS[-1])


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("short_tries")
def test_a_table_that_stays_in_use_is_reported(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "TRIES", 2)
    migrate(empty, "0002")
    with empty.read() as reader:
        reader.exec_driver_sql("BEGIN; LOCK TABLE tasks IN ACCESS SHARE MODE")
        with pytest.raises(TableInUse):
            migrate(empty)
    assert empty.revision() == "0002"


@pytest.mark.parametrize("empty_settings", ["postgresql"], indirect=True)
def test_two_migrations_at_once_follow_each_other(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PAUSE_SECONDS", 0.01)
    with ThreadPoolExecutor(2) as pool:
        assert {after for _, after in pool.map(lambda _: migrate(empty), range(2))} == {REVISIONS[-1]}
    empty.check()


def test_an_older_version_leaves_a_newer_schema_as_it_is(empty: Database) -> None:
    migrate(empty)
    with empty.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert migrate(empty) == ("9999", "9999")


def test_an_older_version_stays_ready_on_a_newer_schema(empty: Database) -> None:
    migrate(empty)
    with empty.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    empty.check()
