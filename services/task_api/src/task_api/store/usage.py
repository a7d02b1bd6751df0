"""How much each account keeps; triggers count it."""

from functools import reduce
from operator import add
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, LargeBinary, Table, Text, bindparam, cast, func, select

from task_core.prepared import rows
from task_core.schema import NO_LABELS, NO_REMINDERS, account_usage

TEXTS = ("title", "description", "project", "labels", "recurrence", "time_zone", "reminders")
"""The columns of a task whose bytes count: every text that a client chooses."""

_OF_OWNER = select(account_usage.c.tasks, account_usage.c.bytes).where(account_usage.c.owner_id == bindparam("owner"))


class Usage(NamedTuple):
    """Tasks, and bytes of their texts in UTF-8."""

    tasks: int
    bytes: int


def of(connection: Connection, owner_id: int) -> Usage:
    """Return the usage of an account, with what this transaction has changed."""
    matches = rows(connection, _OF_OWNER, {"owner": owner_id})
    return Usage(*matches[0]) if matches else Usage(0, 0)


def size(table: Table, dialect: str) -> ColumnElement[int]:
    """Return the bytes of a row of `tasks` or `deleted_tasks`, as the triggers count them: an empty list has none."""

    def length(name: str) -> ColumnElement[int]:
        text = func.coalesce(cast(table.c[name], Text), "")
        return func.length(cast(text, LargeBinary)) if dialect == "sqlite" else func.octet_length(text)

    return reduce(add, map(length, TEXTS)) - len(NO_LABELS) - len(NO_REMINDERS)
