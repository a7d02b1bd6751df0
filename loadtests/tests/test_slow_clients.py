"""The verdict on whether slow clients slow the others down."""

import math

import pytest

from loadtests.slow_clients import judge

STEADY = (10.0, 11.0, 12.0)


@pytest.mark.parametrize(
    ("without", "with_them", "status"),
    [
        (STEADY, (12.0, 13.0, 14.0), 0),
        (STEADY, (12.0, 13.0, 99.0), 0),
        (STEADY, (20.0, 21.0, 22.0), 1),
        (STEADY, (math.inf, math.inf, 12.0), 1),
        ((10.0, 30.0, 90.0), (100.0, 100.0, 100.0), 2),
        ((10.0, 30.0, 90.0), (math.inf, math.inf, math.inf), 1),
        ((10.0, math.inf, 10.0), (10.0, 10.0, 10.0), 2),
    ],
)
def test_p95_beside_slow_clients_is_held_against_p95_without_them(
    without: tuple[float, ...], with_them: tuple[float, ...], status: int
) -> None:
    assert judge(without, with_them)[0] == status
