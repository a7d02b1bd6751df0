"""The rules as objects of the Prometheus Operator: `python -m monitoring.operator_rules` writes the PrometheusRules.

They are the files of monitoring/prometheus/rules, which Prometheus itself reads, each the specification of one object.
The operator's Prometheus has labels of its own, so the repository's address is entered here instead.
"""

from pathlib import Path

import yaml

from tooling.project import ROOT

PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULES = PROMETHEUS / "rules"
WRITTEN = ROOT / "k8s" / "components" / "kube-prometheus-stack" / "rules.yaml"
OWN_PROMETHEUS = {"monitoring"}
"""Files about the Prometheus and Alertmanager of components/monitoring; the operator's stack has such rules itself."""


def repository() -> str:
    """Return the address before a file's path in the repository, as `prometheus.yml` sets it."""
    address: str = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["external_labels"][
        "repository"
    ]
    return address


def rendered(folder: Path = RULES) -> str:
    """Return the PrometheusRules as YAML, one for each file of rules."""
    objects = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"task-api-{file.stem}", "labels": {"release": "kube-prometheus-stack"}},
            "spec": yaml.safe_load(file.read_text().replace("{{ $externalLabels.repository }}", repository())),
        }
        for file in sorted(folder.glob("*.yml"))
        if file.stem not in OWN_PROMETHEUS
    ]
    return (
        "# Written by `python -m monitoring.operator_rules` from monitoring/prometheus/rules.\n"
        + yaml.safe_dump_all(objects, sort_keys=False, width=130)
    )


if __name__ == "__main__":
    WRITTEN.write_text(rendered())
