"""The objects of a deploy: an overlay with its image and, for the local cluster, the generated secrets."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import yaml

from tooling import secret_files
from tooling.deploy import DeployError, admission, archive, operator
from tooling.deploy.kube import Kube, Object
from tooling.project import ROOT, Service, migrating

WORKLOADS = (
    "Deployment",
    "StatefulSet",
    "Cluster",
    "ScheduledBackup",
    "Job",
    "HorizontalPodAutoscaler",
    "ScaledObject",
    "CronJob",
    "Ingress",
)
AUTOSCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
"""The kinds that set a workload's number of pods; for each of the second, KEDA makes one of the first."""

STAGES = ("database", "archive", "monitoring", "migration")
DATABASE = "postgres"
"""The database's Service, and its cluster of PostgreSQL until a recovery has put another one in the place."""


REFERENCES = {
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
}


def overlay_folder(service: Service, name: str) -> Path:
    """Return a service's overlay by its name, or by its path. Raises `DeployError` where there is none."""
    overlays = service.manifests / "overlays"
    for folder in (overlays / name, Path(name).resolve()):
        if (folder / "kustomization.yaml").exists():
            return folder
    known = ", ".join(str(folder.relative_to(overlays)) for folder in service.overlays)
    raise DeployError(f"there is no overlay {name}: name one of {known}, or a folder that has a kustomization.yaml")


def with_database(overlay: Path, database: str, *, archived: bool = False) -> Path:
    """Return the variant of an overlay that has `database`: its own (single or managed) by default, or replicated.

    Raises `DeployError` where the overlay has no such variant, or no archive of it.
    """
    components = yaml.safe_load((overlay / "kustomization.yaml").read_text()).get("components", [])
    own = "single" if any(Path(one).parts[-2:] == ("database", "single") for one in components) else "managed"
    variants = {"": overlay}
    if (replicated := overlay.with_name(f"{overlay.name}-replicated")).exists():
        variants |= {own: overlay, "replicated": replicated}
    if database not in variants:
        known = f"it has {', '.join(sorted(variants)[1:])}" if len(variants) > 1 else "leave --database out"
        raise DeployError(f"the overlay {overlay.name} has no database {database!r}: {known}")
    if not archived:
        return variants[database]
    variant = overlay.with_name(f"{overlay.name}-archived")
    if database != "replicated" or not variant.exists():
        way = "add --database replicated" if variant.exists() else "leave --archive out"
        raise DeployError(f"the overlay {overlay.name} has no archive of this database: {way}")
    return variant


def render(
    service: Service,
    kube: Kube,
    overlay: Path,
    image: str,
    *,
    generate_secrets: bool,
    in_use: Collection[str] = (),
    place: archive.Place | None = None,
) -> list[Object]:
    """Render an overlay with `image` (`name:tag` or `name@sha256:…`) in place of the service's own.

    With `generate_secrets` the Secrets of a service with a database are part of it, from the files that
    `tooling.secret_files` makes once. The admission policy allows the images of the overlay, and those `in_use`.
    With `place` the database is archived there.
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
            "labels": [{"pairs": {"app.kubernetes.io/part-of": service.name}}],
            "images": [
                {"name": service.name, "newName": new_name, "digest" if separator == "@" else "newTag": version}
            ],
        }
        if generate_secrets and service.database:
            files = secret_files.ensure()
            for file in files.values():
                shutil.copy(file, folder)
            password = secret_files.read(files["postgres"])["POSTGRES_PASSWORD"]
            # The service's name carries a hash of its content, so that a rotated key makes a rollout; the database's
            # password is fixed when the database is made.
            own = folder / files[service.package].name
            owner = migrating(service)
            if owner != service:  # whose namespace has the database
                own.write_text(own.read_text().replace(f"@{DATABASE}/", f"@{DATABASE}.{owner.name}/"))
            kustomization["secretGenerator"] = [{"name": service.name, "envs": [own.name]}]
            if owner == service:
                credentials = {"username": service.package, "password": password}
                kustomization["secretGenerator"].append(_secret(DATABASE, credentials))
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        objects = [item for item in yaml.safe_load_all(kube.run("kustomize", name)) if item]
    others = {*images(objects), *in_use} - {image}
    if clusters(objects):  # whose pods begin with the operator's own program
        others.add(operator.IMAGE)
        rename_cluster(objects, cluster_in_place(kube))
    if place:
        place.enter(objects)
        others.add(archive.SIDECAR)
    admission.fill(objects, image, others, kube.namespace)
    return objects


def _secret(name: str, values: dict[str, str]) -> Object:
    """Describe a Secret that keeps its name whatever is in it."""
    literals = [f"{key}={value}" for key, value in values.items()]
    return {"name": name, "literals": literals, "options": {"disableNameSuffixHash": True}}


def cluster_in_place(kube: Kube) -> str:
    """Return the name of the cluster of PostgreSQL that the database's Service leads to, or would after a deploy."""
    service = kube.get("service", DATABASE) or {"spec": {}}
    return str(service["spec"].get("selector", {}).get("cnpg.io/cluster", DATABASE))


def rename_cluster(objects: Sequence[Object], name: str) -> None:
    """Have the objects describe the cluster of PostgreSQL that a recovery has put in the place of the first one."""
    for item in objects:
        if item["kind"] in ("Cluster", "ScheduledBackup"):
            item["metadata"]["name"] = name
        if item["kind"] == "ScheduledBackup":
            item["spec"]["cluster"]["name"] = name
        if item["kind"] == "Service" and "cnpg.io/cluster" in item["spec"].get("selector", {}):
            item["spec"]["selector"]["cnpg.io/cluster"] = name


def stage(item: Object) -> str:
    """Return the step of a deploy that applies an object: foundation, service, or one of `STAGES`."""
    if item["kind"] not in WORKLOADS:
        return "foundation"
    component = item["metadata"].get("labels", {}).get("app.kubernetes.io/component")
    return component if component in STAGES else "service"


def of_stage(objects: Sequence[Object], name: str) -> list[Object]:
    """Return a stage's objects."""
    return [item for item in objects if stage(item) == name]


def images(objects: Sequence[Object]) -> set[str]:
    """Return every image that the objects' pods run."""
    named = {container["image"] for spec in pod_specs(objects) for container in containers(spec)}
    return named | {item["spec"]["imageName"] for item in clusters(objects)}


def clusters(objects: Sequence[Object]) -> list[Object]:
    """Return the clusters of PostgreSQL that the operator runs."""
    return [item for item in objects if item["kind"] == "Cluster"]


def pod_specs(value: object) -> Iterator[Object]:
    """Yield the specification of every pod in objects, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from pod_specs(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from pod_specs(inner)


def containers(spec: Object) -> list[Object]:
    """Return a pod's containers, the initial ones first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def missing(kube: Kube, objects: Sequence[Object]) -> list[str]:
    """Return the settings and secrets that pods need, and that neither the objects nor the cluster have."""
    made = {(item["kind"], item["metadata"]["name"]) for item in objects}
    made |= {
        ("Secret", item["spec"].get("target", {}).get("name", item["metadata"]["name"]))
        for item in objects
        if item["kind"] == "ExternalSecret"
    }
    needed = {reference for spec in pod_specs(list(objects)) for reference in _references(spec)}
    for item in clusters(objects):
        needed.add(("Secret", item["spec"]["bootstrap"]["initdb"]["secret"]["name"]))
        made.add(("Secret", operator.AUTHORITY))  # by the deploy
    return [f"{kind.lower()}/{name}" for kind, name in sorted(needed - made) if kube.get(kind.lower(), name) is None]


def _references(spec: Object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of what a pod cannot start without."""
    for container in containers(spec):
        sources = [source for one in container.get("env", []) if (source := one.get("valueFrom"))]
        for source in [*container.get("envFrom", []), *sources]:
            for key, kind in REFERENCES.items():
                if key in source and not source[key].get("optional"):
                    yield kind, source[key]["name"]
    for volume in spec.get("volumes", []):
        if "configMap" in volume and not volume["configMap"].get("optional"):
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume and not volume["secret"].get("optional"):
            yield "Secret", volume["secret"]["secretName"]
