"""The labels of an account's own tasks: renamed and removed in pieces, between which others write."""

from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep

from msgspec import UNSET
from sqlalchemy import Connection

from task_api.store import labels as store
from task_api.tasks.model import LabelChange, LabelQuery, LabelUse, distinct
from task_api.tasks.quota import Quota
from task_core.database import Database

PIECE = 500
"""Tasks changed in one transaction."""

SECONDS = 5.0
"""How long a request begins further pieces."""


def page(connection: Connection, owner_id: int, query: LabelQuery) -> tuple[list[LabelUse], str | None]:
    """Return a page of the account's labels, and its last name where there are more."""
    after = "" if query.after is UNSET else query.after
    rows = store.page(connection, owner_id, after, query.limit + 1)
    uses = [LabelUse(name, tasks) for name, tasks in rows[: query.limit]]
    return uses, uses[-1].name if len(rows) > query.limit else None


def replace(database: Database, owner_id: int, label: str, new: str | None, quota: Quota) -> LabelChange:
    """Put another label in the place of one, or none, in all tasks of an account that have it.

    A task that has the other already keeps one of it. Each task that changes gets a new version. Raises QuotaExceeded;
    the pieces before stay changed.
    """
    began, after, count = monotonic(), -1, 0
    while label != new:
        start = monotonic()
        changed = database.transaction(partial(_piece, owner_id, label, new, quota, after))
        count += len(changed)
        if len(changed) < PIECE:
            break
        if monotonic() - began > SECONDS:
            return LabelChange(count, more=True)
        after = changed[-1]
        if database.dialect == "sqlite":  # whoever waits for its one writer looks again only now and then
            sleep(monotonic() - start)
    return LabelChange(count, more=False)


def _piece(owner_id: int, label: str, new: str | None, quota: Quota, after: int, connection: Connection) -> list[int]:
    held = store.held(connection, owner_id, label, after, PIECE)
    others = [] if new is None else [new]
    changed = {task: distinct([*(one for one in labels if one != label), *others]) for task, labels in held.items()}
    if changed:
        with quota.held(connection, owner_id):
            store.change(connection, changed, datetime.now(UTC))
    return list(changed)
