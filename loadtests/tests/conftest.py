"""Records made by hand, for what judges and draws them."""

from collections.abc import Callable

import pytest

from locust_verdict import testing
from locust_verdict.record import Entry

START = testing.START
MakeRun = Callable[..., list[Entry]]


@pytest.fixture
def make_run() -> MakeRun:
    """Return what makes a run's entries: `locust_verdict.testing.make_run`."""
    return testing.make_run
