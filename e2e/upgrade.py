"""The proof "upgrade": the replicated database goes to PostgreSQL's next major version in place, with all it holds."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from e2e.archive import away
from e2e.database import SETTLE, complete, primaries
from e2e.load import Load
from e2e.proofs import DEPLOYMENT, STEADY, Bench, Proof
from loadtests.cluster import watching
from tooling.deploy import backup, manifests, recovery, release, rollout
from tooling.deploy.kube import Kube
from tooling.project import CACHE

PLANNED = 1.0  # requests a second while it is away, each sent again until it is back
RESENDS = 2000
AWAY = 900.0  # seconds: pg_upgrade itself takes a few; then writes wait for the first standby, which is copied anew
BACKUP_IMAGE = "public.ecr.aws/docker/library/postgres"


def upgrading(bench: Bench, proof: Proof) -> None:
    """A deploy with the next major version's images upgrades the data where it lies; every task is read back."""
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    before = version(kube)
    with (
        next_major(bench.target.overlay) as overlay,
        watching(proof.recorder.path, context=kube.context),
        primaries(kube, proof.recorder),
    ):
        target = replace(bench.target, overlay=overlay)
        with load.running(STEADY):
            with proof.phase("calm", load, settle=SETTLE):
                pass
            load.rate, load.outage, load.resends = PLANNED, True, RESENDS
            try:
                with proof.phase("a deploy of the next major version", load), away(bench, proof, seconds=AWAY):
                    release.deploy(target, bench.image, proof.steps)
            finally:  # what is still sent again would go on for as long as it may be away
                load.rate, load.outage, load.resends = STEADY, False, 0
            with proof.phase("as before", load, settle=SETTLE) as log:
                complete(kube, log)
        after = version(kube)
        proof.check("the major version is the next one", f"{before} to {after}", int(after) == int(before) + 1)
        proof.ledger(load)
        with proof.phase("the nightly backup, with the next version's programs", settle=0) as log:
            written = backup.run_now(kube, f"{DEPLOYMENT}-backup", log).splitlines()[-1]
        proof.check("a backup is made of it", written, ".dump " in written)
        proof.notes.append(f"{len(load.cut)} requests were sent again while no pod was ready")


def version(kube: Kube) -> str:
    """Return the major version of the server that answers."""
    number = recovery.psql(kube, manifests.cluster_in_place(kube), "SHOW server_version_num")
    return str(int(number) // 10_000)


def following(image: str) -> str:
    """Return the name of the same image of the next major version."""
    name, _, tag = image.partition("@")[0].rpartition(":")
    number = rollout.major(image)
    return f"{name}:{tag.replace(str(number), str(number + 1), 1)}"


@contextmanager
def next_major(overlay: Path) -> Iterator[Path]:
    """Yield a folder whose kustomization is an overlay with the next major version's tags, as a person writes them."""
    objects = yaml.safe_load_all(Path(overlay.parents[1], "components/database/replicated/cluster.yaml").read_text())
    image = next(item for item in objects if item["kind"] == "Cluster")["spec"]["imageName"]

    with tempfile.TemporaryDirectory(dir=CACHE, prefix="upgrade-") as name:
        patch = yaml.safe_dump([{"op": "replace", "path": "/spec/imageName", "value": following(image)}])
        backups = Path(overlay.parents[1], "base/backup.yaml").read_text()
        tag = following(re.findall(f"{BACKUP_IMAGE}:[^ \n]+", backups)[0]).rpartition(":")[2]
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(overlay, Path(name).resolve())],
            "images": [{"name": BACKUP_IMAGE, "newTag": tag}],
            "patches": [{"target": {"kind": "Cluster"}, "patch": patch}],
        }
        Path(name, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        yield Path(name)
