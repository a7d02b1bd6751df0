"""Deleting the oldest of what each account keeps beside its tasks, where that is more than it may keep.

An account that creates and deletes without end would fill the disk otherwise: its deleted tasks, and its changes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

from sqlalchemy import Select, delete, func, or_, select

from task_api.store import usage
from task_core.changes import BEFORE_HORIZON, horizon
from task_core.database import Database
from task_core.schema import deleted_tasks, task_changes

PIECE = 1_000
"""Rows deleted in one transaction."""

CHANGES_OF_TASK = 3
"""How many changes an account keeps for each task that it may keep."""


class Most(NamedTuple):
    """The largest number of deleted tasks that an account keeps, of their bytes, and of its changes; 0 is no limit."""

    tasks: int = 0
    bytes: int = 0

    @property
    def changes(self) -> int:
        """The number of changes."""
        return CHANGES_OF_TASK * self.tasks


class Pruner:
    """Prunes the accounts that have written since it last did."""

    def __init__(self, database: Database, most: Most) -> None:
        self._database, self._most = database, most
        self._seen = -1

    def prune(self, pause: Callable[[float], object] = lambda _: None) -> Counter[str]:
        """Delete what is too much, the oldest first; return how many rows of each table.

        Between two transactions `pause` is called with the seconds that the one before took. Raises one of UNAVAILABLE.
        """
        pruned: Counter[str] = Counter()
        for owner_id in self._writers() if any(self._most) else ():
            for table, too_many in ((deleted_tasks, self._deleted_tasks), (task_changes, self._changes)):
                while ids := too_many(owner_id):
                    start = monotonic()
                    free = select(table.c.id).where(table.c.id.in_(ids)).with_for_update(skip_locked=True)
                    with self._database.write() as connection:
                        deleted = connection.execute(delete(table).where(table.c.id.in_(free))).rowcount
                    if deleted == 0:  # others delete the same
                        break
                    pruned[table.name] += deleted
                    pause(monotonic() - start)
        return pruned

    def _writers(self) -> list[int]:
        """Return the accounts with new changes; when it begins, those of the last `PIECE` changes."""
        changes = task_changes.c
        with self._database.read() as connection:
            newest = connection.scalar(select(func.max(changes.id))) or 0
            since = newest - PIECE if self._seen < 0 else self._seen
            writers = connection.scalars(select(changes.owner_id).where(changes.id > since).distinct()).all()
        self._seen = newest
        return list(writers)

    def _deleted_tasks(self, owner_id: int) -> Sequence[int]:
        """Return the ids of some deleted tasks that are too many, or too large together with all newer ones."""
        columns = deleted_tasks.c
        newest_first = (columns.deleted_at.desc(), columns.id.desc())
        size = usage.size(deleted_tasks, self._database.dialect)
        number, total = func.row_number().over(order_by=newest_first), func.sum(size).over(order_by=newest_first)
        ranked = select(columns.id, number.label("number"), total.label("total")).where(columns.owner_id == owner_id)
        each = ranked.subquery().c
        limits = [each.number > self._most.tasks] * bool(self._most.tasks)
        limits += [each.total > self._most.bytes] * bool(self._most.bytes)
        return self._read(select(each.id).where(or_(*limits)).limit(PIECE))

    def _changes(self, owner_id: int) -> Sequence[int]:
        """Return the ids of some of the oldest changes that are too many."""
        if not self._most.changes:
            return []
        order = (task_changes.c.transaction_id, task_changes.c.id)
        newest_first = select(task_changes.c.id).where(task_changes.c.owner_id == owner_id)
        newest_first = newest_first.order_by(*(column.desc() for column in order)).offset(self._most.changes)
        with self._database.read() as connection:
            # nobody reads behind the horizon yet: a change that is about to be committed may come before these
            complete = newest_first.where(BEFORE_HORIZON[self._database.dialect]).limit(PIECE)
            return connection.scalars(complete, {"horizon": horizon(connection)}).all()

    def _read(self, statement: Select[int]) -> Sequence[int]:
        with self._database.read() as connection:
            return connection.scalars(statement).all()
