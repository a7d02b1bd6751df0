"""How much of a rate limit's window each client has used, in the database that all replicas share."""

from typing import Any

from sqlalchemy import Connection, case, update
from sqlalchemy.dialects import postgresql, sqlite

from task_core.database import Database
from task_core.schema import rate_windows


def window_end(seconds: int, now: int) -> int:
    """Return when the window of so many seconds that contains `now` ends, both in Unix seconds."""
    return (now // seconds + 1) * seconds


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


class DatabaseWindows:
    """The windows of a database, each taken from in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
        """Take a part of what is left of the client's window, as `take` does."""
        with self._database.write() as connection:
            return take(connection, client, ends_at, limit, share)
