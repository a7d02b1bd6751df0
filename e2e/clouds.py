"""The proof "cloud": the overlays of EKS and GKE deployed to kind, with stand-ins for what only a cloud has."""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from e2e import stand_ins
from e2e.load import Load
from e2e.proofs import CRDS, STEADY, Bench, Proof
from tooling.deploy import DeployError, backup, cluster, manifests, release, rollout
from tooling.deploy.kube import Kube, Object
from tooling.deploy.release import Target
from tooling.project import CACHE

STAND_INS = Path(__file__).parent / "cloud"
DATABASE = "e2e-database"
IDENTITY = "/var/run/web-identity"
HOST = f"database.{DATABASE}.svc.cluster.local"
ENCRYPTED = """
    SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
    WHERE client_addr IS NOT NULL
"""


@dataclass(frozen=True)
class Provider:
    """A cloud: its object storage, and what its cluster or its webhook sets in the pods of a backup."""

    overlay: str
    storage: Callable[[str, stand_ins.Authority], AbstractContextManager[str]]
    settings: Callable[[str], dict[str, str]]


def _aws(address: str) -> dict[str, str]:
    return {
        "RCLONE_CONFIG_STORE_ENDPOINT": address,
        "RCLONE_CA_CERT": "/etc/database-ca/ca.pem",
        "AWS_CA_BUNDLE": "/etc/database-ca/ca.pem",
        "AWS_ENDPOINT_URL_STS": address,
        "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/task-api-backup",
        "AWS_WEB_IDENTITY_TOKEN_FILE": f"{IDENTITY}/token",
    }


def _google(address: str) -> dict[str, str]:
    return {
        "RCLONE_CONFIG_STORE_ENDPOINT": f"{address}/storage/v1/",
        "RCLONE_CONFIG_STORE_ENV_AUTH": "false",
        "RCLONE_CONFIG_STORE_ANONYMOUS": "true",
    }


PROVIDERS = (
    Provider("eks", stand_ins.s3, _aws),
    Provider("gke", lambda host, _authority: stand_ins.gcs(host), _google),
)


def clouds(bench: Bench, proof: Proof) -> None:
    """Deploy each cloud's overlay, and check that it serves, migrates, backs up and restores."""
    whole = Kube(bench.kube.context)
    whole.run("apply", f"--filename={STAND_INS / 'cluster.yaml'}")
    whole.run("apply", f"--filename={CRDS / 'google.yaml'}")
    workers = [n["metadata"]["name"] for n in whole.find("node") if "control-plane" not in n["metadata"]["name"]]
    for number, node in enumerate(workers):
        whole.run("label", "node", node, f"topology.kubernetes.io/zone=zone-{number}", "--overwrite")
    authority = stand_ins.Authority()
    proof.notes.append(
        "imagined: the load balancer (a forwarded port of the Service stands for it) and its certificate, DNS, the "
        "identity provider (EKS: the token service of moto takes the pod's token; GKE: none is called), the disks. "
        "Google's own kinds have the schemas of k8s/tests/crds/google.yaml."
    )
    for provider in PROVIDERS:
        with database(whole, authority) as (url, query):
            deployed(bench, proof, provider, authority, url, query)


@contextmanager
def database(whole: Kube, authority: stand_ins.Authority) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Run PostgreSQL in a namespace of its own; yield its URL, and a function that returns what a query prints."""
    password, namespaced = secrets.token_urlsafe(24), replace(whole, namespace=DATABASE)
    issued = authority.issue(HOST)
    files = {
        "password": password,
        "tls.crt": issued.certificate,
        "tls.key": issued.key,
        "pg_hba.conf": "local all all trust\nhostssl all all all scram-sha-256\n",
    }
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DATABASE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "database", "namespace": DATABASE},
            "stringData": files,
        },
    ]
    try:
        namespaced.apply(objects[:1])
        namespaced.apply(objects[1:])
        namespaced.run("apply", f"--filename={STAND_INS / 'database.yaml'}")
        rollout.wait(namespaced, "deployment", "database", lambda _news: None)
        psql = ("exec", "deployment/database", "--", "psql", "--username=task_api", "--dbname=tasks", "--tuples-only")
        yield (
            f"postgresql://task_api:{password}@{HOST}/tasks",
            lambda sql: namespaced.run(*psql, "--no-align", f"--command={sql}").strip(),
        )
    finally:
        namespaced.run("delete", "namespace", DATABASE, "--ignore-not-found", "--wait")


def deployed(
    bench: Bench,
    proof: Proof,
    provider: Provider,
    authority: stand_ins.Authority,
    url: str,
    query: Callable[[str], str],
) -> None:
    """Deploy a cloud's overlay into a namespace of its own, and check it; the namespace is removed afterwards."""
    kube = replace(bench.kube, namespace=f"{bench.target.service.name}-{provider.overlay}")
    name, host = bench.target.service.name, stand_ins.gateway()
    with (
        provider.storage(host, authority) as address,
        overlay(bench, provider, provider.settings(address), int(address.rpartition(":")[2])) as folder,
        stand_ins.load_balancer(kube, name) as reached,
    ):
        target = Target(folder, kube, local=False, service=bench.target.service, address=reached)
        try:
            with proof.phase(f"{provider.overlay}: refused without its secrets", settle=0):
                refusal = refused(target, bench.image, proof)
            proof.check(
                f"{provider.overlay}: a deploy without its CA and secrets names them",
                refusal,
                "configmap/database-ca, secret/" in refusal,
            )
            prepare(kube, name, url, authority)
            rendered = manifests.render(target.service, kube, folder, bench.image, generate_secrets=False)
            with proof.phase(f"{provider.overlay}: images", settle=0) as log:
                cluster.load(manifests.images(rendered), log)
            with proof.phase(f"{provider.overlay}: deploy", settle=0):
                release.deploy(target, bench.image, proof.steps)
            served(proof, provider, kube, name, query)
            restored(proof, provider, target, query)
        finally:
            kube.run("delete", "namespace", kube.namespace, "--ignore-not-found", "--wait", "--timeout=180s")


def refused(target: Target, image: str, proof: Proof) -> str:
    """Return the first line of what ends a deploy; an empty text where nothing does."""
    try:
        release.deploy(target, image, proof.steps)
    except DeployError as error:
        return str(error).splitlines()[0]
    return ""


def prepare(kube: Kube, name: str, url: str, authority: stand_ins.Authority) -> None:
    """Make what docs/deploy.md has a person make: the namespace, the Secret and the CA of the database."""
    key = f"k1:{secrets.token_urlsafe(48)}"
    made: list[Object] = [
        {"kind": "Namespace", "metadata": {"name": kube.namespace}},
        {"kind": "Secret", "metadata": {"name": name}, "stringData": {"DATABASE_URL": url, "JWT_KEYS": key}},
        {"kind": "ConfigMap", "metadata": {"name": "database-ca"}, "data": {"ca.pem": authority.certificate}},
    ]
    for item in made:
        namespaced = {} if item["kind"] == "Namespace" else {"namespace": kube.namespace}
        kube.apply([{"apiVersion": "v1", **item, "metadata": {**item["metadata"], **namespaced}}])


@contextmanager
def overlay(bench: Bench, provider: Provider, settings: dict[str, str], port: int) -> Iterator[Path]:
    """Yield a folder whose kustomization is the cloud's overlay, with the addresses of the stand-ins."""
    environment = [{"name": key, "value": value} for key, value in settings.items()]
    jobs = {"kind": "CronJob"}
    pod = "/spec/jobTemplate/spec/template/spec"
    token = {
        "name": "web-identity",
        "projected": {"sources": [{"serviceAccountToken": {"audience": "sts.amazonaws.com", "path": "token"}}]},
    }
    mounts = [
        {"name": "web-identity", "mountPath": IDENTITY, "readOnly": True},
        {"name": "database-ca", "mountPath": "/etc/database-ca", "readOnly": True},
    ]

    def patched(container: str) -> list[Object]:
        changes: list[Object] = [
            {"op": "add", "path": f"{pod}/{container}/0/env/-", "value": setting} for setting in environment
        ]
        changes += [{"op": "add", "path": f"{pod}/{container}/0/volumeMounts/-", "value": mount} for mount in mounts]
        return [*changes, {"op": "add", "path": f"{pod}/volumes/-", "value": token}]

    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "stand-in-storage"},
        "spec": {
            "podSelector": {
                "matchExpressions": [
                    {"key": "app.kubernetes.io/component", "operator": "In", "values": ["backup", "restore"]}
                ]
            },
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": port, "protocol": "TCP"}]}],
        },
    }
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="cloud-") as name:
        source = bench.target.service.manifests / "overlays" / provider.overlay
        kustomization: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(source, Path(name).resolve()), "policy.yaml"],
            "patches": [
                {
                    "target": {**jobs, "name": f"{bench.target.service.name}-{job}"},
                    "patch": json.dumps(patched(container)),
                }
                for job, container in (("backup", "containers"), ("restore", "initContainers"))
            ],
        }
        Path(name, "policy.yaml").write_text(yaml.safe_dump(policy))
        Path(name, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        yield Path(name)


def served(proof: Proof, provider: Provider, kube: Kube, name: str, query: Callable[[str], str]) -> None:
    """Check that the Service answers, and that every connection to the database is encrypted."""
    answer = kube.run("get", f"--raw=/api/v1/namespaces/{kube.namespace}/services/{name}:http/proxy/readyz")
    proof.check(f"{provider.overlay}: the Service answers", answer.strip()[:100], bool(answer))
    encrypted, connections = query(ENCRYPTED).split("|")
    proof.check(
        f"{provider.overlay}: every connection to the database has TLS, verified by the private CA",
        f"{encrypted} of {connections}",
        encrypted == connections != "0",
    )


def restored(proof: Proof, provider: Provider, target: Target, query: Callable[[str], str]) -> None:
    """Check that the nightly backup brings back every task after the database has lost them."""
    kube, name, load = target.kube, target.service.name, Load(target.url(), proof.recorder)
    with load.running(STEADY), proof.phase(f"{provider.overlay}: tasks are written", load, settle=10):
        pass
    with proof.phase(f"{provider.overlay}: nightly backup", settle=0) as log:
        written = backup.run_now(kube, f"{name}-backup", log).splitlines()[-1]
        log(written)
    proof.check(f"{provider.overlay}: the backup is in the object storage", written, written.endswith(".dump"))
    query("TRUNCATE tasks CASCADE")
    _, lost = load.audit()
    with proof.phase(f"{provider.overlay}: restore", settle=0) as log:
        backup.restore(kube, name, log)
        release.migrate(target, log)
    acknowledged, wrong = load.audit()
    proof.check(
        f"{provider.overlay}: every task is back after the database lost them all",
        f"{acknowledged} written, {len(lost)} lost, {len(wrong)} wrong after the restore",
        acknowledged > 0 and len(lost) == acknowledged and not wrong,
    )
