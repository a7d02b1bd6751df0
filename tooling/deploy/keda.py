"""KEDA, which scales by what a service itself reports: its published Go module, verified by hash."""

import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import yaml

from tooling.deploy import DeployError, manifests, operator
from tooling.deploy.kube import Kube, Object, apply_definitions
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Log
from tooling.project import CACHE

VERSION = "2.21.0"
MODULE = f"github.com/kedacore/keda/v2@v{VERSION}"
URL = f"https://proxy.golang.org/github.com/kedacore/keda/v2/@v/v{VERSION}.zip"
SHA256 = "74b59fe16144250748b716d6dc8789dee52d26164daab732145bed60456013a4"
"""Of the module: it has what the release's own manifest is built from, by `make release`."""

SETTING = "KEDA_MODULE"
"""The environment variable that names a copy of the module, on a machine that cannot reach its address."""

GUIDE = "https://keda.sh/docs/2.21/deploy/"
NAMESPACE = "keda"
IMAGES = ("ghcr.io/kedacore/keda", "ghcr.io/kedacore/keda-metrics-apiserver")
DEPLOYMENTS = ("keda-operator", "keda-metrics-apiserver")
CRD = "scaledobjects.keda.sh"
KIND = "ScaledObject"
API = "v1beta1.external.metrics.k8s.io"


def manifest(kube: Kube) -> list[Object]:
    """Return the objects of KEDA's release without its admission webhooks: its file `keda-…-core.yaml`.

    Raises `DeployError` where the module cannot be had.
    """
    module = operator.release_file("KEDA", VERSION, URL, SHA256, SETTING)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="keda-") as name:
        folder = Path(name)
        with zipfile.ZipFile(module) as archive:
            archive.extractall(folder, [one for one in archive.namelist() if one.startswith(f"{MODULE}/config/")])
        (folder / MODULE / "config").rename(folder / "config")  # kustomize fetches what has a host's name
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["config/minimal"],
            "images": [{"name": image, "newTag": VERSION} for image in IMAGES],
            "labels": [{"pairs": {"app.kubernetes.io/version": VERSION}}],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        objects: list[Object] = [item for item in yaml.safe_load_all(kube.run("kustomize", name)) if item]
    for spec in manifests.pod_specs(objects):
        for container in spec["containers"]:
            container["imagePullPolicy"] = "IfNotPresent"  # a release's image never changes
    return objects


def install(kube: Kube, log: Log) -> None:
    """Install KEDA in a cluster, or bring it to this release, and wait until it serves metrics.

    It is registered with the API server last, as metrics-server is (`cluster.serve_metrics`).
    """
    kube = replace(kube, namespace=NAMESPACE)
    objects = apply_definitions(kube, manifest(kube))
    last = [item for item in objects if item["kind"] == "APIService"]
    rest = [item for item in objects if item not in last]
    for namespace in {item["metadata"].get("namespace", NAMESPACE) for item in rest}:  # kubectl takes one at a time
        within = [item for item in rest if item["metadata"].get("namespace", NAMESPACE) == namespace]
        replace(kube, namespace=namespace).apply(within)
    for deployment in DEPLOYMENTS:
        wait(kube, "deployment", deployment, log)
    kube.apply(last)
    kube.run("wait", "--for=condition=Available", f"apiservice/{API}", "--timeout=120s")


def check(kube: Kube) -> None:
    """Raise `DeployError` where a cluster has no KEDA."""
    if kube.get("customresourcedefinition", CRD) is None:
        raise DeployError(f"{kube.context} has no KEDA: install it first ({GUIDE}), or leave its component out")
