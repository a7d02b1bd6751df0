"""Histograms add up exactly, and their percentiles are those of the raw samples to three digits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locust_verdict import histogram

LATENCIES = st.lists(st.floats(0.001, 3_599_000), min_size=1, max_size=200)


def counted(milliseconds: list[float]) -> histogram.Counts:
    recorder = histogram.new()
    for value in milliseconds:
        histogram.record(recorder, value)
    return histogram.decode(histogram.encode(recorder))


@given(LATENCIES, LATENCIES, st.floats(0, 100))
def test_a_sum_has_the_percentiles_of_one_histogram_of_all(
    first: list[float], second: list[float], percent: float
) -> None:
    merged = histogram.add([counted(first), counted(second)])
    whole = counted(first + second)
    assert (merged == whole).all()
    assert histogram.percentile(merged, percent) == histogram.percentile(whole, percent)


@given(LATENCIES, st.floats(0, 100))
def test_a_percentile_is_the_raw_one_to_three_digits(milliseconds: list[float], percent: float) -> None:
    rank = max(math.ceil(len(milliseconds) * percent / 100), 1)
    raw = sorted(milliseconds)[rank - 1]
    assert histogram.percentile(counted(milliseconds), percent) == pytest.approx(raw, rel=0.001, abs=0.0006)


@given(st.lists(LATENCIES, min_size=1, max_size=5), st.floats(0, 100))
def test_the_percentiles_of_rows_are_those_of_each(rows: list[list[float]], percent: float) -> None:
    counts = np.array([counted(row) for row in rows])
    measured = histogram.percentiles(counts, percent, histogram.MILLISECONDS)
    assert measured.tolist() == [histogram.percentile(row, percent) for row in counts]


def test_the_last_percentile_is_the_longest_of_many() -> None:
    counts = counted([float(milliseconds) for milliseconds in range(1, 201)])
    assert histogram.percentiles(counts[None, :], 100, histogram.MILLISECONDS) == pytest.approx([200], rel=0.001)


def test_a_row_without_requests_has_an_infinite_percentile() -> None:
    empty = histogram.add([])[None, :]
    assert histogram.percentiles(empty, 95, histogram.MILLISECONDS).tolist() == [math.inf]


@pytest.mark.parametrize(("given_ms", "kept_ms"), [(0, 0.001), (-3, 0.001), (1e12, 3_600_000)])
def test_what_lies_outside_counts_at_the_nearest_end(given_ms: float, kept_ms: float) -> None:
    assert histogram.percentile(counted([given_ms]), 50) == pytest.approx(kept_ms, rel=0.001)


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no requests"):
        histogram.percentile(histogram.add([]), 95)
