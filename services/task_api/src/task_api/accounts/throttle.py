"""Limits on attempts to log in and to register, counted in the database, which workers and replicas share."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address

from task_api.accounts.model import Throttled
from task_api.config import Rate
from task_core import rates
from task_core.database import Database

ATTEMPTS_OF_A_NETWORK = 5
"""How many times the login limit a network may fail, over all accounts: many people may share an address."""

ATTEMPTS_ON_AN_ACCOUNT = 10
"""How many times the login limit an account takes from all networks together, devices that it knows aside."""

PREFIX = 64
"""The bits of an IPv6 address that one customer of a network provider holds (RFC 6177): the limits count by these."""

REFUSED_SECONDS = 1.0
"""How long a counter that is full refuses by itself, so that a flood of attempts is no flood of transactions."""

REFUSALS_REMEMBERED = 10_000

Attempt = tuple[str, int]
"""The name of a counter, and the end of its window in Unix seconds."""


@lru_cache(4096)
def network(address: str) -> str:
    """Return what the limits count an address by: IPv4 whole, IPv6 by its /64; one name for all that is no address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, PREFIX), strict=False))
    return str(parsed)


class Throttle:
    """Counts attempts against limits. Without a rate it admits all."""

    def __init__(self, database: Database, rate: Rate | None) -> None:
        self._database = database
        self._rate = rate
        self._refused: dict[str, float] = {}
        """When a full counter is next read from the database, by `time.monotonic`."""

    def login(self, email: str, address: str, device: str | None) -> list[Attempt]:
        """Count a login and return what to give back when it succeeds. Raises Throttled.

        A stranger who guesses wrong is locked out by the pair of account and network, and later by the network, so the
        owner can still log in from elsewhere. Guesses from very many networks lock the account itself, but not the
        devices that were logged in before (OWASP, device cookies): each of them has a count of its own.
        """
        if self._rate is None:
            return []
        where, account = network(address), _name(email)  # whether it exists or not: the answer must not reveal that
        # in this order: an attempt that one of them refuses takes nothing of what stands after it, others' in the end
        limits = {
            f"login:network:{where}": self._rate.limit * ATTEMPTS_OF_A_NETWORK,
            f"login:pair:{account}:{where}": self._rate.limit,
            f"login:account:{account}": self._rate.limit * ATTEMPTS_ON_AN_ACCOUNT,
        }
        if device:
            limits = {f"login:device:{_name(device)}": self._rate.limit}
        return self._take(self._rate, limits, "failed logins")

    def code(self, account_id: int, device: str | None) -> list[Attempt]:
        """Count a code of a second factor and return what to give back when it is right. Raises Throttled.

        Who sends one knows the password, so all networks count together; a device that is known has a count of its own.
        """
        if self._rate is None:
            return []
        return self._take(self._rate, {f"login:code:{_name(device or str(account_id))}": self._rate.limit}, "codes")

    def once(self, kind: str, address: str, what: str) -> None:
        """Count what a network does. Raises Throttled, whose message names `what` there were too many of."""
        if self._rate:
            self._take(self._rate, {f"{kind}:{network(address)}": self._rate.limit}, what)

    def count(self, counter: str, what: str) -> list[Attempt]:
        """Count one more under a name of any length, and return it. Raises Throttled, whose message names `what`."""
        return self._take(self._rate, {_name(counter): self._rate.limit}, what) if self._rate else []

    def give_back(self, attempts: list[Attempt]) -> None:
        """Return what was counted."""
        if attempts:
            with self._database.write() as connection:
                for client, ends_at in attempts:
                    rates.give_back(connection, client, ends_at)

    def _take(self, rate: Rate, limits: dict[str, int], what: str) -> list[Attempt]:
        now = int(datetime.now(UTC).timestamp())
        ends_at = rates.window_end(rate.seconds, now)
        if any(self._refused.get(client, 0.0) > time.monotonic() for client in limits):
            raise Throttled(what, ends_at - now)
        with self._database.write() as connection:
            full = next(
                (c for c, limit in limits.items() if not rates.take(connection, c, ends_at, limit, limit)[0]), None
            )
        if full is None:
            return [(client, ends_at) for client in limits]
        if len(self._refused) >= REFUSALS_REMEMBERED:
            self._refused.clear()
        self._refused[full] = time.monotonic() + REFUSED_SECONDS
        raise Throttled(what, ends_at - now)


def _name(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
