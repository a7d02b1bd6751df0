"""The proof "queue-age": KEDA scales notifier by the age of its queue, and down again, and nothing is lost."""

import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from e2e.database import repeating
from e2e.proofs import Bench, Proof, scaled_to
from e2e.stand_ins import gateway
from loadtests.cluster import moment, watching
from locust_verdict.record import Cluster, read
from tooling.deploy import DeployError, release, verify
from tooling.deploy.kube import Kube, Object
from tooling.deploy.release import Target
from tooling.deploy.steps import Log
from tooling.images import trust
from tooling.kubernetes import quantity

OVERLAYS = Path(__file__).parent / "queue-age"
NOTIFIER = "notifier"
METRIC = "s0-metric-api-due_seconds"
"""What KEDA calls the age: the first trigger's."""

AGES = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NOTIFIER}/{METRIC}"
AGES += f"?labelSelector=scaledobject.keda.sh%2Fname%3D{NOTIFIER}"

ACCOUNTS, CHANGES, ANSWER = 32, 6, 4.0  # each with a webhook, and so many changes; seconds that a receiver takes
ALL = ACCOUNTS * CHANGES
SECONDS = 90.0  # a pod samples its queue every 15 s, between two turns of 10 s, and the autoscaler looks every 15 s
PATIENCE = 600.0  # seconds: no outcome depends on them


class Receiver:
    """What arrives at each path: tasks in order, each when it came first, and how many came again."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[int]] = defaultdict(list)
        self.again = 0
        self._lock = threading.Lock()

    def take(self, path: str, task: int) -> None:
        """Keep a message."""
        with self._lock:
            if task in self.tasks[path]:
                self.again += 1
            else:
                self.tasks[path].append(task)

    def count(self) -> int:
        """Return how many tasks have arrived."""
        with self._lock:
            return sum(len(tasks) for tasks in self.tasks.values())

    @contextmanager
    def serving(self, host: str) -> Iterator[str]:
        """Serve on an address of this machine, slowly; yield the URL."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(ANSWER)
                receiver.take(self.path, message["data"]["id"])
                self.send_response(httpx.codes.NO_CONTENT)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer((host, 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://{host}:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()


def scaling_by_age(bench: Bench, proof: Proof) -> None:
    """Slow receivers make a queue that costs no CPU: the autoscaler reads its age, adds pods, and removes them."""
    kube, receiver, ages, written = deployed(bench, proof), Receiver(), list[float](), dict[str, list[int]]()
    least, most = limits(kube)
    with (
        receiver.serving(gateway()) as address,
        watching(proof.recorder.path, context=kube.context, namespace=kube.namespace, name=NOTIFIER),
        repeating(lambda: waiting(kube, ages), pause=5),
    ):
        with proof.phase("at rest", settle=0) as log:
            accounts = [subscribed(bench.target.url(), f"{address}/{number}") for number in range(ACCOUNTS)]
            scaled_to(kube, least, log, timeout=PATIENCE)
        with proof.phase(f"{ALL} changes for {ACCOUNTS} receivers that take {ANSWER:.0f} s each", settle=0) as log:
            began = time.time()
            written |= {f"/{number}": changed(client) for number, client in enumerate(accounts)}
            reason = scaled_up(kube, began, log)
            up = time.time() - began
        with proof.phase("until all have arrived", settle=0) as log:
            verify.until(lambda: arriving(receiver), log, timeout=PATIENCE)
            arrived = time.time() - began
            verify.until(lambda: waiting(kube, ages), log, timeout=PATIENCE)
        with proof.phase("after it", settle=0) as log:
            emptied = time.time()
            scaled_to(kube, least, log, timeout=PATIENCE)
            down = time.time() - emptied
    states = [entry for entry in read(proof.recorder.path) if isinstance(entry, Cluster) and entry.at >= began]
    ready = max(sum(pod.ready for pod in entry.pods) for entry in states)
    wrong = [path for path, ids in written.items() if receiver.tasks[path] != ids]
    claim = f"the first scale-up comes within {SECONDS:.0f} s, by the age of the queue"
    proof.check(claim, f"after {up:.0f} s: {reason}", up <= SECONDS and METRIC in reason)
    proof.check(f"as many as {most} pods are ready", f"{ready} ready at most", ready == most)
    proof.check("the age rises, and falls to nothing", f"{max(ages):.0f} s at most, then 0 s", max(ages) > 0)
    proof.check(
        "every change arrives, in the order of each webhook",
        f"{receiver.count()} of {ALL} within {arrived:.0f} s, {receiver.again} of them again",
        not wrong,
    )
    proof.check(f"back to {least} pods", f"{down:.0f} s after the queue was empty", holds=True)
    shares = [sum(pod.cpu or 0 for pod in e.pods) / sum(pod.cpu_request for pod in e.pods) for e in states if e.pods]
    proof.notes.append(f"CPU: {max(shares):.0%} of the pods' request at most")
    proof.notes += [f"{path}: {receiver.tasks[path]} arrived, {written[path]} were written" for path in wrong]
    proof.notes.append("shortened: pods go once none of them was needed for 60 s, where the base waits 300 s")


def deployed(bench: Bench, proof: Proof) -> Kube:
    """Deploy the Task API with webhooks, and notifier with KEDA; return notifier's namespace."""
    release.deploy(replace(bench.target, overlay=OVERLAYS / "task-api"), bench.image, proof.steps)
    target = replace(Target.of("kind-queue-age", name=NOTIFIER), overlay=OVERLAYS / NOTIFIER)
    with proof.steps.step("image of notifier") as log:
        image = trust.built_here(target.service, log, accept_unassessed=bench.accept_unassessed)
    release.deploy(target, image, proof.steps)
    return target.kube


def limits(kube: Kube) -> tuple[int, int]:
    """Return the least and the most pods of the autoscaler that KEDA has made."""
    spec = (kube.get("horizontalpodautoscaler", NOTIFIER) or {})["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


def age(kube: Kube) -> float:
    """Return the age of the queue as the autoscaler gets it, in seconds. Raises `DeployError` where it gets none."""
    (item,) = kube.raw(AGES)["items"]
    return quantity(item["value"])


def waiting(kube: Kube, ages: list[float]) -> str:
    """Keep the age of the queue; return it as a text, empty where nothing waits, or why it cannot be read."""
    try:
        ages.append(age(kube))
    except DeployError as error:
        return str(error)
    return f"{ages[-1]:.0f} s old" if ages[-1] else ""


def subscribed(url: str, address: str) -> httpx.Client:
    """Return a client of a new account whose changes are sent to an address."""
    client = httpx.Client(base_url=url, timeout=30)
    verify.log_in(client, {"email": f"e2e-{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(24)})
    client.post("/webhooks", json={"url": address}).raise_for_status()
    return client


def changed(client: httpx.Client) -> list[int]:
    """Create an account's tasks at once; return their ids."""
    operations: list[Object] = [{"op": "create", "task": {"title": f"task {number}"}} for number in range(CHANGES)]
    results = client.post("/tasks/bulk", json={"operations": operations}).raise_for_status().json()["results"]
    return [result["id"] for result in results]


def scaled_up(kube: Kube, began: float, log: Log) -> str:
    """Wait until the autoscaler has scaled up; return its reason."""
    seen: list[str] = []

    def problem() -> str:
        seen[:] = [
            event["message"]
            for event in kube.find("event")
            if event["reason"] == "SuccessfulRescale" and (moment(event["lastTimestamp"]) or 0) >= int(began)
        ]
        return "" if seen else "the autoscaler has not scaled up yet"

    verify.until(problem, log, timeout=PATIENCE)
    return seen[0]


def arriving(receiver: Receiver) -> str:
    """Return how many have arrived; an empty text once all have."""
    count = receiver.count()
    return "" if count == ALL else f"{count} have arrived"
