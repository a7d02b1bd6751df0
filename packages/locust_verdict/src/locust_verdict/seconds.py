"""Requests, added up by the second and endpoint until they go into the flight record."""

from collections import defaultdict

from locust_verdict import histogram
from locust_verdict.record import Requests


class _Cell:
    """One second of one endpoint."""

    def __init__(self) -> None:
        self.latency = histogram.new()
        self.intended = histogram.new()
        self.failures = 0


class Seconds:
    """What one generator process saw. Times are Unix seconds, durations milliseconds."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str], _Cell] = defaultdict(_Cell)

    def add(self, endpoint: str, ended: float, latency: float, *, late: float | None, failed: bool) -> None:
        """Count a request that ended then and, in an open loop, was sent `late` milliseconds after its intended start.

        Its latency from the intended start belongs to the second of that start: a stall spoils all the seconds that it
        lasts, not the one in which its answers come at last.
        """
        cell = self._cells[int(ended), endpoint]
        histogram.record(cell.latency, latency)
        cell.failures += failed
        if late is not None:
            since = latency + late
            histogram.record(self._cells[int(ended - since / 1000), endpoint].intended, since)

    def take(self) -> list[Requests]:
        """Return everything added since the last call."""
        cells, self._cells = self._cells, defaultdict(_Cell)
        return [
            Requests(
                second,
                endpoint,
                cell.failures,
                histogram.encode(cell.latency),
                histogram.encode(cell.intended) if cell.intended.get_total_count() else "",
            )
            for (second, endpoint), cell in cells.items()
        ]
