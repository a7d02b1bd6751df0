"""Tasks as rows. Every function works inside the connection, and so the transaction, that it is given.

`owner_id` None means: whoever owns it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from task_api.store import search
from task_api.store.schema import due_order, tasks

LISTED = (
    tasks.c.id,
    tasks.c.title,
    tasks.c.description,
    tasks.c.status,
    tasks.c.priority,
    tasks.c.due_at,
    tasks.c.created_at,
    tasks.c.updated_at,
    tasks.c.version,
    tasks.c.owner_id,
)
"""The columns of a row as these functions give it, in this order."""

Row = tuple[Any, ...]

_BY_ID = select(*LISTED).where(tasks.c.id == bindparam("task_id"))
_BY_ID_AND_OWNER = _BY_ID.where(tasks.c.owner_id == bindparam("owner"))
_INSERT = insert(tasks).returning(tasks.c.id)
_UPDATE = update(tasks).where(tasks.c.id == bindparam("task_id"))
_DELETE = delete(tasks).where(tasks.c.id == bindparam("task_id"))


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a task and give its id."""
    return int(connection.execute(_INSERT, dict(values)).scalar_one())


def find(connection: Connection, task_id: int, owner_id: int | None, *, lock: bool = False) -> Row | None:
    """The row of a task, held against other writers until the transaction ends where `lock` is asked."""
    statement = _BY_ID if owner_id is None else _BY_ID_AND_OWNER
    if lock and connection.dialect.name == "postgresql":
        statement = statement.with_for_update()
    return connection.execute(statement, {"task_id": task_id, "owner": owner_id}).one_or_none()


def change(connection: Connection, task_id: int, values: Mapping[str, Any]) -> None:
    """Set columns of a task."""
    connection.execute(_UPDATE.values(dict(values)), {"task_id": task_id})


def remove(connection: Connection, task_id: int) -> None:
    """Delete a task."""
    connection.execute(_DELETE, {"task_id": task_id})


def page(
    connection: Connection,
    *,
    owner_id: int | None,
    equal: Mapping[str, Any],
    due_before: datetime | None,
    due_after: datetime | None,
    words: str | None,
    sort: str,
    descending: bool,
    after: tuple[Any, int] | None,
    limit: int,
) -> list[Row]:
    """At most `limit` rows behind the key `after` (the sort column's value and the id), in the order asked for."""
    source: Any = tasks
    identity: ColumnElement[int] = tasks.c.id
    conditions: list[ColumnElement[bool]] = [tasks.c[name] == value for name, value in equal.items()]
    if owner_id is not None:
        conditions.append(tasks.c.owner_id == owner_id)
    due = due_order[connection.dialect.name]
    if due_before is not None:
        conditions.append(and_(tasks.c.due_at.is_not(None), due < due_before))
    if due_after is not None:
        conditions.append(and_(tasks.c.due_at.is_not(None), due > due_after))
    if words is not None:
        source, matches, identity = search.matching(connection.dialect.name, words)
        conditions.append(matches)
    key: ColumnElement[Any] | None = None if sort == "id" else due if sort == "due_at" else tasks.c[sort]
    if after is not None:
        left: Any = identity if key is None else tuple_(key, identity)
        right: Any = after[1] if key is None else tuple_(bindparam(None, after[0], type_=key.type), after[1])
        conditions.append(left < right if descending else left > right)
    order = [identity] if key is None else [key, identity]
    statement: Select[Any] = (
        select(*LISTED)
        .select_from(source)
        .where(*conditions)
        .order_by(*(column.desc() if descending else column.asc() for column in order))
        .limit(limit)
    )
    return list(connection.execute(statement).all())


def every(connection: Connection) -> Any:
    """All tasks as mappings, streamed in the order of their ids."""
    streaming = connection.execution_options(stream_results=True, max_row_buffer=1000)
    return streaming.execute(select(tasks).order_by(tasks.c.id)).mappings()


def restore(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert tasks as they were, ids and times included. Raises IntegrityError where an id is taken."""
    connection.execute(insert(tasks), rows)


def as_mapping(connection: Connection, task_id: int) -> RowMapping | None:
    """All columns of one task."""
    return connection.execute(select(tasks).where(tasks.c.id == task_id)).mappings().one_or_none()
