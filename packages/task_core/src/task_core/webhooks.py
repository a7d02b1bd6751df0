"""Webhooks and what could not be delivered to them, as rows. Every function works in the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from task_core.changes import BEFORE_HORIZON, horizon
from task_core.encryption import EncryptedColumn, Keyring
from task_core.schema import accounts, task_changes, webhook_dead_letters, webhooks

hooks, letters = webhooks.c, webhook_dead_letters.c

SECRETS = EncryptedColumn(
    "webhook",
    hooks.encrypted_secrets,
    in_clear=lambda row: " ".join(filter(None, (row.secret, row.previous_secret))) if row.secret else None,
    cleared=lambda: {"secret": "", "previous_secret": None},
)
"""The secret of a webhook, and the one before it after a space, where there is one.

One that is not encrypted is the newest: the version before 0017 rotates so, and leaves what is encrypted.
"""


def add(connection: Connection, keyring: Keyring, secret: str, values: Mapping[str, Any]) -> int:
    """Insert a webhook with a secret and return its id. Raises ValueError where there is no key."""
    new = insert(webhooks).returning(hooks.id)
    webhook_id = int(connection.execute(new, {**values, **SECRETS.cleared()}).scalar_one())
    change(connection, webhook_id, SECRETS.columns(keyring, webhook_id, secret))  # which is bound to the id
    return webhook_id


def of_owner(connection: Connection, owner_id: int, webhook_id: int | None = None) -> Sequence[Row[Any]]:
    """Return an account's webhooks, or the one with this id."""
    which = [hooks.owner_id == owner_id] + [hooks.id == webhook_id] * (webhook_id is not None)
    return connection.execute(select(webhooks).where(*which).order_by(hooks.id)).all()


def change(connection: Connection, webhook_id: int, values: Mapping[str, Any]) -> None:
    """Set columns of a webhook."""
    connection.execute(update(webhooks).where(hooks.id == webhook_id).values(**values))


def secrets_of(keyring: Keyring, row: Any) -> list[str]:
    """Return the secret of a webhook, and the one before it where there is one. Raises Undecryptable."""
    return SECRETS.read(keyring, row).split()


def disable_all(connection: Connection, owner_id: int, now: datetime, reason: str) -> int:
    """Disable the active webhooks of an account, end their leases, and return how many there were."""
    active = (hooks.owner_id == owner_id, hooks.disabled_at.is_(None))
    values = {"disabled_at": now, "disabled_reason": reason, "lease": None}
    return connection.execute(update(webhooks).where(*active).values(**values)).rowcount


def change_leased(connection: Connection, webhook_id: int, lease: str, values: Mapping[str, Any]) -> bool:
    """Set columns of a webhook; return False where somebody else has the lease by now, or it is gone or disabled."""
    held = (hooks.id == webhook_id, hooks.lease == lease, hooks.disabled_at.is_(None))
    return connection.execute(update(webhooks).where(*held).values(**values)).rowcount > 0


def remove(connection: Connection, webhook_id: int) -> None:
    """Delete a webhook with its dead letters."""
    connection.execute(delete(webhooks).where(hooks.id == webhook_id))


def claim(
    connection: Connection, lease: str, now: datetime, until: datetime, busy: Collection[int] = ()
) -> Row[Any] | None:
    """Lease a webhook that is due and has something to deliver, and return it; None where there is none.

    Those of the accounts in `busy` wait.
    """
    due = select(hooks.id).where(_due(connection, now, busy))
    due = due.order_by(hooks.next_attempt_at).limit(1).with_for_update(skip_locked=True, of=webhooks)
    found = connection.scalar(due, {"horizon": horizon(connection)})
    if found is None:
        return None
    leased = update(webhooks).where(hooks.id == found).values(lease=lease, next_attempt_at=until)
    return connection.execute(leased.returning(webhooks)).one()


def due(connection: Connection, now: datetime, busy: Collection[int] = ()) -> bool:
    """Return whether there is something to claim, without taking SQLite's writer for it."""
    which = select(exists().where(_due(connection, now, busy)))
    return bool(connection.scalar(which, {"horizon": horizon(connection)}))


def _due(connection: Connection, now: datetime, busy: Collection[int]) -> ColumnElement[bool]:
    return and_(
        hooks.disabled_at.is_(None),
        hooks.next_attempt_at <= now,
        hooks.owner_id.not_in(busy),
        _waiting(connection),
    )


def _waiting(connection: Connection) -> ColumnElement[bool]:
    """Return the condition that a webhook has something to deliver."""
    change = task_changes.c
    position = tuple_(hooks.transaction_id, hooks.change_id)
    behind = tuple_(change.transaction_id, change.id) > position
    changed = exists().where(change.owner_id == hooks.owner_id, behind, BEFORE_HORIZON[connection.dialect.name])
    requested = exists().where(letters.webhook_id == hooks.id, letters.requested_at.is_not(None))
    return or_(changed.correlate(webhooks), requested.correlate(webhooks))


def backlog(connection: Connection, now: datetime) -> tuple[datetime | None, datetime | None, int]:
    """Return what active webhooks wait for: since when the oldest change, since when an attempt is due, and how many.

    An attempt is due from when the change was made, or the pause after a failure was over; not while it is made.
    """
    change = task_changes.c
    behind = tuple_(change.transaction_id, change.id) > tuple_(hooks.transaction_id, hooks.change_id)
    first = select(change.changed_at).where(change.owner_id == hooks.owner_id, behind)
    first = first.order_by(change.transaction_id, change.id).limit(1).correlate(webhooks)
    columns = (first.scalar_subquery().label("made_at"), hooks.next_attempt_at)
    each = select(*columns).where(hooks.disabled_at.is_(None)).subquery().c
    due = case((each.next_attempt_at > each.made_at, each.next_attempt_at), else_=each.made_at)
    since = func.min(case((and_(each.made_at.is_not(None), each.next_attempt_at <= now), due)))
    found = connection.execute(select(func.min(each.made_at), since, func.count(each.made_at))).one()
    return found[0], found[1], found[2]


def disabled(connection: Connection) -> int:
    """Return how many webhooks are disabled."""
    return connection.scalar(select(func.count()).where(hooks.disabled_at.is_not(None))) or 0


def email(connection: Connection, account_id: int) -> str | None:
    """Return the address of an account, None where it is gone, or its owner has not confirmed the address."""
    own = (accounts.c.id == account_id, accounts.c.verified_at.is_not(None))
    found: str | None = connection.scalar(select(accounts.c.email).where(*own))
    return found


def add_letter(connection: Connection, values: Mapping[str, Any], most: int) -> None:
    """Insert a dead letter, and delete the oldest of its webhook where there are more than `most`."""
    connection.execute(insert(webhook_dead_letters), values)
    newest = select(letters.id).where(letters.webhook_id == values["webhook_id"]).order_by(letters.id.desc())
    limit = newest.offset(most).limit(1).scalar_subquery()
    connection.execute(
        delete(webhook_dead_letters).where(letters.webhook_id == values["webhook_id"], letters.id <= limit)
    )


def letters_of(connection: Connection, webhook_id: int, *, requested: bool = False) -> Sequence[Row[Any]]:
    """Return the dead letters of a webhook, the oldest first; with `requested` those to be sent again."""
    which = [letters.webhook_id == webhook_id] + [letters.requested_at.is_not(None)] * requested
    return connection.execute(select(webhook_dead_letters).where(*which).order_by(letters.id)).all()


def request(connection: Connection, webhook_id: int, now: datetime) -> int:
    """Mark all dead letters of a webhook as to be sent again; return how many there are."""
    which = letters.webhook_id == webhook_id
    return connection.execute(update(webhook_dead_letters).where(which).values(requested_at=now)).rowcount


def keep_letter(connection: Connection, letter_id: int, error: str, now: datetime) -> None:
    """Note that a dead letter could not be delivered again."""
    values = {"requested_at": None, "error": error, "failed_at": now}
    connection.execute(update(webhook_dead_letters).where(letters.id == letter_id).values(**values))


def remove_letter(connection: Connection, letter_id: int) -> None:
    """Delete a dead letter that was delivered."""
    connection.execute(delete(webhook_dead_letters).where(letters.id == letter_id))
