"""The local cluster: kind, made from k8s/cluster.yaml where there is none."""

import copy
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from tooling.deploy import K8S, DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Log
from tooling.project import CACHE, ROOT, services
from tooling.tools import require

CONFIGURATION: dict[str, Any] = yaml.safe_load((K8S / "cluster.yaml").read_text())
NAME = cast("str", CONFIGURATION["name"])
CONTEXT = f"kind-{NAME}"
PORTS = [service.node_port for service in services()]
"""The ports of 127.0.0.1 by which the cluster's services are reached."""

SYSTEM = Kube(CONTEXT, "kube-system")
SAVES_ONE_PLATFORM = (1, 48)
"""The version of Docker's API (Docker 28) that has `docker save --platform`."""

BACKUPS = CACHE / "backups"


def run(*command: str, log: Log | None = None) -> str:
    """Run a program in the repository and return its output; `log` receives each line. Raises `DeployError`."""
    program = str(require(command[0]))
    lines: list[str] = []
    with subprocess.Popen(
        [program, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in cast("Iterable[str]", process.stdout):
            lines.append(line)
            news = re.sub(r"[^\x20-\x7e]", "", line).strip()
            if log and news:
                log(news)
    if process.returncode:
        raise DeployError(f"{' '.join(command)} failed: {''.join(lines)[-2000:].strip()}")
    return "".join(lines)


def exists() -> bool:
    """Return whether the cluster exists."""
    return NAME in run("kind", "get", "clusters").split("\n")


def check_port() -> None:
    """Raise `DeployError` when something else listens on a port that the cluster needs."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise DeployError(
                    f"port {port} on 127.0.0.1 is taken: stop what listens there (`ss -ltnp 'sport = :{port}'` names "
                    "it, `docker ps` where it is a container), or change node-port in the service's pyproject.toml"
                ) from None


def configuration() -> Object:
    """Return kind's configuration: k8s/cluster.yaml, with the node port of each service on loopback."""
    made: Object = copy.deepcopy(CONFIGURATION)
    made["nodes"][0]["extraPortMappings"] = [
        {"containerPort": port, "hostPort": port, "listenAddress": "127.0.0.1"} for port in PORTS
    ]
    return made


def check() -> None:
    """Raise `DeployError`, or `MissingTool`, when something is missing that no step could mend."""
    for tool in ("docker", "kind", "kubectl"):
        require(tool)
    try:
        run("docker", "info", "--format", "{{.ServerVersion}}")
    except DeployError as error:
        raise DeployError(f"the Docker engine does not answer: start it (`systemctl start docker`). {error}") from None
    if not exists():
        check_port()


def create(log: Log) -> None:
    """Make the cluster, or check that the one there answers."""
    BACKUPS.mkdir(parents=True, exist_ok=True)
    BACKUPS.chmod(0o777)  # written to by PostgreSQL's user inside the cluster; the dumps themselves are 0600
    if not exists():
        CACHE.mkdir(exist_ok=True)
        written = CACHE / "cluster.yaml"
        written.write_text(yaml.safe_dump(configuration()))
        run("kind", "create", "cluster", "--config", str(written), "--wait", "120s", log=log)
        return
    try:
        Kube(CONTEXT).run("get", "--raw=/readyz", "--request-timeout=10s")
    except DeployError as error:
        raise DeployError(
            f"the cluster {NAME} is there and does not answer: start its containers "
            f"(`docker start $(docker ps --all --quiet --filter label=io.x-k8s.kind.cluster={NAME})`), "
            f"or remove it with `./dev destroy`. {error}"
        ) from None


@contextmanager
def temporary(name: str) -> Iterator[str]:
    """Run a cluster of one node and yield its kubectl context; it is removed afterwards.

    Raises `DeployError` where it is not made, or where `name` is the local cluster's.
    """
    if name == NAME:
        raise DeployError(f"the cluster {NAME} is the one that `./dev deploy` makes")
    image = CONFIGURATION["nodes"][0]["image"]
    try:
        run("kind", "create", "cluster", "--name", name, "--image", image, "--wait", "120s")
        yield f"kind-{name}"
    finally:
        run("kind", "delete", "cluster", "--name", name)


def load(images: Iterable[str], log: Log, *, everywhere: bool = False) -> None:
    """Bring images into the workers: those that a worker cannot pull are copied from this machine's engine.

    With `everywhere` the control plane gets them too, for pods that it tolerates.

    What neither the worker nor this engine has is left to the kubelet, which reports it.
    """
    nodes = run("kind", "get", "nodes", "--name", NAME).split()
    nodes = [node for node in nodes if everywhere or "control-plane" not in node]
    copied = pulled = 0
    for image in sorted(images):
        lacking = [node for node in nodes if not _has(node, image)]
        if not lacking:
            continue
        log(image)
        refusing = [node for node in lacking if _registry(image) == "" or not _pulls(node, image)]
        pulled += len(refusing) < len(lacking)
        if refusing and _held(image):
            copy_image(image, refusing)
            copied += 1
    log(f"{copied} copied, {pulled} pulled, {len(set(images)) - copied - pulled} there already or left to the kubelet")


def copy_image(image: str, nodes: Iterable[str]) -> None:
    """Copy an image of this machine's engine into nodes of the cluster, for the engine's own platform alone.

    `kind load docker-image` fails on an image of several platforms in Docker's containerd store, which holds the
    content of one of them: https://github.com/kubernetes-sigs/kind/issues/3795
    """
    version, platform = run(
        "docker", "version", "--format={{.Server.APIVersion}} {{.Server.Os}}/{{.Server.Arch}}"
    ).split()
    known = tuple(int(part) for part in version.split(".")) >= SAVES_ONE_PLATFORM
    with tempfile.TemporaryDirectory() as folder:
        archive = str(Path(folder, "image.tar"))
        run("docker", "save", *[f"--platform={platform}"] * known, f"--output={archive}", image)
        run("kind", "load", "image-archive", archive, "--name", NAME, "--nodes", ",".join(nodes))


def _registry(image: str) -> str:
    """Return the registry's host in an image's name; empty for a name that only this machine's engine knows."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host) else ""


def _has(node: str, image: str) -> bool:
    names = run("docker", "exec", node, "ctr", "--namespace=k8s.io", "images", "ls", "--quiet").split()
    return any(name == image or name.endswith(f"/{image}") for name in names)


def _pulls(node: str, image: str) -> bool:
    try:
        run("docker", "exec", node, "crictl", "pull", image)
    except DeployError:
        return False
    return True


def _held(image: str) -> bool:
    return bool(run("docker", "image", "ls", "--quiet", image).strip())


def install_metrics_server() -> None:
    """Install metrics-server, which the autoscaler reads."""
    SYSTEM.apply([item for item in _metrics_server() if item["kind"] != "APIService"])


def serve_metrics(log: Log) -> None:
    """Wait for metrics-server, and only then register it with the API server.

    Registered sooner, the API server may connect to an address that is not routed yet, and keep that connection.
    """
    wait(SYSTEM, "deployment", "metrics-server", log)
    SYSTEM.apply([item for item in _metrics_server() if item["kind"] == "APIService"])


def _metrics_server() -> list[Object]:
    return [item for item in yaml.safe_load_all(SYSTEM.run("kustomize", str(K8S / "metrics-server"))) if item]


def free_backup_volume(kube: Kube, service: str) -> None:
    """Let the volume of backups be claimed again after its namespace was deleted; what is on it stays."""
    volume = kube.get("persistentvolume", f"{service}-backups")
    if volume and volume["status"].get("phase") == "Released":
        kube.run("delete", "persistentvolume", f"{service}-backups")


def destroy() -> None:
    """Remove the cluster; the backups stay in .cache/backups."""
    run("kind", "delete", "cluster", "--name", NAME)
