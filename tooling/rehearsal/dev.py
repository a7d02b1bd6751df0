"""The stand-in for `./dev NAME` in a rehearsal: the stages' own work shortened, their verdicts and reports real.

`publish`, `notify`, `verify`, `release` and `report_proofs` run as they are. `sast` runs its gates `safety` (without a
key) and `waivers`, `build` makes an image of one file, other sessions write a report.
"""

import dataclasses
import fcntl
import functools
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from tooling import project

HOME = Path(os.environ["REHEARSAL"])


@functools.cache
def services(root: Path = project.ROOT) -> tuple[project.Service, ...]:
    """Return the services under other names, so that no image of this machine is replaced."""
    return tuple(dataclasses.replace(one, name=f"rehearsed-{one.name}") for one in real_services(root))


real_services, project.services = project.services, services

from tooling import findings, github, notify, sast, stages  # noqa: E402 - they read the services when imported
from tooling.images import provenance, push, scan  # noqa: E402


def shortened(stage: str, tool: str) -> int:
    """Write the report of a stage with one gate and no findings; return the exit code."""
    gate = functools.partial(findings.Scan, tool=tool, version="rehearsed", targets=("rehearsed",))
    return findings.run_stage(stage, {tool: gate}, whole=False)


def run_sast() -> int:
    """Write the report of `sast` with the gates that depend on settings."""
    key = os.environ.get("SAFETY_API_KEY", "")
    rehearsed = functools.partial(findings.Scan, tool="safety", version="rehearsed", targets=("rehearsed",))
    safety = rehearsed if key else functools.partial(sast.safety, project.ROOT, [])
    if subprocess.check_output(["git", "rev-parse", "--is-shallow-repository"], text=True).strip() == "true":
        sys.exit("sast: the clone is shallow")
    return findings.run_stage("sast", {"safety": safety, "waivers": findings.check_waivers}, whole=False)


def run_build() -> int:
    """Make each service's image of one file, with the report and the SBOM that a clean scan leaves.

    On GitHub each machine has its own engine. The rehearsal's jobs share one, so they build one after the other.
    """
    with (HOME / "engine.lock").open("w") as engine:
        fcntl.flock(engine, fcntl.LOCK_EX)
        return build_alone()


def build_alone() -> int:
    """Build while no other job does."""
    identities = []
    for service in services():
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            entry = tarfile.TarInfo(os.environ["GITHUB_RUN_ID"])
            tar.addfile(entry, io.BytesIO())
        command = ["docker", "import", "-", f"{service.name}:latest"]
        subprocess.run(command, input=content.getvalue(), check=True, capture_output=True)
        identities.append(scan.identity(service.name))
        bill = scan.bill_of(service)
        bill.parent.mkdir(parents=True, exist_ok=True)
        bill.write_text('{"bomFormat": "CycloneDX"}')
    database = findings.Database("Trivy DB", datetime.now(UTC))
    result = findings.Scan(tool="trivy-image", version="rehearsed", targets=tuple(identities), database=database)
    code = findings.run_stage("build", {"trivy-image": lambda: result}, whole=False)
    with patch.object(push, "materials", lambda _service: []):  # works without the base images
        return code or push.main(["--archive"])


def run_deploy() -> int:
    """Record the deployment: `nox -s e2e` makes it real."""
    (project.REPORTS / "deploy").mkdir(parents=True, exist_ok=True)
    (project.REPORTS / "deploy" / "arguments.json").write_text(json.dumps(sys.argv[1:]))
    return 0


RUNS: dict[str, Callable[[], int]] = {
    "sast": run_sast,
    "build": run_build,
    "dast": lambda: shortened("dast", "headers"),
    "publish": lambda: push.main([]),
    "notify": notify.main,
    "verify": lambda: provenance.main(sys.argv[2:]),
    "deploy": run_deploy,
    "release": lambda: github.main(["release"]),
    "report_proofs": lambda: github.main(["proofs"]),
}


def main() -> int:
    """Run the session; record its result and the secrets in its environment."""
    name, started = sys.argv[1], time.monotonic()
    seen = HOME / "seen"
    seen.mkdir(exist_ok=True)
    (seen / os.environ["GITHUB_JOB"]).write_text(os.environ.get("PROVENANCE_KEY", "") and "PROVENANCE_KEY")
    if os.environ.get("FAILING") == name:
        stages.write(name, "failed", 0)
        return 1
    code = RUNS.get(name, lambda: shortened(name, name))()
    stages.write(name, "failed" if code else "passed", time.monotonic() - started)
    return code


if __name__ == "__main__":
    sys.exit(main())
