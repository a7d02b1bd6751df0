import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import drills, operator_rules, queries
from monitoring.stack import FOLDER, RULES
from tooling.project import Service, services
from tooling.tools import require

ROOT = FOLDER.parent
UNIT_TESTS = sorted((FOLDER / "prometheus" / "tests").glob("*.yml"))
ALERTMANAGER = FOLDER / "alertmanager" / "alertmanager.yml"
ALERTS: list[dict[str, Any]] = [
    rule
    for path in sorted(RULES.glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require(program), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.prometheus
@pytest.mark.parametrize("name", ["prometheus.yml", "scrape.yml", "scrape.kubernetes.yml"])
def test_promtool_accepts_the_configuration(name: str) -> None:
    done = run("promtool", "check", "config", "--lint=all", "--lint-fatal", FOLDER / "prometheus" / name)
    assert done.returncode == 0, done.stdout + done.stderr


def laid_out(place: str, folder: Path) -> Path:
    """Lay the configuration out as Compose mounts it or as the cluster's ConfigMap names it; return its main file."""
    source = FOLDER / "prometheus"
    if place == "compose":
        files = [f"{name}={name}" for name in ("prometheus.yml", "scrape.yml")]
    else:
        maps = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
        (files,) = [one["files"] for one in maps if one["name"] == "prometheus"]
    for file in files:
        name, _, path = file.rpartition("=")
        path = path.removeprefix("prometheus/")
        (folder / (name or path)).write_text((source / path).read_text())
    return folder / "prometheus.yml"


@pytest.mark.prometheus
@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_promtool_accepts_the_syntax_of_what_prometheus_reads(place: str, tmp_path: Path) -> None:
    done = run("promtool", "check", "config", "--syntax-only", laid_out(place, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_refuses_a_wildcard_within_the_path_of_rule_files(tmp_path: Path) -> None:
    main = laid_out("compose", tmp_path)
    main.write_text(main.read_text().replace("/etc/services/*.rules.yml", "/etc/services/*/rules.yml"))
    done = run("promtool", "check", "config", "--syntax-only", main)
    assert done.returncode != 0
    assert "rules.yml" in done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_rules_unit_tests_pass(path: Path) -> None:
    done = run("promtool", "test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not(alert: dict[str, Any]) -> None:
    cases = [
        case
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert["alert"]
    ]
    assert any(case["exp_alerts"] for case in cases)
    assert alert["alert"] == drills.WATCHDOG or any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_a_summary_and_a_page_of_its_own_for_the_person_on_call(alert: dict[str, Any]) -> None:
    assert alert["annotations"]["summary"].endswith(".")
    path = f"docs/runbooks/{alert['alert']}.md"
    assert alert["annotations"]["runbook_url"] == f"{{{{ $externalLabels.repository }}}}{path}"
    page = (ROOT / path).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    for heading in ("## What it means", "## What to do"):
        assert heading in page
    assert f"({alert['alert']}.md)" in (ROOT / "docs" / "runbooks" / "README.md").read_text()


def test_the_repository_has_a_full_address_by_which_the_operators_runbooks_are_reached_too() -> None:
    assert re.fullmatch(r"https://[^\s?#]+/", operator_rules.repository())
    objects = [one for _, text in operator_rules.written() for one in yaml.safe_load_all(text)]
    rules = [rule for one in objects for group in one["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert rules
    for rule in rules:
        place = rule["annotations"]["runbook_url"].removeprefix(operator_rules.repository())
        assert place.endswith(f"/runbooks/{rule['alert']}.md")
        assert (ROOT / place).exists()


def test_no_runbook_outlives_its_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {alert["alert"] for alert in ALERTS}


def test_every_alert_has_a_drill_and_every_drill_an_alert() -> None:
    assert set(drills.DRILLS) == set(drills.expected()) > {alert["alert"] for alert in ALERTS}


def test_kube_state_metrics_watches_every_kind_that_a_query_reads() -> None:
    manifest = ROOT / "k8s" / "components" / "monitoring" / "kube-state-metrics.yaml"
    objects = {each["kind"]: each for each in yaml.safe_load_all(manifest.read_text())}
    (options,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    (watched,) = [each.partition("=")[2] for each in options["args"] if each.startswith("--resources=")]
    kinds = {kind for query in queries.every() for kind in re.findall(r"\bkube_([a-z]+)_", query.expression)}
    assert kinds
    assert {f"{kind}s" for kind in kinds} <= set(watched.split(","))
    assert set(watched.split(",")) == {kind for rule in objects["Role"]["rules"] for kind in rule["resources"]}


@pytest.mark.prometheus
def test_amtool_accepts_the_configuration() -> None:
    done = run("amtool", "check-config", ALERTMANAGER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_is_routed_by_its_severity(alert: dict[str, Any]) -> None:
    labels = [f"{name}={value}" for name, value in {"alertname": alert["alert"], **alert["labels"]}.items()]
    done = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels)
    assert done.stdout.split() == [drills.expected()[alert["alert"]]]


def test_each_receiver_has_the_address_that_compose_mounts() -> None:
    for receiver in yaml.safe_load(ALERTMANAGER.read_text())["receivers"]:
        (webhook,) = receiver["webhook_configs"]
        address = FOLDER / "alertmanager" / Path(webhook["url_file"]).relative_to("/etc/alertmanager")
        assert address.read_text().strip() == f"http://alert-receiver:8080/{receiver['name']}"


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
CONFIGURATION: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())


def seconds(duration: str) -> int:
    """Return a duration of Prometheus in seconds."""
    assert re.fullmatch(r"(\d+[smhd])+", duration), duration
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration))


def test_the_shortest_range_of_a_query_holds_four_samples() -> None:
    """Two are the least that a rate needs, and a scrape may be late or fail."""
    files = [*RULES.glob("*.yml"), *(one.folder / "monitoring" / "rules.yml" for one in services() if not one.default)]
    ranges = [seconds(one) for file in files for one in re.findall(r"\[(\w+)[\]:]", file.read_text())]
    assert ranges
    assert min(ranges) >= 4 * seconds(CONFIGURATION["global"]["scrape_interval"])


def test_rules_are_evaluated_within_the_shortest_condition_of_an_alert() -> None:
    conditions = [seconds(alert["for"]) for alert in ALERTS if "for" in alert]
    assert min(conditions) >= 4 * seconds(CONFIGURATION["global"]["evaluation_interval"])


def test_prometheus_reads_every_rule_file_and_scrapes_what_compose_runs() -> None:
    assert CONFIGURATION["rule_files"] == ["rules/*.yml", "/etc/services/*.rules.yml"]
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].keys() | {"localhost"}
    jobs = yaml.safe_load((FOLDER / "prometheus" / "scrape.yml").read_text())["scrape_configs"]
    targets = [target for job in jobs for one in job["static_configs"] for target in one["targets"]]
    assert {job["job_name"] for job in jobs} == {"task-api", "prometheus", "alertmanager"}
    assert {target.partition(":")[0] for target in targets} <= composed
    to = [
        target for one in CONFIGURATION["alerting"]["alertmanagers"] for target in one["static_configs"][0]["targets"]
    ]
    assert to == ["alertmanager:9093"]


@pytest.mark.parametrize("service", services(), ids=lambda one: one.name)
def test_a_cluster_scrapes_the_pods_of_every_service_by_their_named_port(service: Service) -> None:
    folder = FOLDER / "prometheus" if service.default else service.folder / "monitoring"
    jobs = yaml.safe_load((folder / "scrape.kubernetes.yml").read_text())["scrape_configs"]
    (job,) = [one for one in jobs if one["job_name"] == service.name]
    assert [one["role"] for one in job["kubernetes_sd_configs"]] == ["pod"]
    kept = [rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"]
    assert kept == [f"{service.name};http"]
    (deployment,) = yaml.safe_load_all((service.manifests / "base" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "http" in {port["name"] for port in container["ports"]}


def test_a_page_leaves_within_a_minute_comes_again_and_is_never_silenced_by_another_alert() -> None:
    configuration = yaml.safe_load(ALERTMANAGER.read_text())
    route = configuration["route"]
    (page,) = [{**route, **one} for one in route["routes"] if one["receiver"] == "page"]
    assert page["matchers"] == ["severity = page"]
    assert seconds(page["group_wait"]) <= 60
    assert seconds(page["group_interval"]) <= 300
    assert seconds(page["repeat_interval"]) <= 4 * 3600
    assert not configuration.keys() & {"mute_time_intervals", "time_intervals"}
    for rule in configuration["inhibit_rules"]:
        assert "severity = ticket" in rule["target_matchers"]
        assert rule["equal"]
