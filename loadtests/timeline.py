"""A flight record drawn: one HTML page, everything inlined, every chart on one time axis."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from loadtests import LoadTestError
from locust_verdict import histogram
from locust_verdict.record import Cluster, Entry, Event, Requests, Run, Sample, read
from tooling.page import render

TEMPLATE = Path(__file__).parent / "templates" / "timeline.html"
MOST_BINS = 900  # more than this many points cannot be distinguished on a screen
MOST_LINES = 60  # more vertical lines than this would hide the charts
HEAT_EDGES = np.array([0.25 * 2 ** (step / 4) for step in range(73)])  # milliseconds, 4 places to an octave
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GRID = "rgba(128,136,144,.25)"
INK = "#808890"  # readable on light and on dark
COLOURS = qualitative.Plotly
KINDS = {"kill": "#d62728", "deploy": "#1f77b4", "hpa": "#9467bd", "fail": "#d62728", "pass": "#2ca02c"}


class EmptyRecordError(LoadTestError):
    """A record without entries cannot be drawn."""


@dataclass
class Bin:
    """The requests of one stretch of time."""

    failures: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    latency: list[histogram.Counts] = field(default_factory=list)
    intended: list[histogram.Counts] = field(default_factory=list)


@dataclass
class Flight:
    """One record, sorted into what the charts show."""

    label: str
    entries: Sequence[Entry]

    def __post_init__(self) -> None:
        if not self.entries:
            raise EmptyRecordError(f"{self.label}: the record holds no entries")
        self.start = min(entry.at for entry in self.entries)
        self.end = max(entry.at for entry in self.entries)
        self.width = max(1, math.ceil((self.end - self.start) / MOST_BINS))  # seconds
        self.events = sorted((e for e in self.entries if isinstance(e, Event)), key=lambda event: event.at)
        self.runs = [entry for entry in self.entries if isinstance(entry, Run)]
        self.series: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        self.bins: dict[int, Bin] = defaultdict(Bin)
        for entry in self.entries:
            for sample in entry.samples() if isinstance(entry, Cluster) else ():
                self.series[sample.series][sample.subject].append(sample)
            if isinstance(entry, Sample):
                self.series[entry.series][entry.subject].append(entry)
            elif isinstance(entry, Requests):
                place = self.bins[int((entry.at - math.floor(self.start)) // self.width)]
                counts = histogram.decode(entry.latency)
                place.latency.append(counts)
                place.requests[entry.endpoint] += int(counts.sum())
                place.failures[entry.endpoint] += entry.failures
                if entry.intended:
                    place.intended.append(histogram.decode(entry.intended))
        self.endpoints = sorted({endpoint for place in self.bins.values() for endpoint in place.requests})

    def moment(self, at: float) -> datetime:
        """Return the time since the start, as the date that the shared axis shows as hours, minutes and seconds."""
        return EPOCH + timedelta(seconds=at - self.start)

    def moments(self) -> list[datetime]:
        """Return the places of all bins on the axis, without gaps: a second without requests counts as zero."""
        last = max(self.bins, default=-1)
        return [self.moment(math.floor(self.start) + place * self.width) for place in range(last + 1)]

    def percentiles(self, percent: float, *, intended: bool = False) -> list[float | None]:
        """Return a latency percentile in milliseconds for each bin, None where nothing was measured."""
        places = [self.bins.get(place, Bin()) for place in range(len(self.moments()))]
        sums = [histogram.add(place.intended if intended else place.latency) for place in places]
        return [histogram.percentile(counts, percent) if counts.any() else None for counts in sums]

    def rates(self, endpoint: str, *, failures: bool = False) -> list[float]:
        """Return requests, or failures, per second for each bin."""
        places = [self.bins.get(place, Bin()) for place in range(len(self.moments()))]
        return [(place.failures if failures else place.requests)[endpoint] / self.width for place in places]

    def heat(self) -> tuple[list[float], list[list[float | None]]]:
        """Return the edges of the latency bands in milliseconds, and the share of each bin's requests in them in %."""
        heat = np.zeros((len(self.moments()), len(HEAT_EDGES) - 1))
        for place, counted in self.bins.items():
            counts = histogram.add(counted.latency)
            heat[place], _ = np.histogram(histogram.MILLISECONDS, bins=HEAT_EDGES, weights=counts)
            heat[place] *= 100 / max(counts.sum(), 1)
        used = np.flatnonzero(heat.any(axis=0))
        lowest, highest = (used[0], used[-1] + 1) if len(used) else (0, 1)
        rows = heat.T[lowest:highest].tolist()
        return HEAT_EDGES[lowest : highest + 1].tolist(), [[value or None for value in row] for row in rows]


def figure(flights: Sequence[Flight]) -> go.Figure:
    """Draw one or more flights over each other; the second and later ones are dashed."""
    measured = [flight for flight in flights if flight.bins]
    series = list(dict.fromkeys(name for flight in flights for name in flight.series))
    rows = ["events"]
    if measured:
        latencies = [f"latency, ms{_of(flight, flights)}" for flight in measured]
        rows += ["requests per second", *latencies]
    failing = any(place.failures.total() for flight in measured for place in flight.bins.values())
    rows += ["failures per second"] if failing else []
    rows += [_with_unit(name, flights) for name in series]
    heights = [max(1, len({e.kind for f in flights for e in f.events})) * 22 + 20] + [190] * (len(rows) - 1)
    total = sum(heights) + 60 * len(rows)
    chart = make_subplots(
        rows=len(rows),
        shared_xaxes=True,
        subplot_titles=rows,
        row_heights=heights,
        vertical_spacing=min(55 / total, 0.9 / len(rows)),
    )
    for number, flight in enumerate(flights):
        dash = ("solid", "dash", "dot", "dashdot")[number % 4]
        _Pen(chart, flight, _of(flight, flights), dash, failing).draw(series, measured)
    chart.update_layout(
        shapes=_lines(flights),
        height=total,
        margin={"l": 60, "r": 10, "t": 40, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(128,136,144,.07)",
        font={"color": INK, "size": 12},
        hovermode="x",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK},
    )
    for row in range(1, len(rows) + 1):  # a legend beside each chart, at its top
        top = chart.layout[f"yaxis{row if row > 1 else ''}"].domain[1]
        chart.update_layout({f"legend{row if row > 1 else ''}": {"y": top, "yanchor": "top", "x": 1.005}})
    chart.update_annotations(x=0, xanchor="left", font={"size": 13})
    clock = "%H:%M:%S"
    chart.update_xaxes(type="date", tickformat=clock, hoverformat=clock, showticklabels=True, gridcolor=GRID)
    chart.update_yaxes(gridcolor=GRID, rangemode="tozero")
    for row, title in enumerate(rows, 1):
        if title.startswith("latency"):
            chart.update_yaxes(type="log", row=row, col=1)
    return chart


@dataclass
class _Pen:
    """Draws one flight into the chart."""

    chart: go.Figure
    flight: Flight
    suffix: str
    dash: str
    failing: bool  # there is a chart of failures

    def draw(self, series: list[str], measured: list[Flight]) -> None:
        self._events()
        row = 2
        if measured:
            if self.flight.bins:
                self._requests(row, row + 1 + measured.index(self.flight), row + 1 + len(measured))
            row += 1 + len(measured) + self.failing
        for offset, name in enumerate(series):
            lines = self.flight.series.get(name, {})
            for colour, (subject, samples) in zip(cycle(COLOURS), lines.items(), strict=False):
                moments = [self.flight.moment(sample.at) for sample in samples]
                values = [sample.value for sample in samples]
                self._line(row + offset, subject or name, moments, values, colour, shape="hv")

    def _line(
        self, row: int, name: str, x: list[datetime], y: Sequence[float | None], colour: str, **line: Any
    ) -> None:
        legend = f"legend{row if row > 1 else ''}"
        style = {"color": colour, "width": 1.6, "dash": self.dash, **line}
        trace = go.Scatter(x=x, y=y, name=name + self.suffix, mode="lines", line=style, legend=legend)
        self.chart.add_trace(trace, row=row, col=1)

    def _requests(self, rates: int, latency: int, failures: int) -> None:
        moments = self.flight.moments()
        for colour, endpoint in zip(cycle(COLOURS), self.flight.endpoints, strict=False):
            self._line(rates, endpoint, moments, self.flight.rates(endpoint), colour)
            if any(failed := self.flight.rates(endpoint, failures=True)):
                self._line(failures, endpoint, moments, failed, colour)
        edges, shares = self.flight.heat()
        heat = go.Heatmap(
            x=moments,
            y=edges,
            z=shares,
            colorscale="Blues",
            showscale=False,
            name="share of requests",
            hovertemplate="%{y:.2f} ms: %{z:.1f} %<extra></extra>",
        )
        self.chart.add_trace(heat, row=latency, col=1)
        for percent, colour in ((50, "#2ca02c"), (95, "#ff7f0e"), (99, "#d62728")):
            self._line(latency, f"P{percent}", moments, self.flight.percentiles(percent), colour)
        if any(place.intended for place in self.flight.bins.values()):
            intended = self.flight.percentiles(99, intended=True)
            self._line(latency, "P99 from intended start", moments, intended, "#9467bd", dash="dot")

    def _events(self) -> None:
        for kind in dict.fromkeys(event.kind for event in self.flight.events):
            events = [event for event in self.flight.events if event.kind == kind]
            colour = KINDS.get(kind, INK)
            trace = go.Scatter(
                x=[self.flight.moment(event.at) for event in events],
                y=[kind] * len(events),
                mode="markers",
                marker={"color": colour, "size": 9, "symbol": "diamond" if self.dash == "solid" else "diamond-open"},
                text=[f"{markupsafe.escape(event.text)}{self.suffix}" for event in events],
                hovertemplate="%{text}<extra></extra>",
                showlegend=False,
            )
            self.chart.add_trace(trace, row=1, col=1)


def _lines(flights: Sequence[Flight]) -> list[dict[str, Any]]:
    """Return a line through all charts for each event, where there are not too many to see anything else."""
    if sum(len(flight.events) for flight in flights) > MOST_LINES:
        return []
    return [
        {
            "type": "line",
            "xref": "x",
            "x0": flight.moment(event.at),
            "x1": flight.moment(event.at),
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": KINDS.get(event.kind, INK), "width": 0.7, "dash": "dot"},
        }
        for flight in flights
        for event in flight.events
    ]


def _of(flight: Flight, flights: Sequence[Flight]) -> str:
    return f" ({flight.label})" if len(flights) > 1 else ""


def _with_unit(series: str, flights: Sequence[Flight]) -> str:
    samples = (sample for flight in flights for line in flight.series.get(series, {}).values() for sample in line)
    unit = next((sample.unit for sample in samples if sample.unit), "")
    return f"{series}, {unit}" if unit and unit != series else series


def write(page: Path, *records: Path) -> None:
    """Draw one record, or several over each other, into one self-contained HTML page.

    Raises EmptyRecordError for a record without entries, `record.BadRecordError` for a file that is none.
    """
    distinct = len({path.stem for path in records}) == len(records)
    draw(page, {path.stem if distinct else str(path.parent.name): list(read(path)) for path in records})


def draw(page: Path, records: Mapping[str, Sequence[Entry]]) -> None:
    """Draw entries by the name of their record, as `write` does."""
    flights = [Flight(name, entries) for name, entries in records.items()]
    config = {"displaylogo": False, "responsive": True}
    drawn = figure(flights).to_html(full_html=False, include_plotlyjs=True, config=config)
    page.parent.mkdir(parents=True, exist_ok=True)
    html = render(
        str(TEMPLATE),
        title=" over ".join(flight.runs[0].title if flight.runs else flight.label for flight in flights),
        flights=flights,
        started=[datetime.fromtimestamp(flight.start, UTC) for flight in flights],
        chart=markupsafe.Markup(drawn),  # plotly's own output
    )
    page.write_text(html, encoding="utf-8")
