"""Where a request is counted."""

import pytest

from locust_verdict import histogram
from locust_verdict.seconds import Seconds


def p95(encoded: str) -> float:
    return histogram.percentile(histogram.decode(encoded), 95)


def test_a_late_answer_is_filed_under_its_end_and_under_its_intended_start() -> None:
    seconds = Seconds()
    seconds.add("GET /tasks", 1000.5, 1000, late=4000, failed=True)
    entries = {entry.at: entry for entry in seconds.take()}
    assert {at: entry.failures for at, entry in entries.items()} == {1000: 1, 995: 0}
    assert p95(entries[1000].latency) == pytest.approx(1000, rel=0.01)
    assert p95(entries[995].intended) == pytest.approx(5000, rel=0.01)
    assert not entries[1000].intended
    assert not histogram.decode(entries[995].latency).any()
    assert seconds.take() == []


def test_an_intended_start_is_filed_to_the_millisecond() -> None:
    seconds = Seconds()
    seconds.add("GET /tasks", 1000.5, 1000, late=4500.5, failed=False)
    assert sorted(entry.at for entry in seconds.take()) == [994, 1000]


def test_a_closed_loop_has_no_intended_starts() -> None:
    seconds = Seconds()
    seconds.add("GET /tasks", 1000.5, 1000, late=None, failed=False)
    (entry,) = seconds.take()
    assert (entry.at, entry.endpoint, entry.failures, entry.intended) == (1000, "GET /tasks", 0, "")
