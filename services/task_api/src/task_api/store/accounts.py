"""Accounts, sessions and refresh tokens as rows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pyotp import random_base32
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from task_core.encryption import EncryptedColumn, Keyring
from task_core.schema import (
    LARGEST_KEY,
    LOCAL_ACCOUNT,
    TOTP_PLACEHOLDER,
    TOTP_SECRET,
    accounts,
    deleted_tasks,
    personal_tokens,
    refresh_tokens,
    sessions,
    tasks,
)

PIECE = 5_000
"""Rows that one statement deletes."""

SECOND_FACTORS = EncryptedColumn(
    "second factor of account",
    accounts.c.encrypted_totp_secret,
    in_clear=lambda row: row.totp_secret if len(row.totp_secret) == TOTP_SECRET else None,
    cleared=lambda: {"totp_secret": random_base32(TOTP_PLACEHOLDER)},
    present=accounts.c.totp_secret.is_not(None),
)
"""The secrets that codes by time are computed with (TOTP, RFC 6238)."""

_KNOWN = (accounts.c.id, accounts.c.email, accounts.c.role, accounts.c.created_at, accounts.c.verified_at)
_SESSION = (
    select(*_KNOWN)
    .join(sessions, sessions.c.account_id == accounts.c.id)
    .where(sessions.c.id == bindparam("session_id"), sessions.c.revoked_at.is_(None), accounts.c.disabled_at.is_(None))
)
_PERSONAL = (
    select(*_KNOWN, personal_tokens.c.scopes)
    .join(personal_tokens, personal_tokens.c.account_id == accounts.c.id)
    .where(
        personal_tokens.c.digest == bindparam("digest"),
        personal_tokens.c.expires_at > bindparam("now"),
        accounts.c.disabled_at.is_(None),
    )
)


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert an account and return its id. Raises IntegrityError where the address is taken."""
    return int(connection.execute(insert(accounts).returning(accounts.c.id), dict(values)).scalar_one())


def by_email(connection: Connection, email: str) -> Row[Any] | None:
    """Return the account of an address."""
    return connection.execute(select(accounts).where(accounts.c.email == email)).one_or_none()


def by_id(connection: Connection, account_id: int, *, lock: bool = False) -> Row[Any] | None:
    """Return an account, held against other writers until the transaction ends where `lock` is True."""
    if account_id > LARGEST_KEY:
        return None
    statement = select(accounts).where(accounts.c.id == account_id)
    return connection.execute(statement.with_for_update() if lock else statement).one_or_none()


def hold(connection: Connection, account_id: int, session_id: str | None) -> bool:
    """Hold an account as `by_id` does, and return whether the session that asks (None with AUTH=off) is still valid.

    Sessions are remembered for a second. What opens a way to the tasks that lasts longer has to ask here: otherwise
    whoever is thrown out of an account makes it in that second.
    """
    by_id(connection, account_id, lock=True)
    return session_id is None or by_session(connection, session_id) is not None


def page(connection: Connection, after: int, limit: int) -> Sequence[Row[Any]]:
    """Return at most `limit` accounts whose ids are greater than `after`, in the order of their ids."""
    statement = select(accounts).where(accounts.c.id > after, accounts.c.id != LOCAL_ACCOUNT)
    return connection.execute(statement.order_by(accounts.c.id).limit(limit)).all()


def hold_administrators(connection: Connection) -> set[int]:
    """Return the ids of the administrators that are not disabled, held until the transaction ends."""
    statement = select(accounts.c.id).where(accounts.c.role == "admin", accounts.c.disabled_at.is_(None))
    return set(connection.scalars(statement.order_by(accounts.c.id).with_for_update()))


def change(connection: Connection, account_id: int, **values: Any) -> None:
    """Set columns of an account."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(**values))


def remove(connection: Connection, account_id: int) -> None:
    """Delete an account with its tasks, also deleted ones; sessions, tokens and idempotency keys go with it.

    The account is held first: a task that another transaction is about to add would refer to an account that is gone.
    """
    by_id(connection, account_id, lock=True)
    for table in (tasks, deleted_tasks):  # in pieces: one statement for all may take too long
        some = select(table.c.id).where(table.c.owner_id == account_id).order_by(table.c.id).limit(PIECE)
        while connection.execute(delete(table).where(table.c.id.in_(some))).rowcount == PIECE:
            pass
    connection.execute(delete(accounts).where(accounts.c.id == account_id))


def second_factor_columns(keyring: Keyring, account_id: int, secret: str | None) -> dict[str, str | None]:
    """Return the columns that keep the secret of a second factor, or none; without a key it is kept in clear."""
    if secret is None or not keyring:
        return {"totp_secret": secret, SECOND_FACTORS.column.name: None}
    return SECOND_FACTORS.columns(keyring, account_id, secret)


def set_password_hash(connection: Connection, account_id: int, password_hash: str) -> None:
    """Replace the hash, as when its parameters have become too weak."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(password_hash=password_hash))


def by_session(connection: Connection, session_id: str) -> Row[int, str, str, datetime, datetime | None] | None:
    """Return (id, email, role, created_at, verified_at) of the account of a session; None where either is over."""
    return connection.execute(_SESSION, {"session_id": session_id}).one_or_none()


def add_session(connection: Connection, values: Mapping[str, Any]) -> None:
    """Begin a session."""
    connection.execute(insert(sessions), dict(values))


def sessions_of(connection: Connection, account_id: int, now: datetime) -> Sequence[Row[Any]]:
    """Return the sessions of an account that are valid at a moment, the newest first."""
    alive = (sessions.c.account_id == account_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
    return connection.execute(select(sessions).where(*alive).order_by(sessions.c.created_at.desc())).all()


def revoke_sessions_of(
    connection: Connection, account_id: int, now: datetime, *, only: str | None = None, but: str | None = None
) -> int:
    """End the sessions of an account, `only` one or all `but` one, and return how many ended."""
    which = [sessions.c.account_id == account_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now]
    which += [sessions.c.id == only] if only is not None else []
    which += [sessions.c.id != but] if but is not None else []
    return connection.execute(update(sessions).where(*which).values(revoked_at=now)).rowcount


def extend_session(connection: Connection, session_id: str, now: datetime, expires_at: datetime) -> None:
    """Move the end of a session."""
    values = {"refreshed_at": now, "expires_at": expires_at}
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(**values))


def revoke_session(connection: Connection, session_id: str, now: datetime) -> None:
    """End a session: none of its tokens is valid from now on."""
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
    """Return the token with the account, the begin and the end of its session."""
    statement = (
        select(refresh_tokens, sessions.c.account_id, sessions.c.revoked_at, sessions.c.created_at)
        .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
        .where(refresh_tokens.c.digest == digest)
    )
    return connection.execute(statement).one_or_none()


def every(connection: Connection) -> Any:
    """All accounts as mappings, in the order of their ids."""
    return connection.execute(select(accounts).order_by(accounts.c.id)).mappings()


def by_personal_token(
    connection: Connection, digest: bytes, now: datetime
) -> Row[int, str, str, datetime, datetime | None, str] | None:
    """Return what `by_session` does, and the scopes, of a personal token; None where one is not valid."""
    return connection.execute(_PERSONAL, {"digest": digest, "now": now}).one_or_none()


def add_personal_token(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a personal token and return its id."""
    return int(connection.execute(insert(personal_tokens).returning(personal_tokens.c.id), dict(values)).scalar_one())


def personal_tokens_of(connection: Connection, account_id: int, now: datetime) -> Sequence[Row[Any]]:
    """Return the personal tokens of an account that are valid at a moment, oldest first."""
    valid = (personal_tokens.c.account_id == account_id, personal_tokens.c.expires_at > now)
    return connection.execute(select(personal_tokens).where(*valid).order_by(personal_tokens.c.id)).all()


def remove_personal_tokens(connection: Connection, account_id: int, only: int | None = None) -> int:
    """Delete the personal tokens of an account, `only` one or all, and return how many."""
    if only is not None and only > LARGEST_KEY:
        return 0
    which = [personal_tokens.c.account_id == account_id]
    which += [personal_tokens.c.id == only] if only is not None else []
    return connection.execute(delete(personal_tokens).where(*which)).rowcount
