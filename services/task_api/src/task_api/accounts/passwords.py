"""Passwords are kept as Argon2id (RFC 9106), with OWASP's parameters for little memory."""

from functools import cache
from threading import Semaphore

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_one_at_a_time = Semaphore(1)  # 19 MiB each: a burst of logins must not take a small container's memory


@cache
def _unknown() -> str:
    """Not made before it is asked for: it takes as long as a login, and few processes that load this see one."""
    return _hasher.hash("no account has this password")


def digest(password: str) -> str:
    """The hash to keep of a password."""
    with _one_at_a_time:
        return _hasher.hash(password)


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password is the one hashed. Takes as long for an account that does not exist (None)."""
    with _one_at_a_time:
        try:
            unknown = _unknown()  # for every login: the first would else tell by its time whether there is an account
            return _hasher.verify(password_hash or unknown, password) and password_hash is not None
        except (Argon2Error, InvalidHashError):
            return False


def outdated(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)
