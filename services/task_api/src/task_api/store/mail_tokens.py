"""Tokens that were sent by mail, as rows: each can be used once, until it expires."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from task_core.schema import mail_tokens


def add(connection: Connection, digest: bytes, purpose: str, email: str, expires_at: datetime) -> None:
    """Store the digest of a token."""
    values = {"digest": digest, "purpose": purpose, "email": email, "expires_at": expires_at}
    connection.execute(insert(mail_tokens), values)


def address(connection: Connection, digest: bytes, purpose: str, now: datetime) -> str | None:
    """Return the address that a token for a purpose was sent to; None where it is not valid."""
    valid = (mail_tokens.c.digest == digest, mail_tokens.c.purpose == purpose, mail_tokens.c.expires_at > now)
    return connection.scalar(select(mail_tokens.c.email).where(*valid))


def spend(connection: Connection, digest: bytes) -> bool:
    """Delete a token; False where another request was faster."""
    return connection.execute(delete(mail_tokens).where(mail_tokens.c.digest == digest)).rowcount == 1


def forget(connection: Connection, email: str) -> None:
    """Delete all tokens that were sent to an address."""
    connection.execute(delete(mail_tokens).where(mail_tokens.c.email == email))
