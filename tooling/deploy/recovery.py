"""Recover the replicated database as it was at a moment, from its archive, and put that in place."""

import copy
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tooling.deploy import DeployError, archive, manifests, rollout, verify
from tooling.deploy.kube import Kube, Object
from tooling.deploy.rollout import CLUSTER
from tooling.deploy.steps import Log, Steps

HIBERNATION = "cnpg.io/hibernation"
SCHEDULE = "scheduledbackup.postgresql.cnpg.io"
FLUSH_SECONDS, RECOVERY_SECONDS, SWITCH_SECONDS = 120, 3600, 120
FAILURES = 2
"""So many pods of a recovery's Job fail before it is given up."""

LAG = timedelta(seconds=1)
"""How far the clocks of the cluster's nodes may differ."""

DESCRIPTION = """
SELECT json_build_object(
  'revision', (SELECT version_num FROM alembic_version),
  'rows', (SELECT json_object_agg(table_name, (xpath('//n/text()', query_to_xml(
    format('SELECT count(*) AS n FROM %I', table_name), false, true, '')))[1]::text::bigint)
    FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'),
  'last_change', (SELECT max((xpath('//m/text()', query_to_xml(
    format('SELECT max(updated_at) AS m FROM %I', table_name), false, true, '')))[1]::text::timestamptz)
    FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'updated_at'))
"""


@dataclass(frozen=True)
class Content:
    """What a database holds: its schema's revision, the rows of each table, and the last `updated_at` of any."""

    revision: str
    rows: dict[str, int]
    last_change: datetime | None

    def __str__(self) -> str:
        changed = f"{self.last_change:%Y-%m-%dT%H:%M:%S.%fZ}" if self.last_change else "none"
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.rows.items()) if count)
        return f"revision {self.revision}, last change {changed}; rows: {counts}"


def moment(text: str) -> datetime:
    """Read a time with its zone, as ISO 8601 has it. Raises `DeployError` for anything else, and for the future."""
    try:
        at: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise DeployError(f"{text!r} is no time with a zone: write it as 2026-11-26T12:00:00Z")
    if at > datetime.now(UTC):
        raise DeployError(f"{text} is in the future: a recovery reaches back, up to now")
    return at.astimezone(UTC)


def source(kube: Kube, at: datetime) -> str:
    """Return the name under which the archive has what was written until `at`.

    A database that a recovery has put in place is archived under a name of its own, from its first base backup on.
    Raises `DeployError` where there is no archive, or where it begins later.
    """
    if not archive.place_of(kube):
        raise DeployError(
            f"the database in {kube.namespace} has no archive: deploy it with --database replicated --archive s3://…; "
            "or restore a dump, without --at"
        )
    starts = {name: datetime.fromisoformat(first) for name, first in archive.windows(kube).items()}
    earlier = {name: first for name, first in starts.items() if first <= at}
    if not earlier:
        first = f"{min(starts.values()):%Y-%m-%dT%H:%M:%SZ}" if starts else "its first base backup, which is missing"
        raise DeployError(f"{at:%Y-%m-%dT%H:%M:%SZ} is before the first base backup: the archive begins with {first}")
    return max(earlier, key=lambda name: earlier[name])


def recover(kube: Kube, at: datetime, steps: Steps) -> str:
    """Recover the database as it was at `at`, check it, and put it in place; return the name of its cluster.

    The present one is stopped then, and kept. What was written to it after `at` is in it alone.
    Raises `DeployError` where that fails; then the present one goes on, unless it has been stopped already.
    """
    present = manifests.cluster_in_place(kube)
    name = f"{manifests.DATABASE}-{datetime.now(UTC):%Y%m%dt%H%M%S}"
    origin = source(kube, at)
    before = None
    if origin == present and stopped(kube, present) == "":
        with steps.step("archive what was written until now") as log:
            before = content(kube, present)
            flush(kube, present, log)
    with steps.step(f"recover {origin} at {at:%Y-%m-%dT%H:%M:%SZ} as {name}") as log:
        kube.apply([recovered(kube, present, origin, at, name)])
        try:
            started(kube, name, log)
            rollout.wait(kube, CLUSTER, name, log)
        except DeployError:
            kube.run("delete", CLUSTER, name, "--wait=false")
            raise
    with steps.step("check what was recovered") as log:
        after = checked(kube, name, at)
        if before:
            steps.log(f"    {present}: {before}")
        steps.log(f"    {name}: {after}")
        log(f"{sum(after.rows.values())} rows")
    with steps.step("put it in place") as log:
        put_in_place(kube, present, name, log)
    with steps.step("archive") as log:
        schedule(kube, present, name)
        archive.first_backup(kube, name, log)
    return name


def stopped(kube: Kube, cluster: str) -> str:
    """Return why a cluster takes no writes; empty where it has a primary that runs."""
    item = kube.get(CLUSTER, cluster)
    if item is None:
        return "it is gone"
    return "" if kube.find("pod", f"cnpg.io/cluster={cluster},cnpg.io/instanceRole=primary") else "it has no primary"


def psql(kube: Kube, cluster: str, query: str) -> str:
    """Return the result of a query on a cluster's primary, as its superuser, in the service's database."""
    item = kube.get(CLUSTER, cluster) or {}
    bootstrap = item["spec"]["bootstrap"]
    database = (bootstrap.get("initdb") or bootstrap["recovery"])["database"]
    primary = item["status"]["currentPrimary"]
    return kube.run("exec", primary, "--container=postgres", "--", "psql", "-qAtXc", query, database).strip()


def content(kube: Kube, cluster: str) -> Content:
    """Return what a cluster's database holds. Raises `DeployError` where it has no schema of the service."""
    held = json.loads(psql(kube, cluster, DESCRIPTION))
    changed = datetime.fromisoformat(held["last_change"]).astimezone(UTC) if held["last_change"] else None
    return Content(held["revision"], held["rows"], changed)


def checked(kube: Kube, cluster: str, at: datetime) -> Content:
    """Return what a recovered cluster holds. Raises `DeployError` where that cannot be read, or is of after `at`."""
    left = (
        f"the present database goes on, and {cluster} is left for a look: `kubectl --namespace {kube.namespace} delete "
        f"{CLUSTER} {cluster}` removes it"
    )
    try:
        held = content(kube, cluster)
    except DeployError as error:
        raise DeployError(f"{cluster} cannot be read; {left}", str(error)) from error
    if held.last_change and held.last_change > at + LAG:
        raise DeployError(f"{cluster} has a change of {held.last_change}, after {at}; {left}")
    return held


def flush(kube: Kube, cluster: str, log: Log) -> None:
    """Wait until the archive has all that was written until now. Raises `DeployError` where it does not take it.

    A recovery ends at the first commit after its time: one is written, as there might be none.
    """
    psql(kube, cluster, "SELECT pg_current_xact_id()")
    segment = psql(kube, cluster, "SELECT pg_walfile_name(pg_switch_wal())")

    def problem() -> str:
        archived = psql(kube, cluster, "SELECT last_archived_wal FROM pg_stat_archiver")
        if archived[8:24] >= segment[8:]:  # without the timeline
            return ""
        return archive.refusal(kube, cluster) or f"segment {segment} is not in the archive"

    verify.until(problem, log, timeout=FLUSH_SECONDS)
    log(f"segment {segment} is in the archive")


def recovered(kube: Kube, present: str, origin: str, at: datetime, name: str) -> Object:
    """Return the cluster `name`, like the present one, that begins with what `origin` had at `at`."""
    item = kube.get(CLUSTER, present)
    if item is None:
        raise DeployError(f"there is no {CLUSTER}/{present} to make the recovered one like")
    spec = copy.deepcopy(item["spec"])
    bootstrap = spec["bootstrap"].get("initdb") or spec["bootstrap"]["recovery"]
    same = {key: bootstrap[key] for key in ("database", "owner", "secret")}
    plugin = {
        "name": spec["plugins"][0]["name"],
        "parameters": {"barmanObjectName": archive.NAME, "serverName": origin},
    }
    spec["bootstrap"] = {
        "recovery": {**same, "source": "archive", "recoveryTarget": {"targetTime": f"{at:%Y-%m-%d %H:%M:%S.%f+00}"}}
    }
    spec["externalClusters"] = [{"name": "archive", "plugin": plugin}]
    metadata = {"name": name, "namespace": kube.namespace, "labels": item["metadata"].get("labels", {})}
    return {"apiVersion": item["apiVersion"], "kind": "Cluster", "metadata": metadata, "spec": spec}


def started(kube: Kube, name: str, log: Log) -> None:
    """Wait until the first instance of a recovered cluster runs. Raises `DeployError` when its Job fails."""
    selector = f"cnpg.io/cluster={name}"

    def problem() -> str:
        if kube.find("pod", f"{selector},cnpg.io/podRole=instance"):
            return ""
        failed = [pod for pod in kube.find("pod", selector) if pod["status"].get("phase") == "Failed"]
        if len(failed) >= FAILURES:
            raise DeployError(
                f"the recovery of {name} fails: {reason(kube, failed[-1])}; the present database goes on",
                rollout.evidence(kube, failed[-1]),
            )
        return "base backup and segments are fetched"

    verify.until(problem, log, timeout=RECOVERY_SECONDS)


def reason(kube: Kube, pod: Object) -> str:
    """Return the last error that a failed pod of a recovery has logged, barman's before others."""
    log = kube.run("logs", pod["metadata"]["name"], "--all-containers", "--tail=200")
    if complaint := archive.complaint(log):
        return complaint
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    errors = [entry.get("error") or entry["msg"] for entry in entries if entry.get("level") == "error"]
    return str(errors[-1]) if errors else "see the log"


def put_in_place(kube: Kube, present: str, name: str, log: Log) -> None:
    """Stop the present cluster, and only then lead the database's Service to the other: no write goes to both."""
    if kube.get(CLUSTER, present):
        kube.run("annotate", CLUSTER, present, "--overwrite", f"{HIBERNATION}=on")
        selector = f"cnpg.io/cluster={present},cnpg.io/instanceRole=primary"  # a hibernating cluster makes no other
        verify.until(lambda: ", ".join(running(kube, selector)), log, timeout=SWITCH_SECONDS)
    selector_patch = json.dumps({"spec": {"selector": {"cnpg.io/cluster": name}}})
    kube.run("patch", "service", manifests.DATABASE, "--field-manager=deploy", f"--patch={selector_patch}")
    log(f"{name} serves; {present} is stopped and kept")


def running(kube: Kube, selector: str) -> list[str]:
    """Return the pods that still run."""
    return [f"{pod['metadata']['name']} still runs" for pod in kube.find("pod", selector)]


def schedule(kube: Kube, present: str, name: str) -> None:
    """Have base backups made of the cluster `name`, the first one now, and no more of the present one."""
    item = kube.get(SCHEDULE, present)
    if item is None:
        raise DeployError(f"there is no {SCHEDULE}/{present}: deploy again, with --archive")
    metadata = {"name": name, "namespace": kube.namespace, "labels": item["metadata"].get("labels", {})}
    renamed = {**item, "metadata": metadata, "spec": {**item["spec"], "cluster": {"name": name}}}
    renamed.pop("status", None)
    kube.apply([renamed])
    kube.run("delete", SCHEDULE, present)
