"""Passwords are stored as Argon2id hashes (RFC 9106), with OWASP's parameters for little memory."""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from task_api.accounts.model import Overloaded

T = TypeVar("T")
TURN_SECONDS = 5.0
"""How long a caller waits for its turn in a lane."""

NICER = 5
"""By how much the thread's priority is lowered (setpriority(2)). By 19, a hash takes minutes on a busy machine."""

MOST = {"memory_cost": 64 * 1024, "time_cost": 4, "parallelism": 4, "hash_len": 64, "salt_len": 64}
"""The largest parameters of a hash from elsewhere; `memory_cost` is in KiB."""

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@cache
def _unknown() -> str:
    """Made on first use: it costs as much as a login, and few processes that import this module need it."""
    return _hasher.hash("no account has this password")


def digest(password: str) -> str:
    """Return the hash to store for a password."""
    return _hasher.hash(password)


def verify(password_hash: str | None, password: str) -> bool:
    """Return whether the hash is that of the password. Takes as long for an account that does not exist (None)."""
    try:
        unknown = _unknown()  # at every login: the first one's duration would reveal whether the account exists
        return _hasher.verify(password_hash or unknown, password) and password_hash is not None
    except (Argon2Error, InvalidHashError):
        return False


def outdated(password_hash: str) -> bool:
    """Return whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)


def check_cost(password_hash: str) -> None:
    """Raise ValueError for a hash that is malformed or whose check would take too much memory or time.

    The bounds leave room for RFC 9106's second recommendation; its first, of 2 GiB, would end a small container.
    """
    try:
        parameters = extract_parameters(password_hash)
    except InvalidHashError:
        raise ValueError("the password hash is malformed") from None
    for name, most in MOST.items():
        if (value := getattr(parameters, name)) > most:
            raise ValueError(f"the password hash has {name} {value}: at most {most} is accepted")


class Lane:
    """Hashes passwords beside the requests that need no hash: one at a time, at a low priority, half of the time.

    A stranger may cause any number of hashes, and each costs as much CPU as thirty other requests. At most `places`
    callers are in the lane, so that the other threads of the process stay free. Where CPU time is scarce, the lane's
    thread gives way to the others; after each hash it rests for the CPU time that the hash took, so that hashes cannot
    use up a container's quota. One hash at a time also bounds the memory, to 19 MiB.
    """

    def __init__(self, places: int) -> None:
        self._places = BoundedSemaphore(places)
        self._executor = ThreadPoolExecutor(1, "passwords", _give_way)  # the thread starts with the first hash
        self._rested_at = 0.0

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the function's result. Raises Overloaded where no place is free or no turn comes in time."""
        if not self._places.acquire(blocking=False):
            raise Overloaded
        try:
            future = self._executor.submit(self._work, function, *arguments)
            try:
                return future.result(TURN_SECONDS)
            except TimeoutError:
                if future.cancel():
                    raise Overloaded from None
                return future.result()  # its turn has come
        finally:
            self._places.release()

    def _work(self, function: Callable[..., T], *arguments: object) -> T:
        time.sleep(max(0.0, self._rested_at - time.monotonic()))
        started = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self._rested_at = time.monotonic() + time.thread_time() - started


def _give_way() -> None:
    """Let this thread have a third of another's CPU time; Linux has a priority for each thread (sched(7))."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)
