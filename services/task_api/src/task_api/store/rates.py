"""How much of a rate limit's window each client has used, in the database that all replicas share."""

import math
import time
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, case, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from task_api.config import Rate
from task_api.store.database import Database
from task_api.store.schema import rate_windows

KEPT_SECONDS = 86400
"""How long a window is kept after its end."""

CLEARED_EVERY_SECONDS = 60.0
CLEARED_AT_ONCE = 5_000

_cleared: WeakKeyDictionary[Database, float] = WeakKeyDictionary()
"""When this process last cleared each database, by `time.monotonic`."""


def window_end(rate: Rate, now: int) -> int:
    """Return when the window of a rate that contains `now` ends, both in Unix seconds."""
    return (now // rate.seconds + 1) * rate.seconds


def take(connection: Connection, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
    """Take a part of what is left of the client's window, and return how much was taken and how much is used by now.

    The part is what is left divided by `share`, and at least 1; 0 when nothing is left. `ends_at`, in Unix seconds,
    identifies the window.
    """
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    # one statement, so that the row is there and is this transaction's whoever clears meanwhile
    hold = dialect.insert(rate_windows).values(client=client, ends_at=ends_at, used=0)
    hold = hold.on_conflict_do_update(
        index_elements=[rate_windows.c.client],
        set_={"ends_at": ends_at, "used": case((rate_windows.c.ends_at == ends_at, rate_windows.c.used), else_=0)},
    )
    used: int = connection.execute(hold.returning(rate_windows.c.used)).scalar_one()
    if used >= limit:
        return 0, used
    taken = max(1, (limit - used) // share)
    connection.execute(update(rate_windows).where(rate_windows.c.client == client).values(used=used + taken))
    return taken, used + taken


def give_back(connection: Connection, client: str, ends_at: int) -> None:
    """Return one that was taken."""
    this_window = (rate_windows.c.client == client, rate_windows.c.ends_at == ends_at, rate_windows.c.used > 0)
    connection.execute(update(rate_windows).where(*this_window).values(used=rate_windows.c.used - 1))


def clear(database: Database) -> None:
    """Forget windows that ended a day ago: some thousands once a minute in each process, otherwise nothing.

    To be called outside of a transaction. Never fails: what was not cleared is cleared another time.
    """
    now = time.monotonic()
    if now - _cleared.get(database, -math.inf) < CLEARED_EVERY_SECONDS:
        return
    _cleared[database] = now
    old = (
        select(rate_windows.c.client)
        .where(rate_windows.c.ends_at < time.time() - KEPT_SECONDS)
        .limit(CLEARED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    with suppress(SQLAlchemyError), database.write() as connection:
        connection.execute(delete(rate_windows).where(rate_windows.c.client.in_(old)))


class DatabaseWindows:
    """The windows of a database, each taken from in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
        """Take a part of what is left of the client's window, as `take` does."""
        with self._database.write() as connection:
            result = take(connection, client, ends_at, limit, share)
        clear(self._database)
        return result
