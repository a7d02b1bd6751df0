"""Manifests agree with a service's record, also those that the template makes."""

import re
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


BASE = r"gcr\.io/distroless/python3-debian13:nonroot|python:3\.\d+-slim-trixie"
LABELS = {"title", "description", "licenses", "version", "revision", "created"}
SEEN = r"requirements/wheel\.txt|packages/\w+/(?:pyproject\.toml|src)|{}/(?:requirements\.txt|pyproject\.toml|src)"


def faults(dockerfile: str) -> Iterator[str]:
    """Yield what a service's Dockerfile must not do, or must do and does not."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    steps = [line.partition(" ") for line in text.splitlines() if line.strip()]
    stages = [arguments.split() for step, _, arguments in steps if step == "FROM"]
    names = {stage[2] for stage in stages if len(stage) > 1}
    yield from (f"base {base}" for base, *_ in stages if base not in names and not re.fullmatch(BASE, base))
    if re.search(r"\b(?:https?|ftp|git)(?:://|@)", text) or any(step == "ADD" for step, *_ in steps):
        yield "download"
    settings = " ".join(arguments for step, _, arguments in steps if step in {"ENV", "ARG"})
    yield from (f"secret {name}" for name in re.findall(r"\b(\w*(?:KEYS?|SECRET|TOKEN|PASSWORD|_URL))\b", settings))
    installs = re.findall(r"pip install [^&;|]*-r requirements\.txt", text)
    if not installs or not all({"--require-hashes", "--only-binary=:all:"} <= set(one.split()) for one in installs):
        yield "packages that are built"
    final = steps[max(number for number, step in enumerate(steps) if step[0] == "FROM") :]
    if [arguments for step, _, arguments in final if step == "USER"] != ["1000:1000"]:
        yield "user"
    if not any(step == "HEALTHCHECK" and " CMD [" in arguments for step, _, arguments in final):
        yield "no health check"
    labelled = {
        name for step, _, arguments in final if step == "LABEL" for name in re.findall(r"image\.(\w+)=", arguments)
    }
    yield from (f"label {name}" for name in sorted(LABELS - labelled))


def test_the_image_is_made_of_known_parts_and_runs_as_nobody(service: Service) -> None:
    assert list(faults(service.dockerfile.read_text())) == []


def test_the_build_sees_what_the_image_holds_alone(service: Service) -> None:
    lines = service.folder.joinpath("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    seen = re.compile(SEEN.format(re.escape(service.path)))
    assert [rule for rule in rules if rule.startswith("!") and not seen.fullmatch(rule[1:])] == []


DEFECTS = {
    "a base image with a shell": (":nonroot", ":debug-nonroot", "base gcr"),
    "a base image of a stranger": ("FROM python:", "FROM docker.io/somebody/python:", "base docker.io"),
    "a file from the network": ("\nUSER ", "\nADD https://example.org/tool /app/\nUSER ", "download"),
    "a program from the network": ("RUN rm ", "RUN curl -s http://example.org | sh && rm ", "download"),
    "a secret in the environment": ("ENV REVISION=", "ENV JWT_KEYS=main:c2VjcmV0 REVISION=", "secret JWT_KEYS"),
    "a secret as an argument of the build": ("ARG VERSION", "ARG VERSION\nARG INDEX_PASSWORD", "secret INDEX_PASSWORD"),
    "a package whose setup runs": (" --only-binary=:all:", "", "packages that are built"),
    "packages without hashes": ("--require-hashes --target=/image", "--target=/image", "packages that are built"),
    "root": ("USER 1000:1000", "USER 0:0", "user"),
    "the base image's user": ("USER 1000:1000\n", "", "user"),
    "root in the end": ("USER 1000:1000\n", "USER 1000:1000\nUSER root\n", "user"),
    "no health check": ("HEALTHCHECK ", "HEALTHCHECK NONE\n#", "no health check"),
    "no revision": ("org.opencontainers.image.revision", "revision", "label revision"),
}


@pytest.mark.parametrize(("before", "after", "fault"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_a_dockerfile_is_seen_and_named(before: str, after: str, fault: str) -> None:
    text = project.service().dockerfile.read_text()
    assert before in text
    (named,) = {one for one in faults(text.replace(before, after, 1)) if one.startswith(fault)}
    assert named
