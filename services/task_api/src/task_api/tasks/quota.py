"""What an account may keep at most."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection

from task_api.store import usage
from task_api.store.usage import Usage

UNITS = {"tasks": "tasks", "bytes": "bytes of text"}


class QuotaExceeded(Exception):
    """The write would take the account beyond its quota."""


class Quota(NamedTuple):
    """The largest number of tasks and of their bytes; 0 is no limit."""

    tasks: int = 0
    bytes: int = 0

    @contextmanager
    def held(self, connection: Connection, owner_id: int) -> Iterator[None]:
        """Let the block write for an account. Raises QuotaExceeded where it grows beyond the quota.

        An account that is beyond it already, as the quota was lowered, may still shrink.
        """
        if not any(self):
            yield
            return
        before = usage.of(connection, owner_id)
        yield
        self._check(before, usage.of(connection, owner_id))

    def _check(self, before: Usage, after: Usage) -> None:
        for name, largest, old, new in zip(UNITS, self, before, after, strict=True):
            if 0 < largest < new > old:
                raise QuotaExceeded(
                    f"the account may keep {largest} {UNITS[name]}, and would have {new}: delete tasks first"
                )
