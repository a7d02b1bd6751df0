"""Schemathesis: every operation with right and wrong input, and chains of them, as two users."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tooling import tools
from tooling.dast.target import Account, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity
from tooling.project import ROOT

EXAMPLES = 6
SEED = 1
CONFIGURATION = """
hooks = "tooling.schemathesis_hooks"

[checks.positive_data_acceptance]  # valid input may meet another state: a stale If-Match, a used Idempotency-Key
expected-statuses = ["2xx", "304", "401", "403", "404", "409", "412", "414", "422"]

[checks.negative_data_rejection]  # an If-Match that is no entity tag matches none
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "414", "415", "422", "429"]
"""
USERS = """
[auth.wfc]
path = "users.json"
peers = ["owner", "other"]
"""
OPAQUE = {"cursor", "since"}
"""Parameters whose values are made by the page before: a schema cannot declare them."""

PAGED = """
[[operations]]
include-name = "{label}"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "400", "401", "403", "414"]
"""


def configuration(target: Target) -> str:
    """Return Schemathesis' configuration: its users where the service has accounts, its operations by pages."""
    paged = [
        PAGED.format(label=operation.label)
        for operation in target.operations
        if any(parameter["name"] in OPAQUE for parameter in operation.declared.get("parameters", []))
    ]
    return "".join([CONFIGURATION, USERS if target.service.accounts else "", *paged])


def login(name: str, account: Account) -> dict[str, Any]:
    """Return how a user logs in, as Web Fuzzing Commons writes it."""
    token = {"extractFrom": "body", "extractSelector": "/access_token", "sendIn": "header"}
    token |= {"sendName": "Authorization", "sendTemplate": "Bearer {token}"}
    return {
        "name": name,
        "loginEndpointAuth": {
            "endpoint": "/auth/login",
            "verb": "POST",
            "contentType": "application/json",
            "payloadRaw": json.dumps({"email": account.email, "password": account.password}),
            "token": token,
        },
    }


def scan(target: Target, examples: int = EXAMPLES) -> Scan:
    """Attack the service with Schemathesis: at most `examples` generated requests for each operation and phase."""
    with TemporaryDirectory(prefix="schemathesis-") as name:
        folder = Path(name)
        (folder / "openapi.json").write_text(json.dumps(target.document))
        users = [login(peer, target.accounts[peer]) for peer in ("owner", "other") if peer in target.accounts]
        (folder / "users.json").write_text(json.dumps({"auth": users}))
        (folder / "configuration.toml").write_text(configuration(target))
        output = folder / "events.ndjson"
        arguments = ["--config-file", "configuration.toml", "run", "openapi.json", "--url", target.url]
        arguments += ["--checks", "all", "--phases", "coverage,fuzzing,stateful", "--seed", str(SEED)]
        arguments += [
            "--max-examples",
            str(examples),
            "--generation-database",
            "none",
            "--no-shrink",
            "--continue-on-failure",
        ]
        arguments += ["--report", "ndjson", "--report-ndjson-path", str(output)]
        # Hypothesis keeps its tables of Unicode there, which take seconds to make; no examples.
        settings = {"PYTHONPATH": str(ROOT), "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".cache" / "hypothesis")}
        tools.call("schemathesis", *arguments, expect=(0, 1), cwd=folder, **settings)
        try:
            events = [json.loads(line) for line in output.read_text().splitlines()]
        except (OSError, json.JSONDecodeError) as error:
            raise NotAssessed(f"schemathesis left no report: {error}") from error
    return read(target, events)


def read(target: Target, events: list[dict[str, Any]]) -> Scan:
    """Read Schemathesis' events. Raises `NotAssessed` where it did not reach its end, or an operation."""
    if not any("EngineFinished" in event for event in events):
        raise NotAssessed("schemathesis did not reach its end")
    for event in events:
        for kind in ("FatalError", "NonFatalError"):
            if kind in event:
                raise NotAssessed(f"schemathesis: {json.dumps(event[kind])[:600]}")
    sent: Counter[str] = Counter()
    findings: dict[tuple[str, str], Finding] = {}
    for event in events:
        if recorder := event.get("ScenarioFinished", {}).get("recorder"):
            cases = recorder.get("cases", {}).values()
            sent.update(f"{case['value']['method']} {case['value']['path']}" for case in cases)
            for finding in failures(recorder):
                findings.setdefault((finding.rule, finding.path), finding)
    operations = {operation.label for operation in target.operations}
    if missed := sorted(operations - set(sent)):
        raise NotAssessed(f"schemathesis never sent {', '.join(missed)}")
    version = events[0]["Initialize"]["schemathesis_version"]
    targets = tuple(f"{label}: {count} requests" for label, count in sorted(sent.items()) if label in operations)
    return Scan(tool="schemathesis", version=version, targets=targets, findings=tuple(findings.values()))


def failures(recorder: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each check that failed in one scenario, with the request and its answer."""
    for case, checks in recorder.get("checks", {}).items():  # a scenario that is skipped has none
        for check in checks:
            if check["status"] == "failure":
                failure = check["failure_info"]["failure"]
                parts = [
                    failure["title"],
                    *failure["message"].split("\n\n")[:1],
                    exchange(recorder["interactions"].get(case, {})),
                ]
                yield Finding(
                    tool="schemathesis",
                    rule=check["name"],
                    severity=Severity.named(failure["severity"]),
                    message=". ".join(" ".join(part.split()) for part in parts if part),
                    path=failure["operation"],
                    subject=failure["title"],
                )


def exchange(interaction: dict[str, Any]) -> str:
    """Write a request and its answer in one line."""
    request, answer = interaction.get("request"), interaction.get("response")
    sent = f"{request['method']} {request['uri']} {text(request.get('body'))}" if request else "no request"
    return f"{sent} → {answer['status_code']} {text(answer.get('content'))}" if answer else f"{sent} → no answer"


def text(content: dict[str, str] | None) -> str:
    """Return the beginning of a body, which is Base64 in the events."""
    return base64.b64decode(content["$base64"])[:300].decode(errors="replace") if content else ""
