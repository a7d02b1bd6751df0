"""The changes of tasks in an order that can be replayed, and from which none is missing.

The numbers of a sequence are no such order: a lower one may be committed later than a higher one, behind the back of
who has read the higher. PostgreSQL's changes are ordered by transaction id, then by number, and read only up to the
horizon: the oldest transaction that still runs (`pg_snapshot_xmin`). All before it have ended, and later ones get
higher ids. So what is before the horizon is complete and stays as it is. SQLite has one writer at a time: there the
numbers are in the order of the commits.
"""

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    select,
    text,
    tuple_,
    update,
)

from task_core.model import Change, Reminded
from task_core.prepared import Row, rows
from task_core.reminder import is_late
from task_core.schema import Key, change_feed, change_floors, task_changes, tasks, webhooks
from task_core.tasks import LISTED, versioned


class Position(NamedTuple):
    """A place in the order: just behind this change."""

    transaction: int = 0
    change: int = 0
    mark: int = 0
    """The random mark of the change: another one there means that the database has been restored."""


class Feed(NamedTuple):
    """What the validity of positions depends on."""

    generation: str
    """Another one in another database, also one that was restored from a dump of this one."""
    floor: tuple[int, int]
    """The last change that is missing: positions before it have a gap behind them."""
    mark: int | None
    """The mark of the change at the position of the request; None where there is no such change."""


_changes = task_changes.c
_ORDER = (_changes.transaction_id, _changes.id)

_HORIZON = {
    "postgresql": text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"),
    "sqlite": select(func.coalesce(func.max(_changes.id), literal_column("0")) + literal_column("1")),
}
BEFORE_HORIZON = {
    "postgresql": _changes.transaction_id < bindparam("horizon", type_=Key),
    "sqlite": _changes.id < bindparam("horizon", type_=Key),
}
"""The condition that a change is complete with all before it, by dialect; `horizon` is its parameter."""

_BEHIND = {
    "postgresql": tuple_(*_ORDER) > tuple_(bindparam("transaction", type_=Key), bindparam("change", type_=Key)),
    "sqlite": and_(_changes.transaction_id == literal_column("0"), _changes.id > bindparam("change", type_=Key)),
}
_OWNERS = {
    dialect: select(_changes.owner_id).distinct().where(behind, BEFORE_HORIZON[dialect])
    for dialect, behind in _BEHIND.items()
}
_OF_OWNER = _changes.owner_id == bindparam("owner")
_LAST = {
    (dialect, of_owner): select(*_ORDER, _changes.mark)
    .where(before, *[_OF_OWNER] * of_owner)
    .order_by(*(column.desc() for column in _ORDER))
    .limit(1)
    for dialect, before in BEFORE_HORIZON.items()
    for of_owner in (False, True)
}
_mark = (
    select(_changes.mark)
    .where(_changes.id == bindparam("change"), _changes.transaction_id == bindparam("transaction"))
    .scalar_subquery()
)
_SYSTEM: dict[str, ColumnElement[str]] = {
    "postgresql": literal_column("(SELECT to_hex(system_identifier) FROM pg_control_system())"),
    "sqlite": literal_column("''"),
}
_GENERATION = {dialect: select(change_feed.c.generation, system, _mark) for dialect, system in _SYSTEM.items()}
_FLOOR = (
    select(change_floors.c.transaction_id, change_floors.c.change_id)
    .order_by(change_floors.c.transaction_id.desc(), change_floors.c.change_id.desc())
    .limit(1)
)
_FLOOR_OF_OWNER = _FLOOR.where(change_floors.c.owner_id == bindparam("owner"))
_IS_CHANGE = _changes.remind_at.is_(None)
_HISTORY = (
    select(_changes.version, _changes.kind, _changes.changed_at, _changes.actor_id, _changes.fields)
    .where(_changes.task_id == bindparam("task_id"), _IS_CHANGE)
    .order_by(_changes.version.desc(), _changes.id.desc())
)
_GENERATION_ALONE = select(change_feed.c.generation)
_ATTRIBUTE = update(task_changes).where(
    _changes.task_id == bindparam("task"), _changes.version == bindparam("of_version")
)


def horizon(connection: Connection) -> int:
    """Return what changes are complete before: a transaction id on PostgreSQL, the number of a change on SQLite."""
    return int(rows(connection, _HORIZON[connection.dialect.name], {})[0][0])


def last(connection: Connection, owner_id: int | None, horizon: int) -> Position:
    """Return the position behind all changes before the horizon and all missing ones, of an account or of all."""
    statement = _LAST[connection.dialect.name, owner_id is not None]
    result = rows(connection, statement, {"horizon": horizon, **_owner(owner_id)})
    return max(Position(*result[0]) if result else Position(), Position(*_floor(connection, owner_id)))


def newest(connection: Connection, horizon: int) -> Position:
    """Return the position behind all changes before the horizon that there are, of all accounts."""
    result = rows(connection, _LAST[connection.dialect.name, False], {"horizon": horizon})
    return Position(*result[0]) if result else Position()


def owners(connection: Connection, position: Position, horizon: int) -> set[int]:
    """Return the accounts that have changes between the position and the horizon."""
    values = {"transaction": position.transaction, "change": position.change, "horizon": horizon}
    dialect = connection.dialect.name
    if dialect == "sqlite":
        del values["transaction"]
    return {owner for (owner,) in rows(connection, _OWNERS[dialect], values)}


def _owner(owner_id: int | None) -> dict[str, int]:
    return {} if owner_id is None else {"owner": owner_id}


def _floor(connection: Connection, owner_id: int | None) -> tuple[int, int]:
    """Return the last change that is missing, (0, 0) where none is."""
    result = rows(connection, _FLOOR if owner_id is None else _FLOOR_OF_OWNER, _owner(owner_id))
    return (result[0][0], result[0][1]) if result else (0, 0)


def floor(connection: Connection, owner_id: int) -> tuple[int, int]:
    """Return the last change of an account that is missing; (0, 0) where none is."""
    return _floor(connection, owner_id)


def feed(connection: Connection, owner_id: int | None, position: Position) -> Feed:
    """Return what shows whether the position is valid, in the feed of an account or (None) of all."""
    values = {"change": position.change, "transaction": position.transaction}
    ((generation, system, mark),) = rows(connection, _GENERATION[connection.dialect.name], values)
    return Feed(f"{generation}{system}", _floor(connection, owner_id), mark)


def page(
    connection: Connection,
    owner_id: int | None,
    position: Position,
    horizon: int,
    limit: int,
    *,
    reminders: bool = False,
) -> list[Row]:
    """Return at most `limit` changes between the position and the horizon, or changes and reminders.

    Each row has transaction, id and mark of the change, its kind, task, version and time, the moment of a reminder,
    and then the columns of `tasks.LISTED`: the task as it is now, or None in each of them where it is deleted.
    """
    values = {
        "transaction": position.transaction,
        "change": position.change,
        "horizon": horizon,
        "limit": limit,
        **_owner(owner_id),
    }
    dialect = connection.dialect.name
    if dialect == "sqlite":
        del values["transaction"]
    return rows(connection, _page(dialect, of_owner=owner_id is not None, reminders=reminders), values)


@cache
def _page(dialect: str, *, of_owner: bool, reminders: bool) -> Select[Any]:
    conditions = [_BEHIND[dialect], BEFORE_HORIZON[dialect], *[_IS_CHANGE] * (not reminders)]
    if of_owner:
        conditions.append(_OF_OWNER)
    now = task_changes.outerjoin(tasks, and_(tasks.c.id == _changes.task_id, tasks.c.owner_id == _changes.owner_id))
    of_change = (_changes.mark, _changes.kind, _changes.task_id, _changes.version, _changes.changed_at)
    return (
        select(*_ORDER, *of_change, _changes.remind_at, *LISTED)
        .select_from(now)
        .where(*conditions)
        .order_by(*_ORDER)
        .limit(bindparam("limit", type_=Integer))
    )


REMIND_AT = 7
"""The index of the moment of a reminder in a row of `page`."""


def change_of(row: Row, scope: int | None) -> Change:
    """Return the change of a row of `page`."""
    _, _, _, kind, task_id, version, changed_at, _, *task = row
    current = None if task[0] is None else versioned(tuple(task)).current(with_owner=scope is None)
    return Change(kind, task_id, version, changed_at, current)


def message_of(change: Change, remind_at: datetime | None) -> Change | Reminded:
    """Return what webhooks get of an entry: the change, or the reminder that it is where it has a moment."""
    if remind_at is None:
        return change
    late = is_late(remind_at, change.changed_at)
    return Reminded("reminder", change.id, change.version, change.changed_at, change.task, remind_at, late)


def history(connection: Connection, task_id: int) -> list[Row]:
    """Return the changes of a task, the newest first: version, kind, time, actor, and the names of fields."""
    return rows(connection, _HISTORY, {"task_id": task_id})


def generation(connection: Connection) -> str:
    """Return the random name of the database, which stays with a dump of it."""
    return str(rows(connection, _GENERATION_ALONE, {})[0][0])


def status_changed(connection: Connection, task_ids: Collection[int]) -> dict[int, datetime]:
    """Return when the status of tasks was changed last, by id; those that were created with theirs are left out."""
    changed = (_changes.task_id.in_(task_ids), _changes.fields.contains("status"))
    last = select(_changes.task_id, func.max(_changes.changed_at)).where(*changed).group_by(_changes.task_id)
    return {row.task_id: row[1] for row in connection.execute(last)}


def attribute(connection: Connection, task_id: int, version: int, actor_id: int) -> None:
    """Name who made a change of a task: the triggers, which do not know, name its owner."""
    rows(connection, _ATTRIBUTE, {"task": task_id, "of_version": version, "actor_id": actor_id})


def traceparents(connection: Connection, change_ids: Collection[int]) -> dict[int, str]:
    """Return the spans that changes were made in, by the changes' ids; those that were not traced are left out."""
    traced = (_changes.id.in_(change_ids), _changes.traceparent.is_not(None))
    found = connection.execute(select(_changes.id, _changes.traceparent).where(*traced))
    return {row.id: row.traceparent for row in found}


def adopt(connection: Connection) -> None:
    """Put changes that came with a dump from another PostgreSQL before all of this one.

    That server's transaction ids may be above this one's, where they would hide each new change. Those of no server, 0,
    keep the order: no token from before the dump is valid on this server.
    """
    columns = (_changes.transaction_id, change_floors.c.transaction_id, webhooks.c.transaction_id)
    unused = literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", type_=Key)
    highest = func.greatest(*(select(func.max(one)).scalar_subquery() for one in columns), 0)
    if connection.scalar(select(highest >= unused)):
        for one in columns:
            connection.execute(update(one.table).where(one != 0).values(transaction_id=0))
