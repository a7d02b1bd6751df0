"""Registering, logging in, and the family of tokens that a login begins."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    Overloaded,
    Registration,
    Role,
    Throttled,
    Tokens,
)
from task_api.accounts.throttle import Throttle
from task_api.accounts.tokens import TokenIssuer
from task_api.config import Settings
from task_api.store import accounts as store
from task_api.store.database import Database

REMEMBERED_SECONDS = 1.0
SESSIONS_REMEMBERED = 10_000
REVOCATION_SIZE = 8

Failure = Literal["invalid", "expired", "revoked", "reused", "bad_credentials", "throttled", "overloaded"]


def register(database: Database, registration: Registration, role: Role = "user") -> Account:
    """Create an account and return it. Raises EmailTaken."""
    return _add(database, registration, passwords.digest(registration.password), role)


def _add(database: Database, registration: Registration, password_hash: str, role: Role) -> Account:
    now = datetime.now(UTC)
    values = {"email": registration.email, "password_hash": password_hash, "role": role, "created_at": now}
    try:
        with database.write() as connection:
            identity = store.add(connection, values)
    except IntegrityError:
        raise EmailTaken(registration.email) from None
    return Account(identity, registration.email, role, now)


class Sessions:
    """A cache of the account of each session, kept for a second.

    When a session is revoked, all workers of this service drop their caches at once: a value in memory that they share,
    made before they are forked, changes. Other replicas follow within the second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[Account, float, bytes]] = {}
        self._revoked = mmap(-1, REVOCATION_SIZE)

    def account(self, session_id: str) -> Account:
        """Return the account of a session. Raises BadToken where it was revoked."""
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
        """Make every worker read from the database again."""
        self._revoked[:REVOCATION_SIZE] = secrets.token_bytes(REVOCATION_SIZE)


class Accounts:
    """Registering, logging in and out, over one database, with the keys and lifetimes of the settings."""

    def __init__(
        self, settings: Settings, database: Database, failed: Callable[[Failure], None] = lambda _: None
    ) -> None:
        self._database = database
        self._sessions = Sessions(database)
        self._issuer = TokenIssuer(settings.jwt_keys, settings.access_token_seconds)
        self._refresh_life = timedelta(seconds=settings.refresh_token_seconds)
        self._logins = Throttle(database, settings.login_limit)
        self._registrations = Throttle(database, settings.registration_limit)
        self._lane = passwords.Lane(max(1, settings.threads - 1))
        self._failed = failed

    def authenticate(self, token: str) -> tuple[Account, str]:
        """Return the account and session of an access token. Raises BadToken."""
        try:
            session_id = self._issuer.verify(token)
            return self._sessions.account(session_id), session_id
        except BadToken as error:
            self._failed(error.reason)
            raise

    def register(self, registration: Registration, address: str) -> Account:
        """Create an account and return it. Raises EmailTaken, Throttled, and Overloaded."""
        with self._counted():
            self._registrations.once("register", address, "registrations")
            with self._database.read() as connection:
                if store.by_email(connection, registration.email):  # before its password costs a hash
                    raise EmailTaken(registration.email)
            password_hash = self._lane.run(passwords.digest, registration.password)
        return _add(self._database, registration, password_hash, "user")

    def login(self, login: Login, address: str) -> Tokens:
        """Begin a session. Raises LoginFailed, Throttled after too many failures, and Overloaded."""
        with self._database.read() as connection:
            row = store.by_email(connection, login.email)
        device = self._issuer.device(login.device_token, row.id) if login.device_token and row else None
        with self._counted():
            attempts = self._logins.login(login.email, address, device)
            try:
                right = self._lane.run(passwords.verify, row.password_hash if row else None, login.password)
            except Overloaded:
                self._logins.give_back(attempts)
                raise
        if not right:
            self._failed("bad_credentials")
            raise LoginFailed("wrong address or password")
        assert row is not None  # verify is False without a hash
        self._logins.give_back(attempts)
        renewed = None
        if passwords.outdated(row.password_hash):
            with suppress(Overloaded):  # then at another login
                renewed = self._lane.run(passwords.digest, login.password)
        session_id = secrets.token_hex(16)
        with self._database.write() as connection:
            if renewed:
                store.set_password_hash(connection, row.id, renewed)
            now = datetime.now(UTC)
            store.add_session(connection, session_id, row.id, now, now + self._refresh_life)
            return self._tokens(connection, row.id, session_id, now)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except Throttled:
            self._failed("throttled")
            raise
        except Overloaded:
            self._failed("overloaded")
            raise

    def refresh(self, refresh_token: str) -> Tokens:
        """Return new tokens for an unspent refresh token. A spent one ends the session: a thief may hold its successor.

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
        return Tokens(
            access_token=self._issuer.issue(account_id, session_id),
            refresh_token=refresh_token,
            device_token=self._issuer.issue_device(account_id),
            expires_in=self._issuer.seconds,
        )
