"""The rules of webhooks: who may have how many, where they may lead, and their secrets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from service_kit import outbound, signatures
from task_api.accounts.model import BadToken, NotAllowed
from task_api.store import accounts
from task_api.webhooks.model import CreatedWebhook, DeadLetter, Webhook, WebhookChanges, WebhookNotFound
from task_core import changes
from task_core import webhooks as store
from task_core.database import Database
from task_core.delivery import message_id
from task_core.encryption import Keyring, Undecryptable
from task_core.schema import LARGEST_KEY

PREVIOUS_SECRET_KEPT = timedelta(days=1)
"""For how long messages are also signed with the secret before."""

REPAIRED: dict[str, Any] = {
    "disabled_at": None,
    "disabled_reason": None,
    "failures": 0,
    "failing_since": None,
    "last_error": None,
    "dead_in_a_row": 0,
    "lease": None,
}
"""The columns of a webhook that is about to be tried as if it had never failed."""


def create(
    database: Database,
    keyring: Keyring,
    owner_id: int,
    url: str,
    *,
    insecure: bool,
    most: int = 10,
    session_id: str | None = None,
) -> CreatedWebhook:
    """Register a webhook for the changes from now on.

    Raises Refused for its address, NotAllowed beyond `most`, BadToken where the session is over.
    """
    outbound.parse(url, insecure=insecure)
    now, secret = datetime.now(UTC), signatures.new_secret()
    with database.write() as connection:
        _hold(connection, owner_id, session_id)
        if len(store.of_owner(connection, owner_id)) >= most:
            raise NotAllowed(f"an account has at most {most} webhooks: delete one first")
        values = {"owner_id": owner_id, "url": url, "created_at": now, "next_attempt_at": now}
        values |= _newest(connection, owner_id)
        webhook_id = store.add(connection, keyring, secret, values)
        created = _shown(find(connection, owner_id, webhook_id))
    return CreatedWebhook(**msgspec.structs.asdict(created), secret=secret)


def _hold(connection: Connection, owner_id: int, session_id: str | None) -> None:
    if not accounts.hold(connection, owner_id, session_id):
        raise BadToken("revoked")


def _newest(connection: Connection, owner_id: int) -> dict[str, int]:
    last = changes.last(connection, owner_id, changes.horizon(connection))
    return {"transaction_id": last.transaction, "change_id": last.change}


def find(connection: Connection, owner_id: int, webhook_id: int) -> Row[Any]:
    """Return the row of a webhook of an account. Raises WebhookNotFound."""
    found = store.of_owner(connection, owner_id, webhook_id) if webhook_id <= LARGEST_KEY else ()
    if not found:
        raise WebhookNotFound(webhook_id)
    return found[0]


def _shown(row: Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        active=row.disabled_at is None,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        failures=row.failures,
        last_error=row.last_error,
        next_attempt_at=row.next_attempt_at if row.failures and row.disabled_at is None else None,
    )


def every(connection: Connection, owner_id: int) -> list[Webhook]:
    """Return the webhooks of an account."""
    return [_shown(row) for row in store.of_owner(connection, owner_id)]


def get(connection: Connection, owner_id: int, webhook_id: int) -> Webhook:
    """Return a webhook of an account. Raises WebhookNotFound."""
    return _shown(find(connection, owner_id, webhook_id))


def change(
    database: Database,
    owner_id: int,
    webhook_id: int,
    wanted: WebhookChanges,
    *,
    insecure: bool,
    session_id: str | None = None,
) -> Webhook:
    """Change a webhook; one that is active, or has a new address, is tried at once.

    Raises WebhookNotFound, Refused, and BadToken where the session is over.
    """
    now = datetime.now(UTC)
    values: dict[str, Any] = {}
    if isinstance(wanted.url, str):
        outbound.parse(wanted.url, insecure=insecure)
        values |= {"url": wanted.url, "next_attempt_at": now, "lease": None}
    with database.write() as connection:
        _hold(connection, owner_id, session_id)
        held = find(connection, owner_id, webhook_id)
        if wanted.active is False:
            values |= {"disabled_at": now, "disabled_reason": "switched off by its owner", "lease": None}
        elif wanted.active is True:
            values |= {**REPAIRED, "next_attempt_at": now}
            if changes.floor(connection, owner_id) > (held.transaction_id, held.change_id):
                values |= _newest(connection, owner_id)
        if values:
            store.change(connection, webhook_id, values)
        return get(connection, owner_id, webhook_id)


def remove(database: Database, owner_id: int, webhook_id: int) -> None:
    """Delete a webhook with its dead letters. Raises WebhookNotFound."""
    with database.write() as connection:
        find(connection, owner_id, webhook_id)
        store.remove(connection, webhook_id)


def rotate_secret(
    database: Database, keyring: Keyring, owner_id: int, webhook_id: int, session_id: str | None = None
) -> str:
    """Return a new secret; for a day messages are signed with the one before, too.

    Raises WebhookNotFound, and BadToken where the session is over.

    The lease ends: who holds it has read the secret before, and what it sends now is sent once more.
    """
    now, secret = datetime.now(UTC), signatures.new_secret()
    with database.write() as connection:
        _hold(connection, owner_id, session_id)
        row = find(connection, owner_id, webhook_id)
        try:
            before = store.secrets_of(keyring, row)[:1]
        except Undecryptable:  # then the new secret is what repairs the webhook
            before = []
        values = {"previous_until": now + PREVIOUS_SECRET_KEPT, "next_attempt_at": now, "lease": None}
        encrypted = store.SECRETS.columns(keyring, webhook_id, " ".join([secret, *before]))
        store.change(connection, webhook_id, {**values, **encrypted})
    return secret


def dead_letters(connection: Connection, owner_id: int, webhook_id: int) -> list[DeadLetter]:
    """Return the dead letters of a webhook, the oldest first. Raises WebhookNotFound."""
    find(connection, owner_id, webhook_id)
    return [
        DeadLetter(
            message_id=message_id(webhook_id, row.transaction_id, row.change_id, row.mark),
            kind=row.kind,
            task_id=row.task_id,
            version=row.version,
            changed_at=row.changed_at,
            failed_at=row.failed_at,
            error=row.error,
            replayed=row.requested_at is not None,
        )
        for row in store.letters_of(connection, webhook_id)
    ]


def replay(database: Database, owner_id: int, webhook_id: int) -> int:
    """Have all dead letters of a webhook sent again; return how many there are. Raises WebhookNotFound."""
    with database.write() as connection:
        find(connection, owner_id, webhook_id)
        return store.request(connection, webhook_id, datetime.now(UTC))
