"""What the service wrote while it was attacked: no unexpected error, no line that is not JSON, no secret."""

import re
from http import HTTPStatus

import msgspec

from tooling.dast.target import Target, read_log
from tooling.findings import Finding, Scan, Severity

SECRET = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}|\$argon2")
"""A JWT, or a password's hash."""


def scan(target: Target) -> Scan:
    """Read the service's log."""
    findings: dict[tuple[str, str], Finding] = {}
    lines = read_log(target.log)
    requests = [line for line in lines if "status" in line and "route" in line]
    sent = target.secrets | {target.key, *(account.password for account in target.accounts.values())}
    written = target.log.read_text(errors="replace")
    leaked = [
        secret for secret in sent if secret and secret in written
    ]  # none, as a rule: not every line is matched against all

    def add(rule: str, path: str, message: str) -> None:
        finding = Finding(
            tool="log", rule=rule, severity=Severity.HIGH, message=message, path=path, subject=message[:80]
        )
        findings.setdefault((rule, path), finding)

    for line in requests:
        if line["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
            add("server-error", f"{line['method']} {line['route']}", f"answered {line['status']} while it was attacked")
    for line in lines:
        text = msgspec.json.encode(line).decode()
        if line.get("unparsed"):
            add("broken-line", "log", f"a line is not JSON: {line['message'][:200]}")
        if SECRET.search(text) or any(secret in text for secret in leaked):
            add("secret-in-log", "log", f"a line holds a secret: {str(line.get('message'))[:40]}…")
        if line.get("message") == "unexpected error":
            add("unexpected-error", "log", str(line.get("exception", ""))[-300:])
    targets = tuple(dict.fromkeys(f"{line['method']} {line['route']}" for line in requests))
    return Scan(tool="log", version="1", targets=targets, findings=tuple(findings.values()))
