"""The feed of changes as server-sent events: one thread of a worker looks for changes, for all of its open streams.

The server holds their connections (`service_kit.gthread`). What this costs does not depend on how many there are while
nothing changes: two statements a second. A page that several streams wait for is read and encoded once.
"""

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from service_kit.http.problems import Refusal, encode_problem
from service_kit.http.streams import Stream, Streamed, event
from service_kit.telemetry.logs import log
from task_api.accounts.model import Account, BadToken
from task_api.accounts.service import Accounts
from task_api.http.errors import FEED_GONE, TOO_MANY_STREAMS
from task_api.tasks import changes
from task_api.tasks.model import Changes, ChangesQuery, FeedGone
from task_core import changes as store
from task_core.database import UNAVAILABLE, Database

LOOK_SECONDS = 1.0
"""How often the thread looks for changes."""

CHECK_SECONDS = 10.0
"""How often it checks that those who opened the streams may still read them."""

RETRY_SECONDS = 10


class Place(NamedTuple):
    """Where a stream is in the feed: what comes next is the same for all streams that are there."""

    scope: int | None
    since: str
    limit: int


class Following(Stream):
    """The stream of one client."""

    def __init__(
        self, follower: "Follower", account: Account, token: str | None, query: ChangesQuery, page: Changes
    ) -> None:
        self.follower = follower
        self.account_id = account.id
        self.token = token
        self.place = Place(account.scope, page.next, query.limit)
        self.behind = True
        """Whether there may be more to send: also what has changed since the first page was read."""
        self.more = page.more
        """Whether the client has been promised another page."""
        self._first = page

    def response(self) -> Streamed:
        """Return the response, which begins with the first page, even where that is empty."""
        return Streamed(self, _event(self._first))

    def begun(self) -> None:
        del self._first
        self.follower.add(self)

    def taken(self) -> None:
        if self.behind:
            self.follower.wake()

    def closed(self) -> None:
        self.follower.remove(self)


class Follower:
    """Sends changes to the streams of this process, in a thread that begins with the first of them."""

    def __init__(self, database: Database, accounts: Accounts | None, most: int) -> None:
        """Have at most `most` streams of one account."""
        self._database, self._accounts, self._most = database, accounts, most
        self._streams: dict[Following, None] = {}
        self._lock = threading.Lock()
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: store.Position | None = None
        """Up to where all streams know what has changed; None: they do not."""
        self._look_at = self._check_at = 0.0
        self._failing = False

    def check_room(self, account_id: int) -> None:
        """Raise Refusal 429 where the account has as many streams as it may."""
        if sum(one.account_id == account_id for one in self._all()) >= self._most:
            detail = f"the account has {self._most} open streams here, as many as it may"
            raise Refusal(TOO_MANY_STREAMS, detail, {"Retry-After": str(RETRY_SECONDS)})

    def add(self, stream: Following) -> None:
        """Follow the changes for a stream."""
        with self._lock:
            self._streams[stream] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
                self._thread.start()

    def remove(self, stream: Following) -> None:
        """Forget a stream."""
        with self._lock:
            self._streams.pop(stream, None)

    def wake(self) -> None:
        """Have the thread look at once at streams that wait for the next page."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._ended.set()
        self._woken.set()
        if self._thread:
            self._thread.join()

    def _all(self) -> list[Following]:
        with self._lock:
            return [*self._streams]

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._all():
                self._woken.wait(max(0.0, self._look_at - time.monotonic()))
            else:
                self._woken.wait()
                self._seen = None
            self._woken.clear()
            try:
                self._round(self._all())
                self._failing = False
            except Exception as error:  # noqa: BLE001 - whatever it was, the streams stay open
                if not self._failing or not isinstance(error, UNAVAILABLE):
                    log.warning("changes could not be streamed", exc_info=True)
                self._failing = True

    def _round(self, streams: list[Following]) -> None:
        """Send what there is to streams that wait for it. Raises one of UNAVAILABLE."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            with self._database.peek() as connection:
                self._look(connection, streams)
        if now >= self._check_at:
            self._check(streams)
            self._check_at = now + CHECK_SECONDS
        waiting = [one for one in streams if one.behind and one.idle]
        if waiting:
            with self._database.peek() as connection:
                self._send(connection, waiting)

    def _check(self, streams: Iterable[Following]) -> None:
        """End the streams of those who may not read them any more."""
        if self._accounts is None:
            return
        for one in streams:
            try:
                allowed = self._accounts.identity(one.token or "").account.scope == one.place.scope
            except BadToken:
                allowed = False
            if one.idle and not allowed:
                one.end("token")

    def _look(self, connection: Connection, streams: Iterable[Following]) -> None:
        """Note which streams are behind."""
        horizon = store.horizon(connection)
        newest = store.newest(connection, horizon)
        if newest == self._seen:
            return
        known = self._seen is not None and self._seen < newest  # else the database may have been restored
        changed = store.owners(connection, self._seen, horizon) if known and self._seen else None
        for one in streams:
            if changed is None or one.place.scope is None or one.place.scope in changed:
                one.behind = True
        self._seen = newest

    def _send(self, connection: Connection, streams: Iterable[Following]) -> None:
        pages: dict[Place, Changes | FeedGone] = {}
        events: dict[Place, bytes] = {}
        for one in streams:
            place = one.place
            if place not in pages:
                pages[place] = page = _page(connection, place)
                events[place] = _event(page)
            page = pages[place]
            if isinstance(page, FeedGone):
                one.end("gone", events[place])
                continue
            one.place = place._replace(since=page.next)
            promised, one.more = one.more, page.more
            one.behind = page.more
            if page.changes or promised:
                one.send(events[place])


def _page(connection: Connection, place: Place) -> Changes | FeedGone:
    try:
        return changes.page(connection, place.scope, ChangesQuery(since=place.since, limit=place.limit))
    except FeedGone as error:
        return error


def _event(page: Changes | FeedGone) -> bytes:
    """Return an event: a page, or that the client has to begin anew, which it then does without the id of an event."""
    if isinstance(page, FeedGone):
        return event(encode_problem(FEED_GONE, str(page)), identity="", name="gone")
    return event(msgspec.json.encode(page), identity=page.next)
