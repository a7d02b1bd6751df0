"""Deleted tasks, which can be restored until the clearing removes them for good."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, insert, literal_column, select

from task_core.prepared import Row, rows
from task_core.schema import Instant, deleted_tasks, tasks
from task_core.tasks import LISTED

KEPT = timedelta(days=30)
"""How long a deleted task can be restored."""

_KEPT_AS_THEY_WERE = [column.name for column in tasks.c if column.name not in {"updated_at", "version"}]
_BY_ID = select(*(deleted_tasks.c[column.name] for column in LISTED)).where(
    deleted_tasks.c.id == bindparam("task_id"), deleted_tasks.c.deleted_at > bindparam("since", type_=Instant)
)
_BY_ID_AND_OWNER = _BY_ID.where(deleted_tasks.c.owner_id == bindparam("owner"))
_HELD = _BY_ID.with_for_update()
_HELD_OF_OWNER = _BY_ID_AND_OWNER.with_for_update()
_RESTORE = insert(tasks).from_select(
    [*_KEPT_AS_THEY_WERE, "updated_at", "version"],
    select(
        *(deleted_tasks.c[name] for name in _KEPT_AS_THEY_WERE),
        bindparam("now", type_=Instant),
        deleted_tasks.c.version + literal_column("1"),
    ).where(deleted_tasks.c.id == bindparam("task_id")),
)


def find(
    connection: Connection, task_id: int, owner_id: int | None, now: datetime, *, lock: bool = False
) -> Row | None:
    """Return the row of a deleted task that can be restored, as `tasks.find` does; None where there is none."""
    values = {"task_id": task_id, "since": now - KEPT}
    if owner_id is None:
        matches = rows(connection, _HELD if lock else _BY_ID, values)
    else:
        matches = rows(connection, _HELD_OF_OWNER if lock else _BY_ID_AND_OWNER, {**values, "owner": owner_id})
    return matches[0] if matches else None


def versions(connection: Connection, task_ids: Collection[int], owner_id: int | None) -> dict[int, int]:
    """Return the versions of those of an owner's tasks that are deleted and still kept, by id."""
    if not task_ids:
        return {}
    of_owner = () if owner_id is None else (deleted_tasks.c.owner_id == owner_id,)
    kept = select(deleted_tasks.c.id, deleted_tasks.c.version).where(deleted_tasks.c.id.in_(task_ids), *of_owner)
    return {row.id: row.version for row in connection.execute(kept)}


def restore(connection: Connection, task_id: int, now: datetime) -> None:
    """Make a deleted task, which this transaction holds, a task again; a trigger forgets that it was deleted."""
    rows(connection, _RESTORE, {"task_id": task_id, "now": now})
