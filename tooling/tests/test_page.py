"""The frame of every page."""

import re

import jinja2
import pytest

from tooling import page


def test_a_page_fetches_nothing_from_anywhere() -> None:
    for template in page.TEMPLATES.glob("*.html"):
        assert not re.search(r'(src|href)="https?:|@import|url\(', template.read_text()), template.name


def test_a_name_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        page.render("summary.html")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (185, "3 min 05 s"), (5 * 3600 + 600, "5 h 10 min"), (12 * 86400, "12 days")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, written: str) -> None:
    assert page.duration(seconds) == written
