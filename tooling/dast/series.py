"""Metrics whose labels grow with what clients send: each value of a label is a series that Prometheus keeps.

As many objects as no label may have values are made and read, and as many paths and methods that do not exist are sent.
"""

from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tooling.dast.sender import Sender
from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

METRICS = "/metrics"
SPARE = 50
"""How many values a label may have beside one for each operation, such as bounds of buckets."""


def load(target: Target, count: int) -> None:
    """Make and read `count` objects of each kind that can be read by its id, and request what does not exist."""
    sender = Sender.of(target, "series")
    for operation in target.operations:
        maker, _ = target.maker(operation)
        makes = maker is not None and "201" in maker.declared["responses"]
        if makes and operation.method == "GET" and operation.path.endswith("}"):
            for _ in range(count):
                sender.send(operation, headers={}, **sender.prepared(operation))
    for number in range(count):
        target.client.get(f"/no-such-page/{number}")
        target.client.request(f"METHOD{number}", "/")


def scan(target: Target) -> Scan:
    """Return a finding for each label that has more values than the service can have operations."""
    most = len(target.operations) + SPARE
    try:
        load(target, most + 1)
        text = target.client.get(METRICS).raise_for_status().text
    except httpx.HTTPError as error:
        raise NotAssessed(f"{METRICS} cannot be read: {error}") from error
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    families = list(text_string_to_metric_families(text))
    for sample in (sample for family in families for sample in family.samples):
        for label, value in sample.labels.items():
            values[sample.name, label].add(value)
    findings = [
        Finding(
            tool="series",
            rule="unbounded-label",
            severity=Severity.MEDIUM,
            message=f"its label {label} has {len(held)} values, such as {max(held)!r}: at most {most} are expected",
            path=name,
            subject=label,
        )
        for (name, label), held in values.items()
        if len(held) > most
    ]
    targets = tuple(sorted(family.name for family in families))
    return Scan(tool="series", version="1", targets=targets, findings=tuple(findings))
