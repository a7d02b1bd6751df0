import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import mmap_dict
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from service_kit.telemetry import logs, metrics
from service_kit.telemetry.traces import incoming_trace_id
from task_api import telemetry
from task_api.config import Settings
from task_core.database import Database

from .conftest import KEY, PASSWORD, Client, client_of, log_in

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Output:
    """What the service has written to standard output."""

    def __init__(self, captured: pytest.CaptureFixture[bytes]) -> None:
        self._captured = captured

    def lines(self) -> list[dict[str, Any]]:
        """Each line decoded, since the last time."""
        return [json.loads(line) for line in self._captured.readouterr().out.decode().splitlines()]


@pytest.fixture
def output(capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Output]:
    root = logging.getLogger()
    before, level, configured = root.handlers, root.level, structlog.get_config()
    logs.configure("info")
    yield Output(capsysbinary)
    logging.captureWarnings(capture=False)
    root.handlers, root.level = before, level
    structlog.configure(**configured)
    vars(logs.log).pop("bind", None)  # where structlog keeps the logger it has cached


def test_each_request_is_one_line_of_json_with_all_it_needs(output: Output, client: Client) -> None:
    client.post(
        "/tasks", json={"title": "a"}, headers={"X-Request-ID": "r1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    )
    (line,) = [line for line in output.lines() if line.get("route")]
    assert list(line)[:3] == ["time", "level", "message"]
    expected = {
        "level": "info",
        "message": "request",
        "method": "POST",
        "route": "/tasks",
        "status": 201,
        "account": 0,
        "request_id": "r1",
        "trace_id": TRACE,
    }
    assert line.items() >= expected.items()
    assert line["duration_ms"] > 0


def test_an_unexpected_error_is_logged_with_its_traceback_under_the_request_id(
    output: Output, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_api.tasks.service.page", lambda *_: 1 / 0)
    client.get("/tasks", headers={"X-Request-ID": "r2"})
    error = next(line for line in output.lines() if line["level"] == "error")
    assert error["request_id"] == "r2"
    assert "ZeroDivisionError" in error["exception"]


def test_no_password_and_no_token_reaches_the_log(output: Output, guarded: Client) -> None:
    headers = log_in(guarded)
    tokens = guarded.post("/auth/login", json={"email": "ada@example.org", "password": PASSWORD}).json
    guarded.get("/tasks", headers=headers)
    guarded.get(
        "/tasks?q=" + tokens["refresh_token"], headers={"Authorization": "Bearer " + tokens["access_token"] + "x"}
    )
    guarded.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    guarded.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    written = json.dumps(output.lines())
    for secret in (PASSWORD, KEY.secret, tokens["refresh_token"], tokens["access_token"], headers["Authorization"]):
        assert secret not in written


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.none() | st.binary()))
def test_whatever_is_logged_is_one_line_that_decodes(message: str, fields: dict[str, Any]) -> None:
    fields = {name: value for name, value in fields.items() if name not in {"event", "message", *logs.FIRST}}
    line = logs.render(None, "info", {"event": message, **fields})
    assert b"\n" not in line
    assert json.loads(line)["message"] in {message, repr(message)}


def test_a_line_begins_with_the_usual_fields_and_ends_with_those_of_the_request() -> None:
    token = logs.about.set({"request_id": "1", "task": "of the request"})
    try:
        line = logs.render(None, "error", {"event": "failed", "task": 7, "time": "now", "exc_info": ValueError("no")})
    finally:
        logs.about.reset(token)
    fields = json.loads(line)
    assert list(fields) == ["time", "level", "message", "task", "request_id", "exception"]
    assert (fields["level"], fields["task"], fields["exception"]) == ("error", 7, "ValueError: no")
    assert datetime.fromisoformat(fields["time"]).utcoffset() == timedelta(0)


def test_a_lone_surrogate_cannot_break_the_log() -> None:
    line = logs.render(None, "info", {"event": "\ud800", "title": "\udfff\n"})
    assert json.loads(line)["fields"]
    assert b"\n" not in line


def test_libraries_log_the_same_way(output: Output) -> None:
    logging.getLogger("some.library").warning("line one\nline %s", "two")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("some.library").exception("failed")
    first, second = output.lines()
    assert (first["message"], first["logger"], first["level"]) == ("line one\nline two", "some.library", "warning")
    assert "ValueError: no" in second["exception"]


def test_a_record_that_cannot_be_formatted_does_not_stop_the_service(output: Output) -> None:
    record = logging.LogRecord("some.library", logging.WARNING, __file__, 1, "%d", ("no number",), None)
    logs.JsonLines().handle(record)
    assert output.lines() == []


def test_nobody_reading_the_logs_does_not_stop_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    logs._write(b"{}")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),  # a version that the standard forbids
        ("garbage\n", None),
        (None, None),
    ],
)
def test_the_trace_id_comes_from_a_well_formed_traceparent(header: str | None, expected: str | None) -> None:
    assert incoming_trace_id(header) == expected


def value(client: Client, name: str, **labels: str) -> float:
    families: Any = text_string_to_metric_families(client.get("/metrics").text)
    values = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    return float(sum(values))


def test_requests_are_counted_by_the_template_of_their_route(client: Client) -> None:
    def count(endpoint: str, status: str) -> float:
        return value(client, "api_requests_total", endpoint=endpoint, status=status)

    template = "/tasks/<int:task_id>"
    before = count(template, "404"), count("(unmatched)", "404")
    for number in range(5):
        client.get(f"/tasks/{number + 100}")
        client.get(f"/nothing/{number}")
    assert (count(template, "404"), count("(unmatched)", "404")) == (before[0] + 5, before[1] + 5)


def test_methods_nobody_has_cannot_make_labels(client: Client) -> None:
    for number in range(3):
        client.open("/tasks", method=f"BREW{number}")
    text = client.get("/metrics").text
    assert "BREW" not in text
    assert 'method="(other)"' in text


def test_refused_tokens_and_rates_are_counted(guarded: Client) -> None:
    before = value(guarded, "api_auth_failures_total", reason="invalid")
    guarded.get("/tasks", headers={"Authorization": "Bearer x"})
    assert value(guarded, "api_auth_failures_total", reason="invalid") == before + 1


def test_openmetrics_carry_the_trace_id_as_exemplar(client: Client) -> None:
    client.get("/tasks", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    scrape = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert scrape.content_type.startswith("application/openmetrics-text")
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in openmetrics_families(scrape.text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if family.name == "api_request_duration_seconds" and sample.exemplar
    ]
    assert TRACE in exemplars


def test_what_a_former_run_counted_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for name in ("counter_12.db", "histogram_12.db", "gauge_livesum_12.db", "tasks.db", "counter_of_sheep.db"):
        (tmp_path / name).touch()
    metrics.prepare_folder()
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.db", "counter_of_sheep.db"}


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_a_scrape_passes_over_the_file_that_a_worker_has_just_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    library: Any = mmap_dict  # which has no types
    counts = library.MmapedDict(str(tmp_path / "counter_12.db"))
    counts.write_value(library.mmap_key("kettles", "kettles_total", ["tea"], ["green"], "help"), 3.0, 0.0)
    counts.close()
    (tmp_path / "counter_13.db").touch()
    (tmp_path / "gauge_livesum_14.db").symlink_to(tmp_path / "gone")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    body, _ = metrics.expose(accept)
    assert b'kettles_total{tea="green"} 3.0' in body


def test_what_people_wrote_is_not_in_a_failed_statements_log(output: Output, empty_settings: Settings) -> None:
    settings = msgspec.structs.replace(empty_settings, rate_limit=None)
    database = Database(settings)
    client_of(settings, database).post("/tasks", json={"title": "hunter22"})
    database.engine.dispose()
    logged = json.dumps(output.lines())
    assert "tasks" in logged
    assert "hunter22" not in logged


def test_in_flight_counts_the_request_for_metrics_and_no_other(client: Client) -> None:
    before = value(client, "api_requests_in_flight")
    client.get("/tasks")
    client.get("/nothing")
    assert value(client, "api_requests_in_flight") == before


def test_the_age_of_a_signing_key_is_a_metric_where_its_id_has_a_date(client: Client) -> None:
    telemetry.signing_key("20260131-4f2a")
    telemetry.signing_key("k1")
    assert value(client, "api_signing_key_created_timestamp_seconds", kid="20260131-4f2a") == 1769817600
    assert value(client, "api_signing_key_created_timestamp_seconds", kid="k1") == 0
