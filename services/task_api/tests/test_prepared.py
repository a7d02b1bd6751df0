"""Prepared statements return and raise what SQLAlchemy's own execution does."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, delete, event, insert, text
from sqlalchemy.exc import IntegrityError, OperationalError

from task_api.config import Settings
from task_api.store import tasks as store
from task_api.tasks import service
from task_api.tasks.model import TaskQuery
from task_core.database import UNAVAILABLE, Database
from task_core.prepared import rows
from task_core.schema import tasks

MOMENT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


NEW = {
    "title": "a word",
    "description": "of few",
    "status": "pending",
    "priority": 2,
    "due_at": MOMENT,
    "created_at": MOMENT,
    "updated_at": MOMENT,
    "owner_id": 0,
    "version": 1,
}


def everything(connection: Connection) -> list[object]:
    """The result of every kind of prepared statement, one after the other."""
    first, second = store.add(connection, NEW), store.add(connection, {**NEW, "due_at": None})
    outputs: list[object] = [store.find(connection, first, 0, lock=True), store.find(connection, second, None)]
    store.change(connection, first, {"status": "completed", "due_at": MOMENT + timedelta(days=1), "version": 2})
    for values in (
        {},
        {"words": "word", "priority": 2},
        {"due_after": MOMENT, "due_before": MOMENT + timedelta(days=2)},
        {"after_value": MOMENT + timedelta(days=1), "after_id": first},
    ):
        shape = store.Shape(frozenset(values), "due_at", descending=False)
        outputs.append(store.page(connection, shape, values, 10))
    store.remove(connection, first)
    return [*outputs, store.find(connection, first, 0), store.find(connection, second, 1)]


def test_rows_are_the_same_whether_statements_are_watched_or_not(database: Database, settings: Settings) -> None:
    watched = Database(settings)
    seen: list[str] = []

    @event.listens_for(watched.watched(), "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement.split(maxsplit=1)[0])

    results = []
    for each in (database, watched):
        with each.write() as connection:
            results.append(everything(connection))
            connection.execute(delete(tasks))
            restart = {
                "sqlite": "DELETE FROM sqlite_sequence",
                "postgresql": "SELECT setval('tasks_id_seq', 1, false)",
            }
            connection.execute(text(restart[each.dialect]))
    watched.engine.dispose()
    assert results[0] == results[1]
    assert [len(page) for page in results[0][2:6]] == [2, 2, 1, 1]  # type: ignore[arg-type]
    assert {"BEGIN", "INSERT", "SELECT", "UPDATE", "DELETE"} <= set(seen)


def test_a_broken_rule_of_the_schema_is_sqlalchemys_integrity_error(database: Database) -> None:
    statement = insert(tasks).returning(tasks.c.id)
    values = {"title": "t", "status": "unheard of", "created_at": MOMENT, "updated_at": MOMENT, "owner_id": 0}
    with pytest.raises(IntegrityError), database.write() as connection:
        rows(connection, statement, values)
    with database.read() as connection:
        assert service.page(connection, None, TaskQuery()) == ([], None)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_connection_that_was_lost_is_not_used_again(database: Database) -> None:
    with database.read() as lost, database.read() as other:
        mine = lost.scalar(text("SELECT pg_backend_pid()"))
        lost.commit()
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine})
        with pytest.raises(OperationalError) as caught:
            store.find(lost, 1, 0)
    assert isinstance(caught.value, UNAVAILABLE)
    assert caught.value.connection_invalidated
    with database.read() as connection:
        assert store.find(connection, 1, 0) is None
