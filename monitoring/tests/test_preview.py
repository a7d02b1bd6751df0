import json

import pytest

from monitoring import preview
from monitoring.dashboards import FOLDER
from monitoring.stack import Stack


@pytest.mark.prometheus
def test_every_panel_is_drawn_and_nothing_is_fetched(lively_stack: Stack) -> None:
    html = preview.html(lively_stack, 20)
    panels = [panel for path in FOLDER.glob("*.json") for panel in json.loads(path.read_text())["panels"]]
    for panel in panels:
        assert f">{panel['title']}<" in html
    kinds = [panel["type"] for panel in panels]
    assert html.count('class="plotly-graph-div"') == kinds.count("timeseries") + kinds.count("heatmap")
    assert html.count('class="value"') == kinds.count("stat")
    assert 'src="http' not in html


def test_legends_are_filled_from_labels() -> None:
    metric = {"__name__": "up", "status": "500", "endpoint": "/tasks"}
    assert preview.legend("{{status}} {{endpoint}}", metric) == "500 /tasks"
    assert preview.legend("", metric) == "500, /tasks"
    assert preview.legend("", {}) == preview.legend("{{pod}}", {}) == "value"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123, "percentunit", "1.23%"), (0.25, "s", "0.25 s"), (3.0, "none", "3"), (float("nan"), "s", "no value")],
)
def test_values_have_their_unit(value: float, unit: str, text: str) -> None:
    assert preview.shown(value, unit) == text
