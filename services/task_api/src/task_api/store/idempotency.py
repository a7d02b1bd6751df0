"""Answers kept under the key that the client chose, so that a request sent twice is done once."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from task_api.store.schema import idempotency_keys as keys

KEPT = timedelta(hours=24)
CLAIM_LASTS = timedelta(seconds=60)
"""How long a claim without an answer is believed to be in flight; longer than any request may take."""


def claim(connection: Connection, owner_id: int, key: str, digest: bytes, token: str, now: datetime) -> Row[Any] | None:
    """Claim a key: None when it is ours now, else the row that holds it."""
    this_key = (keys.c.owner_id == owner_id, keys.c.key == key)
    abandoned = keys.c.response.is_(None) & (keys.c.claimed_at < now - CLAIM_LASTS)
    connection.execute(delete(keys).where(*this_key, abandoned | (keys.c.claimed_at < now - KEPT)))
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(keys).values(owner_id=owner_id, key=key, request_digest=digest, claim=token, claimed_at=now)
    if connection.execute(new.on_conflict_do_nothing().returning(keys.c.key)).one_or_none() is not None:
        return None
    return connection.execute(select(keys).where(*this_key)).one_or_none()


def answer(connection: Connection, owner_id: int, key: str, token: str, response: bytes) -> bool:
    """Keep the answer; False when the claim has meanwhile gone to another."""
    ours = (keys.c.owner_id == owner_id, keys.c.key == key, keys.c.claim == token)
    return connection.execute(update(keys).where(*ours).values(response=response)).rowcount == 1


def release(connection: Connection, owner_id: int, key: str, token: str) -> None:
    """Give a claim up whose work was not done."""
    ours = (keys.c.owner_id == owner_id, keys.c.key == key, keys.c.claim == token, keys.c.response.is_(None))
    connection.execute(delete(keys).where(*ours))
