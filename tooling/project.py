"""What the repository is: its root, its reports, its pipeline's stages and its services.

Only the standard library is imported: `./dev` and the noxfile read this before any environment exists.
"""

import functools
import hashlib
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "reports"
"""Each stage and session writes into a folder of its own name in it; CI uploads that folder."""

CACHE = ROOT / ".cache"
ENVIRONMENTS = ROOT / ".nox"
"""Nox makes each session's environment in the folder of the session's name in it."""

FIRST_RUNS = CACHE / "first-run"
"""How long each stage took when it first passed in this checkout."""

WORKFLOWS = ROOT / ".github" / "workflows"


class ToolingError(Exception):
    """Something outside this repository is missing or fails; the message is one line with what to do."""

    evidence: str = ""
    """Output of the program that failed, for people to read before the message."""


class UnknownServiceError(ToolingError):
    """No service has that name, or a service's record has a mistake."""


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: the stages it needs, and the modules whose `GATES` make it up."""

    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


STAGES = {
    "test": Stage(modules=("tooling.check",)),
    "sast": Stage(modules=("tooling.sast",)),
    "build": Stage(
        needs=("test", "sast"),
        modules=("tooling.images.scan",),
    ),
    "dast": Stage(needs=("test",), modules=("tooling.dast",)),
    "publish": Stage(
        needs=("build", "dast"),
        modules=("tooling.images.push", "tooling.images.provenance"),
    ),
    "notify": Stage(modules=("tooling.notify",)),
}
"""The pipeline in its order. The noxfile, the summary, the canaries and the workflows' test read this list."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service: the facts of its pyproject.toml, and the places that follow from its folder."""

    folder: Path
    name: str
    """Distribution, command, image, Deployment and Kubernetes namespace: one name for all, with hyphens."""
    default: bool = False
    """Whether a command that names no service means this one."""
    port: int = 5000
    """The port on this machine, of `./dev serve` and of Compose."""
    node_port: int = 30080
    """The port on this machine by which a kind cluster is reached."""
    database: str = ""
    """The name of its PostgreSQL database; empty for a service that keeps nothing."""
    migrations: bool = False
    """Whether the command `migrate` prepares the database."""
    accounts: bool = False
    """Whether it has accounts: `/auth`, signing keys and the command `create-admin`."""
    openapi: str = "/openapi.json"
    """The path of its OpenAPI document; empty for a service without one."""
    undocumented: dict[str, str] = field(default_factory=dict, hash=False)
    """The routes that its OpenAPI document lacks, such as `GET /`, and why each is no operation for programs."""
    manifests: Path = field(default=Path())
    """The folder with its `base` and `overlays`; `k8s` in the service's own folder by default."""

    @property
    def package(self) -> str:
        """The name that Python imports, with underscores. It is the folder's name too."""
        return self.name.replace("-", "_")

    @property
    def path(self) -> str:
        """The folder as Git writes it, relative to the root."""
        return "/".join(self.folder.parts[-2:])

    @property
    def overlays(self) -> list[Path]:
        """Return the folders that kustomize renders for a cluster: those with a kustomization, however deep."""
        return [file.parent for file in sorted(self.manifests.glob("overlays/**/kustomization.yaml"))]

    @property
    def dockerfile(self) -> Path:
        """What its image is built from."""
        return self.folder / "Dockerfile"

    @property
    def lock(self) -> Path:
        """The packages of its image, pinned and hashed."""
        return self.folder / "requirements.txt"

    @property
    def released(self) -> Path:
        """The OpenAPI document of its last release, which its clients were written against."""
        return self.folder / "released-openapi.json"

    @property
    def tests(self) -> Path:
        """The folder of its tests."""
        return self.folder / "tests"


@functools.cache
def repository_name() -> str:
    """Return the repository's name: the project of its pyproject.toml."""
    name: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    return name


def distributions(root: Path = ROOT) -> list[Path]:
    """Return the folders that are installed from this checkout: the shared packages and the services."""
    return sorted(file.parent for kind in ("packages", "services") for file in root.glob(f"{kind}/*/pyproject.toml"))


def shared_by(folder: Path, root: Path = ROOT) -> list[Path]:
    """Return the folders of the shared packages that a distribution needs, itself or by another of them."""
    projects = {one: tomllib.loads((one / "pyproject.toml").read_text())["project"] for one in distributions(root)}
    names = {project["name"]: one for one, project in projects.items()}
    ordered: dict[Path, None] = {}
    wanted = [folder]
    while wanted:
        needs = [re.split(r"[^\w.-]", need)[0] for need in projects[wanted.pop()].get("dependencies", [])]
        new = [names[need] for need in needs if need in names and names[need] not in ordered]
        ordered |= dict.fromkeys(new)
        wanted += new
    return sorted(ordered)


@functools.cache
def services(root: Path = ROOT) -> tuple[Service, ...]:
    """Read the record of each folder in services/, the default service first, then by name.

    A record is the table `[tool.service]` of the folder's pyproject.toml, with the fields of `Service`.
    Raises `UnknownServiceError` for a record with a mistake.
    """
    records = [_read(file) for file in sorted(root.glob("services/*/pyproject.toml"))]
    return tuple(sorted(records, key=lambda service: (not service.default, service.name)))


def service(name: str = "", root: Path = ROOT) -> Service:
    """Return the service of that name, or the default one. Raises `UnknownServiceError`."""
    known = services(root)
    for one in known:
        if name in {one.name, one.package} or (one.default and not name):
            return one
    raise UnknownServiceError(
        f"there is no service {name or 'by default'}: the services are {', '.join(one.name for one in known)}"
    )


def migrating(one: Service) -> Service:
    """Return the service that migrates the database of another, or its own. Raises `UnknownServiceError`."""
    for candidate in (one, *services(one.folder.parent.parent)):
        if candidate.database == one.database and candidate.migrations:
            return candidate
    raise UnknownServiceError(f"{one.name}: no service migrates its database, {one.database}")


def _read(file: Path) -> Service:
    document: dict[str, Any] = tomllib.loads(file.read_text())
    record: dict[str, Any] = {
        key.replace("-", "_"): value for key, value in document.get("tool", {}).get("service", {}).items()
    }
    known = {one.name: one.type for one in fields(Service)} | {"manifests": str, "undocumented": dict}
    for key, value in record.items():
        if key in {"folder", "name"} or type(value) is not known.get(key):
            raise UnknownServiceError(f"{file}: [tool.service] has no field {key} with the value {value!r}")
    manifests = file.parent / "k8s" if "manifests" not in record else file.parent.parent.parent / record["manifests"]
    return Service(**{**record, "folder": file.parent, "name": document["project"]["name"], "manifests": manifests})


@functools.cache
def source() -> dict[str, str]:
    """Return what a stage is run on: the commit, a digest of what the checkout changes in it, and the run in CI."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False).stdout

    changes = git("diff", "--binary", "HEAD")
    return {
        "commit": git("rev-parse", "HEAD").decode().strip(),
        "changes": hashlib.sha256(changes).hexdigest() if changes else "",
        "run": os.environ.get("GITHUB_RUN_ID", ""),
    }
