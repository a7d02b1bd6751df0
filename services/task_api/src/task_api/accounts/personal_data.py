"""All that is stored about one account, for its owner (GDPR, articles 15 and 20)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Table

from task_api.accounts.model import Account
from task_api.store import accounts as store
from task_api.store import audit
from task_api.store.tasks import of_owner
from task_core.database import Database
from task_core.schema import deleted_tasks, task_changes, tasks, webhooks

PAGE = 500
UNTOLD = {
    "password_hash",
    "totp_secret",
    "encrypted_totp_secret",
    "recovery_codes",
    "digest",
    "account_id",
    "secret",
    "previous_secret",
    "encrypted_secrets",
    "traceparent",
    "lease",
}
"""Columns that are secrets, or are the same in every line."""

_encode = msgspec.json.Encoder().encode


def lines(database: Database, account: Account) -> Iterator[bytes]:
    """Return JSON lines: the account and what belongs to it, with the audit entries about it, and a line that counts.

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
    for kind, table in (
        ("task", tasks),
        ("deleted_task", deleted_tasks),
        ("change", task_changes),
        ("webhook", webhooks),
    ):
        for each in _pages(database, table, account.id):
            yield line(kind, each._mapping)  # noqa: SLF001
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


def _pages(database: Database, table: Table, owner_id: int) -> Iterator[Row[Any]]:
    last = 0
    while True:
        with database.read() as connection:
            page = of_owner(connection, table, owner_id, last, PAGE)
        if not page:
            return
        yield from page
        last = page[-1].id
