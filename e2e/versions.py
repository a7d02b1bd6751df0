"""The proof "versions": under load this checkout replaces the last release, is rolled back, and replaces it again."""

import time
from dataclasses import replace

from e2e.load import Load
from e2e.proofs import DEPLOYMENT, STEADY, Bench, Proof, build
from loadtests.cluster import watching
from tooling import previous_version
from tooling.deploy import manifests, release, rollout
from tooling.deploy.kube import Kube
from tooling.deploy.release import Target
from tooling.project import ROOT, service

SCHEMA = 'psql -U "$POSTGRES_USER" "$POSTGRES_DB" -Atc "SELECT version_num FROM alembic_version"'


def replacing(bench: Bench, proof: Proof) -> None:
    """A rolling update from the last release, with its migration, and the rollback lose no request and no write."""
    kube, (before, image) = bench.kube, last_release(bench)
    with proof.phase("the last release, in a new namespace", settle=0):
        kube.run("delete", "namespace", kube.namespace, "--wait", "--timeout=180s")
        release.deploy(before, image, proof.steps)
    schemas = [schema(kube)]
    load = Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context), load.running(STEADY):
        with proof.phase("calm", load, settle=10):
            pass
        with proof.phase("rolling update to this checkout, with its migration", load):
            release.deploy(bench.target, bench.image, proof.steps)
        schemas.append(schema(kube))
        with proof.phase("rollback: the last release on this schema", load, settle=20) as log:
            rollout.roll_back(kube, DEPLOYMENT, log)
        with proof.phase("rolling update again", load):
            release.deploy(bench.target, bench.image, proof.steps)
    proof.check("the two versions differ in a migration", " to ".join(schemas), schemas[0] != schemas[1])
    proof.ledger(load)
    proof.notes.append(f"the last release: {previous_version.last_release(ROOT)}")


def last_release(bench: Bench) -> tuple[Target, str]:
    """Build the image of the last release; return its target, with the manifests of its own, and the image's name."""
    checkout = previous_version.older()
    settings = {"SOURCE_DATE_EPOCH": int(time.time()), "VERSION": "before", "REVISION": "before", "CREATED": ""}
    dockerfile = service().dockerfile.relative_to(ROOT)
    arguments = [f"--build-arg={name}={value}" for name, value in settings.items()]
    image = build(checkout, f"{bench.image}-before", f"--file={dockerfile}", *arguments)
    overlay = manifests.with_database(checkout / "k8s" / "overlays" / "kind", "single")
    return replace(bench.target, overlay=overlay), image


def schema(kube: Kube) -> str:
    """Return the revision of the deployed database."""
    return kube.run("exec", "postgres-0", "--", "sh", "-c", SCHEMA).strip()
