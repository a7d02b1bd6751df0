"""The local cluster: kind, made from k8s/cluster.yaml where there is none."""

import re
import socket
import subprocess
from collections.abc import Iterable
from typing import Any, cast

import yaml

from tooling.deploy import K8S, DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.rollout import wait
from tooling.deploy.steps import Say
from tooling.project import ROOT
from tooling.tools import require

CONFIGURATION: dict[str, Any] = yaml.safe_load((K8S / "cluster.yaml").read_text())
NAME = cast("str", CONFIGURATION["name"])
CONTEXT = f"kind-{NAME}"
PORT = cast("int", CONFIGURATION["nodes"][0]["extraPortMappings"][0]["hostPort"])
URL = f"http://127.0.0.1:{PORT}"
SYSTEM = Kube(CONTEXT, "kube-system")
BACKUPS = ROOT / ".cache" / "backups"


def run(*command: str, say: Say | None = None) -> str:
    """Run a program in the repository, telling its news, and give its output. Raises `DeployError` when it fails."""
    program = str(require(command[0]))
    lines: list[str] = []
    with subprocess.Popen(
        [program, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in cast("Iterable[str]", process.stdout):
            lines.append(line)
            news = re.sub(r"[^\x20-\x7e]", "", line).strip()
            if say and news:
                say(news)
    if process.returncode:
        raise DeployError(f"{' '.join(command)} failed: {''.join(lines)[-2000:].strip()}")
    return "".join(lines)


def exists() -> bool:
    """Tell whether the cluster is there."""
    return NAME in run("kind", "get", "clusters").split("\n")


def check_port() -> None:
    """Raise `DeployError` when something else listens on the port that the cluster needs."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            raise DeployError(
                f"port {PORT} on 127.0.0.1 is taken: stop what listens there (`ss -ltnp 'sport = :{PORT}'` names it, "
                "`docker ps` where it is a container), or change hostPort in k8s/cluster.yaml"
            ) from None


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


def create(say: Say) -> None:
    """Make the cluster, or check that the one there answers."""
    BACKUPS.mkdir(parents=True, exist_ok=True)
    BACKUPS.chmod(0o777)  # PostgreSQL's user writes here from inside the cluster; the dumps themselves are 0600
    if not exists():
        run("kind", "create", "cluster", "--config", str(K8S / "cluster.yaml"), "--wait", "120s", say=say)
        return
    try:
        Kube(CONTEXT).run("get", "--raw=/readyz", "--request-timeout=10s")
    except DeployError as error:
        raise DeployError(
            f"the cluster {NAME} is there and does not answer: start its containers "
            f"(`docker start $(docker ps --all --quiet --filter label=io.x-k8s.kind.cluster={NAME})`), "
            f"or remove it with `./dev destroy`. {error}"
        ) from None


def load(images: Iterable[str], say: Say) -> None:
    """Copy the images that this machine's engine holds into the workers; the cluster pulls the others itself."""
    held = [image for image in sorted(images) if "@" not in image and _held(image)]
    workers = [node for node in run("kind", "get", "nodes", "--name", NAME).split() if "control-plane" not in node]
    known = [
        run("docker", "exec", node, "ctr", "--namespace=k8s.io", "images", "ls", "--quiet").split() for node in workers
    ]
    missing = [image for image in held if not all(_among(names, image) for names in known)]
    if missing:
        run("kind", "load", "docker-image", *missing, "--name", NAME, "--nodes", ",".join(workers), say=say)
    say(f"{len(missing)} copied, {len(held) - len(missing)} there already")


def _held(image: str) -> bool:
    return bool(run("docker", "image", "ls", "--quiet", image).strip())


def _among(names: Iterable[str], image: str) -> bool:
    """Tell whether an image is among names as containerd writes them, registry and all."""
    return any(name == image or name.endswith(f"/{image}") for name in names)


def install_metrics_server() -> None:
    """Install metrics-server, which the autoscaler reads."""
    SYSTEM.apply([item for item in _metrics_server() if item["kind"] != "APIService"])


def serve_metrics(say: Say) -> None:
    """Wait for metrics-server, and only then let the API server ask it.

    Asked sooner, the API server may connect to an address that does not lead there yet, and keep that connection.
    """
    wait(SYSTEM, "deployment", "metrics-server", say)
    SYSTEM.apply([item for item in _metrics_server() if item["kind"] == "APIService"])


def _metrics_server() -> list[Object]:
    return [item for item in yaml.safe_load_all(SYSTEM.run("kustomize", str(K8S / "metrics-server"))) if item]


def free_backup_volume(kube: Kube) -> None:
    """Let the volume of backups be claimed again after its namespace was deleted; what is on it stays."""
    volume = kube.get("persistentvolume", "task-api-backups")
    if volume and volume["status"].get("phase") == "Released":
        kube.run("delete", "persistentvolume", "task-api-backups")


def destroy() -> None:
    """Remove the cluster; the backups stay in .cache/backups."""
    run("kind", "delete", "cluster", "--name", NAME)
