"""How much of a rate limit's window each client has used, shared by all workers and replicas of one database."""

from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from task_api.store.schema import rate_windows


def take(connection: Connection, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
    """Take a part of what is left of the client's window: (how much was taken, how much is used in all by now).

    The part is what is left divided by `share`, and at least 1; 0 when nothing is left. The window is named by when it
    ends, in Unix seconds.
    """
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(rate_windows).values(client=client, ends_at=ends_at, used=0)
    connection.execute(new.on_conflict_do_nothing())
    this_client = rate_windows.c.client == client
    row = connection.execute(
        select(rate_windows.c.ends_at, rate_windows.c.used).where(this_client).with_for_update()
    ).one()
    used = row.used if row.ends_at == ends_at else 0
    if used == 0:
        connection.execute(delete(rate_windows).where(rate_windows.c.ends_at < ends_at - 86400))
    taken = 0 if used >= limit else max(1, (limit - used) // share)
    connection.execute(update(rate_windows).where(this_client).values(ends_at=ends_at, used=used + taken))
    return taken, used + taken


def give_back(connection: Connection, client: str, ends_at: int) -> None:
    """Return one that was taken."""
    this_window = (rate_windows.c.client == client, rate_windows.c.ends_at == ends_at, rate_windows.c.used > 0)
    connection.execute(update(rate_windows).where(*this_window).values(used=rate_windows.c.used - 1))
