"""All that is stored about one account, for its owner (GDPR, articles 15 and 20)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from task_api.accounts.model import Account
from task_api.store import accounts as store
from task_api.store import audit, tasks
from task_api.store.database import Database

PAGE = 500
UNTOLD = {"password_hash", "totp_secret", "recovery_codes", "digest", "account_id"}
"""Columns that are secrets, or are the same in every line."""

_encode = msgspec.json.Encoder().encode


def lines(database: Database, account: Account) -> Iterator[bytes]:
    """Return JSON lines: the account, its sessions, its tokens, its tasks, its audit entries, and a line that counts.

    Read a page at a time, so a slow reader holds no connection to the database.
    """
    counts: dict[str, int] = {}
    now = datetime.now(UTC)

    def line(kind: str, row: Any) -> bytes:
        counts[kind] = counts.get(kind, 0) + 1
        return _encode({"type": kind, **{name: row[name] for name in row if name not in UNTOLD}}) + b"\n"

    with database.read() as connection:
        row = store.by_id(connection, account.id)
        sessions = store.sessions_of(connection, account.id, now)
        tokens = store.personal_tokens_of(connection, account.id, now)
    for kind, rows in (("account", [row] if row else []), ("session", sessions), ("token", tokens)):
        for each in rows:
            yield line(kind, each._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row's columns
    last = 0
    while True:
        with database.read() as connection:
            page = tasks.of_owner(connection, account.id, last, PAGE)
        if not page:
            break
        for each in page:
            yield line("task", each._mapping)  # noqa: SLF001
        last = page[-1].id
    before: int | None = None
    while True:
        with database.read() as connection:
            entries = audit.page(connection, before, PAGE, account_id=account.id)
        if not entries:
            break
        for each in entries:
            yield line("audit", each._mapping)  # noqa: SLF001
        before = entries[-1].id
    yield _encode({"type": "end", **counts}) + b"\n"
