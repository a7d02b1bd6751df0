"""Puts reminders that are due into the outbox, once each, by any number of threads and replicas.

The outbox is the queue of webhooks (`task_changes`), and `reminder_mails` for who sends mail. A reminder goes from
`task_reminders` into it in one transaction, by the clock of the database, so a process that is killed has put out all
of its piece or nothing, and what is put out is delivered as often as it takes.
"""

import random
import secrets
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, insert, literal_column, select

from service_kit.telemetry.logs import log
from task_core import rates
from task_core.database import Database
from task_core.reminder import is_late
from task_core.schema import Instant, accounts, reminder_mails, task_changes, task_reminders, tasks

POLL_SECONDS = 1.0
SAMPLE_SECONDS = 15.0
PIECE = 100
"""Reminders that are put out in one transaction."""

RESULTS = ("put_out", "dropped", "mail_limited")
"""Of a reminder that went out, of one of a disabled account, and of one that is not mailed as there were too many."""

MAILS, MAILS_SECONDS = 60, 3600
"""How many reminders of an account are mailed in such a window: neither a mistake nor malice floods an inbox."""

_pending = task_reminders.c
_NOW: dict[str, ColumnElement[datetime]] = {
    "postgresql": func.statement_timestamp(type_=Instant),
    "sqlite": literal_column("strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')", type_=Instant),
}
"""The clock that the triggers use, which write what is still to go out."""

_TRANSACTION: dict[str, dict[str, Any]] = {
    "postgresql": {"transaction_id": literal_column("pg_current_xact_id()::text::bigint")},
    "sqlite": {},
}
_TAKE = delete(task_reminders).where(
    _pending.task_id == bindparam("of_task"), _pending.remind_at == bindparam("moment", type_=Instant)
)


class Put(NamedTuple):
    """A reminder that was put out, or dropped as its owner's account is disabled."""

    task_id: int
    owner_id: int
    version: int
    remind_at: datetime
    put_out_at: datetime
    dropped: bool
    reachable: bool
    """Whether the owner's account has an address, which that of AUTH=off has not."""
    limited: bool = False
    """Whether it is not mailed, as its owner has had MAILS."""

    @property
    def late(self) -> bool:
        """Whether it is marked as late."""
        return is_late(self.remind_at, self.put_out_at)


def is_due(connection: Connection) -> bool:
    """Return whether there is something to put out, without taking SQLite's writer for it."""
    return bool(connection.scalar(select(exists().where(_pending.remind_at <= _NOW[connection.dialect.name]))))


def oldest(connection: Connection) -> datetime | None:
    """Return the moment of the oldest reminder that is due and did not go out."""
    now = _NOW[connection.dialect.name]
    found: datetime | None = connection.scalar(select(func.min(_pending.remind_at)).where(_pending.remind_at <= now))
    return found


class Sampler:
    """Reports for how many seconds what is oldest has waited, at most each SAMPLE_SECONDS."""

    def __init__(
        self, database: Database, oldest: Callable[[Connection], datetime | None], sample: Callable[[float], None]
    ) -> None:
        self._database, self._oldest, self._sample = database, oldest, sample
        self._next = 0.0

    def sample(self) -> None:
        """Report it, where it is time to. Raises one of UNAVAILABLE."""
        if monotonic() < self._next:
            return
        self._next = monotonic() + SAMPLE_SECONDS
        with self._database.peek() as connection:
            since = self._oldest(connection)
        self._sample(max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0)


class Poller:
    """A thread that works while there is something to do, and else looks each POLL_SECONDS.

    `work` returns whether there may be more, `trouble` is logged with what it raises.
    """

    def __init__(self, name: str, work: Callable[[], object], sampler: Sampler, trouble: str) -> None:
        self._work, self._sampler, self._trouble = work, sampler, trouble
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, which does not keep the process alive."""
        self._thread.start()

    def end(self) -> None:
        """Begin nothing more."""
        self._ended.set()

    def stop(self) -> None:
        """End the thread after what it does now."""
        self.end()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._sampler.sample()
                if self._work():
                    continue
            except Exception:  # noqa: BLE001 - whatever the database does, the thread goes on
                log.warning(self._trouble, exc_info=True)
            self._ended.wait(random.uniform(0.5, 1.5) * POLL_SECONDS)


def put_out(connection: Connection, limit: int, *, by_mail: bool = False) -> list[Put]:
    """Put the oldest reminders that are due, and that no other transaction puts out, into the queue of webhooks.

    `by_mail` makes a mail of each, too, up to MAILS of an account.
    """
    now = _NOW[connection.dialect.name]
    due = (
        select(
            tasks.c.id,
            tasks.c.owner_id,
            tasks.c.version,
            _pending.remind_at,
            now,
            accounts.c.disabled_at.is_not(None),
            accounts.c.verified_at.is_not(None),
        )
        .select_from(task_reminders.join(tasks).join(accounts))
        .where(_pending.remind_at <= now)
        .order_by(_pending.remind_at, _pending.task_id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=task_reminders)
    )
    puts = [Put(*row) for row in connection.execute(due)]
    if by_mail:
        _limit_mails(connection, puts)
    if puts:
        connection.execute(_TAKE, [{"of_task": one.task_id, "moment": one.remind_at} for one in puts])
    if entries := [_entry(one) for one in puts if not one.dropped]:
        connection.execute(insert(task_changes).values(_TRANSACTION[connection.dialect.name]), entries)
    if mails := [_mail(one) for one in puts if by_mail and _is_mailed(one)]:
        connection.execute(insert(reminder_mails), mails)
    return puts


def _is_mailed(put: Put) -> bool:
    return put.reachable and not (put.dropped or put.limited)


def _limit_mails(connection: Connection, puts: list[Put]) -> None:
    """Mark those that are not mailed, as their owner has had MAILS.

    It goes by the accounts' order: two transactions that count for the same accounts do not wait for each other.
    """
    full: set[int] = set()
    for index, one in sorted(enumerate(puts), key=lambda numbered: numbered[1].owner_id):
        if not _is_mailed(one):
            continue
        client, ends_at = f"reminders:{one.owner_id}", rates.window_end(MAILS_SECONDS, int(one.put_out_at.timestamp()))
        if one.owner_id not in full and not rates.take(connection, client, ends_at, MAILS, MAILS)[0]:
            full.add(one.owner_id)
        puts[index] = one._replace(limited=one.owner_id in full)


def _mail(put: Put) -> dict[str, Any]:
    return {
        "owner_id": put.owner_id,
        "task_id": put.task_id,
        "remind_at": put.remind_at,
        "put_out_at": put.put_out_at,
        "next_attempt_at": put.put_out_at,
    }


def _entry(put: Put) -> dict[str, Any]:
    """Return the entry of the queue, which is a reminder by its `remind_at`."""
    return {
        "task_id": put.task_id,
        "owner_id": put.owner_id,
        "version": put.version,
        "kind": "updated",  # the version before shows it in its feed, whose clients know of no other kind
        "changed_at": put.put_out_at,
        "actor_id": put.owner_id,
        "fields": "",
        "mark": secrets.randbelow(2**31),
        "remind_at": put.remind_at,
    }


class Reminders(Poller):
    """Puts reminders out in a thread of its own, and calls `wake` when there is something to deliver.

    `report` is called with what was put out in each transaction, once that is committed, `sample` with the seconds for
    which the oldest has been due. `by_mail`: also by mail.
    """

    def __init__(
        self,
        database: Database,
        wake: Callable[[], None] = lambda: None,
        report: Callable[[Collection[Put]], None] = lambda _: None,
        by_mail: bool = False,
        sample: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__("reminders", self.put_out, Sampler(database, oldest, sample), "reminders could not be put out")
        self._database, self._wake, self._report, self._by_mail = database, wake, report, by_mail

    def put_out(self) -> int:
        """Put out some reminders that are due, and return how many. Raises one of UNAVAILABLE."""
        with self._database.peek() as connection:
            if not is_due(connection):
                return 0
        with self._database.write() as connection:
            puts = put_out(connection, PIECE, by_mail=self._by_mail)
        if puts:
            self._report(puts)
            self._wake()
        return len(puts)
