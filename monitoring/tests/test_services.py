"""What each further service brings to the monitoring: rules with unit tests and runbooks, and a dashboard."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import dashboards
from tooling import new_service, project
from tooling.project import ROOT, Service
from tooling.tools import require

FROM_TEMPLATE = "mail-relay"
NAMES = [*(service.name for service in project.services() if not service.default), FROM_TEMPLATE]


@pytest.fixture(params=NAMES)
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Each service of the repository but the default one, and one that the template makes."""
    if request.param != FROM_TEMPLATE:
        yield project.service(request.param)
        return
    for name in ("monitoring", "packages", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "task_api").symlink_to(ROOT / "services" / "task_api")
    monkeypatch.setattr(new_service, "_lock", lambda _folder, _root: None)
    new_service.create(FROM_TEMPLATE, tmp_path)
    yield project.service(FROM_TEMPLATE, tmp_path)
    project.services.cache_clear()


@pytest.fixture
def folder(service: Service) -> Path:
    return service.folder / "monitoring"


@pytest.fixture
def alerts(folder: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    return alerts


@pytest.mark.prometheus
def test_promtool_accepts_the_rules_and_their_unit_tests_pass(folder: Path) -> None:
    for command in (["check", "rules", "--lint=all", "--lint-fatal", "rules.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run([require("promtool"), *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not(
    folder: Path, alerts: list[dict[str, Any]]
) -> None:
    tests = yaml.safe_load((folder / "tests.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    stays_silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == stays_silent == {alert["alert"] for alert in alerts}


def test_every_alert_has_a_summary_and_a_runbook_and_no_runbook_outlives_its_alert(
    service: Service, folder: Path, alerts: list[dict[str, Any]]
) -> None:
    for alert in alerts:
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["labels"]["severity"] in {"page", "ticket"}
        path = f"{service.path}/monitoring/runbooks/{alert['alert']}.md"
        assert alert["annotations"]["runbook_url"] == f"{{{{ $externalLabels.repository }}}}{path}"
        page = (folder / "runbooks" / f"{alert['alert']}.md").read_text()
        assert page.startswith(f"# {alert['alert']}\n")
        assert "## What it means" in page
        assert "## What to do" in page
    assert {page.stem for page in (folder / "runbooks").glob("*.md")} == {alert["alert"] for alert in alerts}


def test_no_alert_watches_another_service(service: Service, alerts: list[dict[str, Any]]) -> None:
    others = {one.name for one in project.services()} - {service.name}
    for alert in alerts:
        assert service.name in alert["expr"]
        assert not [name for name in others if f'"{name}"' in alert["expr"]]


def test_compose_scrapes_it_under_its_name(service: Service, folder: Path) -> None:
    (scrape,) = yaml.safe_load((folder / "scrape.yml").read_text())["scrape_configs"]
    assert scrape["job_name"] == service.name
    composed = yaml.safe_load((service.folder / "compose.yaml").read_text())["services"]
    assert scrape["static_configs"] == [{"targets": [f"{service.name}:5000"]}]
    assert composed[service.name]["image"] == f"{service.name}:latest"
    mounted = {volume.partition(":")[0] for volume in composed["prometheus"]["volumes"]}
    assert mounted == {f"./{service.path}/monitoring/{file}.yml" for file in ("rules", "scrape")}


def test_its_dashboard_is_written_into_its_own_folder(service: Service) -> None:
    board = dashboards.overview(service)
    assert dashboards.folder_of(service) == service.folder / "monitoring" / "dashboards"
    assert board.uid == service.name
    expressions = dashboards.text(board)
    assert f'job=\\"{service.name}\\"' in expressions
    assert "task-api" not in expressions
    assert ("db_pool_size" in expressions) == bool(service.database)
    assert ("api_auth_failures" in expressions) == service.accounts
