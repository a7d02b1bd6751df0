"""Two versions of the service, measured by turns: is the second faster, slower, or can no difference be seen.

Each turn is one run in the version's record. The turns of both are paired in time, so that a machine that gets slower
meanwhile slows both. The interval of a ratio comes by bootstrap: pairs are drawn, and within them seconds.
"""

import enum
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from loadtests import LoadTestError
from locust_verdict import histogram
from locust_verdict.gate import redraws
from locust_verdict.record import Entry, Requests, Run

RESAMPLES = 2000
PERCENTILES = (50, 95)
WARMUP_SECONDS = 3
FEWEST_PAIRS = 5
FEWEST_REQUESTS = 20  # of an endpoint in each turn; with fewer there is no P95


class Difference(enum.StrEnum):
    """What the second version is next to the first."""

    FASTER = "faster"
    SLOWER = "slower"
    NONE = "no difference"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of one endpoint: `ratio` is the second version's divided by the first's, with its interval."""

    endpoint: str
    percentile: int
    first_ms: float
    second_ms: float
    ratio: float
    low: float
    high: float
    difference: Difference


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison came to. The intervals hold together with 95 % confidence (Bonferroni)."""

    difference: Difference
    first: str
    second: str
    pairs: int
    rows: list[Row]

    @property
    def text(self) -> str:
        """Return it as one sentence."""
        deciding = [row for row in self.rows if row.difference is self.difference is not Difference.NONE]
        worst = max(deciding, key=lambda row: abs(np.log(row.ratio)), default=None)
        if worst is None:
            return f"{self.second}: no difference to {self.first} in {self.pairs} pairs of turns"
        change = f"{100 * (worst.ratio - 1):+.1f} % ({100 * (worst.low - 1):+.1f} to {100 * (worst.high - 1):+.1f})"
        return f"{self.second} is {self.difference} than {self.first}: P{worst.percentile} of {worst.endpoint} {change}"


class TooLittleError(LoadTestError):
    """The records hold too little to compare."""


Turn = dict[str, histogram.Counts]  # endpoint -> counts by second


def turns(entries: Iterable[Entry]) -> list[Turn]:
    """Split a record at its runs, each without its first seconds."""
    split: list[dict[str, dict[float, histogram.Counts]]] = []
    start = 0.0
    for entry in entries:
        if isinstance(entry, Run):
            split.append({})
            start = entry.at + WARMUP_SECONDS
        elif isinstance(entry, Requests) and split and entry.at >= start:
            seconds = split[-1].setdefault(entry.endpoint, {})
            counts = histogram.decode(entry.latency)
            seconds[entry.at] = seconds[entry.at] + counts if entry.at in seconds else counts
    return [{name: np.stack(list(seconds.values())) for name, seconds in turn.items()} for turn in split]


def compare(first: Iterable[Entry], second: Iterable[Entry], names: tuple[str, str]) -> Comparison:
    """Compare the second record with the first. Raises TooLittleError with fewer than five pairs of turns."""
    pairs = list(zip(turns(first), turns(second), strict=False))
    if len(pairs) < FEWEST_PAIRS:
        raise TooLittleError(f"{len(pairs)} pairs of turns are too few to compare, {FEWEST_PAIRS} are needed")
    common = set.intersection(
        *({name for name, counts in turn.items() if _enough(counts)} for p in pairs for turn in p)
    )
    if not common:
        raise TooLittleError(f"no endpoint got {FEWEST_REQUESTS} requests in every turn: raise the rate or the turns")
    level = 0.05 / (len(common) * len(PERCENTILES))
    rows = [row for name in sorted(common) for row in _rows(name, [(a[name], b[name]) for a, b in pairs], level)]
    differences = {row.difference for row in rows}
    difference = next((d for d in (Difference.SLOWER, Difference.FASTER) if d in differences), Difference.NONE)
    return Comparison(difference=difference, first=names[0], second=names[1], pairs=len(pairs), rows=rows)


def _enough(counts: histogram.Counts) -> bool:
    return int(counts.sum()) >= FEWEST_REQUESTS


def _rows(endpoint: str, pairs: Sequence[tuple[histogram.Counts, histogram.Counts]], level: float) -> list[Row]:
    source = np.random.default_rng(1)
    used = histogram.add(counts.sum(axis=0) for pair in pairs for counts in pair) > 0
    milliseconds = histogram.MILLISECONDS[used]
    chosen = redraws(len(pairs), RESAMPLES, source)
    drawn, whole = [], []
    for side in (0, 1):
        seconds = [pair[side][:, used] for pair in pairs]
        redrawn = (redraws(len(rows), RESAMPLES, source) @ rows for rows in seconds)
        drawn.append(np.sum([chosen[:, [place]] * counts for place, counts in enumerate(redrawn)], axis=0))
        whole.append(np.vstack(seconds).sum(axis=0)[None, :])
    rows = []
    for percent in PERCENTILES:
        first, second = (float(histogram.percentiles(counts, percent, milliseconds)[0]) for counts in whole)
        ratios = histogram.percentiles(drawn[1], percent, milliseconds)
        ratios = ratios / histogram.percentiles(drawn[0], percent, milliseconds)
        low, high = (float(value) for value in np.quantile(ratios, [level / 2, 1 - level / 2]))
        rows.append(
            Row(
                endpoint=endpoint,
                percentile=percent,
                first_ms=first,
                second_ms=second,
                ratio=second / first,
                low=low,
                high=high,
                difference=Difference.SLOWER if low > 1 else Difference.FASTER if high < 1 else Difference.NONE,
            )
        )
    return rows
