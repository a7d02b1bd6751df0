"""Tasks as rows. Every function works in the transaction of the connection that is passed.

`owner_id` None means the tasks of all owners.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    TextClause,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy import Row as AnyRow
from sqlalchemy.dialects.postgresql import JSONB

from task_api.store import search
from task_core.prepared import Row, rows
from task_core.schema import Instant, Labels, due_order, labelled, tasks
from task_core.tasks import LISTED

HAS_LABELS: dict[str, ColumnElement[bool] | TextClause] = {
    "sqlite": text(
        "NOT EXISTS (SELECT 1 FROM json_each(:labels) AS wanted"
        " WHERE wanted.value NOT IN (SELECT held.value FROM json_each(tasks.labels) AS held))"
    ).bindparams(bindparam("labels", type_=Labels)),
    "postgresql": cast(tasks.c.labels, JSONB).contains(cast(bindparam("labels", type_=Labels), JSONB)),
}
"""The condition that a task has all of `labels`, its parameter, by dialect."""

_BY_ID = select(*LISTED).where(tasks.c.id == bindparam("task_id"))
_BY_ID_AND_OWNER = _BY_ID.where(tasks.c.owner_id == bindparam("owner"))
_HELD = _BY_ID.with_for_update()
_HELD_OF_OWNER = _BY_ID_AND_OWNER.with_for_update()
_NEXT = select(tasks.c.next_id).where(tasks.c.id == bindparam("task_id"))
_STATE = select(func.count(), func.sum(tasks.c.id), func.sum(tasks.c.version), func.max(tasks.c.updated_at)).where(
    tasks.c.owner_id == bindparam("owner")
)
_INSERT = insert(tasks).returning(tasks.c.id)
_UPDATE = update(tasks).where(tasks.c.id == bindparam("task_id"))
_DELETE = delete(tasks).where(tasks.c.id == bindparam("task_id"))


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a task and return its id."""
    return int(rows(connection, _INSERT, values)[0][0])


def find(connection: Connection, task_id: int, owner_id: int | None, *, lock: bool = False) -> Row | None:
    """Return the row of a task, None where there is none. `lock` locks it until the transaction ends."""
    if owner_id is None:
        result = rows(connection, _HELD if lock else _BY_ID, {"task_id": task_id})
    else:
        statement = _HELD_OF_OWNER if lock else _BY_ID_AND_OWNER
        result = rows(connection, statement, {"task_id": task_id, "owner": owner_id})
    return result[0] if result else None


def has_next(connection: Connection, task_id: int) -> bool:
    """Return whether completing a task has created the next one, also where that is deleted since."""
    return rows(connection, _NEXT, {"task_id": task_id}) != [(None,)]


def state(connection: Connection, owner_id: int) -> Row:
    """Return a row that is another one after any change of an owner's tasks."""
    return rows(connection, _STATE, {"owner": owner_id})[0]


def several(connection: Connection, task_ids: Collection[int], owner_id: int | None) -> list[Row]:
    """Return the rows of those tasks that exist."""
    of_owner = () if owner_id is None else (tasks.c.owner_id == owner_id,)
    return [tuple(row) for row in connection.execute(select(*LISTED).where(tasks.c.id.in_(task_ids), *of_owner))]


def lock(connection: Connection, task_ids: Collection[int], owner_id: int | None) -> None:
    """Lock the tasks of an owner in the order of their ids, so that two requests for several cannot deadlock."""
    of_owner = () if owner_id is None else (tasks.c.owner_id == owner_id,)
    listed = select(tasks.c.id).where(tasks.c.id.in_(task_ids), *of_owner)
    connection.execute(listed.order_by(tasks.c.id).with_for_update())


def change(connection: Connection, task_id: int, values: Mapping[str, Any]) -> None:
    """Set columns of a task."""
    rows(connection, _UPDATE, {"task_id": task_id, **values})


def remove(connection: Connection, task_id: int) -> None:
    """Delete a task."""
    rows(connection, _DELETE, {"task_id": task_id})


class Shape(NamedTuple):
    """The form of a query for a page; its values are passed separately."""

    filters: frozenset[str]
    """Of `owner_id`, `status`, `priority`, `project`, `labels`, `due_before`, `due_after`, and those of
    `search.query`."""
    sort: str
    descending: bool
    begin: Literal["first", "tied", "beyond"] = "first"
    """At the first row, or behind a key: among the rows tied with it, which have greater ids, or beyond those."""


def page(connection: Connection, shape: Shape, values: Mapping[str, Any], limit: int) -> list[Row]:
    """Return at most `limit` rows: the first ones, or those after the key `after_value`, `after_id` in `values`.

    The rows after a key are selected by two statements: each is a range of an index on both databases, which a
    comparison of (value, id) as a row is not.
    """
    dialect = connection.dialect.name
    if "words" in values:
        searched = search.query(dialect, values["words"])
        values = {**values, **searched}
        shape = shape._replace(filters=shape.filters.union(searched))
    result: list[Row] = []
    for begin in _begins(shape, values):
        if len(result) < limit:
            statement = _page(dialect, shape._replace(begin=begin))
            result += rows(connection, statement, {**values, "limit": limit - len(result)})
    return result


def _begins(shape: Shape, values: Mapping[str, Any]) -> tuple[Literal["first", "tied", "beyond"], ...]:
    if "after_id" not in values:
        return ("first",)
    return ("beyond",) if shape.sort == "id" else ("tied", "beyond")


@cache
def _page(dialect: str, shape: Shape) -> Select[Any]:
    source: Any = tasks
    identity: ColumnElement[int] = tasks.c.id
    due = due_order[dialect]
    conditions: list[ColumnElement[bool] | TextClause] = [
        tasks.c[name] == bindparam(name)
        for name in ("owner_id", "status", "priority", "project")
        if name in shape.filters
    ]
    if "labels" in shape.filters:
        conditions += [labelled, HAS_LABELS[dialect]]
    if {"due_before", "due_after"} & shape.filters:
        conditions.append(tasks.c.due_at.is_not(None))
    if "due_before" in shape.filters:
        conditions.append(due < bindparam("due_before", type_=Instant))
    if "due_after" in shape.filters:
        conditions.append(due > bindparam("due_after", type_=Instant))
    if "words" in shape.filters:
        source, matches, identity = search.matching(dialect, exact="exact" in shape.filters)
        conditions.append(matches)
    keys: dict[str, ColumnElement[Any]] = {
        "due_at": due,
        "updated_at": tasks.c.updated_at,
        "priority": tasks.c.priority,
    }
    key = keys.get(shape.sort)
    if shape.begin == "tied" and key is not None:
        conditions.append(key == bindparam("after_value", type_=key.type))
    if shape.begin != "first":
        ties = key is None or shape.begin == "tied"
        left: Any = identity if ties else key
        right = bindparam("after_id" if ties else "after_value", type_=left.type)
        conditions.append(left < right if shape.descending else left > right)
    order = [identity] if key is None else [key, identity]
    return (
        select(*LISTED)
        .select_from(source)
        .where(*conditions)
        .order_by(*(column.desc() if shape.descending else column.asc() for column in order))
        .limit(bindparam("limit", type_=Integer))
    )


def every(connection: Connection) -> Any:
    """Return all tasks as mappings, streamed in the order of their ids."""
    streaming = connection.execution_options(stream_results=True, max_row_buffer=1000)
    return streaming.execute(select(tasks).order_by(tasks.c.id)).mappings()


def of_owner(connection: Connection, table: Table, owner_id: int, after: int, limit: int) -> Sequence[AnyRow[Any]]:
    """Return at most `limit` rows of an owner whose ids are greater than `after`, in the order of their ids."""
    which = (table.c.owner_id == owner_id, table.c.id > after)
    return connection.execute(select(table).where(*which).order_by(table.c.id).limit(limit)).all()


def restore(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert tasks as they were, ids and times included. Raises IntegrityError where an id is taken."""
    connection.execute(insert(tasks), rows)
