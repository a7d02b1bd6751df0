"""Every object of every overlay, held to the rules of a real API server by a server-side dry run.

Schemas are not enough: that a ClusterIP has no node port, or that a list has no name twice, the server alone checks.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tooling.deploy import DeployError, cluster
from tooling.deploy.kube import Kube, refused
from tooling.project import services

K8S = Path(__file__).parent.parent
OVERLAYS = [folder for service in services() for folder in sorted((service.manifests / "overlays").iterdir())]
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
        kube.run("apply", "--server-side", f"--filename={Path(__file__).parent / 'crds'}")
        kube.run("wait", "--for=condition=Established", "customresourcedefinition", "--all", "--timeout=60s")
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
