"""Registering an address, and resetting a password, by a token that is sent to the address.

No answer reveals whether an address has an account: the mail does, to its owner alone. An account comes to be when
the owner of the address sends the token back with a password, so nobody can prepare an account for somebody else.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

from sqlalchemy.exc import IntegrityError

from service_kit.mail import Post, QueueFull
from service_kit.telemetry.logs import log
from task_api.accounts import administration
from task_api.accounts.model import Account, BadMailToken, BadPassword, EmailTaken, Throttled, TokenAndPassword
from task_api.accounts.password_policy import check_password
from task_api.accounts.throttle import Throttle
from task_api.config import Rate
from task_api.store import accounts as store
from task_api.store import audit, mail_tokens
from task_core.database import Database

VALID = timedelta(hours=1)
MAILS_TO_AN_ADDRESS = Rate(5, 3600)
"""Of each purpose: whoever registers somebody's address keeps them from no mail that resets their password."""

Purpose = Literal["register", "reset", "confirm"]
REGISTER: Purpose = "register"
RESET: Purpose = "reset"
CONFIRM: Purpose = "confirm"
PATHS: dict[Purpose, str] = {
    REGISTER: "/auth/verify",
    RESET: "/auth/password/reset",
    CONFIRM: "/auth/confirm",
}
"""Where each kind of token is sent back to."""

WELCOME = (
    "Confirm your address",
    """\
Somebody, probably you, registers this address with the Task API. To confirm it and choose a password:

{how}

It is valid for an hour. If it was not you, ignore this mail: without it there is no account.
""",
)
UNCONFIRMED = (
    "Confirm your address",
    """\
Somebody, probably you, has an account of the Task API with this address. To confirm that the address is yours, so that
reminders are mailed to it:

{how}

It is valid for an hour. If it was not you, ignore this mail: no reminder is mailed to you.
""",
)
KNOWN = (
    "You have an account already",
    """\
Somebody, probably you, registers this address with the Task API, and it has an account already. Log in, or reset the
password if you have forgotten it. If it was not you, nothing has changed.
""",
)
FORGOTTEN = (
    "Reset your password",
    """\
Somebody, probably you, resets the password of this address at the Task API. To choose a new password:

{how}

It is valid for an hour. If it was not you, ignore this mail: the password stays as it is.
""",
)
CHANGED = (
    "Your password was reset",
    """\
The password of this address at the Task API was reset, all sessions and personal tokens have ended, and webhooks are
switched off. If it was not you, reset the password again, and inform whoever runs the service.
""",
)


class ByMail:
    """What people do with their address before they can log in."""

    def __init__(self, database: Database, post: Post, link: str, digest: Callable[[str], str]) -> None:
        """`link` is the page that mails lead to; `digest` returns the hash of a password, and raises Overloaded."""
        self._database = database
        self._post = post
        self._link = link
        self._digest = digest
        self._mails = Throttle(database, MAILS_TO_AN_ADDRESS)

    def register(self, email: str) -> None:
        """Send the address a token to register with, or say that it has an account. Raises QueueFull."""
        with suppress(Throttled), self._token(REGISTER, email) as token:  # the answer to a stranger is the same
            subject, text = KNOWN if self._account(email) else WELCOME
            self._post.send(email, subject, text.format(how=self._how(REGISTER, token)))

    def verify(self, sent: TokenAndPassword) -> Account:
        """Create the account of the token's address. Raises BadMailToken, BadPassword, EmailTaken, and Overloaded."""
        email, digest = self._checked(REGISTER, sent)
        password_hash = self._digest(sent.password)
        now = datetime.now(UTC)
        values = {"email": email, "password_hash": password_hash, "role": "user", "created_at": now, "verified_at": now}
        try:
            with self._database.write() as connection:
                if not mail_tokens.spend(connection, digest):
                    raise BadMailToken
                identity = store.add(connection, values)
                mail_tokens.forget(connection, email)
        except IntegrityError:
            raise EmailTaken(email) from None
        return Account(identity, email, "user", now, now)

    def request_confirmation(self, email: str) -> None:
        """Send the address of the account that requests it a token to confirm it with. Raises Throttled, QueueFull."""
        with self._token(CONFIRM, email) as token:
            subject, text = UNCONFIRMED
            self._post.send(email, subject, text.format(how=self._how(CONFIRM, token)))

    def confirm(self, token: str) -> None:
        """Note that the address of the token is its account's owner's. Raises BadMailToken."""
        email, digest = self._address(CONFIRM, token)
        account_id = self._account(email)
        with self._database.write() as connection:
            if account_id is None or not mail_tokens.spend(connection, digest):
                raise BadMailToken
            store.change(connection, account_id, verified_at=datetime.now(UTC))
            audit.record(connection, f"account {account_id}", "address confirmed", account_id)

    def forgot(self, email: str) -> None:
        """Send the address a token to reset the password with, where it has an account that is not disabled."""
        # stored for any address: the time that takes reveals nothing
        with suppress(Throttled), self._token(RESET, email) as token:
            if self._account(email):
                subject, text = FORGOTTEN
                self._try_to_send(email, subject, text.format(how=self._how(RESET, token)))

    def reset(self, sent: TokenAndPassword) -> None:
        """Replace the password; all sessions, personal tokens and webhooks end. Raises BadMailToken and BadPassword."""
        email, digest = self._checked(RESET, sent)
        account_id = self._account(email)
        if account_id is None:
            raise BadMailToken
        password_hash = self._digest(sent.password)
        with self._database.write() as connection:
            if not mail_tokens.spend(connection, digest):
                raise BadMailToken
            now = datetime.now(UTC)
            store.change(connection, account_id, password_hash=password_hash, verified_at=now)
            ended = administration.end_all(connection, account_id, now)
            audit.record(connection, f"account {account_id}", "password reset by mail", account_id, ended)
            mail_tokens.forget(connection, email)
        self._try_to_send(email, *CHANGED)

    def _try_to_send(self, email: str, subject: str, text: str) -> None:
        """Send a mail without which the answer is the same; where too many wait, that is logged."""
        try:
            self._post.send(email, subject, text)
        except QueueFull as error:
            log.error("a mail was not sent", error=type(error).__name__)

    def _account(self, email: str) -> int | None:
        with self._database.read() as connection:
            row = store.by_email(connection, email)
        return row.id if row and row.password_hash and not row.disabled_at else None

    @contextmanager
    def _token(self, purpose: Purpose, email: str) -> Iterator[str]:
        """Store a new token for the block to mail. A block that raises QueueFull has sent none: that does not count.

        Raises Throttled where the address has had enough mails of this purpose.
        """
        counted = self._mails.count(f"mail:{purpose}:{email}", "mails to this address")
        token = secrets.token_urlsafe(32)
        with self._database.write() as connection:
            mail_tokens.add(connection, sha256(token.encode()).digest(), purpose, email, datetime.now(UTC) + VALID)
        try:
            yield token
        except QueueFull:
            self._mails.give_back(counted)
            raise

    def _checked(self, purpose: Purpose, sent: TokenAndPassword) -> tuple[str, bytes]:
        """Return the address and the digest of a valid token, before the password costs a hash."""
        email, digest = self._address(purpose, sent.token)
        try:
            check_password(sent.password, email)
        except ValueError as error:
            raise BadPassword(str(error)) from None
        return email, digest

    def _address(self, purpose: Purpose, token: str) -> tuple[str, bytes]:
        """Return the address and the digest of a valid token. Raises BadMailToken."""
        digest = sha256(token.encode()).digest()
        with self._database.read() as connection:
            email = mail_tokens.address(connection, digest, purpose, datetime.now(UTC))
        if email is None:
            raise BadMailToken
        return email, digest

    def _how(self, purpose: Purpose, token: str) -> str:
        if self._link:  # after the #, which browsers send to no server
            return f"  {self._link}#{purpose}={token}"
        return f"  POST {PATHS[purpose]} with the token\n\n  {token}"
