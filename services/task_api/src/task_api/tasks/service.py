"""The rules of tasks, over a connection whose transaction the caller opened."""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from msgspec import UNSET
from sqlalchemy import Connection

from task_api.store import deleted_tasks
from task_api.store import tasks as store
from task_api.tasks import recurrence
from task_api.tasks.model import (
    CHANGEABLE,
    LARGEST_ID,
    PRIORITIES,
    BadCursor,
    BadRecurrence,
    BadReminders,
    BadSchedule,
    Bulk,
    BulkResult,
    Create,
    Delete,
    HistoryEntry,
    NewTask,
    Task,
    TaskChanges,
    TaskNotFound,
    TaskQuery,
    Update,
    VersionConflict,
    Versioned,
    distinct,
    utc,
)
from task_api.tasks.quota import Quota
from task_core import changes as log
from task_core.schema import LAST_INSTANT
from task_core.tasks import versioned

_LAST = datetime.fromisoformat(LAST_INSTANT.strip("'"))


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the order it was in, the value sorted by, and the last id."""

    sort: str
    value: datetime | int | None
    id: int


def create(connection: Connection, owner_id: int, new: NewTask) -> Versioned:
    """Make a task for its owner, and the next one where it is completed already. Raises BadSchedule."""
    _check_schedule(new)
    following = _following(new) if new.status == "completed" else None
    next_id = _create(connection, owner_id, following).task.id if following else None
    return _create(connection, owner_id, new, next_id)


def _check_schedule(task: NewTask | Task) -> None:
    if faults := recurrence.faults(task.recurrence, task.time_zone, task.due_at):
        raise BadRecurrence(faults)
    if task.due_at is None and (relative := [index for index, one in enumerate(task.reminders) if one.before]):
        detail = "a reminder before the due date needs one: set `due_at`, or send the moment as `at`"
        raise BadReminders({f"reminders/{index}/before": detail for index in relative})


def _following(task: NewTask | Task) -> NewTask | None:
    """Return the task that comes next when this one is completed; None where it is the last.

    It has the reminders before the due date; those at a moment are of this occurrence.
    """
    occurrence = None
    if task.recurrence is not None and task.due_at is not None:
        occurrence = recurrence.following(task.recurrence, task.time_zone, task.due_at)
    if occurrence is None:
        return None
    kept = {name: getattr(task, name) for name in CHANGEABLE}
    kept |= {"status": "pending", "due_at": occurrence.due_at, "recurrence": occurrence.rule}
    return NewTask(**{**kept, "reminders": [one for one in task.reminders if one.before]})


def _create(connection: Connection, owner_id: int, new: NewTask, next_id: int | None = None) -> Versioned:
    now = datetime.now(UTC)
    identity = store.add(connection, _columns(owner_id, new, now, next_id))
    fields = {name: getattr(new, name) for name in CHANGEABLE}
    return Versioned(Task(id=identity, **fields, created_at=now, updated_at=now), 1, owner_id)


def _columns(owner_id: int, new: NewTask, now: datetime, next_id: int | None = None) -> dict[str, Any]:
    return {
        "title": new.title,
        "description": new.description,
        "status": new.status,
        "priority": PRIORITIES.index(new.priority),
        "due_at": new.due_at,
        "project": new.project,
        "labels": new.labels,
        "recurrence": new.recurrence,
        "time_zone": new.time_zone,
        "reminders": new.reminders,
        "next_id": next_id,
        "created_at": now,
        "updated_at": now,
        "owner_id": owner_id,
        "version": 1,
    }


def create_all(connection: Connection, owner_id: int, tasks: Sequence[NewTask]) -> None:
    """Make many tasks for their owner, whose rules have been checked and of which none is completed and recurs."""
    now = datetime.now(UTC)
    if tasks:
        store.restore(connection, [_columns(owner_id, new, now) for new in tasks])


def get(connection: Connection, owner_id: int | None, task_id: int, *, lock: bool = False) -> Versioned:
    """Return the task of that id, within what `owner_id` may see (None: all). Raises TaskNotFound."""
    row = store.find(connection, task_id, owner_id, lock=lock) if task_id <= LARGEST_ID else None
    if row is None:
        raise TaskNotFound(task_id)
    return versioned(row)


def change(connection: Connection, held: Versioned, changes: TaskChanges, actor_id: int) -> Versioned:
    """Apply an account's changes to a task that this transaction holds; completing it creates the next one, once.

    Changing nothing leaves version and `updated_at` alone. Raises BadSchedule.
    """
    fields = {name: value for name in CHANGEABLE if (value := getattr(changes, name)) is not UNSET}
    changed = {name: value for name, value in fields.items() if getattr(held.task, name) != value}
    if not changed:
        return held
    changed["updated_at"] = max(datetime.now(UTC), held.task.updated_at)
    task = msgspec.structs.replace(held.task, **changed)
    if changed.keys() & {"recurrence", "time_zone", "due_at", "reminders"}:
        _check_schedule(task)
    following = _following(task) if changed.get("status") == "completed" else None
    if following and not store.has_next(connection, task.id):
        created = _create(connection, held.owner_id, following)
        _attribute(connection, created, actor_id)
        changed["next_id"] = created.task.id
    if "priority" in changed:
        changed["priority"] = PRIORITIES.index(task.priority)
    store.change(connection, task.id, {**changed, "version": held.version + 1})
    changed_task = Versioned(task, held.version + 1, held.owner_id)
    _attribute(connection, changed_task, actor_id)
    return changed_task


def delete(connection: Connection, held: Versioned, actor_id: int) -> None:
    """Delete a task that this transaction holds; it can be restored for 30 days."""
    store.remove(connection, held.task.id)
    _attribute(connection, Versioned(held.task, held.version + 1, held.owner_id), actor_id)


def restore(
    connection: Connection,
    scope: int | None,
    task_id: int,
    actor_id: int,
    quota: Quota,
    check: Callable[[Versioned], None],
) -> Versioned:
    """Make a deleted task a task again, as it was but for version and `updated_at`; one that is not deleted stays.

    `check` gets the task as it is before, deleted or not. Raises what that does, TaskNotFound, also where the task was
    deleted too long ago, and QuotaExceeded.
    """
    now = datetime.now(UTC)
    row = deleted_tasks.find(connection, task_id, scope, now, lock=True) if task_id <= LARGEST_ID else None
    if row is None:
        current = get(connection, scope, task_id)
        check(current)
        return current
    deleted = versioned(row)
    check(deleted)
    with quota.held(connection, deleted.owner_id):
        deleted_tasks.restore(connection, task_id, max(now, deleted.task.updated_at))
    restored = get(connection, scope, task_id)
    _attribute(connection, restored, actor_id)
    return restored


def _attribute(connection: Connection, changed: Versioned, actor_id: int) -> None:
    if actor_id != changed.owner_id:
        log.attribute(connection, changed.task.id, changed.version, actor_id)


def history(connection: Connection, scope: int | None, task_id: int) -> list[HistoryEntry]:
    """Return the changes of a task or a deleted task, the newest first. Raises TaskNotFound."""
    deleted = task_id <= LARGEST_ID and deleted_tasks.find(connection, task_id, scope, datetime.now(UTC))
    if not deleted:
        get(connection, scope, task_id)
    return [
        HistoryEntry(version, kind, changed_at, actor_id, fields.split())
        for version, kind, changed_at, actor_id, fields in log.history(connection, task_id)
    ]


def page(connection: Connection, owner_id: int | None, query: TaskQuery) -> tuple[list[Versioned], str | None]:
    """One page of tasks and the cursor of the next, None on the last page. Raises BadCursor.

    Pages are by key, not by offset: a task that is there from the first page to the last is on exactly one of them,
    whatever is created or deleted meanwhile (and, for an order by a field, unless that field of it is changed).
    """
    sort = query.sort.lstrip("-")
    values: dict[str, Any] = {
        name: value
        for name, value in (
            ("owner_id", owner_id),
            ("status", query.status),
            ("priority", UNSET if query.priority is UNSET else PRIORITIES.index(query.priority)),
            ("project", query.project if query.project is UNSET else query.project.strip()),
            ("labels", UNSET if query.label is UNSET else distinct(query.label)),
            ("due_before", query.due_before),
            ("due_after", query.due_after),
            ("words", query.q),
        )
        if value is not None and value is not UNSET
    }
    shape = store.Shape(frozenset(values), sort, query.sort.startswith("-"))
    if query.cursor is not UNSET:
        cursor = _decode(query.cursor, query.sort)
        values |= {"after_value": cursor.value, "after_id": cursor.id}
    rows = store.page(connection, shape, values, query.limit + 1)
    tasks = [versioned(row) for row in rows[: query.limit]]
    if len(rows) <= query.limit:
        return tasks, None
    return tasks, _encode(Cursor(query.sort, _sort_value(tasks[-1].task, sort), tasks[-1].task.id))


def _sort_value(task: Task, sort: str) -> datetime | int | None:
    match sort:
        case "due_at":
            return task.due_at or _LAST
        case "updated_at":
            return task.updated_at
        case "priority":
            return PRIORITIES.index(task.priority)
        case _:
            return None


def _encode(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


_read_cursor = msgspec.json.Decoder(Cursor).decode


def _decode(text: str, sort: str) -> Cursor:
    try:
        cursor = _read_cursor(base64.urlsafe_b64decode(text.encode("ascii") + b"=="))
    except (binascii.Error, ValueError):  # msgspec's and Unicode's errors are ValueErrors
        raise BadCursor from None
    kind = {"id": type(None), "priority": int}.get(sort.lstrip("-"), datetime)
    aware = not isinstance(cursor.value, datetime) or cursor.value.tzinfo is not None
    in_range = -(2**63) <= cursor.id < 2**63 and (
        not isinstance(cursor.value, int) or cursor.value in range(len(PRIORITIES))
    )
    if cursor.sort != sort or not isinstance(cursor.value, kind) or not aware or not in_range:
        raise BadCursor
    try:
        return Cursor(sort, utc(cursor.value) if isinstance(cursor.value, datetime) else cursor.value, cursor.id)
    except ValueError:
        raise BadCursor from None


class BulkFailure(Exception):
    """One operation failed, and so none was done. `index` counts from 0, `member` is what holds the task's fields."""

    def __init__(self, index: int, member: str, cause: TaskNotFound | VersionConflict | BadSchedule) -> None:
        super().__init__(f"operation {index}: {cause}; none of the operations was done")
        self.index = index
        self.member = member
        self.cause = cause


def bulk(connection: Connection, owner_id: int, scope: int | None, operations: Bulk) -> list[BulkResult]:
    """Do the operations in order, new tasks for `owner_id`, on tasks within `scope`. Raises BulkFailure."""
    return list(_bulk(connection, owner_id, scope, operations))


def recall(connection: Connection, scope: int | None, references: Sequence[tuple[str, int]]) -> list[BulkResult]:
    """Return the results of earlier operations, by operation and id: the tasks as they are now, None if deleted."""
    ids = {task_id for _, task_id in references}
    existing = {one.task.id: one for one in map(versioned, store.several(connection, ids, scope))}
    versions = deleted_tasks.versions(connection, ids - existing.keys(), scope)

    def result(op: str, task_id: int) -> BulkResult:
        now = existing.get(task_id)
        task, version = (now.task, now.version) if now else (None, versions.get(task_id))
        return BulkResult(cast("Any", op), task_id, task, version)

    return [result(*reference) for reference in references]


def _bulk(connection: Connection, owner_id: int, scope: int | None, operations: Bulk) -> Iterator[BulkResult]:
    touched = {operation.id for operation in operations.operations if not isinstance(operation, Create)}
    if len(touched) > 1:
        store.lock(connection, touched, scope)
    for index, operation in enumerate(operations.operations):
        try:
            yield _one(connection, owner_id, scope, operation)
        except (TaskNotFound, VersionConflict, BadSchedule) as error:
            member = "task" if isinstance(operation, Create) else "changes"
            raise BulkFailure(index, member, error) from error


def _one(connection: Connection, owner_id: int, scope: int | None, operation: Create | Update | Delete) -> BulkResult:
    if isinstance(operation, Create):
        created = create(connection, owner_id, operation.task)
        return BulkResult("create", created.task.id, created.task, created.version)
    held = get(connection, scope, operation.id, lock=True)
    if operation.version not in (None, held.version):
        raise VersionConflict(held)
    if isinstance(operation, Update):
        changed = change(connection, held, operation.changes, owner_id)
        return BulkResult("update", operation.id, changed.task, changed.version)
    delete(connection, held, owner_id)
    return BulkResult("delete", operation.id, None, held.version + 1)
