"""Registering, logging in, and the family of tokens that a login begins."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from mmap import mmap
from typing import Any, Literal, cast

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from task_api.accounts import passwords
from task_api.accounts.model import (
    Account,
    BadToken,
    EmailTaken,
    Login,
    LoginFailed,
    Registration,
    Role,
    Throttled,
    Tokens,
)
from task_api.accounts.tokens import TokenIssuer
from task_api.config import Rate, Settings
from task_api.store import accounts as store
from task_api.store import rates
from task_api.store.database import Database

FAILURES_OF_AN_ADDRESS = 5
"""How many times the login limit of one account a network address has, which many people may share."""

REMEMBERED_SECONDS = 1.0
SESSIONS_REMEMBERED = 10_000
REVOCATION_SIZE = 8

Failure = Literal["invalid", "expired", "revoked", "reused", "bad_credentials", "throttled"]


def register(database: Database, registration: Registration, role: Role = "user") -> Account:
    """Make an account. Raises EmailTaken."""
    now = datetime.now(UTC)
    values = {
        "email": registration.email,
        "password_hash": passwords.digest(registration.password),
        "role": role,
        "created_at": now,
    }
    try:
        with database.write() as connection:
            identity = store.add(connection, values)
    except IntegrityError:
        raise EmailTaken(f"there is an account of {registration.email}") from None
    return Account(identity, registration.email, role, now)


class Sessions:
    """Whose a session is, remembered for a second.

    A session revoked by this service is forgotten at once, by all workers: they share the memory that says when one was
    revoked, made before they are forked. Replicas elsewhere go by the second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[Account, float, bytes]] = {}
        self._revoked = mmap(-1, REVOCATION_SIZE)

    def account(self, session_id: str) -> Account:
        """The account of a session. Raises BadToken where it was revoked."""
        revoked, now = self._revoked[:REVOCATION_SIZE], time.monotonic()
        known = self._known.get(session_id)
        if known and known[1] > now and known[2] == revoked:
            return known[0]
        with self._database.read() as connection:
            row = store.by_session(connection, session_id)
        if row is None:
            raise BadToken("revoked")
        account = Account(row.id, row.email, cast("Role", row.role), row.created_at)
        if len(self._known) >= SESSIONS_REMEMBERED:
            self._known.clear()
        self._known[session_id] = (account, now + REMEMBERED_SECONDS, revoked)
        return account

    def forget(self) -> None:
        """Let every worker ask the database again."""
        self._revoked[:REVOCATION_SIZE] = secrets.token_bytes(REVOCATION_SIZE)


class Accounts:
    """Logging in and out over one database, with the keys and lives that the settings give."""

    def __init__(
        self, settings: Settings, database: Database, failed: Callable[[Failure], None] = lambda _: None
    ) -> None:
        self._database = database
        self._sessions = Sessions(database)
        self._issuer = TokenIssuer(settings.jwt_keys, settings.access_token_seconds)
        self._refresh_life = timedelta(seconds=settings.refresh_token_seconds)
        self._limit = settings.login_limit
        self._failed = failed

    def authenticate(self, token: str) -> tuple[Account, str]:
        """The account and session of an access token. Raises BadToken."""
        try:
            session_id = self._issuer.verify(token)
            return self._sessions.account(session_id), session_id
        except BadToken as error:
            self._failed(error.reason)
            raise

    def login(self, login: Login, address: str) -> Tokens:
        """Begin a session. Raises LoginFailed, and Throttled after too many failures of the account or the address."""
        attempts = self._count(login.email, address)
        with self._database.read() as connection:
            row = store.by_email(connection, login.email)
        if not passwords.verify(row.password_hash if row else None, login.password):
            self._failed("bad_credentials")
            raise LoginFailed("wrong address or password")
        assert row is not None  # verify is False without a hash
        session_id = secrets.token_hex(16)
        with self._database.write() as connection:
            for client, ends_at in attempts:
                rates.give_back(connection, client, ends_at)
            if passwords.outdated(row.password_hash):
                store.set_password_hash(connection, row.id, passwords.digest(login.password))
            now = datetime.now(UTC)
            store.add_session(connection, session_id, row.id, now, now + self._refresh_life)
            return self._tokens(connection, row.id, session_id, now)

    def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for an unspent refresh token; a spent one ends the session, since a thief may hold the other.

        Raises BadToken.
        """
        digest = sha256(refresh_token.encode()).digest()
        now = datetime.now(UTC)
        with self._database.write() as connection:
            unspent = store.spend_refresh_token(connection, digest, now)
            row = store.refresh_token(connection, digest)
            fault = self._fault(row, unspent, now)
            if fault is None and row is not None:
                store.extend_session(connection, row.session_id, now + self._refresh_life)
                return self._tokens(connection, row.account_id, row.session_id, now)
            if fault == "reused" and row is not None:
                store.revoke_session(connection, row.session_id, now)
        self._sessions.forget()
        self._failed(fault or "invalid")
        raise BadToken(fault or "invalid")

    def logout(self, session_id: str) -> None:
        """End a session."""
        with self._database.write() as connection:
            store.revoke_session(connection, session_id, datetime.now(UTC))
        self._sessions.forget()

    @staticmethod
    def _fault(row: Any, unspent: bool, now: datetime) -> Literal["invalid", "expired", "revoked", "reused"] | None:
        if row is None:
            return "invalid"
        if row.revoked_at is not None:
            return "revoked"
        if not unspent:
            return "reused"
        return "expired" if row.expires_at < now else None

    def _tokens(self, connection: Connection, account_id: int, session_id: str, now: datetime) -> Tokens:
        refresh_token = secrets.token_urlsafe(32)
        store.add_refresh_token(
            connection, sha256(refresh_token.encode()).digest(), session_id, now + self._refresh_life
        )
        return Tokens(self._issuer.issue(account_id, session_id), refresh_token, self._issuer.seconds)

    def _count(self, email: str, address: str) -> list[tuple[str, int]]:
        """Count an attempt against account and address, to be given back when it succeeds. Raises Throttled."""
        if self._limit is None:
            return []
        account = sha256(email.encode()).hexdigest()[:32]  # known or not: the answer must not tell
        limits = {  # an address that may not go on takes nothing of an account's: it could lock any number of them
            f"login:address:{address}": self._limit.limit * FAILURES_OF_AN_ADDRESS,
            f"login:account:{account}": self._limit.limit,
        }
        now = int(datetime.now(UTC).timestamp())
        ends_at = window_end(self._limit, now)
        with self._database.write() as connection:
            allowed = all(rates.take(connection, client, ends_at, limit, limit)[0] for client, limit in limits.items())
        rates.clear(self._database)
        if not allowed:
            self._failed("throttled")
            raise Throttled(ends_at - now)
        return [(client, ends_at) for client in limits]


def window_end(rate: Rate, now: int) -> int:
    """When the window of a rate that `now` is in ends, both in Unix seconds."""
    return (now // rate.seconds + 1) * rate.seconds
