"""Faster, slower or no difference: a difference is reported exactly where there is one."""

import pytest

from loadtests.compare import Difference, TooLittleError, compare
from loadtests.tests.conftest import START, MakeRun
from locust_verdict.record import Entry

pytestmark = pytest.mark.load

NAMES = ("v1", "v2")
PAIRS = 10


def record(make_run: MakeRun, medians: list[float], seed: int) -> list[Entry]:
    turns = [
        make_run({"GET /tasks": median}, seconds=10, start=START + 20 * number, seed=seed * 1000 + number)
        for number, median in enumerate(medians)
    ]
    return [entry for turn in turns for entry in turn]


def drifting(number: int) -> float:
    """Return the latency of a machine that gets slower while it measures."""
    return 5 + 0.5 * number


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.25, Difference.SLOWER), (0.8, Difference.FASTER), (1.0, Difference.NONE)]
)
def test_a_difference_is_found_though_the_machine_drifts(
    make_run: MakeRun, factor: float, difference: Difference
) -> None:
    first = record(make_run, [drifting(number) for number in range(PAIRS)], seed=1)
    second = record(make_run, [drifting(number) * factor for number in range(PAIRS)], seed=2)
    comparison = compare(first, second, NAMES)
    assert comparison.difference is difference
    assert all(row.low <= factor <= row.high for row in comparison.rows)
    assert NAMES[1] in comparison.text


def test_the_same_version_is_rarely_found_different(make_run: MakeRun) -> None:
    different = 0
    for seed in range(1, 7):
        first = record(make_run, [5] * PAIRS, seed=seed)
        second = record(make_run, [5] * PAIRS, seed=seed + 100)
        different += compare(first, second, NAMES).difference is not Difference.NONE
    assert different <= 1


def test_an_endpoint_that_got_slower_outweighs_one_that_got_faster(make_run: MakeRun) -> None:
    def both(first: float, second: float, seed: int) -> list[Entry]:
        turns = [
            make_run({"GET /tasks": first, "POST /tasks": second}, seconds=10, start=START + 20 * n, seed=seed + n)
            for n in range(PAIRS)
        ]
        return [entry for turn in turns for entry in turn]

    comparison = compare(both(5, 5, 1), both(3, 8, 500), NAMES)
    assert comparison.difference is Difference.SLOWER
    assert "of POST /tasks +" in comparison.text


def test_too_few_turns_are_not_compared(make_run: MakeRun) -> None:
    few = record(make_run, [5] * 4, seed=1)
    with pytest.raises(TooLittleError, match="4 pairs of turns are too few"):
        compare(few, few, NAMES)


def test_too_few_requests_are_not_compared(make_run: MakeRun) -> None:
    turns = [make_run({"GET /tasks": 5}, seconds=5, per_second=2, start=START + 20 * n) for n in range(PAIRS)]
    thin = [entry for turn in turns for entry in turn]
    with pytest.raises(TooLittleError, match="no endpoint got 20 requests"):
        compare(thin, thin, NAMES)
