"""Quantities of the Kubernetes API."""

import pytest

from tooling.kubernetes import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", 0.25),
        ("2", 2),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("1Ki", 1024),
        ("1Gi", 2**30),
        ("2Ti", 2**41),
        ("3k", 3000),
        ("1E", 1e18),
        ("12345n", 1.2345e-05),
        ("0", 0),
    ],
)
def test_a_quantity_is_read(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["much", "", "Mi", "1mi", "1Mim", "1 Gi x"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|convert"):
        quantity(text)
