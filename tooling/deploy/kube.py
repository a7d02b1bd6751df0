"""kubectl, with JSON in and out. One field manager owns what a deploy applies."""

import difflib
import json
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tooling.deploy import DeployError
from tooling.tools import require

Object = dict[str, Any]
"""A Kubernetes object as it is written in JSON."""

FIELD_MANAGER = "deploy"
REPLICAS_MANAGER = "deploy-replicas"
KEPT_BY_THE_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


@dataclass(frozen=True)
class Change:
    """What applying did to one object: created, changed (with a diff of YAML lines), or unchanged."""

    verb: str
    name: str
    diff: str = ""


@dataclass(frozen=True)
class Kube:
    """One namespace of one cluster, named by its kubectl context."""

    context: str
    namespace: str = "default"

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of kubectl for this namespace."""
        return [str(require("kubectl")), "--context", self.context, "--namespace", self.namespace, *arguments]

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output. Raises `DeployError` with kubectl's message when it fails."""
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeployError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object | None:
        """Return one object, or None where there is none."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output=json")
        return json.loads(text) if text else None

    def find(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind with the labels of `selector`."""
        items: list[Object] = json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))["items"]
        return items

    def raw(self, path: str) -> Any:
        """Return the API server's response at `path`."""
        return json.loads(self.run("get", f"--raw={path}"))

    def apply(self, objects: Sequence[Object]) -> list[Change]:
        """Apply on the server's side, taking over fields that others have set; return what that changed."""
        if not objects:
            return []
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        before = self._items(self.run("get", "--filename=-", "--ignore-not-found", "--output=json", stdin=text))
        flags = ["--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}"]
        after = self._items(self.run("apply", *flags, "--filename=-", "--output=json", stdin=text))
        return changes(before, after)

    def hand_over_replicas(self, deployment: Object) -> None:
        """Transfer the number of pods to another field manager, so that it stays when later applies do not name it.

        https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
        """
        fields = {key: deployment["metadata"][key] for key in ("name", "namespace")}
        number = {"replicas": deployment["spec"]["replicas"]}
        text = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": fields, "spec": number})
        # only the server knows that the rest of the object exists
        flags = ["--server-side", "--validate=false", f"--field-manager={REPLICAS_MANAGER}"]
        self.run("apply", *flags, "--filename=-", stdin=text)

    @staticmethod
    def _items(text: str) -> list[Object]:
        parsed: Object = json.loads(text) if text.strip() else {"items": []}
        return parsed["items"] if parsed.get("kind", "List") == "List" else [parsed]


def define(kube: Kube, folder: Path) -> None:
    """Make the API server know the kinds that a folder defines. Raises `DeployError`."""
    kube.run("apply", "--server-side", f"--filename={folder}")
    establish(kube)


def apply_definitions(kube: Kube, objects: Sequence[Object]) -> list[Object]:
    """Apply the namespaces and the definitions of kinds among objects, which the others need; return the others.

    Raises `DeployError` where the API server does not serve a kind.
    """
    first = [item for item in objects if item["kind"] in ("Namespace", "CustomResourceDefinition")]
    kube.apply(first)
    establish(kube)
    return [item for item in objects if item not in first]


def establish(kube: Kube, *, timeout: float = 60) -> None:
    """Wait until the API server serves every kind that is defined. Raises `DeployError` after `timeout` seconds.

    `kubectl wait` fails for a definition so new that it has no conditions yet.
    """
    deadline = time.monotonic() + timeout
    while waiting := [one["metadata"]["name"] for one in kube.find("customresourcedefinition") if not established(one)]:
        if time.monotonic() > deadline:
            raise DeployError(f"{', '.join(waiting)}: not served {timeout:.0f} s after being defined")
        time.sleep(0.5)


def established(definition: Object) -> bool:
    """Return whether the API server serves the kind of a definition."""
    conditions = definition.get("status", {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)


def refused(kube: Kube, objects: Sequence[Object]) -> list[str]:
    """Return what the API server has against the objects, one message each, by a server-side dry run."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    command = [
        str(require("kubectl")),
        "--context",
        kube.context,
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        "-",
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("Warning: ")]
    if done.returncode == 0 and done.stdout.count("(server dry run)") == len(objects):
        return []
    return lines or [f"kubectl ended with status {done.returncode}: {done.stdout}"]


def identity(item: Object) -> str:
    """Name an object as kubectl does, kind/name."""
    return f"{item['kind']}/{item['metadata']['name']}".lower()


def labels(selector: dict[str, str]) -> str:
    """Write labels as a selector."""
    return ",".join(f"{name}={value}" for name, value in selector.items())


def readable(item: Object) -> list[str]:
    """Return the lines of an object's YAML without the server's own fields, a Secret's values hidden."""
    shown = {name: value for name, value in item.items() if name != "status"}
    shown["metadata"] = {key: value for key, value in item["metadata"].items() if key not in KEPT_BY_THE_SERVER}
    if item["kind"] == "Secret":
        shown["data"] = dict.fromkeys(item.get("data", {}), "(hidden)")
    return str(yaml.safe_dump(shown)).splitlines()


def changes(before: Iterable[Object], after: Iterable[Object]) -> list[Change]:
    """Compare objects as they were and as they are."""
    old = {identity(item): item for item in before}
    compared = []
    for item in after:
        name = identity(item)
        if name in old:
            diff = list(difflib.unified_diff(readable(old[name]), readable(item), lineterm="", n=1))[2:]
            compared.append(Change("changed" if diff else "unchanged", name, "\n".join(diff)))
        else:
            compared.append(Change("created", name))
    return compared
