"""Watches a deployment and its HorizontalPodAutoscaler on a cluster, into the flight record."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from loadtests import LoadTestError
from locust_verdict.record import Cluster, Event, Pod, Recorder
from tooling.kubernetes import quantity
from tooling.tools import require

POLL_SECONDS = 2.0


class ClusterError(LoadTestError):
    """The cluster could not be watched; the message is the reason."""


@contextlib.contextmanager
def watching(record: Path, *, context: str, namespace: str = "task-api", name: str = "task-api") -> Iterator[None]:
    """Watch the deployment and the HPA called `name` while the block runs.

    Raises ClusterError where they cannot be read at the start, and `tooling.tools.MissingTool` without kubectl. What
    goes wrong later is noted in the record: a killed API server does not end the run it belongs to.
    """
    with _api(context) as client, Recorder(record) as recorder:
        watcher = _Watcher(client, recorder, namespace, name)
        try:
            watcher.poll()
        except (httpx.HTTPError, KeyError) as error:
            message = f"cannot read deployment and HPA {name} in namespace {namespace} of {context}: {error}"
            raise ClusterError(message) from error
        thread = threading.Thread(target=watcher.loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            watcher.stop.set()
            thread.join()


@contextlib.contextmanager
def _api(context: str) -> Iterator[httpx.Client]:
    command = [str(require("kubectl")), "--context", context, "proxy", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as proxy:
        try:
            assert proxy.stdout is not None  # it is a pipe
            line = proxy.stdout.readline().strip()  # "Starting to serve on 127.0.0.1:41234"
            if not line.startswith("Starting to serve on "):
                raise ClusterError(f"kubectl proxy did not start: {line}")
            with httpx.Client(base_url=f"http://{line.rpartition(' ')[2]}", timeout=10, trust_env=False) as client:
                yield client
        finally:
            proxy.terminate()


class _Watcher:
    def __init__(self, client: httpx.Client, recorder: Recorder, namespace: str, name: str) -> None:
        self._client = client
        self._recorder = recorder
        self._namespace = namespace
        self._name = name
        self._events: set[tuple[str, int]] | None = None
        self.stop = threading.Event()

    def loop(self) -> None:
        """Poll until stopped; record a failure once, however often it repeats in a row."""
        failed = ""
        while not self.stop.wait(POLL_SECONDS):
            try:
                self.poll()
                failed = ""
            except (httpx.HTTPError, KeyError) as error:
                if failed != (failed := repr(error)):
                    self._recorder.event("note", f"the cluster could not be read: {error!r}")

    def poll(self) -> None:
        """Record the state now, and the events since the last time."""
        space = f"/namespaces/{self._namespace}"
        deployment = self._get(f"/apis/apps/v1{space}/deployments/{self._name}")
        labels = deployment["spec"]["selector"]["matchLabels"]
        selector = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
        autoscaler = self._get(f"/apis/autoscaling/v2{space}/horizontalpodautoscalers/{self._name}")
        pods = self._get(f"/api/v1{space}/pods", selector)["items"]
        try:
            measured = self._get(f"/apis/metrics.k8s.io/v1beta1{space}/pods", selector)["items"]
        except httpx.HTTPStatusError:
            measured = []  # no metrics server, or not yet: the HPA has nothing to go by either
        metrics = {item["metadata"]["name"]: item for item in measured}
        states = [pod(item, metrics.get(item["metadata"]["name"])) for item in pods]
        self._recorder.write(
            Cluster(time.time(), deployment["spec"]["replicas"], states, autoscaler["spec"], synced(autoscaler))
        )
        events = self._get(f"/api/v1{space}/events")["items"]
        fresh = {(item["metadata"]["uid"], item.get("count") or 1): item for item in events}
        for key, item in fresh.items():
            if self._events is not None and key not in self._events and (event := happened(item)):
                self._recorder.write(event)
        self._events = set(fresh) | (self._events or set())

    def _get(self, path: str, parameters: dict[str, str] | None = None) -> Any:
        answer = self._client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()


def moment(text: str | None) -> float | None:
    """Read a time of the Kubernetes API (RFC 3339) as Unix seconds."""
    return datetime.fromisoformat(text).timestamp() if text else None


def pod(item: dict[str, Any], metrics: dict[str, Any] | None) -> Pod:
    """Read a pod, and its metrics where there are any."""
    status = item["status"]
    ready: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    resources = [container.get("resources", {}) for container in item["spec"]["containers"]]

    def total(kind: str, resource: str) -> float:
        return sum(quantity(entry.get(kind, {}).get(resource, "0")) for entry in resources)

    def used(resource: str) -> float | None:
        return sum(quantity(c["usage"][resource]) for c in metrics["containers"]) if metrics else None

    return Pod(
        name=item["metadata"]["name"],
        phase=status["phase"],
        ready=ready.get("status") == "True",
        deleting="deletionTimestamp" in item["metadata"],
        started=moment(status.get("startTime")),
        ready_changed=moment(ready.get("lastTransitionTime")),
        cpu_request=total("requests", "cpu"),
        cpu_limit=total("limits", "cpu"),
        memory_request=total("requests", "memory"),
        cpu=used("cpu"),
        memory=used("memory"),
        measured=moment(metrics["timestamp"]) if metrics else None,
        window=_seconds(metrics["window"]) if metrics else 0,
    )


def _seconds(duration: str) -> float:
    """Read a Go duration of the metrics API: 15.012s, 1m0.5s."""
    minutes, _, seconds = duration.removesuffix("s").rpartition("m")
    return float(minutes or 0) * 60 + float(seconds or 0)


def synced(autoscaler: dict[str, Any]) -> float | None:
    """Return when the HPA's status was last written."""
    fields = autoscaler["metadata"].get("managedFields", [])
    times = [moment(field["time"]) for field in fields if field.get("subresource") == "status"]
    return max((time for time in times if time), default=None)


def happened(item: dict[str, Any]) -> Event | None:
    """Return the flight record's event for one of Kubernetes's, or None for what is of no interest there."""
    kind, reason = item["involvedObject"]["kind"], item["reason"]
    text = f"{item['involvedObject']['name']}: {reason}: {item['message']}"
    at = moment(item.get("lastTimestamp") or item.get("eventTime")) or time.time()
    if kind == "HorizontalPodAutoscaler":
        return Event(at, "hpa", text)
    if kind == "Deployment":
        return Event(at, "deploy", text)
    if kind == "Pod" and reason == "Killing":
        return Event(at, "kill", text)
    return Event(at, "warning", text) if item["type"] == "Warning" else None
