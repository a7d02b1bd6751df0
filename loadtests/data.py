"""Tasks and queries that are not all alike: lengths, scripts, states and dates vary as people's do."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

STATUSES = ("pending", "in_progress", "completed")
PRIORITIES = ("low", "normal", "high")
SORTS = ("id", "-id", "updated_at", "due_at", "priority")
WORDS = """
call write check send renew book fix plan review order clean move pay print sign update archive measure report invoice
printer garden budget ticket meeting server bicycle letter release kitchen contract backup
Überweisung façade señal наклейка 会議 καφές עט تقرير naïve smörgåsbord
""".split()  # noqa: SIM905 - a list of forty literals would be harder to read
LONGEST_TITLE = 200
LONGEST_DESCRIPTION = 2000


class Maker:
    """Makes random data: the same seed yields the same data."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def text(self, median_words: float, longest: int) -> str:
        """Return words, log-normal in number around the median, cut at `longest` characters."""
        number = max(round(self._random.lognormvariate(0, 0.8) * median_words), 1)
        return " ".join(self._random.choices(WORDS, k=number))[:longest].strip()

    def due(self) -> str | None:
        """Return a due date within two months of now, past or coming, or none."""
        if self._random.random() < 0.3:  # noqa: PLR2004 - three in ten tasks are never due
            return None
        moment = datetime.now(UTC) + timedelta(hours=self._random.gauss(0, 24 * 20))
        return moment.isoformat(timespec="seconds")

    def task(self) -> dict[str, Any]:
        """Return a new task's fields."""
        return {
            "title": self.text(4, LONGEST_TITLE),
            "description": self.text(25, LONGEST_DESCRIPTION) if self._random.random() < 0.7 else "",  # noqa: PLR2004
            "status": self._random.choices(STATUSES, (5, 2, 3))[0],
            "priority": self._random.choices(PRIORITIES, (2, 6, 2))[0],
            "due_at": self.due(),
        }

    def query(self) -> str:
        """Return a list's query: a filter or two, a search now and then, an order, a page size."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        choices = (
            ("status", self._random.choice(STATUSES), 0.5),
            ("priority", self._random.choice(PRIORITIES), 0.3),
            ("due_before", now, 0.2),
            ("q", self._random.choice(WORDS), 0.2),
            ("sort", self._random.choice(SORTS), 0.5),
            ("limit", self._random.choice((10, 20, 50)), 0.8),
        )
        return urlencode({name: value for name, value, share in choices if self._random.random() < share})
