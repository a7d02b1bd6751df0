import re
from typing import Any

import pytest

from monitoring import queries
from monitoring.queries import Query
from monitoring.stack import Stack


@pytest.mark.prometheus
@pytest.mark.parametrize("query", queries.every(), ids=lambda query: query.place)
def test_a_query_returns_data_and_no_warning(lively_stack: Stack, query: Query) -> None:
    assert queries.problems(lively_stack, query) == []


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("no_such_metric", "no data"),
        ("0 / (vector(1) - 1)", "no data"),
        ("rate(api_requests_in_flight[1m])", "might not be a counter"),
        ("rate(api_request_threads[1m])", "rate of api_request_threads, which is gauge"),
        ("sum(api_requests_total)", "is read without a rate"),
    ],
)
def test_a_bad_query_is_caught(lively_stack: Stack, expression: str, problem: str) -> None:
    assert problem in " ".join(queries.problems(lively_stack, Query("canary", expression)))


@pytest.mark.prometheus
def test_an_alert_is_judged_by_what_it_compares(lively_stack: Stack) -> None:
    assert queries.problems(lively_stack, Query("canary", "up > 5", alert=True)) == []
    assert queries.problems(lively_stack, Query("canary", "up > 5 unless no_such_metric == 1", alert=True))
    assert queries.problems(lively_stack, Query("canary", "absent(no_such_metric)", alert=True))


def test_a_counter_is_known_by_its_family() -> None:
    metadata: dict[str, Any] = {"a": [{"type": "counter"}], "b": [{"type": "histogram"}], "c": [{"type": "gauge"}]}
    assert queries.misread("rate(a_total[1m]) + rate(b_bucket[1m]) + c", metadata) == []
    assert queries.misread("sum(rate(c[1m]))", metadata) == ["rate of c, which is gauge"]
    assert queries.misread("sum by (x) (a_total) / 2", metadata) == ["a_total is a counter, and is read without a rate"]
    assert queries.misread("absent(a_total)", metadata) == []


def test_grafanas_variables_are_replaced() -> None:
    assert queries.plain('rate(a{instance=~"$instance"}[$__rate_interval])') == 'rate(a{instance=~".*"}[1m])'
    assert not [query for query in queries.every() if re.search(r"\$[a-z_{]", query.expression)]
