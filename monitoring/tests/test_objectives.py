"""What rules, dashboards, documents and services have to agree on: the latency objective, and who is no user."""

import re
from pathlib import Path

import pytest

from monitoring import dashboards
from service_kit.http.requests import PROBES
from service_kit.telemetry.metrics import BUCKETS
from tooling.project import ROOT
from tooling.tools import tracked

FOLDERS = ("docs/", "k8s/", "monitoring/prometheus/", "monitoring/grafana/", "services/", "templates/")
READ = (".md", ".yml", ".yaml", ".json", ".jinja")
OBJECTIVE = re.compile(r"(?:longer than|answered within|% within) (\d+) ms")
BOUND = re.compile(r'api_request_duration_seconds_bucket\{[^}]*le=\\*"([\d.]+)\\*"\}\[')
MATCHER = re.compile(r'endpoint!~\\*("[^"\\]+)\\*"')


def mentions(pattern: re.Pattern[str]) -> dict[str, set[str]]:
    """Return what the pattern finds in rules, dashboards, documents and templates, by file."""
    files = [path for path in tracked(ROOT) if path.startswith(FOLDERS) and path.endswith(READ)]
    by_path = {path: set(pattern.findall(Path(ROOT, path).read_text())) for path in files}
    return {path: values for path, values in by_path.items() if values}


def test_every_text_states_the_latency_objective_that_the_rules_measure() -> None:
    assert mentions(BOUND) == {
        path: {str(dashboards.LATENCY_OBJECTIVE)}
        for path in ("k8s/components/kube-prometheus-stack/rules.yaml", "monitoring/prometheus/rules/slo.yml")
    }
    milliseconds = {f"{dashboards.LATENCY_OBJECTIVE * 1000:.0f}"}
    stated = mentions(OBJECTIVE)
    assert {path: values for path, values in stated.items() if values != milliseconds} == {}
    assert {"docs/runbooks/README.md", "monitoring/prometheus/rules/slo.yml"} <= set(stated)


def test_the_latency_objective_is_a_bound_that_every_service_measures() -> None:
    assert dashboards.LATENCY_OBJECTIVE in BUCKETS


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_left_out_of_every_ratio(name: str) -> None:
    (pattern,) = re.findall(r'"(.+)"', dashboards.NO_PROBES)
    assert re.fullmatch(pattern, f"/{name}")
    assert not re.fullmatch(pattern, f"/{name}s")


def test_rules_and_dashboards_leave_out_the_same_endpoints() -> None:
    (pattern,) = MATCHER.findall(dashboards.NO_PROBES)
    assert pattern.count("|") + 1 == len(PROBES)
    by_path = mentions(MATCHER)
    assert {path: values for path, values in by_path.items() if values != {pattern}} == {}
    assert {"monitoring/prometheus/rules/slo.yml", "monitoring/grafana/dashboards/task-api.json"} <= set(by_path)
