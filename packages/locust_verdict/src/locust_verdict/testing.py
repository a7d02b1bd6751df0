"""Records made by hand: how a file of objectives judges a run can be tried without any load."""

import random
from collections.abc import Sequence

from locust_verdict import histogram
from locust_verdict.record import Entry, Requests, Run

START = 1_800_000_000.0


def encoded(milliseconds: Sequence[float]) -> str:
    """Return latencies as an encoded histogram."""
    counts = histogram.new()
    for value in milliseconds:
        histogram.record(counts, value)
    return histogram.encode(counts)


def make_run(
    latencies: dict[str, float],
    *,
    seconds: int = 30,
    per_second: int = 20,
    failures: int = 0,
    intended: dict[str, float] | None = None,
    start: float = START,
    seed: int = 1,
) -> list[Entry]:
    """Make a run's entries: `latencies` has each endpoint's median in milliseconds, spread as real ones are."""
    source = random.Random(seed)  # latencies, not secrets
    entries: list[Entry] = [Run(start, "made by hand")]
    for second in range(seconds):
        for endpoint, median in latencies.items():
            sent = [median * source.lognormvariate(0, 0.3) for _ in range(per_second)]
            meant = [intended[endpoint] * source.lognormvariate(0, 0.3) for _ in sent] if intended else None
            failed = failures if second == seconds // 2 else 0
            late = encoded(meant) if meant else ""
            entries.append(Requests(start + second, endpoint, failed, encoded(sent), late))
    return entries
