"""What runs in the cluster right now, for people."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Column, Table

from tooling.deploy import DeployError, rollout, verify
from tooling.deploy.kube import Kube, Object, labels
from tooling.page import duration

WARNINGS = 5
NODE_WIDTH = 16  # so that the table has 80 columns
COLUMNS = ("ready", "restarts", "age")
API = {"app.kubernetes.io/component": "api"}
"""The labels of a service's own pods in its namespace."""


def show(kube: Kube, name: str, url: str, console: Console) -> None:
    """Print the pods, the autoscaler and the last warnings. Raises `DeployError` where nothing is deployed."""
    deployment = kube.get("deployment", name)
    if deployment is None:
        raise DeployError(f"nothing is deployed in namespace {kube.namespace} of {kube.context}: run `./dev deploy`")
    state = rollout.workload_state(deployment)
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    console.print(f"[bold]{url}[/]  {image}, revision {rollout.revision(deployment)}: {state.text}")
    if autoscaler := kube.get("horizontalpodautoscaler", name):
        _, text = verify.autoscaler_text(autoscaler)
        spec, desired = autoscaler["spec"], autoscaler["status"].get("desiredReplicas")
        console.print(f"autoscaler: {desired} of {spec['minReplicas']} to {spec['maxReplicas']} pods; {text}")
    pods = [pod for pod in kube.find("pod") if pod["status"].get("phase") != "Succeeded"]
    table = Table(
        Column("pod", no_wrap=True), Column("node", overflow="ellipsis", no_wrap=True, max_width=NODE_WIDTH), *COLUMNS
    )
    for pod in pods:
        table.add_row(*row(pod))
    console.print(table)
    for pod in pods:  # below the table: a registry's error has no room in a cell
        if reason := waits_for(pod):
            console.print(f"{pod['metadata']['name']} waits: {reason}", markup=False, highlight=False, soft_wrap=True)
    warnings = [event for event in kube.find("event") if event["type"] == "Warning"]
    for event in sorted(warnings, key=lambda event: str(event.get("lastTimestamp") or ""))[-WARNINGS:]:
        about = event["involvedObject"]
        text = f"{event.get('lastTimestamp') or '':20} {about['kind']}/{about['name']}: {event['message']}"
        console.print(text, markup=False, soft_wrap=True)


def row(pod: Object) -> tuple[str, str, str, str, str]:
    """Return a pod's line of the table."""
    containers = pod["status"].get("containerStatuses", [])
    started = pod["status"].get("startTime")
    age = duration((datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds()) if started else ""
    return (
        pod["metadata"]["name"],
        pod["spec"].get("nodeName", ""),
        f"{sum(container['ready'] for container in containers)}/{len(pod['spec']['containers'])}",
        str(sum(container["restartCount"] for container in containers)),
        age,
    )


def waits_for(pod: Object) -> str:
    """Return what a pod waits for; an empty text for one that is ready."""
    ending = "its end" if "deletionTimestamp" in pod["metadata"] else ""
    return ending or rollout.pod_failure(pod) or rollout.pod_news([pod])


def selector() -> str:
    """Return the selector of the service's pods."""
    return labels(API)
