"""Accounts, sessions and refresh tokens as rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from task_api.store.schema import accounts, refresh_tokens, sessions

_SESSION = (
    select(accounts.c.id, accounts.c.email, accounts.c.role, accounts.c.created_at)
    .join(sessions, sessions.c.account_id == accounts.c.id)
    .where(sessions.c.id == bindparam("session_id"), sessions.c.revoked_at.is_(None))
)


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert an account and give its id. Raises IntegrityError where the address is taken."""
    return int(connection.execute(insert(accounts).returning(accounts.c.id), dict(values)).scalar_one())


def by_email(connection: Connection, email: str) -> Row[Any] | None:
    """The account of an address."""
    return connection.execute(select(accounts).where(accounts.c.email == email)).one_or_none()


def set_password_hash(connection: Connection, account_id: int, password_hash: str) -> None:
    """Replace the hash, as when its parameters have become too weak."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(password_hash=password_hash))


def by_session(connection: Connection, session_id: str) -> Row[int, str, str, datetime] | None:
    """(id, email, role, created_at) of the account that a session, not revoked, belongs to."""
    return connection.execute(_SESSION, {"session_id": session_id}).one_or_none()


def add_session(connection: Connection, session_id: str, account_id: int, now: datetime, expires_at: datetime) -> None:
    """Begin a session, and forget those that have expired."""
    connection.execute(
        insert(sessions), {"id": session_id, "account_id": account_id, "created_at": now, "expires_at": expires_at}
    )


def extend_session(connection: Connection, session_id: str, expires_at: datetime) -> None:
    """Let a session live on."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(expires_at=expires_at))


def revoke_session(connection: Connection, session_id: str, now: datetime) -> None:
    """End a session: its access tokens and refresh tokens are worth nothing from now on."""
    alive = sessions.c.revoked_at.is_(None)
    connection.execute(update(sessions).where(sessions.c.id == session_id, alive).values(revoked_at=now))


def add_refresh_token(connection: Connection, digest: bytes, session_id: str, expires_at: datetime) -> None:
    """Keep the digest of a refresh token."""
    connection.execute(insert(refresh_tokens), {"digest": digest, "session_id": session_id, "expires_at": expires_at})


def spend_refresh_token(connection: Connection, digest: bytes, now: datetime) -> bool:
    """Mark a token as spent; False where another spent it before, or it is not known."""
    unspent = (refresh_tokens.c.digest == digest, refresh_tokens.c.spent_at.is_(None))
    return connection.execute(update(refresh_tokens).where(*unspent).values(spent_at=now)).rowcount == 1


def refresh_token(connection: Connection, digest: bytes) -> Row[Any] | None:
    """The token with its session's account and end."""
    statement = (
        select(refresh_tokens, sessions.c.account_id, sessions.c.revoked_at)
        .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
        .where(refresh_tokens.c.digest == digest)
    )
    return connection.execute(statement).one_or_none()


def every(connection: Connection) -> Any:
    """All accounts as mappings, in the order of their ids."""
    return connection.execute(select(accounts).order_by(accounts.c.id)).mappings()
