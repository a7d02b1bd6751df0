import time
from collections.abc import Iterator

import pytest

from monitoring.stack import Stack, wait
from monitoring.traffic import lively

SETTLED = 'count_over_time(slo:error:ratio14d{slo="latency"}[5m]) > 8'


@pytest.fixture(scope="session")
def lively_stack() -> Iterator[Stack]:
    """The stack under traffic, after enough scrapes for every rate."""
    with lively() as (_url, stack):
        wait(lambda: stack.data("query", query=SETTLED)["result"], SETTLED)
        firing = 'ALERTS{alertstate="firing", alertname="TaskApiAvailabilityBurnFast"}'
        wait(lambda: stack.data("query", query=firing)["result"], firing)
        time.sleep(2)
        yield stack
