"""What runs in the cluster right now, for people."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from tooling.deploy import DeployError, rollout, verify
from tooling.deploy.kube import Kube, Object, labels
from tooling.page import duration

WARNINGS = 5
API = {"app.kubernetes.io/component": "api"}


def show(kube: Kube, url: str, console: Console) -> None:
    """Print the pods, the autoscaler and the last warnings. Raises `DeployError` where nothing is deployed."""
    deployment = kube.get("deployment", "task-api")
    if deployment is None:
        raise DeployError(f"nothing is deployed in namespace {kube.namespace} of {kube.context}: run `./dev deploy`")
    state = rollout.workload_state(deployment)
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    console.print(f"[bold]{url}[/]  {image}, revision {rollout.revision(deployment)}: {state.text}")
    if autoscaler := kube.get("horizontalpodautoscaler", "task-api"):
        _, text = verify.autoscaler_text(autoscaler)
        spec, desired = autoscaler["spec"], autoscaler["status"].get("desiredReplicas")
        console.print(f"autoscaler: {desired} of {spec['minReplicas']} to {spec['maxReplicas']} pods; {text}")
    table = Table("pod", "node", "ready", "restarts", "age", "waits for")
    for pod in kube.find("pod"):
        if pod["status"].get("phase") != "Succeeded":
            table.add_row(*row(pod))
    console.print(table)
    warnings = [event for event in kube.find("event") if event["type"] == "Warning"]
    for event in sorted(warnings, key=lambda event: str(event.get("lastTimestamp") or ""))[-WARNINGS:]:
        about = event["involvedObject"]
        console.print(
            f"{event.get('lastTimestamp') or '':20} {about['kind']}/{about['name']}: {event['message']}", markup=False
        )


def row(pod: Object) -> tuple[str, str, str, str, str, str]:
    """Give a pod's line of the table."""
    containers = pod["status"].get("containerStatuses", [])
    started = pod["status"].get("startTime")
    age = duration((datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds()) if started else ""
    ending = "to end" if "deletionTimestamp" in pod["metadata"] else ""
    return (
        pod["metadata"]["name"],
        pod["spec"].get("nodeName", ""),
        f"{sum(container['ready'] for container in containers)}/{len(pod['spec']['containers'])}",
        str(sum(container["restartCount"] for container in containers)),
        age,
        ending or rollout.pod_failure(pod) or rollout.pod_news([pod]),
    )


def selector() -> str:
    """Give the selector of the service's pods."""
    return labels(API)
