"""Continuous archiving of the replicated database, by CloudNativePG's barman-cloud plugin: its release, and a place."""

import base64
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

from tooling.deploy import DeployError, certificates, operator, verify
from tooling.deploy.kube import Kube, Object, establish
from tooling.deploy.rollout import CLUSTER, wait
from tooling.deploy.steps import Log

VERSION = "0.14.0"
URL = f"https://raw.githubusercontent.com/cloudnative-pg/plugin-barman-cloud/v{VERSION}/manifest.yaml"
SHA256 = "691e598b4591e83e23586d3394a8fedef429586a01d1a1b56ab8b80e9fa6ccb0"
SETTING = "BARMAN_CLOUD_MANIFEST"
"""The environment variable that names a copy of the manifest, on a machine that cannot reach its address."""

IMAGE = f"ghcr.io/cloudnative-pg/plugin-barman-cloud:v{VERSION}"
SIDECAR = f"ghcr.io/cloudnative-pg/plugin-barman-cloud-sidecar:v{VERSION}"
DEPLOYMENT = "barman-cloud"
CONTAINER = "plugin-barman-cloud"
CRD = "objectstores.barmancloud.cnpg.io"
STORE, BACKUP = "objectstore.barmancloud.cnpg.io", "backup.postgresql.cnpg.io"
NAME = "archive"
"""The ObjectStore, and the Secret with its credentials."""

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ENDPOINT, REGION = "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"
EQUIPPED_SECONDS, FIRST_BACKUP_SECONDS, ATTEMPTS = 600, 300, 3
SCHEMES = {"s3Credentials": "s3", "googleCredentials": "gs"}
"""How an ObjectStore gets in, and the scheme of the places there."""


@dataclass(frozen=True)
class Place:
    """Where the archive lies: a folder of a bucket.

    Address and credentials of the object storage are used where the overlay has no workload identity.
    """

    url: str
    endpoint: str = ""
    credentials: dict[str, str] = field(default_factory=dict)
    region: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the place at `url`, with what the environment has of endpoint, credentials and region.

        Raises `DeployError` where `url` is no place.
        """
        if urlsplit(url).scheme not in SCHEMES.values() or not urlsplit(url).netloc:
            raise DeployError(
                f"the archive {url!r} is no place: name it as s3://BUCKET/PATH, or gs://BUCKET/PATH on GKE"
            )
        credentials = {name: os.environ[name] for name in CREDENTIALS if os.environ.get(name)}
        return cls(url.rstrip("/"), os.environ.get(ENDPOINT, ""), credentials, os.environ.get(REGION, ""))

    @property
    def port(self) -> int:
        """The port of the object storage."""
        address = urlsplit(self.endpoint)
        return address.port or (80 if address.scheme == "http" else 443)

    def enter(self, objects: list[Object]) -> None:
        """Enter the place into the objects of the archive, and add the Secret with its credentials where it has some.

        A store with a workload identity takes neither credentials nor an address: those of the environment may be a
        person's own. Raises `DeployError` where something is missing, which has no default, or is of another kind.
        """
        for store in [item for item in objects if item["kind"] == "ObjectStore"]:
            configuration = store["spec"]["configuration"]
            (scheme,) = (scheme for kind, scheme in SCHEMES.items() if kind in configuration)
            if urlsplit(self.url).scheme != scheme:
                raise DeployError(f"the archive {self.url!r} is no place of this overlay: name it as {scheme}://…")
            configuration["destinationPath"] = self.url
            if self.region and scheme == "s3":
                store["spec"]["instanceSidecarConfiguration"]["env"] = [{"name": REGION, "value": self.region}]
            if "accessKeyId" in configuration.get("s3Credentials", {}):
                self._enter_with_keys(objects, store)

    def _enter_with_keys(self, objects: list[Object], store: Object) -> None:
        """Enter the address of the object storage and credentials for it. Raises `DeployError` without them."""
        given = {ENDPOINT: self.endpoint, **self.credentials}
        if lacking := [name for name in (ENDPOINT, *CREDENTIALS) if not given.get(name)]:
            raise DeployError(f"the archive {self.url} needs {', '.join(lacking)} in the environment")
        if urlsplit(self.endpoint).scheme not in ("http", "https") or not urlsplit(self.endpoint).hostname:
            raise DeployError(f"{ENDPOINT} is {self.endpoint!r}, which is no address: https://HOST")
        store["spec"]["configuration"]["endpointURL"] = self.endpoint
        for item in objects:
            if item["kind"] == "NetworkPolicy" and item["metadata"]["name"] == "postgres-archive":
                item["spec"]["egress"] = [{"ports": [{"port": self.port, "protocol": "TCP"}]}]
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {**store["metadata"], "name": NAME}}
        objects.append({**secret, "stringData": self.credentials})


def manifest() -> list[Object]:
    """Return the objects of the plugin's release, from the tree that upstream has tagged, without cert-manager.

    That tree names the images of a test; the release has the same objects with its own. Two certificates are all that
    cert-manager is for: `trust` makes them.
    """
    objects = [
        item
        for item in operator.released("barman-cloud", VERSION, URL, SHA256, SETTING)
        if not item["apiVersion"].startswith("cert-manager.io/")
    ]
    for item in objects:
        if item["kind"] == "Secret":
            item["data"] = {"SIDECAR_IMAGE": base64.b64encode(SIDECAR.encode()).decode()}
        if item["kind"] == "Deployment":
            # The operator does nothing for a cluster whose plugin is away, not even a failover. Of two that elect a
            # leader, only the leader answers.
            operator.spread(item)
            item["spec"]["strategy"] = {"type": "RollingUpdate"}
            (container,) = item["spec"]["template"]["spec"]["containers"]
            container["args"].remove("--leader-elect")
            container |= {"image": IMAGE, "imagePullPolicy": "IfNotPresent"}
    return objects


def trust(kube: Kube) -> list[Object]:
    """Return the Secrets with the certificates of plugin and operator that the cluster does not have yet."""
    names = {"barman-cloud-server-tls": DEPLOYMENT, "barman-cloud-client-tls": "barman-cloud-client"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": secret, "namespace": kube.namespace},
            "stringData": certificates.certificate(name),
        }
        for secret, name in names.items()
        if kube.get("secret", secret) is None
    ]


def install(context: str, log: Log) -> None:
    """Install the plugin beside the operator, or bring it to this release, and wait until it answers."""
    kube = Kube(context, operator.NAMESPACE)
    objects = manifest()
    kube.apply([*trust(kube), *objects])
    establish(kube)
    wait(kube, "deployment", DEPLOYMENT, log)


def installed(kube: Kube) -> bool:
    """Return whether the cluster knows the plugin's objects."""
    return kube.get("customresourcedefinition", CRD) is not None


def place_of(kube: Kube) -> str:
    """Return where the database of a namespace is archived; empty where it is not."""
    store = kube.get(STORE, NAME) if installed(kube) else None
    return str(store["spec"]["configuration"]["destinationPath"]) if store else ""


def first_backup(kube: Kube, cluster: str, log: Log) -> None:
    """Have the first base backup of a cluster made, before which nothing can be recovered, and wait for it.

    Raises `DeployError` with what the object storage responds where it does not take it.
    """
    made: list[str] = []

    def problem() -> str:
        if first_point(kube, cluster):
            return ""
        backup = kube.get(BACKUP, made[-1]) if made else None
        status = (backup or {}).get("status", {})
        if made and status.get("phase") != "failed":
            return f"the first base backup: {status.get('phase', 'begins')}"
        if len(made) == ATTEMPTS:
            raise DeployError(f"no base backup reaches {place_of(kube)}: {status.get('error', '')}")
        made.append(f"{cluster}-first-{datetime.now(UTC):%Y%m%dt%H%M%S}")
        kube.apply([base_backup(kube, cluster, made[-1])])
        return "the first base backup begins"

    verify.until(problem, log, timeout=FIRST_BACKUP_SECONDS)
    log(f"{place_of(kube)}, recovery from {first_point(kube, cluster)}")


def unequipped(kube: Kube, cluster: str) -> str:
    """Return which instances of a cluster run without the plugin's container; empty where none does."""
    pods = kube.find("pod", f"cnpg.io/cluster={cluster},cnpg.io/podRole=instance")
    without = [
        pod["metadata"]["name"]
        for pod in pods
        if not any(one["name"] == CONTAINER and one["ready"] for one in _statuses(pod["status"]))
    ]
    return f"{', '.join(sorted(without)) or 'every instance'} without {CONTAINER}" if without or not pods else ""


def _statuses(status: Object) -> list[Object]:
    """Return the statuses of a pod's containers, with those that start before and run beside the others."""
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def base_backup(kube: Kube, cluster: str, name: str) -> Object:
    """Return a base backup to be made now."""
    plugin = {"name": "barman-cloud.cloudnative-pg.io"}
    spec = {"cluster": {"name": cluster}, "method": "plugin", "pluginConfiguration": plugin, "target": "primary"}
    metadata = {"name": name, "namespace": kube.namespace}
    return {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": metadata, "spec": spec}


def first_point(kube: Kube, cluster: str) -> str:
    """Return the end of the first base backup of a cluster, the earliest time that can be recovered; else empty."""
    return windows(kube).get(cluster, "")


def windows(kube: Kube) -> dict[str, str]:
    """Return the earliest time to which each cluster in the archive can be recovered, by the cluster's name."""
    store = kube.get(STORE, NAME) or {}
    known = store.get("status", {}).get("serverRecoveryWindow", {})
    firsts = {name: window.get("firstRecoverabilityPoint", "") for name, window in known.items()}
    return {name: first for name, first in firsts.items() if first}


def refusal(kube: Kube, cluster: str) -> str:
    """Return why the archive does not take what the primary sends, as barman reports it; else empty."""
    status = (kube.get(CLUSTER, cluster) or {}).get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "ContinuousArchiving" and condition["status"] != "True":
            log = kube.run("logs", status["currentPrimary"], f"--container={CONTAINER}", "--tail=200")
            return f"the archive takes no segment: {complaint(log) or condition.get('message', '')}"
    return ""


def complaint(log: str) -> str:
    """Return the last error that one of barman's programs has written into the plugin's log; empty without one."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    errors = [
        entry["msg"].partition("ERROR: ")[2]
        for entry in entries
        if entry.get("logger", "").startswith("barman-cloud") and "ERROR: " in entry["msg"]
    ]
    return str(errors[-1]) if errors else ""
