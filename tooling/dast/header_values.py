"""Hostile values in every header that the source mentions or the document names: none brings a server error.

The values are empty, no number, a number that is too long for Python's `int`, and no text in UTF-8.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from tooling.dast.sender import Sender
from tooling.dast.target import Operation, Target
from tooling.findings import Finding, Scan, Severity

VALUES = (b"", b"a'\"\\;,=(%", b"9" * 4400, b"\xff\xfe")
FRAMING = {"connection", "content-length", "host", "transfer-encoding"}
"""Headers that decide where a request ends and where it goes: the gate raw_http is for them."""

DECISIVE = {
    "authorization",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "origin",
}
"""Headers that may end a request before the others are read: each is sent alone."""


@dataclass
class HeaderValues:
    """Sends the requests of every operation with hostile headers."""

    sender: Sender
    findings: dict[str, Finding] = field(default_factory=dict)

    def attack(self, operation: Operation, names: list[str]) -> Iterator[str]:
        """Send an operation's request with each value in the headers; yield the status of each response."""
        alone = [[name] for name in names if name.lower() in DECISIVE]
        together = [name for name in names if name.lower() not in DECISIVE]
        again = None if operation.method == "DELETE" else self.sender.prepared(operation)
        for group in (together, *alone):
            for value in VALUES:
                request = again or self.sender.prepared(operation)
                answer = self.sender.send(operation, headers=dict.fromkeys(group, value), **request)
                yield str(answer.status_code)
                if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.report(operation, self.culprit(operation, group, value), value)

    def culprit(self, operation: Operation, group: list[str], value: bytes) -> str:
        """Return the header of a group whose value brings the error."""
        for name in group:
            answer = self.sender.send(operation, headers={name: value}, **self.sender.prepared(operation))
            if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
                return name
        return " with ".join(group)

    def report(self, operation: Operation, name: str, value: bytes) -> None:
        """Add a finding."""
        self.findings.setdefault(
            operation.label,
            Finding(
                tool="header_values",
                rule="server-error",
                severity=Severity.HIGH,
                message=f"the header {name} with the value {value[:20]!r} is answered 500",
                path=operation.label,
                subject=name,
            ),
        )


def scan(target: Target, under: str = "/") -> Scan:
    """Attack every operation whose path begins with `under` by the values of its headers."""
    documented = {one["name"] for operation in target.operations for one in operation.accepted("header")}
    names = sorted(name for name in target.mentioned.headers | documented if name.lower() not in FRAMING)
    attack = HeaderValues(Sender.of(target, "headers"))
    targets = []
    for operation in (one for one in target.operations if one.path.startswith(under)):
        statuses = list(attack.attack(operation, names))
        targets.append(f"{operation.label}: {len(statuses)} requests")
    version = str(target.document["info"]["version"])
    return Scan(tool="header_values", version=version, targets=tuple(targets), findings=tuple(attack.findings.values()))
