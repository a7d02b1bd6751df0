"""The rules as objects of the Prometheus Operator: `python -m monitoring.operator_rules` writes the PrometheusRules.

They are the files that Prometheus itself reads, each the specification of one object: those of
monitoring/prometheus/rules, and of each service whose manifests have the component kube-prometheus-stack.
The operator's Prometheus has labels of its own, so the repository's address is entered here instead.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from tooling.project import ROOT, services

PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULES = PROMETHEUS / "rules"
COMPONENT = Path("components") / "kube-prometheus-stack"
OWN_PROMETHEUS = {"monitoring"}
"""Files about the Prometheus and Alertmanager of components/monitoring; the operator's stack has such rules itself."""


def repository() -> str:
    """Return the address before a file's path in the repository, as `prometheus.yml` sets it."""
    address: str = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["external_labels"][
        "repository"
    ]
    return address


def rendered(name: str, files: Iterable[Path]) -> str:
    """Return the PrometheusRules as YAML, one for each file of rules of a service of this name."""
    files = sorted(files)
    objects = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"{name}-{file.stem}", "labels": {"release": "kube-prometheus-stack"}},
            "spec": yaml.safe_load(file.read_text().replace("{{ $externalLabels.repository }}", repository())),
        }
        for file in files
        if file.stem not in OWN_PROMETHEUS
    ]
    return (
        f"# Written by `python -m monitoring.operator_rules` from {files[0].parent.relative_to(ROOT)}.\n"
        + yaml.safe_dump_all(objects, sort_keys=False, width=130)
    )


def written() -> Iterator[tuple[Path, str]]:
    """Yield each file that is written, and its text."""
    for one in services():
        folder = one.manifests / COMPONENT
        if folder.exists():
            files = RULES.glob("*.yml") if one.default else [one.folder / "monitoring" / "rules.yml"]
            yield folder / "rules.yaml", rendered(one.name, files)


if __name__ == "__main__":
    for file, text in written():
        file.write_text(text)
