"""What is applied: an overlay, with the image and, for a cluster of one's own, the generated secrets."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from tooling import secret_files
from tooling.deploy import K8S, DeployError
from tooling.deploy.kube import Kube, Object
from tooling.project import ROOT

IMAGE = "task-api"
"""The image's name in the manifests, which a deploy replaces."""

WORKLOADS = ("Deployment", "StatefulSet", "Job", "HorizontalPodAutoscaler", "CronJob", "Ingress")


def overlay_folder(name: str) -> Path:
    """Find an overlay by its name in k8s/overlays, or by its path. Raises `DeployError` where there is none."""
    for folder in (K8S / "overlays" / name, Path(name).resolve()):
        if (folder / "kustomization.yaml").exists():
            return folder
    known = ", ".join(sorted(folder.name for folder in (K8S / "overlays").iterdir()))
    raise DeployError(f"there is no overlay {name}: name one of {known}, or a folder that has a kustomization.yaml")


def render(kube: Kube, overlay: Path, image: str, *, generate_secrets: bool) -> list[Object]:
    """Render an overlay with IMAGE (`name:tag` or `name@sha256:…`) in place of the manifests' own.

    With `generate_secrets` the Secrets are part of it, from the files that `tooling.secret_files` makes once.
    """
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="deploy-") as name:  # mode 0700: secrets lie in it
        folder = Path(name)
        new_name, separator, version = image.partition("@") if "@" in image else image.rpartition(":")
        kustomization: Object = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": kube.namespace,
            "resources": [os.path.relpath(overlay, folder.resolve())],
            "labels": [{"pairs": {"app.kubernetes.io/part-of": IMAGE}}],
            "images": [{"name": IMAGE, "newName": new_name, "digest" if separator == "@" else "newTag": version}],
        }
        if generate_secrets:
            files = secret_files.ensure()
            for file in files.values():
                shutil.copy(file, folder)
            # The service's name carries a hash of its content, so that a rotated key makes a rollout; the database's
            # password is fixed when the database is made.
            kustomization["secretGenerator"] = [
                {"name": "task-api", "envs": [files["task_api"].name]},
                {"name": "postgres", "envs": [files["postgres"].name], "options": {"disableNameSuffixHash": True}},
            ]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return [item for item in yaml.safe_load_all(kube.run("kustomize", name)) if item]


def stage(item: Object) -> str:
    """Tell at which point of a deploy an object is applied: foundation, database, monitoring, migration or service."""
    if item["kind"] not in WORKLOADS:
        return "foundation"
    component = item["metadata"].get("labels", {}).get("app.kubernetes.io/component")
    return component if component in ("database", "monitoring", "migration") else "service"


def of_stage(objects: Sequence[Object], name: str) -> list[Object]:
    """Give a stage's objects."""
    return [item for item in objects if stage(item) == name]


def images(objects: Sequence[Object]) -> set[str]:
    """Give every image that the objects' pods run."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("containers"), list):
                found.update(container["image"] for container in value["containers"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(list(objects))
    return found
