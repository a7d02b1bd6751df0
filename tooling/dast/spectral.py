"""The OpenAPI document of a running service, held to the rules of openapi-rules.yaml by Spectral."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tooling import tools
from tooling.dast.target import Target
from tooling.findings import Finding, NotAssessed, Scan, Severity

RULES = Path(__file__).with_name("openapi-rules.yaml")
PROGRAM = tools.HOME / "node" / "node_modules" / "@stoplight" / "spectral-cli"
SEVERITIES = (Severity.HIGH, Severity.MEDIUM, Severity.LOW, Severity.LOW)
"""By Spectral's numbers: error, warning, information, hint."""


def scan(target: Target) -> Scan:
    """Check the document of the service; whatever a rule reports fails the stage."""
    return lint(target.document, target.service.openapi)


def lint(document: dict[str, Any], path: str) -> Scan:
    """Check an OpenAPI document; `path` is where the findings lie."""
    if not document.get("paths"):
        raise NotAssessed(f"{path} describes no operation")
    with TemporaryDirectory() as folder:
        written, reported = Path(folder, "openapi.json"), Path(folder, "report.json")
        written.write_text(json.dumps(document))
        arguments = ("lint", "--quiet", "--format=json", f"--output={reported}", f"--ruleset={RULES}", written)
        tools.call("node", PROGRAM / "dist" / "index.js", *arguments, expect=(0, 1))
        results = json.loads(reported.read_text())
    findings = [
        Finding(
            tool="spectral",
            rule=result["code"],
            severity=SEVERITIES[result["severity"]],
            message=result["message"],
            path=path,
            subject="/".join(map(str, result["path"])),
        )
        for result in results
    ]
    version = json.loads((PROGRAM / "package.json").read_text())["version"]
    return Scan(tool="spectral", version=version, targets=tuple(document["paths"]), findings=tuple(findings))
