"""Latency histograms: HDR (High Dynamic Range) with three significant digits, from 1 microsecond to 1 hour.

All have the same layout, so that adding them, over processes, endpoints and seconds, loses nothing: the percentiles of
a sum are those of one histogram that saw every request. To record, use the library's object; to evaluate, its counts
as an array.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

Counts = npt.NDArray[np.int64]
Milliseconds = npt.NDArray[np.float64]

LARGEST = 3_600_000_000  # microseconds
_EMPTY = HdrHistogram(1, LARGEST, 3)


def new() -> Any:
    """Make an empty histogram to record into."""
    return HdrHistogram(1, LARGEST, 3)


def record(histogram: Any, milliseconds: float) -> None:
    """Add one latency; what lies outside the range counts as its nearest end."""
    histogram.record_value(min(max(round(milliseconds * 1000), 1), LARGEST))


def encode(histogram: Any) -> str:
    """Return HDR's compressed base64 form (`HISTFAAAA...`), which HDR libraries of other languages read too."""
    return cast("bytes", histogram.encode()).decode("ascii")


def decode(encoded: str) -> Counts:
    """Return the counts of an encoded histogram."""
    return np.array(HdrHistogram.decode(encoded).counts, dtype=np.int64)


def add(histograms: Iterable[Counts]) -> Counts:
    """Return the sum of histograms' counts; of none, those of an empty histogram."""
    total = np.zeros(_EMPTY.counts_len, dtype=np.int64)
    for counts in histograms:
        total += counts
    return total


#: The latency in milliseconds which each place of the counts stands for: the highest value that falls into it.
MILLISECONDS: Milliseconds = np.array(
    [
        _EMPTY.get_highest_equivalent_value(_EMPTY.get_value_from_index(index)) / 1000
        for index in range(_EMPTY.counts_len)
    ]
)


def percentile(counts: Counts, percent: float, milliseconds: Milliseconds = MILLISECONDS) -> float:
    """Return the smallest latency in milliseconds that at least `percent` % of the requests did not exceed.

    `milliseconds` has the latency of each place of `counts`. Raises ValueError without requests: nothing measured is
    not zero.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no requests, hence no percentile")
    rank = max(int(np.ceil(total * percent / 100)), 1)
    return float(milliseconds[np.searchsorted(np.cumsum(counts), rank)])


def percentiles(rows: Counts, percent: float, milliseconds: Milliseconds) -> Milliseconds:
    """Return the percentile of each row, as `percentile` does; infinity for a row without requests."""
    totals = rows.sum(axis=1, keepdims=True)
    ranks = np.maximum(np.ceil(totals * percent / 100), 1)
    places = (np.cumsum(rows, axis=1) >= ranks).argmax(axis=1)
    return np.where(totals[:, 0] > 0, milliseconds[places], np.inf)
