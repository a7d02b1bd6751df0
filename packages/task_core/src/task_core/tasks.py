"""The rows of tasks, and what they are to those who read them."""

from sqlalchemy import Connection, bindparam, select

from task_core.model import PRIORITIES, CurrentTask, Task, Versioned
from task_core.prepared import Row, rows
from task_core.schema import tasks

LISTED = (
    tasks.c.id,
    tasks.c.title,
    tasks.c.description,
    tasks.c.status,
    tasks.c.priority,
    tasks.c.due_at,
    tasks.c.project,
    tasks.c.labels,
    tasks.c.recurrence,
    tasks.c.time_zone,
    tasks.c.reminders,
    tasks.c.created_at,
    tasks.c.updated_at,
    tasks.c.version,
    tasks.c.owner_id,
)
"""The columns of the rows of tasks that are returned, in this order."""

_OF_OWNER = select(*LISTED).where(tasks.c.id == bindparam("task_id"), tasks.c.owner_id == bindparam("owner"))


def versioned(row: Row) -> Versioned:
    """Return the task of a row of the store."""
    identity, title, description, status, priority, due_at, *others, version, owner_id = row
    task = Task(identity, title, description, status, PRIORITIES[priority], due_at, *others)
    return Versioned(task, version, owner_id)


def current(connection: Connection, owner_id: int, task_id: int) -> CurrentTask | None:
    """Return a task of an account with its version, None where there is none."""
    found = rows(connection, _OF_OWNER, {"task_id": task_id, "owner": owner_id})
    return versioned(found[0]).current(with_owner=False) if found else None
