"""The dashboards drawn without Grafana: every panel of the generated files, with data of a real Prometheus.

`python -m monitoring.preview [SECONDS]` runs the stack under traffic for that time and writes
reports/monitoring/dashboards.html. It shows layout, titles, units, legends and data; colours and interaction are
Grafana's own.
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from monitoring.dashboards import FOLDER
from monitoring.queries import plain
from monitoring.stack import Stack
from monitoring.traffic import lively
from tooling.page import render
from tooling.project import REPORTS, ROOT

STEP = 2  # seconds
UNITS = {"reqps": ("", " req/s"), "s": ("", " s"), "none": ("", ""), "percent": ("", " %"), "percentunit": (".2%", "")}
INK = "#808890"  # readable on light and on dark


def legend(template: str, metric: dict[str, str]) -> str:
    """Return a legend with the series' labels in place of {{label}}, as Grafana does; a missing label is empty."""
    filled = re.sub(r"\{\{(\w+)\}\}", lambda match: metric.get(match[1], ""), template)
    return filled or ", ".join(value for label, value in metric.items() if label != "__name__") or "value"


def series(stack: Stack, panel: dict[str, Any], seconds: float) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield name, times and values of each line of a panel."""
    end = time.time()
    for target in panel["targets"]:
        span = {"start": str(end - seconds), "end": str(end), "step": str(STEP)}
        for line in stack.data("query_range", query=plain(target["expr"]), **span)["result"]:
            times, values = zip(*((at, float(value)) for at, value in line["values"]), strict=True)
            yield legend(target.get("legendFormat", ""), line["metric"]), list(times), list(values)


def figure(stack: Stack, panel: dict[str, Any], seconds: float) -> go.Figure:
    """Return a time series or a heat map."""
    drawn = go.Figure()
    look = panel.get("fieldConfig", {}).get("defaults", {})
    stacked = look.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    lines = list(series(stack, panel, seconds))
    start = min((times[0] for _, times, _ in lines), default=0)
    if panel["type"] == "heatmap":
        rows = sorted(((float(name), times, values) for name, times, values in lines), key=lambda row: row[0])
        below = [0.0] * len(rows[0][2])
        for bound, times, values in rows:
            cells = [max(value - under, 0) for value, under in zip(values, below, strict=True)]
            drawn.add_bar(
                x=[at - start for at in times],
                y=[1] * len(times),
                marker={"color": cells, "coloraxis": "coloraxis"},
                name=f"≤ {bound:g} s",
            )
            below = values
        drawn.update_layout(barmode="stack", bargap=0, coloraxis={"colorscale": "Oranges", "showscale": False})
        drawn.update_yaxes(tickvals=[row + 0.5 for row in range(len(rows))], ticktext=[f"{row[0]:g}" for row in rows])
    else:
        for name, times, values in lines:
            area = {"stackgroup": "all"} if stacked else {}
            drawn.add_scatter(
                x=[at - start for at in times], y=values, name=name, mode="lines", line={"width": 1.5}, **area
            )
        form, suffix = UNITS[look["unit"]]
        drawn.update_yaxes(rangemode="tozero", tickformat=form, ticksuffix=suffix)
    drawn.update_layout(
        margin={"l": 60, "r": 10, "t": 5, "b": 5},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 11},
        legend={"orientation": "h", "y": -0.15},
        height=panel["gridPos"]["h"] * 34 - 45,
        showlegend=panel["type"] != "heatmap",
    )
    drawn.update_xaxes(ticksuffix=" s", gridcolor="rgba(128,136,144,.2)")
    drawn.update_yaxes(gridcolor="rgba(128,136,144,.2)")
    return drawn


def shown(value: float, unit: str) -> str:
    """Return a value with its unit as text."""
    form, suffix = UNITS[unit]
    return "no value" if math.isnan(value) else f"{value:{form or '.3g'}}{suffix}"


def table(stack: Stack, panel: dict[str, Any]) -> dict[str, Any]:
    """Return head and rows of a table: the labels of the series, and a column for each query."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    options = panel["transformations"][-1]["options"]
    names = options.get("renameByName", {})
    units = {
        each["matcher"]["options"]: each["properties"][0]["value"]
        for each in panel.get("fieldConfig", {}).get("overrides", [])
    }
    for target in panel["targets"]:
        column = names.get(f"Value #{target['refId']}", "Value")
        for row in stack.data("query", query=plain(target["expr"]))["result"]:
            key = tuple(sorted(row["metric"].items()))
            rows.setdefault(key, {names.get(label, label): value for label, value in key})
            if column not in options.get("excludeByName", {}):
                rows[key][column] = shown(float(row["value"][1]), units.get(column, "none"))
    head = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return {"head": head, "rows": [[cells.get(name, "") for name in head] for cells in rows.values()]}


def drawn(stack: Stack, panel: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the template's values for one panel."""
    about = {key: panel.get(key, "") for key in ("type", "title", "description", "gridPos")}
    if panel["type"] == "stat":
        (_, _, values), *_ = series(stack, panel, STEP * 2)
        return {**about, "value": shown(values[-1], panel["fieldConfig"]["defaults"]["unit"])}
    if panel["type"] == "table":
        return {**about, **table(stack, panel)}
    if panel["type"] == "row":
        return about
    html = figure(stack, panel, seconds).to_html(
        include_plotlyjs=False, full_html=False, config={"displayModeBar": False}
    )
    return {**about, "figure": Markup(html)}  # plotly's own


def html(stack: Stack, seconds: float) -> str:
    """Return the page of all dashboards, with the last `seconds` of Prometheus' data."""
    boards = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    pages = [
        {
            "title": board["title"],
            "description": board["description"],
            "panels": [drawn(stack, panel, seconds) for panel in board["panels"]],
        }
        for board in boards
    ]
    template = Path(__file__).parent / "templates" / "dashboards.html"
    return render(str(template), boards=pages, plotly=Markup(get_plotlyjs()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack, write the page and print its path."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.preview", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=90, help="of traffic before drawing")
    seconds = parser.parse_args(arguments).seconds
    output = REPORTS / "monitoring" / "dashboards.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    with lively() as (_, stack):
        print(f"traffic for {seconds:.0f} s", flush=True)
        time.sleep(seconds)
        output.write_text(html(stack, seconds))
    print(output.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
