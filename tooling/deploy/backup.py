"""Back up the database in a cluster, and restore it."""

import json
import time

from tooling.deploy import DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Log


def run_now(kube: Kube, cron_job: str, log: Log, environment: dict[str, str] | None = None) -> str:
    """Run a CronJob's job once, now; return what it printed. Raises `DeployError` when it fails."""
    name = f"{cron_job}-{time.time_ns() // 1_000_000 % 10**10}"
    job: Object = json.loads(
        kube.run("create", "job", name, f"--from=cronjob/{cron_job}", "--dry-run=client", "--output=json")
    )
    job["spec"]["ttlSecondsAfterFinished"] = 86400
    pod = job["spec"]["template"]["spec"]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        container.setdefault("env", []).extend(
            {"name": key, "value": value} for key, value in (environment or {}).items()
        )
    kube.apply([job])
    wait(kube, "job", name, log)
    return kube.run("logs", f"job/{name}", "--all-containers").strip()


def restore(kube: Kube, service: str, log: Log, backup: str = "") -> str:
    """Replace a service's database by a backup, the newest by default; return what the job printed.

    What was written since the backup is lost. A backup of an older schema has to be migrated afterwards.
    Raises `DeployError` where the job fails; then nothing is changed.
    """
    if "/" in backup:
        raise DeployError(f"name the backup's file alone, not a path: {backup}")
    return run_now(kube, f"{service}-restore", log, {"BACKUP": backup})
