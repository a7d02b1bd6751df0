"""The summary of a run, and the webhooks that receive it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import stamina

from tooling import findings, notify
from tooling.canaries.fixtures import serving
from tooling.findings import CLEAN, NOT_ASSESSED, Finding, NotAssessed, Report, Scan, Severity
from tooling.notify import Stage, deliver, markdown, overall, plain, read_stage, slack
from tooling.project import source

FINDING = Finding(tool="bandit", rule="B602", severity=Severity.HIGH, message="a | shell", path="a.py", line=3)


def report(*findings: Finding, problem: str = "") -> Report:
    scan = Scan(tool="bandit", version="1", targets=("a.py",), findings=findings, problem=problem)
    return Report.of("sast", [scan], strict=True)


def a_stage(result: str = "passed", *, recorded: Report | None = None) -> Stage:
    return Stage(name="sast", result=result, seconds=12.0, report=recorded or report())


def left(folder: Path, result: str, **changes: str) -> Path:
    folder.mkdir(exist_ok=True)
    record = {"stage": "sast", "result": result, "seconds": 3.5, "source": {**source(), **changes}}
    (folder / "stage.json").write_text(json.dumps(record))
    return folder


def test_a_stage_is_what_it_recorded(tmp_path: Path) -> None:
    report(FINDING).write(tmp_path)
    stage = read_stage("sast", left(tmp_path, "failed"))
    assert (stage.result, stage.seconds, stage.remark) == ("failed", 3.5, "1 findings")


@pytest.mark.parametrize(
    ("recorded", "result"),
    [("", "did not run"), ("failure", "failed"), ("cancelled", "cancelled"), ("skipped", "skipped")],
)
def test_a_stage_that_left_nothing_is_never_passed(tmp_path: Path, recorded: str, result: str) -> None:
    assert read_stage("sast", tmp_path, recorded).result == result
    assert overall([read_stage("sast", tmp_path, recorded)]) == "failed"


def test_a_job_that_ci_calls_failed_did_not_pass_whatever_it_recorded(tmp_path: Path) -> None:
    assert read_stage("sast", left(tmp_path, "passed"), "failure").result == "failed"


@pytest.mark.parametrize("changes", [{"commit": "0" * 40}, {"changes": "0" * 64}, {"run": "41"}], ids=str)
def test_a_report_of_another_commit_or_run_is_stale_and_passes_nothing(tmp_path: Path, changes: dict[str, str]) -> None:
    report().write(tmp_path)
    stage = read_stage("sast", left(tmp_path, "passed", **changes))
    assert (stage.result, overall([stage])) == ("stale", "failed")
    assert "of another commit" in stage.remark
    assert read_stage("sast", left(tmp_path, "failed", **changes), "failure").result == "failed"


def test_a_record_without_its_source_is_stale(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "sast", "result": "passed", "seconds": 3.5}))
    assert read_stage("sast", tmp_path).result == "stale"


def test_a_stage_that_was_killed_is_interrupted(tmp_path: Path) -> None:
    assert read_stage("sast", left(tmp_path, "running")).result == "interrupted"


def test_markdown_holds_a_row_a_stage_and_every_failing_finding() -> None:
    text = markdown([a_stage("failed", recorded=report(FINDING))], "abc")
    assert "## Pipeline failed: `abc`" in text
    assert "| sast | ❌ failed | 12 s | 1 findings |" in text
    assert "| high | bandit B602 | `a.py:3` | a \\| shell |" in text


def test_what_was_not_assessed_is_reported_even_where_the_stage_passed() -> None:
    recorded = report(problem="no database")
    assert "bandit not assessed: no database" in markdown([a_stage(recorded=recorded)], "abc")


def test_a_gap_is_named_even_where_the_stage_passed() -> None:
    scan = Scan(tool="safety", version="", problem="no key", unconfigured=True)
    recorded = Report.of("sast", [scan], strict=True)
    assert "safety not configured: no key" in markdown([a_stage(recorded=recorded)], "abc")


def test_a_request_whose_publish_is_skipped_has_passed() -> None:
    assert overall([a_stage(), a_stage("skipped")]) == "passed"
    assert overall([a_stage(), a_stage("failed"), a_stage("skipped")]) == "failed"
    assert overall([a_stage("skipped")]) == "failed"


def test_a_webhook_that_is_not_set_is_a_gap_and_an_error_only_where_it_is_required(
    reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLACK_WEBHOOK_URL", "WEBHOOK_URL", "REQUIRED_GATES"):
        monkeypatch.delenv(name, raising=False)
    assert notify.main() == CLEAN
    assert "notify/webhook: not configured" in (reports / "notify" / "summary.md").read_text()
    monkeypatch.setenv("REQUIRED_GATES", "safety webhook")
    assert notify.main() == NOT_ASSESSED


def test_slack_gets_its_shape_within_its_limits() -> None:
    stages = [a_stage("failed", recorded=report(problem="x" * 150)) for _ in range(100)]
    block = slack(stages, "abc")["blocks"][0]
    assert block["type"] == "section"
    assert len(block["text"]["text"]) <= 3000


@contextmanager
def receiving(*statuses: int) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Answer with these statuses, one after the other; yield the address and the list of what was received."""
    received: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), body))
            self.send_response(statuses[len(received) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
            pass

    with serving(Handler) as address:
        yield f"http://{address}/hook/secret", received


def test_a_webhook_is_signed_over_its_very_bytes() -> None:
    with receiving(200) as (url, received):
        deliver(url, plain([a_stage()], "abc"), "a shared secret")
    headers, body = received[0]
    expected = "sha256=" + hmac.new(b"a shared secret", body, hashlib.sha256).hexdigest()
    assert headers["X-Hub-Signature-256"] == expected
    assert json.loads(body)["result"] == "passed"


def test_a_webhook_without_a_secret_is_not_signed() -> None:
    with receiving(200) as (url, received):
        deliver(url, {})
    assert "X-Hub-Signature-256" not in received[0][0]


@pytest.mark.parametrize("busy", [429, 500, 503])
def test_a_busy_receiver_is_tried_again(busy: int) -> None:
    with receiving(busy, 200) as (url, received), stamina.set_testing(True, attempts=2):  # no waits between
        deliver(url, {})
    assert len(received) == 2


def test_a_receiver_that_refuses_is_not_tried_again_and_its_address_is_not_printed() -> None:
    with receiving(404) as (url, received), pytest.raises(NotAssessed, match="answered 404") as caught:
        deliver(url, {})
    assert len(received) == 1
    assert "secret" not in str(caught.value)


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(notify, "REPORTS", tmp_path)
    monkeypatch.setattr(findings, "REPORTS", tmp_path)
    for name in ("SLACK_WEBHOOK_URL", "WEBHOOK_URL", "WEBHOOK_SECRET", "NEEDS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_reports_failed_stages_and_succeeds_itself(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(reports / "sast", "failed")
    summary = reports / "job-summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("NEEDS", json.dumps({"test": {"result": "cancelled"}}))
    with receiving(200) as (plain_url, plain_received), receiving(200) as (slack_url, slack_received):
        monkeypatch.setenv("WEBHOOK_URL", plain_url)
        monkeypatch.setenv("SLACK_WEBHOOK_URL", slack_url)
        assert notify.main() == CLEAN
    assert "❌ failed" in summary.read_text()
    results = {stage["name"]: stage["result"] for stage in json.loads(plain_received[0][1])["stages"]}
    assert results == {"test": "cancelled", "sast": "failed"} | dict.fromkeys(
        ("build", "dast", "publish"), "did not run"
    )
    assert json.loads(slack_received[0][1])["text"].startswith("Pipeline failed")
    assert "Pipeline failed" in (reports / "notify" / "summary.html").read_text()


def test_a_webhook_that_is_set_and_not_reached_is_an_error(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(404) as (url, _):
        monkeypatch.setenv("WEBHOOK_URL", url)
        assert notify.main() == NOT_ASSESSED
    assert (reports / "notify" / "summary.md").exists()
