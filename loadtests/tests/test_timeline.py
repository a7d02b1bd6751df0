"""The page: everything inlined, everything on one axis, nothing of the record able to run as script."""

import re
from pathlib import Path

import pytest

from loadtests import timeline
from loadtests.tests.conftest import START, MakeRun
from locust_verdict.record import Cluster, Entry, Event, Pod, Recorder, Run, Sample


def flight(name: str, entries: list[Entry]) -> timeline.Flight:
    return timeline.Flight(name, entries)


def with_cluster(run: list[Entry]) -> list[Entry]:
    pod = Pod("task-api-1", "Running", ready=True, cpu_request=0.1, cpu=0.07)
    return [
        *run,
        Sample(START + 1, "users", 20),
        Cluster(START + 2, 3, [pod], {}),
        Event(START + 5, "hpa", "task-api: SuccessfulRescale: New size: 5"),
        Event(START + 7, "kill", "task-api-1: Killing"),
    ]


def test_every_chart_shares_one_time_axis(make_run: MakeRun) -> None:
    chart = timeline.figure([flight("a", with_cluster(make_run({"GET /tasks": 5}, failures=2)))])
    titles = [annotation.text for annotation in chart.layout.annotations]
    assert titles == [
        *["events", "requests per second", "latency, ms", "failures per second"],
        *["users", "pods", "CPU, % of request"],
    ]
    axes = [chart.layout[name] for name in chart.layout if re.fullmatch(r"xaxis\d*", name)]
    assert len(axes) == len(titles)
    assert {axis.matches for axis in axes} == {None, f"x{len(titles)}"}
    names = {trace.name for trace in chart.data}
    assert {"GET /tasks", "P50", "P95", "P99", "desired", "ready", "task-api-1", "share of requests"} <= names


def test_two_runs_lie_over_each_other_from_their_starts(make_run: MakeRun) -> None:
    first = make_run({"GET /tasks": 5})
    second = make_run({"GET /tasks": 9}, start=START + 86_400)
    chart = timeline.figure([flight("a", first), flight("b", second)])
    rates = [trace for trace in chart.data if trace.name in {"GET /tasks (a)", "GET /tasks (b)"}]
    assert list(rates[0].x) == list(rates[1].x)
    assert [trace.line.dash for trace in rates] == ["solid", "dash"]


def test_seconds_without_requests_count_as_zero(make_run: MakeRun) -> None:
    run = [*make_run({"GET /tasks": 5}, seconds=2), *make_run({"GET /tasks": 5}, seconds=2, start=START + 4)]
    assert flight("a", run).rates("GET /tasks") == [20, 20, 0, 0, 20, 20]
    assert flight("a", run).percentiles(95)[2] is None


def test_a_long_run_is_drawn_in_fewer_places(make_run: MakeRun) -> None:
    run = make_run({"GET /tasks": 5}, seconds=2000, per_second=1)
    shown = flight("a", run)
    assert len(shown.moments()) <= timeline.MOST_BINS
    assert sum(shown.rates("GET /tasks")) * shown.width == 2000


def test_the_heat_map_shows_each_bins_shares(make_run: MakeRun) -> None:
    edges, shares = flight("a", make_run({"GET /tasks": 5}, seconds=3)).heat()
    assert len(edges) == len(shares) + 1
    for column in zip(*shares, strict=True):
        assert sum(value or 0 for value in column) == pytest.approx(100)


def test_the_page_fetches_nothing_and_lets_no_record_run_script(tmp_path: Path, make_run: MakeRun) -> None:
    path = tmp_path / "record.jsonl"
    evil = "<script>alert(1)</script>"
    with Recorder(path) as recorder:
        for entry in with_cluster(make_run({"GET /tasks": 5})):
            recorder.write(entry)
        recorder.write(Event(START + 8, "deploy", evil))
        recorder.write(Run(START + 9, evil, {"host": evil}))
    timeline.write(tmp_path / "page.html", path)
    page = (tmp_path / "page.html").read_text()
    assert evil not in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "made by hand" in page


def test_an_empty_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(timeline.EmptyRecordError, match="empty: the record holds no entries"):
        timeline.write(tmp_path / "page.html", tmp_path / "empty.jsonl")
