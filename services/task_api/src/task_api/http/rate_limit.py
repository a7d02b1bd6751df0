"""The rate limit of each client, in RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10).

Workers share the windows, and replicas too where they share a PostgreSQL; with SQLite, which one machine has, they are
in shared memory, so that no request waits for a transaction of theirs. A worker takes a sixteenth of what is left at a
time and counts that by itself: a client gets at most the limit, and is refused at the earliest at fifteen sixteenths of
it (less one such part for each further worker); the windows are read some dozens of times in each.
"""

import math
import time
from threading import Lock
from typing import Protocol

from task_api.config import Rate
from task_core.rates import window_end

SHARE = 16
MOST_CLIENTS_REMEMBERED = 10_000


class Allowance:
    """What this worker has taken of one client's window and not yet used."""

    __slots__ = ("ends_at", "left", "used")

    def __init__(self) -> None:
        self.ends_at = 0
        self.left = 0
        self.used = 0


class Decision:
    """Whether a request is allowed, and what is left of its client's window, which ends in `reset` seconds."""

    __slots__ = ("allowed", "rate", "remaining", "reset")

    def __init__(self, rate: Rate, remaining: int, reset: int, *, allowed: bool) -> None:
        self.rate = rate
        self.remaining = remaining
        self.reset = reset
        self.allowed = allowed

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response."""
        return [
            ("RateLimit-Policy", f'"default";q={self.rate.limit};w={self.rate.seconds}'),
            ("RateLimit", f'"default";r={self.remaining};t={self.reset}'),
        ]


class Windows(Protocol):
    """Where the windows are counted that all workers share."""

    def take(self, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
        """Take a part of what is left of a window, and return how much was taken and how much is used by now."""


class RateLimiter:
    """Counts the requests of each client in fixed windows."""

    def __init__(self, rate: Rate, windows: Windows) -> None:
        self._rate = rate
        self._windows = windows
        self._allowances: dict[str, Allowance] = {}
        self._lock = Lock()

    def hit(self, client: str) -> Decision:
        """Count one request of a client."""
        now = time.time()
        ends_at = window_end(self._rate.seconds, int(now))
        reset = max(1, math.ceil(ends_at - now))
        with self._lock:
            allowance = self._allowance(client, ends_at)
            if allowance.left or allowance.used >= self._rate.limit:
                return self._decision(allowance, reset)
        taken, used = self._windows.take(client, ends_at, self._rate.limit, SHARE)  # others need not wait for this
        with self._lock:
            allowance = self._allowance(client, ends_at)
            allowance.left += taken
            allowance.used = max(allowance.used, used)
            return self._decision(allowance, reset)

    def _decision(self, allowance: Allowance, reset: int) -> Decision:
        allowed = allowance.left > 0
        allowance.left -= allowed
        return Decision(self._rate, self._rate.limit - allowance.used + allowance.left, reset, allowed=allowed)

    def _allowance(self, client: str, ends_at: int) -> Allowance:
        if len(self._allowances) >= MOST_CLIENTS_REMEMBERED:
            self._allowances = {name: kept for name, kept in self._allowances.items() if kept.ends_at >= ends_at}
            if len(self._allowances) >= MOST_CLIENTS_REMEMBERED:
                self._allowances.clear()
        allowance = self._allowances.setdefault(client, Allowance())
        if allowance.ends_at != ends_at:
            allowance.ends_at, allowance.left, allowance.used = ends_at, 0, 0
        return allowance
