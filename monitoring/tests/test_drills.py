import json
from pathlib import Path

import pytest

from monitoring import drills
from monitoring.operator_rules import repository
from monitoring.stack import NotSeen, Stack
from tooling.tools import MissingTool

RUNBOOK = f"{repository()}docs/runbooks/TaskApiDown.md"


def stack(**alert: str) -> Stack:
    return Stack("http://127.0.0.1:1", "http://127.0.0.1:2", Path(), [alert])


def test_an_alert_at_its_receiver_has_arrived() -> None:
    arrived = stack(alertname="TaskApiDown", receiver="page", runbook_url=RUNBOOK)
    assert drills.arrival(arrived, "TaskApiDown") < 1


def test_an_alert_without_a_full_runbook_address_is_reported() -> None:
    path_alone = stack(alertname="TaskApiDown", receiver="page", runbook_url="docs/runbooks/TaskApiDown.md")
    with pytest.raises(NotSeen, match="which is not below https://"):
        drills.arrival(path_alone, "TaskApiDown")


def test_an_alert_at_another_receiver_is_reported() -> None:
    with pytest.raises(NotSeen, match="arrived at ticket instead of page"):
        drills.arrival(stack(alertname="TaskApiDown", receiver="ticket"), "TaskApiDown")


def test_an_alert_without_a_drill_has_failed() -> None:
    assert "has no drill" in drills.run("NewAlert", "page", None).problem


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(drills, "REPORTS", tmp_path)
    monkeypatch.setattr(drills, "version", lambda _name: "1.2.3")
    monkeypatch.setattr(drills, "expected", lambda: {"Good": "page", "Bad": "ticket"})
    monkeypatch.setattr(drills, "quiet", lambda: 1.0)
    return tmp_path / "monitoring"


def never() -> float:
    raise NotSeen("not within 90 s: <b>Bad</b>")


def test_a_missing_alert_fails_the_run_and_is_named(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "DRILLS", {"Good": lambda: 2.5, "Bad": never})
    assert drills.main([]) == 1
    results = json.loads((reports / "drills.json").read_text())["results"]
    assert [(result["alert"], result["problem"]) for result in results] == [
        ("Good", ""),
        ("Bad", "not within 90 s: <b>Bad</b>"),
        ("no alert", ""),
    ]
    page = (reports / "drills.html").read_text()
    assert "Alert drills: 2 of 3" in page
    assert "&lt;b&gt;Bad&lt;/b&gt;" in page


def test_the_run_passes_when_every_alert_arrives(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "DRILLS", {"Good": lambda: 2.5, "Bad": lambda: 1.0})
    assert drills.main([]) == 0
    assert "Alert drills: 3 of 3" in (reports / "drills.html").read_text()


def test_a_drill_without_an_alert_fails(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "DRILLS", {"Good": lambda: 2.5, "Bad": lambda: 1.0, "Gone": never})
    assert drills.main([]) == 1
    assert "Gone" in (reports / "drills.html").read_text()


def test_an_unknown_name_is_refused_with_a_list_of_the_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        drills.main(["TaskApiUp"])
    assert "TaskApiDown" in capsys.readouterr().err


def test_without_prometheus_nothing_is_assessed(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> str:
        raise MissingTool("prometheus is missing: install it")

    monkeypatch.setattr(drills, "version", missing)
    assert drills.main([]) == 2
    assert not reports.exists()
