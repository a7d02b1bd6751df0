"""CloudNativePG, the operator of the replicated database: its release manifest, verified by hash."""

import os
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

from tooling.deploy import DeployError, certificates
from tooling.deploy.kube import Kube, Object, apply_definitions
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Log
from tooling.project import CACHE
from tooling.tools import digest, download

VERSION = "1.30.0"
URL = f"https://raw.githubusercontent.com/cloudnative-pg/cloudnative-pg/v{VERSION}/releases/cnpg-{VERSION}.yaml"
SHA256 = "f8bede43fe4ee0d478c2355b204a36876b2ae4faac60f2a9452280b293da3b88"
IMAGE = f"ghcr.io/cloudnative-pg/cloudnative-pg:{VERSION}"
NAMESPACE, DEPLOYMENT = "cnpg-system", "cnpg-controller-manager"
SETTING = "CNPG_MANIFEST"
"""The environment variable that names a copy of the manifest, on a machine that cannot reach its address."""


CRD = "clusters.postgresql.cnpg.io"
REPLICAS = 2
AUTHORITY = "database-ca"
"""The Secret with the certificate authority of a database whose clients verify its certificate."""


def manifest() -> list[Object]:
    """Return the objects of the operator's release. Raises `DeployError` where it cannot be had."""
    objects = released("CloudNativePG", VERSION, URL, SHA256, SETTING)
    for item in objects:
        if item["kind"] == "Deployment":
            spread(item)
            for container in item["spec"]["template"]["spec"]["containers"]:
                container["imagePullPolicy"] = "IfNotPresent"  # a release's image never changes
    return objects


def released(name: str, version: str, url: str, sha256: str, setting: str) -> list[Object]:
    """Return the objects of a release's manifest. Raises `DeployError` as `release_file` does."""
    file = release_file(name, version, url, sha256, setting)
    return [item for item in yaml.safe_load_all(file.read_text()) if item]


def release_file(name: str, version: str, url: str, sha256: str, setting: str) -> Path:
    """Return the file of a release that has its manifest: the copy that `setting` names, or from its address, once.

    Raises `DeployError` where it cannot be had, and where it is not the release whose hash is known.
    """
    named = os.environ.get(setting, "")
    file = Path(named) if named else CACHE / f"{name.lower()}-{version}{Path(url).suffix}"
    if not named and not file.exists():
        try:
            download(url, file)
        except httpx.HTTPError as error:
            file.unlink(missing_ok=True)
            raise DeployError(
                f"the manifest of {name} cannot be had ({error!r}): get {url} and set {setting} to the copy's path"
            ) from error
    if not file.is_file():
        raise DeployError(f"{setting} names {file}, which is no file")
    if (actual := digest(file)) != sha256:
        if not named:
            file.unlink()
        raise DeployError(f"{file} has the SHA-256 {actual}; {name} {version} has {sha256}")
    return file


def spread(deployment: Object) -> None:
    """Run the operator twice, on two nodes.

    One that is on the node of the primary goes away with it, and nobody replaces the primary until Kubernetes has moved
    the operator, which takes more than five minutes. One of the two leads; the other takes over within 15 seconds.
    While a node is drained one of them waits: nobody would move it back from the other's node.
    """
    deployment["spec"]["replicas"] = REPLICAS
    template = deployment["spec"]["template"]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": template["metadata"]["labels"]},
    }
    template["spec"]["topologySpreadConstraints"] = [spread]


def install(context: str, log: Log) -> None:
    """Install the operator in a cluster, or bring it to this release, and wait until it answers."""
    kube = Kube(context, NAMESPACE)
    kube.apply(apply_definitions(kube, manifest()))
    wait(kube, "deployment", DEPLOYMENT, log)


def authority(kube: Kube, clusters: Sequence[Object]) -> list[Object]:
    """Return the Secret with the certificate authority that clusters of PostgreSQL name and nobody has made yet.

    CloudNativePG would make one for each cluster: clients would not trust a recovered one.
    """
    named = {one["spec"].get("certificates", {}).get("serverCASecret") for one in clusters}
    if AUTHORITY not in named or kube.get("secret", AUTHORITY):
        return []
    metadata = {"name": AUTHORITY, "namespace": kube.namespace, "labels": {"cnpg.io/reload": ""}}
    data = certificates.authority(f"{kube.namespace} database")
    return [{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}]


def installed(kube: Kube) -> bool:
    """Return whether the cluster knows the operator's objects."""
    return kube.get("customresourcedefinition", CRD) is not None
