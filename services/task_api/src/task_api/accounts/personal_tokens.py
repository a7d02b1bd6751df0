"""Personal tokens: for programs of a person's own, with scopes and an end, shown once and stored as a digest."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from task_api.accounts.administration import actor
from task_api.accounts.model import (
    CALENDAR_SCOPE,
    Account,
    BadToken,
    CreatedPersonalToken,
    NewPersonalToken,
    NotAllowed,
    PersonalToken,
    PersonalTokenNotFound,
)
from task_api.store import accounts as store
from task_api.store import audit
from task_core.database import Database

PREFIX = "taskapi_"
"""By this, scanners find a token that was published by mistake, and the service distinguishes it from a JWT."""

MOST = 50


def create(database: Database, account: Account, session_id: str | None, new: NewPersonalToken) -> CreatedPersonalToken:
    """Create a personal token. Raises NotAllowed where the account has too many, BadToken where the session is over."""
    token = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    expires_at = now + timedelta(days=new.days)
    values = {
        "account_id": account.id,
        "name": new.name,
        "digest": sha256(token.encode()).digest(),
        "scopes": " ".join(new.scopes),
        "created_at": now,
        "expires_at": expires_at,
    }
    with database.write() as connection:
        if not store.hold(connection, account.id, session_id):
            raise BadToken("revoked")
        if len(store.personal_tokens_of(connection, account.id, now)) >= MOST:
            raise NotAllowed(f"an account has at most {MOST} personal tokens: delete one first")
        identity = store.add_personal_token(connection, values)
        audit.record(connection, actor(account), "token created", account.id, f"{identity}: {values['scopes']}")
    return CreatedPersonalToken(
        id=identity, name=new.name, created_at=now, expires_at=expires_at, token=token, **_shown(new.scopes)
    )


def listed(database: Database, account: Account) -> list[PersonalToken]:
    """Return the valid personal tokens of an account."""
    with database.read() as connection:
        rows = store.personal_tokens_of(connection, account.id, datetime.now(UTC))
    return [
        PersonalToken(
            id=row.id,
            name=row.name,
            created_at=row.created_at,
            expires_at=row.expires_at,
            **_shown(row.scopes.split()),
        )
        for row in rows
    ]


def _shown(scopes: list[Any]) -> dict[str, Any]:
    """Return the scopes as responses have them: a further value of `scopes` would break clients that know two."""
    return {"scopes": [one for one in scopes if one != CALENDAR_SCOPE], "calendar": CALENDAR_SCOPE in scopes}


def remove(database: Database, account: Account, token_id: int) -> None:
    """Delete a personal token. Raises PersonalTokenNotFound."""
    with database.write() as connection:
        if not store.remove_personal_tokens(connection, account.id, token_id):
            raise PersonalTokenNotFound
        audit.record(connection, actor(account), "token deleted", account.id, str(token_id))
