"""Wait until something applied is there, or raise why it will not be."""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tooling.deploy import DeployError
from tooling.deploy.kube import Kube, Object, labels
from tooling.deploy.steps import Log

REVISION = "deployment.kubernetes.io/revision"
CLUSTER = "cluster.postgresql.cnpg.io"
"""The resource by which kubectl knows a cluster of PostgreSQL; other operators have a `cluster` too."""

HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
"""Reasons of a waiting container that no further waiting mends."""

PASSING = "failed to sync"
"""The kubelet's message while it does not have a ConfigMap or Secret yet: it tries again."""

JOB_SECONDS = 3600
"""How long a Job may take that sets no limit of its own."""

STATEFUL_SECONDS = 300
"""How long each pod of a StatefulSet may take, which has no deadline of its own: to find a volume, to get its image."""

MARGIN = 60
"""Seconds in which a controller notes that the time is up, or that what failed before the rollout fails no more."""

NO_ACCESS = re.compile(
    r"unauthori[sz]ed|denied|forbidden|authentication required|no basic auth|\b40[13]\b", re.IGNORECASE
)
"""What a registry answers to a pull without the right credentials."""

LOG_LINES = 15
EVENTS = 8


@dataclass(frozen=True)
class State:
    """How far something is: `done`, or not, and then how far; `failure` when it never will be."""

    done: bool
    text: str
    failure: str = ""
    since: str = ""
    """When its controller noted the failure."""


def workload_state(item: Object) -> State:
    """Judge a Deployment, StatefulSet, Job or cluster of PostgreSQL by its status alone."""
    spec, status = item["spec"], item.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}

    def holds(name: str) -> bool:
        return bool(conditions.get(name, {}).get("status") == "True")

    if item["kind"] == "Job":
        failure = conditions["Failed"]["message"] if holds("Failed") else ""
        return State(holds("Complete"), f"{status.get('active', 0)} running", failure)
    if item["kind"] == "Cluster":
        ready, wanted = status.get("readyInstances", 0), spec["instances"]
        text = f"{ready}/{wanted} instances ready: {status.get('phase', 'not seen by its operator yet')}"
        data = status.get("pgDataImageInfo", {}).get("image")  # of a major upgrade the operator notes it at its end
        return State(ready == wanted and holds("Ready") and data == spec["imageName"], text)
    wanted = spec["replicas"]
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    ready = status.get("availableReplicas", 0)
    text = f"{updated}/{wanted} updated, {ready}/{wanted} available"
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return State(False, "not seen by its controller yet")
    failed = conditions.get("ReplicaFailure") if holds("ReplicaFailure") else None
    if conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded":
        failed = failed or conditions["Progressing"]
    if failed:
        return State(False, text, failed["message"], failed.get("lastUpdateTime", ""))
    return State(updated == wanted == total == ready, text)


def upgrade(kube: Kube, cluster: Object) -> str:
    """Return from which major version of PostgreSQL to which a deploy would bring a cluster; empty for none."""
    data = (kube.get(CLUSTER, cluster["metadata"]["name"]) or {}).get("status", {}).get("pgDataImageInfo")
    if data is None:
        return ""
    there, wanted = data["majorVersion"], major(cluster["spec"]["imageName"])
    return f"{there} and {wanted}" if there != wanted else ""


def major(image: str) -> int:
    """Return the major version of PostgreSQL in an image, by its tag, as CloudNativePG reads it."""
    return int(re.findall(r"\d+", image.partition("@")[0].rpartition(":")[2])[0])


def pod_failure(pod: Object) -> str:
    """Return why a pod does not come up; an empty text where it still may."""
    status = pod.get("status", {})
    for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
        waiting = container["state"].get("waiting", {})
        if waiting.get("reason") in HOPELESS and PASSING not in waiting.get("message", ""):
            ended = container.get("lastState", {}).get("terminated", {})
            how = f"; it ended with status {ended['exitCode']} ({ended['reason']})" if ended else ""
            return f"{waiting['reason']}: {waiting.get('message', 'no message')}{how}{_remedy(pod, container, waiting)}"
        ended = container["state"].get("terminated", {})
        if ended.get("exitCode") and pod["spec"]["restartPolicy"] == "Never":
            return f"{container['name']} ended with status {ended['exitCode']} ({ended['reason']})"
    return ""


def _remedy(pod: Object, container: Object, waiting: Object) -> str:
    """Return the command that makes the missing credentials, where the registry has refused a pull for lack of them."""
    if waiting["reason"] != "ImagePullBackOff" or not NO_ACCESS.search(waiting.get("message", "")):
        return ""
    secret = next((one["name"] for one in pod["spec"].get("imagePullSecrets", [])), "registry")
    server = container.get("image", "").partition("/")[0]
    namespace = pod["metadata"].get("namespace", "default")
    return (
        f"\nthe registry needs credentials: `kubectl --namespace {namespace} create "
        f"secret docker-registry {secret} --docker-server={server} --docker-username=NAME --docker-password=TOKEN`, "
        "then deploy again"
    )


def pod_news(pods: Iterable[Object]) -> str:
    """Return what the pods that are not ready wait for."""
    news = set()
    for pod in pods:
        status = pod.get("status", {})
        for condition in status.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                news.add(condition.get("message", "not scheduled"))
        for container in status.get("containerStatuses", []):
            if not container["ready"]:
                state, detail = next(iter(container["state"].items()))
                news.add(detail.get("reason", "starting" if state == "running" else state))
    return ", ".join(sorted(news))


def pods_of(kube: Kube, item: Object) -> list[Object]:
    """Return a workload's pods; of a Deployment only those of its newest revision."""
    if item["kind"] == "Cluster":
        return kube.find("pod", f"cnpg.io/cluster={item['metadata']['name']}")
    selector = dict(item["spec"]["selector"]["matchLabels"])
    if item["kind"] == "Deployment":
        newest = revision(item)
        for replica_set in kube.find("replicaset", labels(selector)):
            if revision(replica_set) == newest:
                selector = replica_set["spec"]["selector"]["matchLabels"]
    return [pod for pod in kube.find("pod", labels(selector)) if "deletionTimestamp" not in pod["metadata"]]


def revision(item: Object) -> int:
    """Return the revision of a Deployment or of one of its ReplicaSets; 0 before its controller has seen it."""
    return int(item["metadata"].get("annotations", {}).get(REVISION, 0))


def evidence(kube: Kube, pod: Object) -> str:
    """Return a pod's events and its last log lines as text; a pod of the same name before it has events of its own."""
    name, uid = pod["metadata"]["name"], pod["metadata"].get("uid", "")
    selector = ",".join([f"involvedObject.name={name}", *([f"involvedObject.uid={uid}"] if uid else [])])
    events = json.loads(kube.run("get", "events", f"--field-selector={selector}", "--output=json"))["items"]
    lines = [f"events of pod/{name}:"]
    lines += [f"  {event['type']:8} {event['reason']:20} {event['message']}" for event in events[-EVENTS:]]
    restarts = any(container["restartCount"] for container in pod["status"].get("containerStatuses", []))
    flags = [f"--tail={LOG_LINES}", *(["--previous"] if restarts else [])]
    try:
        log = kube.run("logs", name, *flags)
    except DeployError:  # no container has run yet
        log = ""
    lines += (
        [f"last log lines of pod/{name}:", *(f"  {line}" for line in log.splitlines())]
        if log
        else ["  (it has no log)"]
    )
    return "\n".join(lines)


def patience(item: Object) -> float:
    """Return the timeout of a workload's rollout in seconds: a little more than the cluster's own.

    A Deployment's deadline is one for each of its pods, which are replaced one after another.
    """
    spec = item["spec"]
    if item["kind"] == "Job":
        return float(spec.get("activeDeadlineSeconds", JOB_SECONDS) + MARGIN)
    copies = spec["instances"] if item["kind"] == "Cluster" else spec["replicas"]
    return float(spec.get("progressDeadlineSeconds", STATEFUL_SECONDS) * copies + MARGIN)


def wait(kube: Kube, kind: str, name: str, log: Log) -> None:
    """Wait until a Deployment, StatefulSet, Job or cluster of PostgreSQL is complete.

    Only what happens from now on counts. Pods that already wait in a back-off are restarted, because their cause may
    be mended; a failure that was noted before is believed when it is still noted after `MARGIN` seconds.
    Raises `DeployError` as soon as a pod cannot come up or the workload has failed, and when `patience` is at its end.
    """
    began, before = time.monotonic(), None
    while True:
        item = kube.get(kind, name)
        if item is None:
            raise DeployError(f"{kind}/{name} is gone")
        state = workload_state(item)
        if before is None:
            before = (state.failure, state.since)
            if kind not in ("job", CLUSTER):
                restart_waiting(kube, item, log)
        if state.done:
            log(state.text if kind != "job" else "complete")
            return
        pods = pods_of(kube, item)
        reasons = {reason: pod for pod in pods if (reason := pod_failure(pod))}
        waited = time.monotonic() - began
        stale = kind != "job" and (state.failure, state.since) == before and waited < MARGIN
        failure = next(iter(reasons), "" if stale else state.failure)
        if not failure and waited > patience(item):
            failure = f"not complete after {waited:.0f} s: {state.text}; {pod_news(pods) or 'no pod is waiting'}"
        if failure:
            witnesses = list(reasons.values()) or [pod for pod in pods if not ready(pod)]
            raise DeployError(f"{kind}/{name}: {failure}", "\n".join(evidence(kube, pod) for pod in witnesses[:1]))
        log(", ".join(filter(None, [state.text, pod_news(pods)])))
        time.sleep(0.5)


def restart_waiting(kube: Kube, item: Object, log: Log) -> None:
    """Delete a workload's pods that wait in a back-off, so that they are made again and tried at once."""
    for pod in pods_of(kube, item):
        if pod_failure(pod) or "ErrImagePull" in pod_news([pod]):
            log(f"{pod['metadata']['name']} waits since an earlier deploy ({pod_news([pod])}): restarted")
            kube.run("delete", "pod", pod["metadata"]["name"], "--wait=false", "--ignore-not-found")


def ready(pod: Object) -> bool:
    """Return whether a pod receives traffic."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def roll_back(kube: Kube, name: str, log: Log, *, to: int = 0) -> int:
    """Roll a Deployment back to its revision `to`, by default the one before the newest, and wait for its pods.

    Returns the revision rolled back to. Raises `DeployError` where there is none. The whole template is restored
    (image, settings, resources) by `apply`, so that later deploys own every field, unlike after `kubectl rollout undo`.
    """
    deployment = kube.get("deployment", name)
    if deployment is None:
        raise DeployError(f"there is no deployment/{name} to roll back")
    newest = revision(deployment)
    replica_sets = {
        revision(item): item for item in kube.find("replicaset", labels(deployment["spec"]["selector"]["matchLabels"]))
    }
    earlier = [number for number in replica_sets if number < newest]
    target = to or max(earlier, default=0)
    if target not in replica_sets:
        raise DeployError(f"deployment/{name} has no revision {to or 'before this one'}; it has {sorted(replica_sets)}")
    template = replica_sets[target]["spec"]["template"]
    template["metadata"]["labels"].pop("pod-template-hash")
    kube.apply([renewed(deployment, template)])
    wait(kube, "deployment", name, log)
    return target


def renewed(deployment: Object, template: Object) -> Object:
    """Return the Deployment with another pod template, for `apply`; the number of pods is left out."""
    spec = {key: value for key, value in deployment["spec"].items() if key != "replicas"} | {"template": template}
    metadata = {key: deployment["metadata"][key] for key in ("name", "namespace", "labels")}
    return {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "metadata": metadata, "spec": spec}
