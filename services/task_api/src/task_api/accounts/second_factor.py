"""The second factor of accounts: codes by time (TOTP, RFC 6238) from an authenticator, and recovery codes."""

import re
import secrets
from base64 import b32encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Any, TypeVar

from pyotp import TOTP, random_base32
from sqlalchemy import Connection

from service_kit.telemetry.logs import log
from task_api.accounts.administration import actor
from task_api.accounts.model import (
    Account,
    BadToken,
    Enrolment,
    Failure,
    NotAllowed,
    RecoveryCodes,
    SecondFactor,
    Throttled,
    WrongCode,
)
from task_api.accounts.throttle import Throttle
from task_api.store import accounts as store
from task_api.store import audit
from task_core.database import Database
from task_core.encryption import Keyring, Undecryptable

T = TypeVar("T")
ISSUER = "Task API"
SECONDS = 30
DRIFT = 1
"""How many steps of 30 seconds an authenticator's clock may be behind or ahead (RFC 6238, section 5.2)."""

OFF = "the second factor is off"
RECOVERY_CODES = 10
RECOVERY_BYTES = 10
"""80 random bits cannot be guessed, so a plain digest protects them as well as a slow one."""

UNREADABLE = "codes of the authenticator cannot be checked: use a recovery code, or inform whoever runs the service"


class SecondFactors:
    """What people do with the second factor of their own account; the caller has sent the password already."""

    def __init__(
        self, database: Database, keyring: Keyring, attempts: Throttle, failed: Callable[[Failure], None]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._attempts = attempts
        self._failed = failed

    def state(self, account: Account) -> SecondFactor:
        """Return whether the second factor is on, and how many recovery codes are left."""
        with self._database.read() as connection:
            row = store.by_id(connection, account.id)
        on = row is not None and row.totp_step is not None
        return SecondFactor(enabled=on, recovery_codes=len(_digests(row)) if on else 0)

    def enrol(self, account: Account) -> Enrolment:
        """Return a new secret for an authenticator; `confirm` turns it on. Raises NotAllowed where one is on."""
        secret = random_base32()
        with self._database.write() as connection:
            row = store.by_id(connection, account.id, lock=True)
            if row is None or row.totp_step is not None:
                raise NotAllowed("the second factor is on: turn it off before you enrol another authenticator")
            store.change(connection, account.id, **store.second_factor_columns(self._keyring, account.id, secret))
        return Enrolment(secret=secret, uri=TOTP(secret).provisioning_uri(name=account.email, issuer_name=ISSUER))

    def confirm(self, account: Account, session_id: str | None, code: str) -> RecoveryCodes:
        """Turn the second factor on by the first code, and return recovery codes.

        Raises WrongCode, NotAllowed, Throttled, and BadToken after the session, whose owner would be locked out.
        """

        def turn_on(connection: Connection, row: Any) -> RecoveryCodes:
            if not store.hold(connection, row.id, session_id):
                raise BadToken("revoked")
            audit.record(connection, actor(account), "second factor turned on", account.id)
            return _renew(connection, row.id)

        return self._with_code(account, code, turn_on, on=False)

    def renew(self, account: Account, code: str) -> RecoveryCodes:
        """Replace the recovery codes, and return the new ones. Raises WrongCode, NotAllowed, and Throttled."""

        def renew(connection: Connection, row: Any) -> RecoveryCodes:
            audit.record(connection, actor(account), "recovery codes replaced", account.id)
            return _renew(connection, row.id)

        return self._with_code(account, code, renew)

    def disable(self, account: Account, code: str) -> None:
        """Turn the second factor off. Raises WrongCode, NotAllowed, and Throttled."""
        self._with_code(account, code, lambda connection, row: _turn_off(connection, actor(account), row.id))

    @contextmanager
    def attempt(self, account_id: int, device: str | None) -> Iterator[None]:
        """Count a code, and take it off the count where it is right. Raises Throttled."""
        try:
            attempts = self._attempts.code(account_id, device)
            yield
        except (Throttled, WrongCode) as error:
            self._failed("throttled" if isinstance(error, Throttled) else "bad_credentials")
            raise
        self._attempts.give_back(attempts)

    def _with_code(self, account: Account, code: str, act: Callable[[Connection, Any], T], *, on: bool = True) -> T:
        with self.attempt(account.id, f"account {account.id}"), self._database.write() as connection:
            row = store.by_id(connection, account.id, lock=True)
            if row is None or row.totp_secret is None or (row.totp_step is not None) != on:
                raise NotAllowed(OFF if on else "no authenticator waits to be confirmed: enrol one first")
            spend(connection, self._keyring, row, code)
            return act(connection, row)


def spend(connection: Connection, keyring: Keyring, row: Any, code: str) -> None:
    """Use a code of an account that is held until the transaction ends: each is valid once. Raises WrongCode."""
    plain = code.replace(" ", "").replace("-", "").upper().encode()
    now = int(datetime.now(UTC).timestamp()) // SECONDS
    totp = _totp(keyring, row)
    oldest = now - DRIFT if row.totp_step is None else max(now - DRIFT, row.totp_step + 1)
    for step in range(oldest, now + DRIFT + 1):
        if totp and compare_digest(totp.generate_otp(step).encode(), plain):
            store.change(connection, row.id, totp_step=step)
            return
    left, digest = _digests(row), sha256(plain).hexdigest()
    if digest not in left:
        raise WrongCode if totp else WrongCode(UNREADABLE)
    left.remove(digest)
    store.change(connection, row.id, recovery_codes=" ".join(left) or None)
    audit.record(connection, f"account {row.id}", "recovery code used", row.id, f"{len(left)} left")


def _totp(keyring: Keyring, row: Any) -> TOTP | None:
    """Return what computes the codes of an account; None, which is logged, where its secret cannot be decrypted."""
    try:
        return TOTP(store.SECOND_FACTORS.read(keyring, row))
    except Undecryptable as error:
        log.error("the secret of a second factor cannot be decrypted", account=row.id, reason=str(error))
        return None


def turn_off(database: Database, by: str, account_id: int) -> None:
    """Turn the second factor of an account off, without a code. Raises NotAllowed where it is off."""
    with database.write() as connection:
        row = store.by_id(connection, account_id, lock=True)
        if row is None or row.totp_step is None:
            raise NotAllowed(OFF)
        _turn_off(connection, by, account_id)


def _turn_off(connection: Connection, by: str, account_id: int) -> None:
    off = {**store.second_factor_columns(Keyring(()), account_id, None), "totp_step": None, "recovery_codes": None}
    store.change(connection, account_id, **off)
    audit.record(connection, by, "second factor turned off", account_id)


def _renew(connection: Connection, account_id: int) -> RecoveryCodes:
    codes = [b32encode(secrets.token_bytes(RECOVERY_BYTES)) for _ in range(RECOVERY_CODES)]
    digests = " ".join(sha256(code).hexdigest() for code in codes)
    store.change(connection, account_id, recovery_codes=digests)
    return RecoveryCodes(recovery_codes=["-".join(re.findall("....", code.decode())) for code in codes])


def _digests(row: Any) -> list[str]:
    return (row.recovery_codes or "").split()
