import json
from pathlib import Path

import httpx
import pytest
import yaml

from monitoring import stack
from monitoring.receiver import Receiver


def rules(folder: Path) -> list[dict[str, str]]:
    groups = [group for path in sorted(folder.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def test_a_hurried_copy_differs_from_the_rules_only_in_the_duration_of_a_condition(tmp_path: Path) -> None:
    stack.configure(tmp_path, {"task-api": "127.0.0.1:1"}, "127.0.0.1:2", "http://127.0.0.1:3", hurry=True)
    for original, copy in zip(rules(stack.RULES), rules(tmp_path / "rules"), strict=True):
        assert {**copy, "for": ""} == {**original, "for": ""}
        assert ("for" in copy) == ("for" in original)


def test_an_unhurried_copy_has_the_rules_times(tmp_path: Path) -> None:
    stack.configure(tmp_path, {}, "127.0.0.1:2", "http://127.0.0.1:3", hurry=False)
    assert rules(tmp_path / "rules") == rules(stack.RULES)
    original = yaml.safe_load((stack.FOLDER / "prometheus" / "prometheus.yml").read_text())
    assert yaml.safe_load((tmp_path / "prometheus.yml").read_text())["global"] == original["global"]


def test_the_receiver_reports_each_alert_with_the_name_of_its_receiver() -> None:
    received: list[dict[str, str]] = []
    alert = {
        "status": "firing",
        "startsAt": "2026-01-31T10:00:00Z",
        "labels": {"alertname": "TaskApiDown", "severity": "page"},
        "annotations": {"summary": "It is down."},
    }
    with stack.serving(Receiver("127.0.0.1", 0, received.append)) as url:
        assert httpx.get(url).status_code == 200
        answer = httpx.post(f"{url}/page", content=json.dumps({"version": "4", "alerts": [alert, alert]}))
        assert answer.status_code == 200
    assert (
        received
        == [
            {
                "receiver": "page",
                "status": "firing",
                "since": "2026-01-31T10:00:00Z",
                "alertname": "TaskApiDown",
                "severity": "page",
                "summary": "It is down.",
            }
        ]
        * 2
    )


def test_waiting_returns_the_value_or_raises_with_the_reason() -> None:
    countdown = [0, 0, 5]
    assert stack.wait(countdown.pop, "five") == 5
    with pytest.raises(stack.NotSeen, match="never"):
        stack.wait(lambda: False, "never", seconds=0.2)
