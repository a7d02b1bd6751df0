"""The rate limit of each client, told by RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10).

Windows are counted in the database, so that workers and replicas share them. A worker takes a sixteenth of what is left
at a time and counts that by itself: a client may have at most the limit, and is refused at the earliest at fifteen
sixteenths of it (less one such part for each further worker); the database is asked some dozens of times a window.
"""

import math
import time
from threading import Lock

from task_api.config import Rate
from task_api.store import rates
from task_api.store.database import Database
from task_api.store.rates import window_end

SHARE = 16
MOST_CLIENTS_REMEMBERED = 10_000


class Allowance:
    """What this worker has taken of one client's window and not yet given out."""

    __slots__ = ("ends_at", "left", "used")

    def __init__(self) -> None:
        self.ends_at = 0
        self.left = 0
        self.used = 0


class Verdict:
    """Whether a request may go on; `reset` in seconds."""

    __slots__ = ("allowed", "rate", "remaining", "reset")

    def __init__(self, rate: Rate, remaining: int, reset: int, *, allowed: bool) -> None:
        self.rate = rate
        self.remaining = remaining
        self.reset = reset
        self.allowed = allowed

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What is told to the client."""
        return [
            ("RateLimit-Policy", f'"default";q={self.rate.limit};w={self.rate.seconds}'),
            ("RateLimit", f'"default";r={self.remaining};t={self.reset}'),
        ]


class RateLimiter:
    """Counts the requests of each client in fixed windows."""

    def __init__(self, rate: Rate, database: Database) -> None:
        self._rate = rate
        self._database = database
        self._allowances: dict[str, Allowance] = {}
        self._lock = Lock()

    def hit(self, client: str) -> Verdict:
        """Count one request of a client."""
        now = time.time()
        ends_at = window_end(self._rate, int(now))
        reset = max(1, math.ceil(ends_at - now))
        with self._lock:
            allowance = self._allowance(client, ends_at)
            if allowance.left == 0 and allowance.used < self._rate.limit:
                with self._database.write() as connection:
                    taken, allowance.used = rates.take(connection, client, ends_at, self._rate.limit, SHARE)
                allowance.left = taken
                rates.clear(self._database)
            allowed = allowance.left > 0
            allowance.left -= allowed
            return Verdict(self._rate, self._rate.limit - allowance.used + allowance.left, reset, allowed=allowed)

    def _allowance(self, client: str, ends_at: int) -> Allowance:
        if len(self._allowances) >= MOST_CLIENTS_REMEMBERED:
            self._allowances = {name: kept for name, kept in self._allowances.items() if kept.ends_at >= ends_at}
            if len(self._allowances) >= MOST_CLIENTS_REMEMBERED:
                self._allowances.clear()
        allowance = self._allowances.setdefault(client, Allowance())
        if allowance.ends_at != ends_at:
            allowance.ends_at, allowance.left, allowance.used = ends_at, 0, 0
        return allowance
