"""The proof "archive": it may be away for a while, and the database comes back as it was at a moment."""

import base64
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import yaml

from e2e.database import complete, killed, outage, primaries, repeating, spells
from e2e.load import TIMEOUT, Load
from e2e.proofs import STEADY, Bench, Proof
from loadtests.cluster import watching
from tooling.deploy import archive, cluster, manifests, recovery, release, rollout, verify
from tooling.deploy.kube import Kube
from tooling.deploy.steps import Steps

STORAGE = Path(__file__).parent / "storage" / "storage.yaml"
NAMESPACE, NAME = "e2e-storage", "storage"
ADDRESS = f"http://{NAME}.{NAMESPACE}.svc.cluster.local:9000"
PLACE = "s3://backups/e2e"
ALERT = "TaskApiArchiveStale"
ALERT_SECONDS = 600.0
SWITCH = 60.0  # seconds that the service may be away while the recovered database is put in place
AFTER = 8  # tasks that are written after the mistake
WAITING = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
ARCHIVED = "SELECT last_archived_wal FROM pg_stat_archiver"
TIMELINE = 8  # digits of a segment's name, its first ones


def storage(steps: Steps) -> str:
    """Run an object storage in the local cluster, which is made where there is none; return a place in it.

    Address and credentials are put where a deploy looks for them, in the environment.
    """
    with steps.step("object storage") as log:
        cluster.create(log)
        objects = [item for item in yaml.safe_load_all(STORAGE.read_text()) if item]
        cluster.load(manifests.images(objects), log)
        kube = Kube(cluster.CONTEXT, NAMESPACE)
        kube.apply(objects[:1])
        if (secret := kube.get("secret", NAME)) is None:  # else it is there from a run that kept its cluster
            key = ",".join(secrets.token_hex(16) for _ in archive.CREDENTIALS)
            metadata = {"name": NAME, "namespace": NAMESPACE}
            data = {"auth-key": base64.b64encode(key.encode()).decode()}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
            kube.apply([secret])
        kube.apply(objects[1:])
        rollout.wait(kube, "deployment", NAME, log)
    key = base64.b64decode(secret["data"]["auth-key"]).decode()
    os.environ.update(zip(archive.CREDENTIALS, key.split(","), strict=True), **{archive.ENDPOINT: ADDRESS})
    return PLACE


def recovering(bench: Bench, proof: Proof) -> None:
    """An archive that is away disturbs nobody; a table emptied by mistake comes back as of the second before.

    Between the two the primary is killed: the recovery begins with a base backup of one timeline, and ends in the next.
    """
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context), load.running(STEADY):
        with proof.phase("calm", load, settle=15):
            pass
        with proof.phase("the archive unreachable", load) as log, unreachable(kube):
            began = time.monotonic()
            verify.until(lambda: "" if firing(kube) else f"{ALERT} does not fire", log, timeout=ALERT_SECONDS)
            proof.check(
                f"{ALERT} fires in the cluster's Prometheus",
                f"after {time.monotonic() - began:.0f} s, {waiting(kube)} segments waiting",
                holds=True,
            )
        with proof.phase("the archive catches up", load) as log:
            began = time.monotonic()
            recovery.flush(kube, manifests.cluster_in_place(kube), log)
            left = waiting(kube)
            proof.check("the archive catches up", f"{left} waiting {time.monotonic() - began:.0f} s later", left <= 1)
            verify.until(lambda: f"{ALERT} fires" if firing(kube) else "", log, timeout=120)
    proof.check("the service goes on without the archive: requests failed or refused: 0", *undisturbed(load))
    proof.ledger(load)
    load = Load(bench.target.url(), proof.recorder)  # whose access tokens outlive the recovery
    failed_over(bench, proof, load)
    at = datetime.now(UTC)
    time.sleep(1.5)
    with proof.phase("the table emptied by mistake, and written to", settle=1):
        recovery.psql(kube, manifests.cluster_in_place(kube), "TRUNCATE tasks CASCADE")
        written = write(load)
    lost = load.audit()[1]
    proof.check("what was there is gone", f"{len(lost)} tasks", len(lost) >= sum(len(a.tasks) for a in load.accounts))
    present = manifests.cluster_in_place(kube)
    began = time.monotonic()
    with proof.phase("recovery to the second before", settle=5), away(bench, proof):
        name = recovery.recover(kube, at + timedelta(milliseconds=500), proof.steps)
        release.migrate(bench.target, proof.steps.log)
    proof.notes.append(f"recovered {present} as {name} in {time.monotonic() - began:.0f} s; {written} tasks were later")
    proof.ledger(load)
    proof.check("the old database is kept, stopped", *kept(kube, present))
    with load.running(STEADY), proof.phase("as before", load, settle=15):
        pass
    proof.ledger(load)
    with proof.phase("a deploy changes nothing of it", settle=0):
        release.deploy(bench.target, bench.image, proof.steps)
    in_place = manifests.cluster_in_place(kube)
    proof.check("a later deploy keeps what was recovered", in_place, in_place == name)


def failed_over(bench: Bench, proof: Proof, load: Load) -> None:
    """Kill the primary under load, and check that the archive goes on with what the next one writes."""
    kube, load.resends = bench.kube, 1
    with watching(proof.recorder.path, context=kube.context), primaries(kube, proof.recorder), load.running(STEADY):
        former = archived(kube)
        with outage(proof, load, "the primary killed, with the archive on") as log:
            killed(kube, log)
        complete(kube, proof.steps.log)
        with proof.phase("the new timeline is archived", load, settle=15) as log:
            recovery.flush(kube, manifests.cluster_in_place(kube), log)
        latest = archived(kube)
        proof.check(
            "the archive goes on with the next timeline",
            f"segment {latest} after {former}",
            latest[:TIMELINE] > former[:TIMELINE],
        )
    load.resends = 0


def undisturbed(load: Load) -> tuple[str, bool]:
    """Return how many requests were not answered at once, and whether there are none."""
    troubles = len(load.failed) + len(load.refused)
    return f"{troubles} of {load.requests}", troubles == 0


def kept(kube: Kube, name: str) -> tuple[str, bool]:
    """Return the state of a database that was replaced, and whether it is stopped with its volumes there."""
    pods = kube.find("pod", f"cnpg.io/cluster={name}")
    volumes = kube.find("persistentvolumeclaim", f"cnpg.io/cluster={name}")
    return f"{len(pods)} pods, {len(volumes)} volumes", not pods and bool(volumes)


@contextmanager
def unreachable(kube: Kube) -> Iterator[None]:
    """Refuse connections to the object storage while the block runs."""
    there = replace(kube, namespace=NAMESPACE)

    def lead_to(name: str) -> None:
        patch = json.dumps({"spec": {"selector": {"app.kubernetes.io/name": name}}})
        there.run("patch", "service", NAME, f"--patch={patch}")

    lead_to("nobody")
    try:
        yield
    finally:
        lead_to(NAME)


def firing(kube: Kube) -> bool:
    """Return whether the cluster's Prometheus fires the alert about the archive."""
    query = f'ALERTS{{alertname="{ALERT}", alertstate="firing"}}'
    command = ("promtool", "query", "--format=json", "instant", "http://localhost:9090", query)
    return bool(json.loads(kube.run("exec", "statefulset/prometheus", "--", *command)))


def waiting(kube: Kube) -> int:
    """Return how many segments of the primary wait for the archive."""
    return int(recovery.psql(kube, manifests.cluster_in_place(kube), WAITING))


def archived(kube: Kube) -> str:
    """Return the segment that the primary has archived last; its first digits are its timeline."""
    return recovery.psql(kube, manifests.cluster_in_place(kube), ARCHIVED)


def write(load: Load) -> int:
    """Write tasks that the ledger does not know; return how many."""
    with httpx.Client(base_url=load.url, timeout=TIMEOUT) as client:
        for number in range(AFTER):
            account = load.accounts[number % len(load.accounts)]
            headers = {"Authorization": f"Bearer {account.token}"}
            client.post("/tasks", json={"title": f"after {number}"}, headers=headers).raise_for_status()
    return AFTER


@contextmanager
def away(bench: Bench, proof: Proof, *, seconds: float = SWITCH) -> Iterator[None]:
    """Check that the service is not ready for at most so many seconds while the block runs."""
    failed = list[float]()

    def probe() -> None:
        try:
            client.get("/readyz").raise_for_status()
        except httpx.HTTPError:
            failed.append(time.time())

    with httpx.Client(base_url=bench.target.url(), timeout=5) as client, repeating(probe, pause=0.5):
        yield
    lasted = max(spells(failed), default=0.0)
    proof.check(f"the service is away for at most {seconds:.0f} s meanwhile", f"{lasted:.1f} s", lasted <= seconds)
