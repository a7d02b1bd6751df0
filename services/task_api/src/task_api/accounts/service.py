"""Registering, logging in, and the family of tokens that a login begins."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from mmap import mmap
from typing import Any, Literal, NamedTuple, cast

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from service_kit.mail import Mailer, Post
from task_api.accounts import administration, passwords, personal_tokens, second_factor
from task_api.accounts.administration import actor
from task_api.accounts.by_mail import ByMail
from task_api.accounts.model import (
    Account,
    AccountChanges,
    AnothersToken,
    BadPassword,
    BadToken,
    CreatedPersonalToken,
    EmailTaken,
    Failure,
    Login,
    LoginFailed,
    ManagedAccount,
    NewPersonalToken,
    NotAllowed,
    Overloaded,
    PasswordChange,
    PersonalToken,
    Proof,
    Registration,
    Role,
    SecondFactorNeeded,
    Session,
    SessionNotFound,
    Throttled,
    TokenAndPassword,
    Tokens,
    WrongPassword,
)
from task_api.accounts.password_policy import check_password
from task_api.accounts.throttle import Throttle
from task_api.accounts.tokens import TokenIssuer
from task_api.config import Settings
from task_api.store import accounts as store
from task_api.store import audit
from task_core import webhooks
from task_core.database import Database
from task_core.encryption import Keyring

LONGEST_USER_AGENT, LONGEST_ADDRESS = 200, 64
REMEMBERED_SECONDS = 1.0
SESSIONS_REMEMBERED = 10_000
REVOCATION_SIZE = 8


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
        account = Account(row.id, row.email, cast("Role", row.role), row.created_at, row.verified_at)
        if len(self._known) >= SESSIONS_REMEMBERED:
            self._known.clear()
        self._known[session_id] = (account, now + REMEMBERED_SECONDS, revoked)
        return account

    def personal(self, token: str) -> tuple[Account, None, frozenset[str]]:
        """Return the account and the scopes of a personal token. Raises BadToken."""
        digest = sha256(token.encode()).digest()
        with self._database.read() as connection:
            row = store.by_personal_token(connection, digest, datetime.now(UTC))
        if row is None:
            raise BadToken("invalid")
        account = Account(row.id, row.email, cast("Role", row.role), row.created_at, row.verified_at)
        return account, None, frozenset(row.scopes.split())

    def forget(self) -> None:
        """Make every worker read from the database again."""
        self._revoked[:REVOCATION_SIZE] = secrets.token_bytes(REVOCATION_SIZE)


class Identity(NamedTuple):
    """Who sends a request: an account, by a session or by a personal token with scopes."""

    account: Account
    session_id: str | None
    scopes: frozenset[str] | None
    """What a personal token may do; None for a session, which may do all that the account may."""


class Origin(NamedTuple):
    """Where a request comes from."""

    address: str
    user_agent: str | None = None


class Accounts:
    """Registering, logging in and out, and what people manage about their own accounts."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        failed: Callable[[Failure], None] = lambda _: None,
        post: Post | None = None,
    ) -> None:
        self._database = database
        self._sessions = Sessions(database)
        self._issuer = TokenIssuer(settings.jwt_keys, settings.access_token_seconds)
        self._refresh_life = timedelta(seconds=settings.refresh_token_seconds)
        self._session_life = timedelta(seconds=settings.session_seconds)
        self._logins = Throttle(database, settings.login_limit)
        self._registrations = Throttle(database, settings.registration_limit)
        self._keyring = Keyring(settings.encryption_keys)
        self.second_factors = second_factor.SecondFactors(database, self._keyring, self._logins, failed)
        self._lane = passwords.Lane(max(1, settings.threads - 1))
        self._failed = failed
        post = post or Mailer(settings.smtp_url, settings.mail_from)
        self.by_mail = ByMail(database, post, settings.mail_link, partial(self._lane.run, passwords.digest))

    def authenticate(self, token: str) -> Identity:
        """Return whose an access token or a personal token is. Raises BadToken."""
        try:
            return self.identity(token)
        except BadToken as error:
            self._failed(error.reason)
            raise

    def identity(self, token: str) -> Identity:
        """Return the same without counting a failure, for a token that was valid before. Raises BadToken."""
        if token.startswith(personal_tokens.PREFIX):
            return Identity(*self._sessions.personal(token))
        session_id = self._issuer.verify(token)
        return Identity(self._sessions.account(session_id), session_id, None)

    def register(self, registration: Registration, address: str) -> Account:
        """Create an account and return it. Raises EmailTaken, Throttled, and Overloaded."""
        with self._counted():
            self._registrations.once("register", address, "registrations")
            with self._database.read() as connection:
                if store.by_email(connection, registration.email):  # before its password costs a hash
                    raise EmailTaken(registration.email)
            password_hash = self._lane.run(passwords.digest, registration.password)
        return _add(self._database, registration, password_hash, "user")

    def register_address(self, email: str, address: str) -> None:
        """Have a token to register with sent. Raises Throttled after too many from one network, and Overloaded."""
        with self._counted():
            self._registrations.once("register", address, "registrations")
            self.by_mail.register(email)

    def forgot_password(self, email: str, address: str) -> None:
        """Have a token to reset a password sent. Raises Throttled after too many of a network, and Overloaded."""
        with self._counted():
            self._registrations.once("forgot", address, "forgotten passwords")
            self.by_mail.forgot(email)

    def request_confirmation(self, account: Account, address: str) -> None:
        """Have a token to confirm the account's address with sent.

        Raises Throttled after too many of a network, or to the address.
        """
        with self._counted():
            self._registrations.once("confirm", address, "confirmations")
            self.by_mail.request_confirmation(account.email)

    def confirm_address(self, token: str) -> None:
        """Note that a token from a mail came back. Raises BadMailToken."""
        self.by_mail.confirm(token)
        self._sessions.forget()

    def reset_password(self, sent: TokenAndPassword) -> None:
        """Replace a password by a token that was sent. Raises BadMailToken, BadPassword, and Overloaded."""
        self.by_mail.reset(sent)
        self._sessions.forget()

    def login(self, login: Login, origin: Origin) -> Tokens:
        """Begin a session.

        Raises LoginFailed, SecondFactorNeeded, WrongCode, Throttled after too many failures, and Overloaded.
        """
        with self._database.read() as connection:
            row = store.by_email(connection, login.email)
        device = self._issuer.device(login.device_token, row.id) if login.device_token and row else None
        if not self._verified(row, login.email, login.password, origin.address, device):
            self._failed("bad_credentials")
            raise LoginFailed("wrong address or password")
        assert row is not None  # nobody is verified without an account
        factor: AbstractContextManager[None] = nullcontext()
        if row.totp_step is not None:
            if login.code is None:
                raise SecondFactorNeeded
            factor = self.second_factors.attempt(row.id, device)
        renewed = None
        if passwords.outdated(row.password_hash):
            with suppress(Overloaded):  # then at another login
                renewed = self._lane.run(passwords.digest, login.password)
        now = datetime.now(UTC)
        session = {
            "id": secrets.token_hex(16),
            "account_id": row.id,
            "created_at": now,
            "expires_at": now + min(self._refresh_life, self._session_life),
            "user_agent": origin.user_agent and origin.user_agent[:LONGEST_USER_AGENT],
            "address": origin.address[:LONGEST_ADDRESS],
        }
        with factor, self._database.write() as connection:
            held = store.by_id(connection, row.id, lock=True)
            if held is None or held.disabled_at or held.password_hash != row.password_hash:  # meanwhile
                raise LoginFailed("wrong address or password")
            if held.totp_step is not None:
                if row.totp_step is None or login.code is None:  # turned on meanwhile
                    raise SecondFactorNeeded
                second_factor.spend(connection, self._keyring, held, login.code)
            if renewed:
                store.set_password_hash(connection, row.id, renewed)
            store.add_session(connection, session)
            return self._tokens(connection, row.id, session["id"], now, now)

    def refresh(self, refresh_token: str, account: str | None = None) -> Tokens:
        """Return new tokens for an unspent refresh token. A spent one ends the session: a thief may hold its successor.

        Raises BadToken, and AnothersToken where `account` is the id of another account: the token stays unspent.
        """
        digest = sha256(refresh_token.encode()).digest()
        now = datetime.now(UTC)
        with self._database.write() as connection:
            unspent = store.spend_refresh_token(connection, digest, now)
            row = store.refresh_token(connection, digest)
            fault = self._fault(row, unspent, now)
            if fault is None and row is not None:
                if account not in (None, str(row.account_id)):
                    raise AnothersToken
                end = min(now + self._refresh_life, row.created_at + self._session_life)
                store.extend_session(connection, row.session_id, now, end)
                return self._tokens(connection, row.account_id, row.session_id, row.created_at, now)
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

    def sessions(self, account: Account, current: str | None) -> list[Session]:
        """Return the valid sessions of an account, the newest first."""
        with self._database.read() as connection:
            rows = store.sessions_of(connection, account.id, datetime.now(UTC))
        return [
            Session(
                id=row.id,
                current=row.id == current,
                created_at=row.created_at,
                refreshed_at=row.refreshed_at,
                expires_at=row.expires_at,
                user_agent=row.user_agent,
                address=row.address,
            )
            for row in rows
        ]

    def end_session(self, account: Account, session_id: str) -> None:
        """End one session of an account. Raises SessionNotFound."""
        with self._database.write() as connection:
            if not store.revoke_sessions_of(connection, account.id, datetime.now(UTC), only=session_id):
                raise SessionNotFound
        self._sessions.forget()

    def end_sessions(self, account: Account) -> None:
        """End all sessions of an account."""
        with self._database.write() as connection:
            ended = store.revoke_sessions_of(connection, account.id, datetime.now(UTC))
            audit.record(connection, actor(account), "sessions ended", account.id, f"all {ended}")
        self._sessions.forget()

    def change_password(self, account: Account, session_id: str | None, change: PasswordChange, address: str) -> None:
        """Replace the password, end all other sessions, and switch webhooks off: a guest may have added one.

        Personal tokens stay. Raises BadPassword, WrongPassword, Throttled, and Overloaded.
        """
        try:
            check_password(change.new_password, account.email)
        except ValueError as error:
            raise BadPassword(str(error)) from None
        held = self.confirm(account, change.password, address)
        with self._counted():
            replaced = self._lane.run(passwords.digest, change.new_password)
        with self._database.write() as connection:
            now = datetime.now(UTC)
            row = store.by_id(connection, account.id, lock=True)
            if row is None or row.password_hash != held:  # another request was faster
                raise WrongPassword
            store.set_password_hash(connection, account.id, replaced)
            ended = store.revoke_sessions_of(connection, account.id, now, but=session_id)
            hooks = webhooks.disable_all(connection, account.id, now, administration.WEBHOOKS_ENDED)
            details = f"{ended} other sessions ended, {hooks} webhooks switched off"
            audit.record(connection, actor(account), "password changed", account.id, details)
        self._sessions.forget()

    def delete(self, account: Account, proof: Proof, address: str) -> None:
        """Delete the account with its tasks. Raises WrongPassword, Throttled, Overloaded, and NotAllowed."""
        self.confirm(account, proof.password, address)
        with self._database.write() as connection:
            if account.role == "admin" and store.hold_administrators(connection) <= {account.id}:
                raise NotAllowed("the last administrator cannot go: promote another one first")
            store.remove(connection, account.id)
            audit.record(connection, actor(account), "deleted", account.id, account.email)
        self._sessions.forget()

    def confirm(self, account: Account, password: str, address: str) -> str:
        """Return the hash of the account's password where it was sent. Raises WrongPassword, Throttled, and Overloaded.

        Guesses count here too: whoever has stolen a token must not find the password out with it.
        """
        with self._database.read() as connection:
            row = store.by_id(connection, account.id)
        if row is None or not self._verified(row, account.email, password, address, f"account {account.id}"):
            self._failed("bad_credentials")
            raise WrongPassword
        return str(row.password_hash)

    def create_personal_token(
        self, account: Account, session_id: str | None, new: NewPersonalToken
    ) -> CreatedPersonalToken:
        """Create a personal token. Raises NotAllowed where the account has too many, BadToken after the session."""
        return personal_tokens.create(self._database, account, session_id, new)

    def personal_tokens(self, account: Account) -> list[PersonalToken]:
        """Return the valid personal tokens of an account."""
        return personal_tokens.listed(self._database, account)

    def remove_personal_token(self, account: Account, token_id: int) -> None:
        """Delete a personal token. Raises PersonalTokenNotFound."""
        personal_tokens.remove(self._database, account, token_id)
        self._sessions.forget()

    def administer(self, admin: Account, account_id: int, changes: AccountChanges) -> ManagedAccount:
        """Change an account as an administrator. Raises AccountNotFound, and NotAllowed for one's own account."""
        if admin.id == account_id:
            raise NotAllowed("administrators cannot change their own account: another one has to")
        changed = administration.change(self._database, actor(admin), account_id, changes)
        self._sessions.forget()
        return changed

    def _verified(self, row: Any, email: str, password: str, address: str, device: str | None) -> bool:
        with self._counted():
            attempts = self._logins.login(email, address, device)
            try:
                right = self._lane.run(passwords.verify, row.password_hash if row else None, password)
            except Overloaded:
                self._logins.give_back(attempts)
                raise
        if not right or row.disabled_at:
            return False
        self._logins.give_back(attempts)
        return True

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

    @staticmethod
    def _fault(row: Any, unspent: bool, now: datetime) -> Literal["invalid", "expired", "revoked", "reused"] | None:
        if row is None:
            return "invalid"
        if row.revoked_at is not None:
            return "revoked"
        if not unspent:
            return "reused"
        return "expired" if row.expires_at < now else None

    def _tokens(
        self, connection: Connection, account_id: int, session_id: str, began: datetime, now: datetime
    ) -> Tokens:
        refresh_token = secrets.token_urlsafe(32)
        left = began + self._session_life - now
        end = now + min(self._refresh_life, left)
        store.add_refresh_token(connection, sha256(refresh_token.encode()).digest(), session_id, end)
        seconds = min(self._issuer.seconds, int(left.total_seconds()))
        return Tokens(
            access_token=self._issuer.issue(account_id, session_id, seconds),
            refresh_token=refresh_token,
            device_token=self._issuer.issue_device(account_id),
            expires_in=seconds,
        )
