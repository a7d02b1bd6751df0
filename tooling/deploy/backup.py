"""Save the database to the volume of backups, and bring it back."""

import json
import time

from tooling.deploy import DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Say


def run_now(kube: Kube, cron_job: str, say: Say, environment: dict[str, str] | None = None) -> str:
    """Run a CronJob's job once, now, to its end, and give what it printed. Raises `DeployError` when it fails."""
    name = f"{cron_job}-{time.time_ns() // 1_000_000 % 10**10}"
    job: Object = json.loads(
        kube.run("create", "job", name, f"--from=cronjob/{cron_job}", "--dry-run=client", "--output=json")
    )
    job["spec"]["ttlSecondsAfterFinished"] = 86400
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] += [{"name": key, "value": value} for key, value in (environment or {}).items()]
    kube.apply([job])
    wait(kube, "job", name, say)
    return kube.run("logs", f"job/{name}").strip()


def restore(kube: Kube, say: Say, backup: str = "") -> str:
    """Put back a backup, the newest unless named; one of an older schema has to be migrated afterwards.

    All that is there is replaced: what was written since the backup was made is lost. A job that fails has changed
    nothing, and raises `DeployError`.
    """
    if "/" in backup:
        raise DeployError(f"name the backup's file alone, not a path: {backup}")
    return run_now(kube, "task-api-restore", say, {"BACKUP": backup})
