"""Two versions of the service, measured by turns: is the second faster, slower, or can no difference be seen.

Each turn is one run in the version's record. The turns of both are paired in time, so that a machine that gets slower
meanwhile slows both. The interval of a ratio comes by bootstrap: pairs are drawn, and within them seconds.
"""

import enum
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from loadtests import histogram
from loadtests.gate import percentile_of
from loadtests.record import Entry, Requests, Run

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
        """Say it in one sentence."""
        deciding = [row for row in self.rows if row.difference is self.difference is not Difference.NONE]
        worst = max(deciding, key=lambda row: abs(np.log(row.ratio)), default=None)
        if worst is None:
            return f"{self.second}: no difference to {self.first} in {self.pairs} pairs of turns"
        change = f"{100 * (worst.ratio - 1):+.1f} % ({100 * (worst.low - 1):+.1f} to {100 * (worst.high - 1):+.1f})"
        return f"{self.second} is {self.difference} than {self.first}: P{worst.percentile} of {worst.endpoint} {change}"


class TooLittleError(ValueError):
    """The records hold too little to compare."""


Turn = dict[str, histogram.Counts]  # endpoint -> counts by second


def turns(entries: Iterable[Entry]) -> list[Turn]:
    """Split a record at its runs, each without its first seconds."""
    found: list[dict[str, dict[float, histogram.Counts]]] = []
    start = 0.0
    for entry in entries:
        if isinstance(entry, Run):
            found.append({})
            start = entry.at + WARMUP_SECONDS
        elif isinstance(entry, Requests) and found and entry.at >= start:
            seconds = found[-1].setdefault(entry.endpoint, {})
            counts = histogram.decode(entry.latency)
            seconds[entry.at] = seconds[entry.at] + counts if entry.at in seconds else counts
    return [{name: np.stack(list(seconds.values())) for name, seconds in turn.items()} for turn in found]


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
    found = {row.difference for row in rows}
    difference = next((d for d in (Difference.SLOWER, Difference.FASTER) if d in found), Difference.NONE)
    return Comparison(difference=difference, first=names[0], second=names[1], pairs=len(pairs), rows=rows)


def _enough(counts: histogram.Counts) -> bool:
    return int(counts.sum()) >= FEWEST_REQUESTS


def _rows(endpoint: str, pairs: Sequence[tuple[histogram.Counts, histogram.Counts]], level: float) -> list[Row]:
    source = np.random.default_rng(1)
    used = histogram.add(counts.sum(axis=0) for pair in pairs for counts in pair) > 0
    milliseconds = histogram.MILLISECONDS[used]
    small = [(a[:, used], b[:, used]) for a, b in pairs]
    whole = [np.vstack([pair[side] for pair in small]) for side in (0, 1)]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = [small[place] for place in source.integers(len(small), size=len(small))]
        sides = [np.array([_redraw(pair[side], source) for pair in chosen]) for side in (0, 1)]
        drawn.append([_log_ratio(sides[0], sides[1], percent, milliseconds) for percent in PERCENTILES])
    rows = []
    for percent, logs in zip(PERCENTILES, np.array(drawn).T, strict=True):
        low, high = (float(np.exp(np.quantile(logs, q))) for q in (level / 2, 1 - level / 2))
        difference = Difference.SLOWER if low > 1 else Difference.FASTER if high < 1 else Difference.NONE
        rows.append(
            Row(
                endpoint=endpoint,
                percentile=percent,
                first_ms=percentile_of(whole[0], percent, milliseconds),
                second_ms=percentile_of(whole[1], percent, milliseconds),
                ratio=float(np.exp(_log_ratio(whole[0], whole[1], percent, milliseconds))),
                low=low,
                high=high,
                difference=difference,
            )
        )
    return rows


def _redraw(seconds: histogram.Counts, source: np.random.Generator) -> histogram.Counts:
    weights = np.bincount(source.integers(len(seconds), size=len(seconds)), minlength=len(seconds))
    total: histogram.Counts = weights @ seconds
    return total


def _log_ratio(
    first: histogram.Counts, second: histogram.Counts, percent: float, milliseconds: histogram.Milliseconds
) -> float:
    return float(np.log(percentile_of(second, percent, milliseconds) / percentile_of(first, percent, milliseconds)))
