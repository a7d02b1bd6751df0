"""Every object of every overlay, held to the rules of a real API server by a server-side dry run.

Schemas are not enough: that a ClusterIP has no node port, or that a list has no name twice, the server alone checks.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tooling.deploy import DeployError, cluster
from tooling.deploy.kube import Kube, define, refused
from tooling.project import Service, services

K8S = Path(__file__).parent.parent
OVERLAYS = [folder for service in services() for folder in service.overlays]
FOLDERS = [*OVERLAYS, K8S / "load", K8S / "metrics-server"]


@pytest.fixture(scope="module")
def api_server() -> Iterator[Kube]:
    """Run an API server that knows the kinds which clouds and operators add."""
    if missing := [program for program in ("docker", "kind") if shutil.which(program) is None]:
        if os.environ.get("CI"):
            pytest.fail(f"{', '.join(missing)}: missing, so no API server can be run")
        pytest.skip(f"{', '.join(missing)}: missing, so no API server can be run")
    with cluster.temporary("dry-run") as context:
        kube = Kube(context, "default")
        define(kube, Path(__file__).parent / "crds")
        for service in services():
            kube.run("create", "namespace", service.name)
        yield kube


def name(folder: Path) -> str:
    return str(folder.relative_to(K8S.parent))


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_every_object_is_accepted(folder: Path, api_server: Kube) -> None:
    text = api_server.run("kustomize", str(folder))
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert refused(api_server, objects) == []
    print(f"{name(folder)}: {len(objects)} objects accepted")


OPTIONAL = {
    "kube-prometheus-stack": {"PrometheusRule", "ServiceMonitor", "PodMonitor"},
    "external-secrets": {"ExternalSecret"},
    "managed-certificate": {"ManagedCertificate"},
    "pagerduty-slack": set(),
    "tracing": set(),
}
"""The components that an overlay of one's own may add, and the kinds that they bring."""


def with_component(name: str, folder: Path) -> Path:
    """Write an overlay of GKE's into a folder as a person would, with a component; return the folder."""
    gke = K8S / "overlays" / "gke"
    kustomization = yaml.safe_load((gke / "kustomization.yaml").read_text())
    if name == "managed-certificate":  # on top of GKE's overlay, whose host it reads
        kustomization = {"kind": "Kustomization", "resources": [os.path.relpath(gke, folder)], "components": []}
    else:
        for file in gke.glob("*.yaml"):
            if file.name != "kustomization.yaml":
                shutil.copy(file, folder)
        for key in ("resources", "components"):
            kustomization[key] = [
                os.path.relpath((gke / entry).resolve(), folder) if ".." in entry else entry
                for entry in kustomization[key]
            ]
    component = os.path.relpath(K8S / "components" / name, folder)
    if name == "kube-prometheus-stack":  # in the place of the monitoring of one's own
        kustomization["components"] = [one for one in kustomization["components"] if not one.endswith("/monitoring")]
    kustomization["components"].append(component)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@pytest.mark.parametrize("component", OPTIONAL)
def test_an_overlay_with_an_optional_component_is_accepted(component: str, api_server: Kube) -> None:
    cache = K8S.parent / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        text = api_server.run("kustomize", str(with_component(component, Path(folder).resolve())))
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert refused(api_server, objects) == []
    assert OPTIONAL[component] <= {item["kind"] for item in objects}
    print(f"{component}: {len(objects)} objects accepted")


FURTHER = [one for one in services() if not one.default]
ON_TOP = [
    (one, folder.parent.name)
    for one in FURTHER
    for folder in sorted(one.manifests.glob("components/*/kustomization.yaml"))
    if not any(f"components/{folder.parent.name}\n" in (own / folder.name).read_text() for own in one.overlays)
]
"""The components of further services that no overlay of theirs has."""


@pytest.mark.parametrize(("one", "component"), ON_TOP, ids=[f"{one.name}-{component}" for one, component in ON_TOP])
def test_an_overlay_with_an_optional_component_of_a_further_service_is_accepted(
    one: Service, component: str, api_server: Kube
) -> None:
    cache = K8S.parent / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name).resolve()
        kustomization = {
            "kind": "Kustomization",
            "namespace": one.name,
            "resources": [os.path.relpath(one.overlays[0], folder)],
            "components": [os.path.relpath(one.manifests / "components" / component, folder)],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        text = api_server.run("kustomize", str(folder))
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert refused(api_server, objects) == []
    print(f"{one.name} with {component}: {len(objects)} objects accepted")


def test_every_component_is_in_an_overlay_or_tried_here() -> None:
    used = {
        entry.rpartition("/")[2]
        for file in [*(K8S / "overlays").rglob("kustomization.yaml"), *(K8S / "components").rglob("kustomization.yaml")]
        for entry in yaml.safe_load(file.read_text()).get("components", [])
    }
    made = {file.parent.name for file in (K8S / "components").rglob("kustomization.yaml")}
    assert made == used | set(OPTIONAL)


def test_the_server_refuses_a_node_port_of_a_cluster_ip(api_server: Kube) -> None:
    (service,) = [
        item
        for item in yaml.safe_load_all(api_server.run("kustomize", str(K8S / "overlays" / "eks")))
        if (item["kind"], item["metadata"]["name"]) == ("Service", "task-api")
    ]
    service["spec"]["ports"][0]["nodePort"] = 30080
    (problem,) = refused(api_server, [service])
    assert "nodePort: Forbidden" in problem


def test_a_kind_that_nobody_defines_is_refused(api_server: Kube) -> None:
    (problem,) = refused(api_server, [{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}}])
    assert 'no matches for kind "Thing"' in problem


def test_the_temporary_cluster_has_a_name_of_its_own() -> None:
    with pytest.raises(DeployError, match="task-api"), cluster.temporary(cluster.NAME):
        pass
