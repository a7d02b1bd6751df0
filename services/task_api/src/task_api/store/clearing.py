"""Deleting rows that have expired: in small transactions beside the requests, by every worker, from time to time."""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import Column, Table, delete, select, tuple_

from service_kit.telemetry.logs import log
from task_api.store.deleted_tasks import KEPT as DELETED_TASKS_KEPT
from task_api.store.idempotency import KEPT as KEYS_KEPT
from task_api.store.pruning import Most, Pruner
from task_core.database import Database
from task_core.schema import (
    audit_log,
    deleted_tasks,
    idempotency_keys,
    mail_tokens,
    personal_tokens,
    rate_windows,
    refresh_tokens,
    sessions,
    task_changes,
)

PIECE = 1_000
"""Rows deleted in one transaction: on SQLite, other writers wait for it."""

ROUND_SECONDS = 30.0


class Expiring(NamedTuple):
    """A table whose rows may go once `column` is `kept` ago. The column has an index."""

    column: Column[Any]
    kept: timedelta

    @property
    def table(self) -> Table:
        """The table of the column."""
        table = self.column.table
        assert isinstance(table, Table)
        return table

    def limit(self, now: datetime) -> datetime | int:
        """Return the value of the column below which a row has expired; `rate_windows` counts in Unix seconds."""
        past = now - self.kept
        return int(past.timestamp()) if self.table is rate_windows else past


EXPIRING = (
    Expiring(idempotency_keys.c.claimed_at, KEYS_KEPT),
    Expiring(rate_windows.c.ends_at, timedelta(days=1)),
    Expiring(refresh_tokens.c.expires_at, timedelta()),  # before sessions, which would take theirs along in one piece
    Expiring(sessions.c.expires_at, timedelta()),
    Expiring(mail_tokens.c.expires_at, timedelta()),
    Expiring(personal_tokens.c.expires_at, timedelta(days=30)),
    Expiring(audit_log.c.at, timedelta(days=365)),
    Expiring(deleted_tasks.c.deleted_at, DELETED_TASKS_KEPT),
    Expiring(task_changes.c.gone_at, timedelta(days=31)),  # tokens of the feed last 30 days
)


class Backlog(NamedTuple):
    """What a round did to a table: rows deleted, and for how many seconds the oldest row left has been expired."""

    table: str
    deleted: int
    seconds: float


def clear(database: Database, pause: Callable[[float], object] = lambda _: None) -> list[Backlog]:
    """Delete the expired rows of all tables, but for those that other transactions hold; return what is left.

    Between two transactions `pause` is called with the seconds that the one before took. Raises one of UNAVAILABLE.
    """
    now = datetime.now(UTC)
    return [_clear(database, expiring, now, pause) for expiring in EXPIRING]


def _clear(database: Database, expiring: Expiring, now: datetime, pause: Callable[[float], object]) -> Backlog:
    limit, deleted = expiring.limit(now), 0
    key = tuple(expiring.table.primary_key)
    expired = select(*key).where(expiring.column < limit).limit(PIECE).with_for_update(skip_locked=True)
    # A subquery alone may be evaluated anew for each row, and skips what it has locked: in the end all rows go at once.
    piece = select(expired.cte("piece", nesting=True).prefix_with("MATERIALIZED"))
    statement = delete(expiring.table).where((tuple_(*key) if len(key) > 1 else key[0]).in_(piece))
    oldest = select(expiring.column).where(expiring.column.is_not(None)).order_by(expiring.column).limit(1)
    while True:
        with database.read() as connection:  # SQLite's writer is not taken for nothing
            first = connection.scalar(oldest)
        if first is None or first >= limit:
            return Backlog(expiring.table.name, deleted, 0)
        start = monotonic()
        with database.write() as connection:
            gone = connection.execute(statement).rowcount
        deleted += gone
        if gone == 0:  # others hold all that is left
            age = limit - first
            seconds = age.total_seconds() if isinstance(age, timedelta) else age
            return Backlog(expiring.table.name, deleted, seconds)
        pause(monotonic() - start)


class Clearer:
    """A thread that clears and prunes about twice a minute and reports each round. One that fails is only logged."""

    def __init__(self, database: Database, most: Most, report: Callable[[list[Backlog]], None]) -> None:
        self._database, self._report = database, report
        self._pruner = Pruner(database, most)
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the thread, which does not keep the process alive."""
        threading.Thread(target=self._run, name="clearer", daemon=True).start()

    def stop(self) -> None:
        """End the thread after its transaction."""
        self._ended.set()

    def _run(self) -> None:
        wait = random.uniform(0, ROUND_SECONDS / 10)
        while not self._ended.wait(wait):
            try:
                pruned = self._pruner.prune(self._ended.wait)
                cleared = clear(self._database, self._ended.wait)
                self._report([each._replace(deleted=each.deleted + pruned[each.table]) for each in cleared])
            except Exception:  # noqa: BLE001 - whatever the database does, the thread goes on
                log.warning("expired rows could not be deleted", exc_info=True)
            wait = random.uniform(0.5, 1.5) * ROUND_SECONDS
