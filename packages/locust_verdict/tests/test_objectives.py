"""The file of objectives: a mistake is refused with its place."""

from pathlib import Path

import pytest

from locust_verdict.objectives import BadObjectivesError, Limits, load_objectives


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("all: {}", "1:1: `all` needs error_percent: without it a service that only fails would pass"),
        ("all: {error_percent: 1, p95: 5}", "1:25: unknown key `p95`"),
        ("all: {error_percent: 1}\nlimits: {}", "2:1: unknown key `limits`"),
        ("all: {error_percent: 1}\nendpoints:\n  GET /: {p95_ms: 1}\n  GET /a:\n    p95: 2", "5:5: unknown key `p95`"),
        ("all: {error_percent: 1}\nendpoints:\n  GET /a:\n    p95_ms: fast", "4:5: Expected `float | null`, got `str`"),
        ("all: {error_percent: 1}\nendpoints: [GET /]", "2:1: Expected `object`, got `array`"),
        ("all: {error_percent: 1}\nendpoints: {GET /: {p95_ratio: 2}}", "1:1: p95_ratio needs a yardstick"),
        ("all: {error_percent: 1, server_p95_ms: 5}", "belong to an endpoint"),
        (
            "all: {error_percent: 1}\nendpoints:\n  GET /: {p95_ms: 1}\n  GET /: {p95_ms: 9}",
            "4:3: `GET /` is there twice",
        ),
        ("all: {error_percent: 1}\nyardstick: {endpoint: GET /}", "2:1: Object missing required field `slow_p95_ms`"),
        ("all: [", "line 2, column 1"),
        ("", "it has to hold a mapping with the key `all`"),
        ("- all", "it has to hold a mapping with the key `all`"),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_column(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "objectives.yaml"
    path.write_text(text)
    with pytest.raises(BadObjectivesError) as refused:
        load_objectives(path)
    assert str(refused.value).startswith(f"{path}:")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadObjectivesError, match=r"none\.yaml"):
        load_objectives(tmp_path / "none.yaml")


def test_limits_are_read_by_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "objectives.yaml"
    path.write_text("all: {error_percent: 1}\nendpoints:\n  GET /a: {p95_ms: 5, min_per_second: 2}\n")
    assert load_objectives(path).endpoints == {"GET /a": Limits(p95_ms=5, min_per_second=2)}
