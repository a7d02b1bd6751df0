"""How much each account keeps; triggers count it."""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from task_core.prepared import rows
from task_core.schema import account_usage

_OF_OWNER = select(account_usage.c.tasks, account_usage.c.bytes).where(account_usage.c.owner_id == bindparam("owner"))


class Usage(NamedTuple):
    """Tasks, and bytes of their titles, descriptions and labels in UTF-8."""

    tasks: int
    bytes: int


def of(connection: Connection, owner_id: int) -> Usage:
    """Return the usage of an account, with what this transaction has changed."""
    matches = rows(connection, _OF_OWNER, {"owner": owner_id})
    return Usage(*matches[0]) if matches else Usage(0, 0)
