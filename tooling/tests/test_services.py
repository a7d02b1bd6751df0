"""Manifests agree with a service's record, also those that the template makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tooling import new_service, project
from tooling.project import ROOT, Service

FROM_TEMPLATE = "mail-relay"


@pytest.fixture(params=[*(service.name for service in project.services()), FROM_TEMPLATE])
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Each service of the repository, and one that the template makes."""
    if request.param != FROM_TEMPLATE:
        yield project.service(request.param)
        return
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "task_api").symlink_to(ROOT / "services" / "task_api")
    monkeypatch.setattr(new_service, "_lock", lambda _folder, _root: None)
    new_service.create(FROM_TEMPLATE, tmp_path)
    yield project.service(FROM_TEMPLATE, tmp_path)
    project.services.cache_clear()


def documents(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The documents of that kind in a folder of manifests."""
    items = [item for file in folder.glob("*.yaml") for item in yaml.safe_load_all(file.read_text()) if item]
    return [item for item in items if item.get("kind") == kind]


def test_the_manifests_have_the_services_name_image_and_namespace(service: Service) -> None:
    base = service.manifests / "base"
    (deployment,) = documents(base, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (deployment["metadata"]["name"], container["name"], container["image"]) == (service.name,) * 3
    assert deployment["metadata"]["labels"]["app.kubernetes.io/name"] == service.name
    (namespace,) = documents(base, "Namespace")
    (kustomization,) = documents(base, "Kustomization")
    assert namespace["metadata"]["name"] == kustomization["namespace"] == service.name
    (autoscaler,) = documents(base, "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == service.name


def test_a_migration_and_a_secret_are_there_where_the_record_says_so(service: Service) -> None:
    base = service.manifests / "base"
    migrations = [job for job in documents(base, "Job") if job["metadata"]["name"] == f"{service.name}-migration"]
    assert bool(migrations) == service.migrations
    (deployment,) = documents(base, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert any("secretRef" in source for source in container["envFrom"]) == bool(service.database)


def test_the_local_cluster_reaches_it_by_the_records_port(service: Service) -> None:
    folders = [service.manifests / "overlays" / "kind", service.manifests / "components" / "kind"]
    (patch,) = [one for folder in folders for one in documents(folder, "Service")]
    (port,) = patch["spec"]["ports"]
    assert port["nodePort"] == service.node_port


def test_the_image_listens_on_the_port_that_the_manifests_name(service: Service) -> None:
    (deployment,) = documents(service.manifests / "base", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in service.dockerfile.read_text()


def test_the_image_holds_the_service_and_its_lock_alone(service: Service) -> None:
    seen = service.folder.joinpath("Dockerfile.dockerignore").read_text()
    assert f"!{service.path}/src\n" in seen
    assert f"COPY {service.path}/src " in service.dockerfile.read_text()
    assert f'"-m", "{service.package}"' in service.dockerfile.read_text()
