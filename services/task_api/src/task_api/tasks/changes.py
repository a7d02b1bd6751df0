"""The feed of changes: from a token on, each change of what the caller may see, at least once and none skipped.

A token is a position in the order of `store.changes`. While a new client reads the tasks that there are, its token
also holds the position from before it began, from which it goes on to the changes: what changed in the meantime comes
once more. The rows name the task that changed, and what it is now is read with them: a client that takes each change
in order, however often, ends with what the service has.
"""

import base64
import binascii

import msgspec
from msgspec import UNSET
from sqlalchemy import Connection

from task_api.store import tasks
from task_api.tasks.model import BadFeedToken, Change, Changes, ChangesQuery, FeedGone
from task_core import changes as store
from task_core.changes import Position
from task_core.tasks import versioned

_NUMBERS = range(2**63)


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a client has read."""

    generation: str
    scope: int | None
    """Whose tasks the feed is of; None: everybody's."""
    transaction: int
    change: int
    mark: int
    listed: int | None
    """The id of the last task of the listing at the feed's beginning; None once that is complete."""

    @property
    def position(self) -> Position:
        """The position in the order of changes."""
        return Position(self.transaction, self.change, self.mark)


def page(connection: Connection, scope: int | None, query: ChangesQuery) -> Changes:
    """Return the next page of the feed of what an account may see. Raises BadFeedToken and FeedGone."""
    horizon = store.horizon(connection)
    token = None if query.since is UNSET else _decode(query.since)
    position = token.position if token else store.last(connection, scope, horizon)
    listed = token.listed if token else 0
    if listed is not None:
        changes, listed = _existing(connection, scope, listed, query.limit)
        more = True
    else:
        rows = store.page(connection, scope, position, horizon, query.limit + 1)
        more = len(rows) > query.limit
        changes = [store.change_of(row, scope) for row in rows[: query.limit]]
        position = Position(*rows[query.limit - 1][:3]) if more else store.last(connection, scope, horizon)
    # Checked after the changes were read: what is cleared until then is missing from them.
    feed = store.feed(connection, scope, token.position if token else position)
    if token:
        _check(token, scope, feed)
    return Changes(changes, _encode(Token(feed.generation, scope, *position, listed)), more)


def _check(token: Token, scope: int | None, feed: store.Feed) -> None:
    if token.scope != scope:
        raise FeedGone("this account may see other tasks than when the token was made")
    if token.generation != feed.generation:
        raise FeedGone("the token is of another database, from before a restore")
    here = (token.transaction, token.change)
    if feed.floor > here:
        raise FeedGone("the token is too old")
    if feed.mark != token.mark and (feed.mark is not None or here > feed.floor):
        raise FeedGone("the change of the token is missing, as after the database was restored")


def _existing(connection: Connection, scope: int | None, after: int, limit: int) -> tuple[list[Change], int | None]:
    """Return tasks that there are, and the last one's id, None where the listing is complete."""
    values = {} if scope is None else {"owner_id": scope}
    values["after_id"] = after
    rows = tasks.page(connection, tasks.Shape(frozenset(values) - {"after_id"}, "id", False), values, limit + 1)
    tasks_of_page = [versioned(row) for row in rows[:limit]]
    changes = [
        Change("existing", one.task.id, one.version, one.task.updated_at, one.current(with_owner=scope is None))
        for one in tasks_of_page
    ]
    return changes, tasks_of_page[-1].task.id if len(rows) > limit else None


def _encode(token: Token) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


_read_token = msgspec.msgpack.Decoder(Token).decode


def _decode(text: str) -> Token:
    try:
        token = _read_token(base64.urlsafe_b64decode(text.encode("ascii") + b"=="))
    except (binascii.Error, ValueError):  # msgspec's and Unicode's errors are ValueErrors
        raise BadFeedToken from None
    numbers = (token.scope or 0, token.transaction, token.change, token.mark, token.listed or 0)
    if not all(number in _NUMBERS for number in numbers):
        raise BadFeedToken
    return token
