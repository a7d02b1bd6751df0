"""Delivers changes to webhooks: in order for each, at least once, by any number of threads and replicas.

The queue is the feed of changes itself, which triggers write in the transaction of each change: a webhook is a position
in it. Who delivers leases the webhook in a short transaction, holds no transaction while it sends, and moves the
position under its lease. A process that is killed leaves a lease that ends: the change is sent again, with the same id.
"""

import random
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.client import HTTPException
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row

from service_kit.mail import Post, QueueFull
from service_kit.outbound import Refused, Sender
from service_kit.signatures import signed
from service_kit.telemetry.logs import log
from service_kit.telemetry.traces import Tracer
from task_core import changes as feed
from task_core import tasks
from task_core import webhooks as store
from task_core.changes import REMIND_AT, Position
from task_core.database import Database
from task_core.encryption import Keyring, Undecryptable
from task_core.model import Change, Reminded
from task_core.postgresql import notifications

THREADS = 4
POLL_SECONDS = 1.0
LISTENING_POLL_SECONDS = 5.0
"""How often those look who are woken: for what is tried again, and for changes that wait for an older transaction."""

SAMPLE_SECONDS = 15.0
PAGE = 20
"""Changes that are delivered to one webhook before others have their turn."""

TURN_SECONDS = 10.0
"""For how long one webhook is delivered to before others have their turn, however slowly its receiver answers."""

DISABLED = "A webhook of yours is disabled"
DISABLED_TEXT = """\
Nothing is delivered to {url} any more: {reason}.

What has changed since is in the feed of changes. When the address works again, switch the webhook on:
PATCH /webhooks/{id} with {{"active": true}}.
"""

MAILS, MAILS_SECONDS = 5, 3600.0
"""How many mails a process sends an account in that time, however often its webhooks are switched on and fail."""

OWNERS_REMEMBERED = 10_000
MOST_LETTERS = 1000
SYSTEM, QUEUE = "task-api", "task_changes"
"""How spans name where messages come from."""

FIRST_DELAY, LONGEST_DELAY = 5.0, 3600.0
LARGEST_EXPONENT = 20


class Patience(NamedTuple):
    """How long things may take."""

    lease: timedelta = timedelta(seconds=120)
    """Longer than an attempt may take."""
    give_up: timedelta = timedelta(days=1)
    """For how long a change is tried; then it is a dead letter."""
    letters: int = 3
    """How many dead letters in a row disable the webhook."""


class Message(msgspec.Struct, frozen=True):
    """What is delivered (Standard Webhooks): its type is `task.` and the kind of the change."""

    type: str
    timestamp: datetime
    data: Change | Reminded


RESULTS = ("delivered", "failed", "dead", "disabled")
"""Of an attempt that was taken or not, of a change that is a dead letter, of a webhook that is disabled."""


class Backlog(NamedTuple):
    """What is to be delivered, and how many webhooks are active and wait, or are disabled."""

    due_seconds: float = 0.0
    oldest_seconds: float = 0.0
    waiting: int = 0
    disabled: int = 0


class Parcel(NamedTuple):
    """A change to deliver: its place in the feed, and the dead letter that it is, if it is one."""

    position: Position
    change: Change | Reminded
    letter: int | None = None
    traceparent: str | None = None
    """The span that made the change, where it was traced."""


def message_id(webhook_id: int, transaction: int, change: int, mark: int) -> str:
    """Return the id of a message, which is the same for each attempt."""
    return f"msg_{webhook_id}_{transaction}_{change}_{mark}"


def delay(failures: int) -> float:
    """Return for how many seconds to wait after so many failures: exponential backoff with full jitter."""
    return random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, LARGEST_EXPONENT)))


class Deliverer:
    """Delivers in threads of its own. `report` is called with each of RESULTS, `sample` with the backlog.

    `keyring` decrypts the secrets that it signs with. `post` sends a mail to the owner of a webhook that is disabled.
    With `listens`, PostgreSQL's notifications wake the threads, over a connection of its own. `tracer` starts a span
    for each attempt.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        sender: Sender,
        report: Callable[[str], None] = lambda _: None,
        sample: Callable[[Backlog], None] = lambda _: None,
        patience: Patience = Patience(),  # noqa: B008 - it is constant
        post: Post | None = None,
        listens: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        self._database, self._keyring, self._sender, self._patience = database, keyring, sender, patience
        self._report, self._sample, self._post = report, sample, post
        self.backlog = Backlog()
        self._listens, self._tracer = listens, tracer
        self._poll_seconds = LISTENING_POLL_SECONDS if listens else POLL_SECONDS
        self._ended, self._woken = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._busy: set[int] = set()
        self._claiming = threading.Lock()
        self._mailed: dict[int, list[float]] = {}

    def start(self) -> None:
        """Start the threads, which do not keep the process alive."""
        self._threads = [
            threading.Thread(target=self._run, args=(number == 0,), name=f"webhooks-{number}", daemon=True)
            for number in range(THREADS)
        ]
        if self._listens:
            self._threads.append(threading.Thread(target=self._listen, name="webhooks-listener", daemon=True))
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Have the threads look now."""
        self._woken.set()

    def end(self) -> None:
        """Begin nothing more."""
        self._ended.set()
        self.wake()

    def stop(self) -> None:
        """End the threads after what they deliver now; the leases that they hold end with them."""
        self.end()
        for thread in self._threads:
            thread.join()

    def _run(self, samples: bool) -> None:
        next_sample = 0.0
        while not self._ended.is_set():
            self._woken.clear()  # before looking: what comes from now on wakes again
            try:
                if samples and monotonic() >= next_sample:
                    next_sample = monotonic() + SAMPLE_SECONDS
                    self.sample()
                if self.deliver():
                    continue
            except Exception:  # noqa: BLE001 - whatever the database does, the thread goes on
                log.warning("webhooks could not be delivered to", exc_info=True)
            if not self._ended.is_set():  # `clear` may have come after `end`
                self._woken.wait(random.uniform(0.5, 1.5) * self._poll_seconds)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                for _ in notifications(self._database.engine, self._ended):
                    self.wake()
            except Exception as error:  # noqa: BLE001 - until it listens again, the threads look by themselves
                log.warning("changes do not wake deliveries", error=type(error).__name__)
                self._ended.wait(random.uniform(0.5, 1.5) * POLL_SECONDS)

    def sample(self) -> None:
        """Report the backlog."""
        now = datetime.now(UTC)
        with self._database.read() as connection:
            oldest, due, waiting = store.backlog(connection, now)
            disabled = store.disabled(connection)
        due_seconds, oldest_seconds = (max(0.0, (now - at).total_seconds()) if at else 0.0 for at in (due, oldest))
        self.backlog = Backlog(due_seconds, oldest_seconds, waiting, disabled)
        self._sample(self.backlog)

    def deliver(self) -> bool:
        """Deliver to one webhook what it waits for, a page at most; return False where none waits.

        Raises one of UNAVAILABLE.
        """
        hook = self._claim()
        if hook is None:
            return False
        try:
            self._take_turn(hook)
        finally:
            with self._claiming:
                self._busy.discard(hook.owner_id)
        return True

    def _claim(self) -> SimpleNamespace | None:
        """Lease a webhook that is due, of an account that no other thread here delivers to; None where there is none.

        Otherwise the slow receivers of one account would take all threads from everybody.
        """
        with self._claiming:
            now, lease = datetime.now(UTC), secrets.token_hex(8)
            with self._database.read() as connection:
                if not store.due(connection, now, self._busy):
                    return None
            with self._database.write() as connection:
                found = store.claim(connection, lease, now, now + self._patience.lease, self._busy)
            if found is None:
                return None
            self._busy.add(found.owner_id)
            return SimpleNamespace(**found._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row's columns

    def _take_turn(self, hook: SimpleNamespace) -> None:
        """Deliver a page, or for TURN_SECONDS, and end the lease."""
        over = monotonic() + TURN_SECONDS
        for parcel in self._parcels(hook):
            if self._ended.is_set():
                break
            if not self._deliver(hook, parcel):
                return
            if monotonic() >= over:
                break
        self._settle(hook, next_attempt_at=datetime.now(UTC), lease=None)

    def _parcels(self, hook: SimpleNamespace) -> Iterator[Parcel]:
        """Yield the dead letters that were requested, and then the changes that are next."""
        position = Position(hook.transaction_id, hook.change_id)
        with self._database.read() as connection:
            letters = store.letters_of(connection, hook.id, requested=True)
            rows = feed.page(connection, hook.owner_id, position, feed.horizon(connection), PAGE, reminders=True)
            changes = [letter.change_id for letter in letters] + [row[1] for row in rows]
            made_by = feed.traceparents(connection, changes) if self._tracer and changes else {}
            gap = feed.floor(connection, hook.owner_id) > position[:2]  # read last: what is cleared until then is seen
        for letter in letters:
            place = Position(letter.transaction_id, letter.change_id, letter.mark)
            yield Parcel(place, self._again(hook, letter), letter.id, made_by.get(letter.change_id))
        if gap:
            self._disable(hook, "changes were removed before they were delivered: read the feed, and switch it on")
            return
        for row in rows:
            message = feed.message_of(feed.change_of(row, hook.owner_id), row[REMIND_AT])
            yield Parcel(Position(*row[:3]), message, None, made_by.get(row[1]))

    def _again(self, hook: SimpleNamespace, letter: Row[Any]) -> Change | Reminded:
        with self._database.read() as connection:
            task = tasks.current(connection, hook.owner_id, letter.task_id)
        change = Change(letter.kind, letter.task_id, letter.version, letter.changed_at, task)
        return feed.message_of(change, letter.remind_at)

    def _deliver(self, hook: SimpleNamespace, parcel: Parcel) -> bool:
        """Deliver a change and note what came of it; return whether the next one may follow."""
        if isinstance(parcel.change, Reminded) and parcel.change.moot:
            status, error = 0, None
        else:
            status, error = self._attempt(hook, parcel)
            self._report("delivered" if error is None else "failed")
        now = datetime.now(UTC)
        if parcel.letter is not None:
            with self._database.write() as connection:
                if error is None:
                    store.remove_letter(connection, parcel.letter)
                else:
                    store.keep_letter(connection, parcel.letter, error, now)
            return self._settle(hook, next_attempt_at=now + self._patience.lease)
        moved = {"transaction_id": parcel.position.transaction, "change_id": parcel.position.change}
        healthy = {"failures": 0, "failing_since": None}
        if error is None:
            hook.failures, hook.failing_since, hook.dead_in_a_row = 0, None, 0
            renewed = {"next_attempt_at": now + self._patience.lease, "last_error": None, "dead_in_a_row": 0}
            return self._settle(hook, **moved, **healthy, **renewed)
        if status == HTTPStatus.GONE:
            self._disable(hook, "its server answered 410 Gone")
        elif now - (hook.failing_since or now) < self._patience.give_up:
            since, failures = hook.failing_since or now, hook.failures + 1
            later = now + timedelta(seconds=delay(hook.failures))
            self._settle(
                hook, failures=failures, failing_since=since, last_error=error, next_attempt_at=later, lease=None
            )
        else:
            self._bury(hook, parcel, error, {**moved, **healthy})
        return False

    def _attempt(self, hook: SimpleNamespace, parcel: Parcel) -> tuple[int, str | None]:
        """Do as `_send`, in a span where that is traced."""
        if self._tracer is None:
            return self._send(hook, parcel)
        message = message_id(hook.id, *parcel.position)
        with self._tracer.delivery(SYSTEM, QUEUE, message, parcel.traceparent) as span:
            status, error = self._send(hook, parcel)
            if status:
                span.set_attribute("http.response.status_code", status)
            if error is not None:
                span.set_attribute("error.type", str(status or "no_response"))
        return status, error

    def _send(self, hook: SimpleNamespace, parcel: Parcel) -> tuple[int, str | None]:
        """Return the status of the response, 0 without one, and what is wrong; None where it was taken."""
        now = datetime.now(UTC)
        change = parcel.change
        body = msgspec.json.encode(Message(f"task.{change.kind}", change.changed_at, change))
        try:
            keys = store.secrets_of(self._keyring, hook)
        except Undecryptable as error:
            log.error("the secret of a webhook cannot be decrypted", webhook=hook.id, reason=str(error))
            return 0, "its secret cannot be decrypted: inform whoever runs the service"
        if not (hook.previous_until and hook.previous_until > now):
            del keys[1:]
        headers = signed(keys, message_id(hook.id, *parcel.position), int(now.timestamp()), body)
        try:
            status = self._sender.post(
                hook.url, body, {**headers, "Content-Type": "application/json", "User-Agent": "task-api"}
            )
        except Refused as error:
            log.info("a webhook leads nowhere", webhook=hook.id, reason=str(error.__cause__ or error))
            return 0, str(error)
        except (OSError, HTTPException) as error:
            return 0, f"no response: {type(error).__name__}"
        taken = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        return status, None if taken else f"the response has the status {status}"

    def _settle(self, hook: SimpleNamespace, **values: Any) -> bool:
        """Set columns under the lease; return whether it is still held."""
        with self._database.write() as connection:
            return store.change_leased(connection, hook.id, hook.lease, values)

    def _disable(self, hook: SimpleNamespace, reason: str) -> None:
        if self._settle(hook, disabled_at=datetime.now(UTC), disabled_reason=reason, lease=None):
            self._notify_owner(hook, reason)

    def _notify_owner(self, hook: SimpleNamespace, reason: str) -> None:
        """Log that a webhook is disabled, and send its owner a mail; one that is not sent is logged."""
        self._report("disabled")
        log.warning("a webhook is disabled", webhook=hook.id, reason=reason)
        if not self._post or not self._may_mail(hook.owner_id):
            return
        with self._database.read() as connection:
            email = store.email(connection, hook.owner_id)
        if email:
            try:
                self._post.send(email, DISABLED, DISABLED_TEXT.format(url=hook.url, reason=reason, id=hook.id))
            except (QueueFull, ValueError) as error:
                log.error("a mail was not sent", error=str(error))

    def _may_mail(self, owner_id: int) -> bool:
        """Count a mail to an account, and return whether it has not had too many."""
        now = monotonic()
        with self._claiming:
            if len(self._mailed) >= OWNERS_REMEMBERED:
                self._mailed.clear()
            sent = [at for at in self._mailed.get(owner_id, ()) if now - at < MAILS_SECONDS]
            allowed = len(sent) < MAILS
            self._mailed[owner_id] = [*sent, now] if allowed else sent
        return allowed

    def _bury(self, hook: SimpleNamespace, parcel: Parcel, error: str, moved: dict[str, Any]) -> None:
        """Make the change a dead letter and go on behind it; disable a webhook that takes none."""
        now, dead = datetime.now(UTC), hook.dead_in_a_row + 1
        values = {**moved, "dead_in_a_row": dead, "last_error": error, "next_attempt_at": now, "lease": None}
        reason = f"{dead} changes in a row could not be delivered"
        if disabled := dead >= self._patience.letters:
            values |= {"disabled_at": now, "disabled_reason": reason}
        change = parcel.change
        letter = {
            "webhook_id": hook.id,
            "transaction_id": parcel.position.transaction,
            "change_id": parcel.position.change,
            "mark": parcel.position.mark,
            "kind": change.kind,
            "task_id": change.id,
            "version": change.version,
            "changed_at": change.changed_at,
            "remind_at": change.remind_at if isinstance(change, Reminded) else None,
            "failed_at": now,
            "error": error,
        }
        with self._database.write() as connection:
            if not store.change_leased(connection, hook.id, hook.lease, values):
                return
            store.add_letter(connection, letter, MOST_LETTERS)
        self._report("dead")
        log.warning("a change is a dead letter", webhook=hook.id)
        if disabled:
            self._notify_owner(hook, f"{reason}, the last one because: {error}")
