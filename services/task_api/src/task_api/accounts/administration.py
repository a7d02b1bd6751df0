"""What operators and administrators do to accounts; each act is in the audit log."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET
from sqlalchemy import Connection

from task_api.accounts.model import (
    Account,
    AccountChanges,
    AccountNotFound,
    AuditEntry,
    ManagedAccount,
    NotAllowed,
)
from task_api.store import accounts as store
from task_api.store import audit
from task_core import webhooks
from task_core.database import Database

OPERATOR = "command line"
PAGE = 200
WEBHOOKS_ENDED = "the account was disabled, or its password was changed: check the address, and switch it on"


def actor(account: Account) -> str:
    """Return how the audit log names an account."""
    return f"account {account.id}"


def page(database: Database, after: int, limit: int) -> list[ManagedAccount]:
    """Return at most `limit` accounts whose ids are greater than `after`."""
    with database.read() as connection:
        return [_managed(row) for row in store.page(connection, after, limit)]


def every(database: Database) -> Iterator[ManagedAccount]:
    """Return all accounts, read a page at a time."""
    last = 0
    while accounts := page(database, last, PAGE):
        yield from accounts
        last = accounts[-1].id


def find(database: Database, email: str) -> ManagedAccount:
    """Return the account of an address. Raises AccountNotFound."""
    with database.read() as connection:
        row = store.by_email(connection, email.lower())
    if row is None or row.password_hash is None:
        raise AccountNotFound(f"there is no account of {email}")
    return _managed(row)


def change(database: Database, by: str, account_id: int, changes: AccountChanges) -> ManagedAccount:
    """Disable or enable an account, or change its role. Raises AccountNotFound, and NotAllowed for the last admin.

    A disabled account cannot log in, its sessions and personal tokens end, and its webhooks are switched off; its
    tasks stay.
    """
    with database.write() as connection:
        row = _held(connection, account_id)
        administrators = store.hold_administrators(connection)
        loses = changes.disabled is True or changes.role == "user"
        if loses and administrators == {account_id}:
            raise NotAllowed("the last administrator has to stay one: promote another account first")
        if changes.role is not UNSET and changes.role != row.role:
            store.change(connection, account_id, role=changes.role)
            audit.record(connection, by, "role changed", account_id, f"from {row.role} to {changes.role}")
        if changes.disabled is True and not row.disabled_at:
            now = datetime.now(UTC)
            store.change(connection, account_id, disabled_at=now)
            end_all(connection, account_id, now)
            audit.record(connection, by, "disabled", account_id)
        if changes.disabled is False and row.disabled_at:
            store.change(connection, account_id, disabled_at=None)
            audit.record(connection, by, "enabled", account_id)
        return _managed(_held(connection, account_id))


def end_all(connection: Connection, account_id: int, now: datetime) -> str:
    """End all ways to an account's tasks, and return how many as text for the audit log.

    Sessions and personal tokens end; webhooks are switched off: whoever was in the account may have added one.
    """
    sessions = store.revoke_sessions_of(connection, account_id, now)
    tokens = store.remove_personal_tokens(connection, account_id)
    hooks = webhooks.disable_all(connection, account_id, now, WEBHOOKS_ENDED)
    return f"{sessions} sessions and {tokens} personal tokens ended, {hooks} webhooks switched off"


def replace_password(database: Database, by: str, account_id: int, password_hash: str) -> str:
    """Replace the password of an account, end all ways to its tasks, and return how many as text."""
    with database.write() as connection:
        _held(connection, account_id)
        store.set_password_hash(connection, account_id, password_hash)
        ended = end_all(connection, account_id, datetime.now(UTC))
        audit.record(connection, by, "password replaced", account_id, ended)
    return ended


def entries(database: Database, before: int | None, limit: int, account_id: int | None = None) -> list[AuditEntry]:
    """Return at most `limit` entries of the audit log, the newest first, whose ids are less than `before`."""
    with database.read() as connection:
        rows = audit.page(connection, before, limit, account_id=account_id)
    return [AuditEntry(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name for a row's columns


def _held(connection: Connection, account_id: int) -> Any:
    row = store.by_id(connection, account_id, lock=True)
    if row is None or row.password_hash is None:  # the account of AUTH=off has none
        raise AccountNotFound(f"there is no account {account_id}")
    return row


def _managed(row: Any) -> ManagedAccount:
    return ManagedAccount(
        id=row.id,
        email=row.email,
        role=row.role,
        created_at=row.created_at,
        disabled=row.disabled_at is not None,
        second_factor=row.totp_step is not None,
    )
