"""The proof "database": the replicated database outlives its node, its primary and its operator, under load."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx

from e2e.load import Load, Trouble
from e2e.proofs import DEPLOYMENT, STEADY, Bench, Phase, Proof
from loadtests.cluster import watching
from locust_verdict import histogram
from locust_verdict.record import Recorder, Requests, read
from tooling.deploy import DeployError, cluster, operator, rollout, verify
from tooling.deploy.kube import Kube
from tooling.deploy.manifests import cluster_in_place
from tooling.deploy.steps import Log

OUTAGE = 30.0  # seconds that the service may answer 503 while another instance takes over
HANG = 90.0  # the same, where a person has to act
NODE_AWAY = 180.0  # seconds
PAUSED = "(Paused)"  # in the status of a container
NODE_OUTAGE = 120.0  # seconds: Kubernetes declares a node gone after 50, and the standbys wait 75 (cluster.yaml)
ANSWER_SECONDS = 1.0  # for /livez
SETTLE = 15.0
FOLLOWING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
ALL_SEEN = "2 of 3 instances"
SUSPEND = 'for p in /proc/[0-9]*; do [ "$(cat "$p/comm")" = postgres ] && kill -STOP "${p#/proc/}"; done; true'


def outliving(bench: Bench, proof: Proof) -> None:
    """Whatever happens to an instance, its node or the operator, no acknowledged write is lost or doubled."""
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context), primaries(kube, proof.recorder), load.running(STEADY):
        with proof.phase("calm", load, settle=SETTLE) as log:
            verify.until(lambda: standbys_seen(kube).removeprefix(ALL_SEEN), log, timeout=180)
            proof.check("Prometheus sees both standbys", seen := standbys_seen(kube), seen == ALL_SEEN)
        with undisturbed(proof, load, "a standby lost") as log:
            standby = next(name for name in instances(kube) if name != primary(kube))
            kube.run("delete", "pod", standby, "--force", "--grace-period=0")
            complete(kube, log)
        with undisturbed(proof, load, "the operator absent"):
            operators = replace(kube, namespace=operator.NAMESPACE)
            operators.run("scale", f"deployment/{operator.DEPLOYMENT}", "--replicas=0")
            time.sleep(SETTLE)
        operators.run("scale", f"deployment/{operator.DEPLOYMENT}", f"--replicas={operator.REPLICAS}")
        rollout.wait(operators, "deployment", operator.DEPLOYMENT, lambda _news: None)
        on_a_worker(kube, proof, load)
        with outage(proof, load, "the primary's node drained") as log:
            node = node_of(kube, primary(kube))
            kube.run("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
            rollout.wait(kube, "deployment", DEPLOYMENT, log)
        kube.run("uncordon", node)
        rollout.wait(operators, "deployment", operator.DEPLOYMENT, lambda _news: None)
        complete(kube, proof.steps.log)
        with outage(proof, load, "the primary killed") as log:
            killed(kube, log)
        complete(kube, proof.steps.log)
        on_a_worker(kube, proof, load)
        with outage(proof, load, f"the primary's node away for {NODE_AWAY:.0f} s", seconds=NODE_OUTAGE) as log:
            node = node_of(kube, primary(kube))
            load.resends = 10
            try:
                taken_over(kube, log, lambda _old: verify.until(lambda: freezing(node), log, timeout=60))
                began = proof.steps.seconds
                verify.until(lambda: waiting(began, NODE_AWAY, proof), log, timeout=NODE_AWAY + 60)
            finally:
                if PAUSED in cluster.run("docker", "ps", f"--filter=name=^{node}$", "--format={{.Status}}"):
                    cluster.run("docker", "unpause", node)
        with proof.phase("as before", load, settle=SETTLE) as log:
            complete(kube, log)
        load.resends = 1
        # After the node's return: a standby that has followed the old primary meanwhile would be elected now.
        hang = "the primary's processes stopped (SIGSTOP), its pod deleted"
        with outage(proof, load, hang, seconds=HANG) as log, liveness(bench, proof):
            taken_over(kube, log, lambda old: hung(kube, log, old))
        complete(kube, proof.steps.log)
    proof.ledger(load)
    proof.notes.append(
        f"{len(load.cut)} requests were sent again, because a pod of the service was on a node that was away: they "
        "hang until Kubernetes declares the node gone (50 s), whatever the database does; or because the autoscaler "
        "removed a pod after an outage, in whose queue they were"
    )


def freezing(node: str) -> str:
    """Stop all processes of a node; return an empty text, or why that has failed: it may, on a machine under load."""
    try:
        cluster.run("docker", "pause", node)
    except DeployError as error:
        return str(error)
    return ""


def waiting(began: float, seconds: float, proof: Proof) -> str:
    """Return how long is left of a wait; an empty text at its end."""
    left = seconds - (proof.steps.seconds - began)
    return f"{left:.0f} s left" if left > 0 else ""


@contextmanager
def undisturbed(proof: Proof, load: Load, name: str) -> Iterator[Log]:
    """Do something of which clients must notice nothing."""
    with proof.phase(name, load, settle=SETTLE) as log:
        yield log
    phase = proof.phases[-1]
    measured = f"{phase.failed + phase.refused} of {phase.requests}, longest {longest(proof, phase):.1f} s"
    proof.check(f"{name}: requests failed or refused: 0", measured, phase.failed + phase.refused == 0)


@contextmanager
def outage(proof: Proof, load: Load, name: str, *, seconds: float = OUTAGE) -> Iterator[Log]:
    """Do something in which the service may answer 503 with Retry-After for some `seconds`, and nothing else."""
    load.outage = True
    with proof.phase(name, load, settle=SETTLE) as log:
        yield log
    load.outage = False
    phase = proof.phases[-1]
    unavailable = [one for one in within(load.refused, phase) if one.what.startswith("503")]
    lengths = spells(one.at for one in unavailable)
    lasted = max(lengths, default=0.0)
    measured = (
        f"{phase.failed} of {phase.requests} failed, {len(unavailable)} refused in {len(lengths)} spells, "
        f"the longest {lasted:.1f} s, "
        f"longest request {longest(proof, phase):.1f} s"
    )
    claim = f"{name}: only 503 with Retry-After, for at most {seconds:.0f} s"
    proof.check(claim, measured, phase.failed == 0 and lasted <= seconds)


def within(troubles: list[Trouble], phase: Phase) -> list[Trouble]:
    """Return the troubles of a phase."""
    return [one for one in troubles if phase.start <= one.at < phase.end]


def spells(times: Iterable[float]) -> list[float]:
    """Return how long each spell of refusals lasted, in seconds; between two of them nothing is refused for `SETTLE`.

    A request that hangs in a pod of a node that is away is refused when the node returns, long after the others.
    """
    lengths, start, last = list[float](), 0.0, 0.0
    for at in sorted(times):
        if at - last >= SETTLE or not lengths:
            start = at
            lengths.append(0.0)
        lengths[-1] = at - start
        last = at
    return lengths


def longest(proof: Proof, phase: Phase) -> float:
    """Return the longest time of a response from its intended start, in seconds, of the requests of a phase."""
    requests = [e for e in read(proof.recorder.path) if isinstance(e, Requests) and phase.start <= e.at < phase.end]
    counts = histogram.add(histogram.decode(entry.intended) for entry in requests if entry.intended)
    return histogram.percentile(counts, 100) / 1000 if counts.any() else 0.0


def standbys_seen(kube: Kube) -> str:
    """Return how many standbys of how many instances the cluster's Prometheus sees, as TaskApiStandbyMissing does."""
    counts = []
    standbys = f'cnpg_pg_replication_streaming_replicas{{cnpg_io_cluster="{cluster_in_place(kube)}"}}'
    for query in (f"max({standbys})", f"count({standbys})"):
        command = ("promtool", "query", "--format=json", "instant", "http://localhost:9090", query)
        result = json.loads(kube.run("exec", "statefulset/prometheus", "--", *command))
        counts.append(next((one["value"][1] for one in result), "0"))
    return "{} of {} instances".format(*counts)


def status(kube: Kube) -> dict[str, str]:
    """Return what the operator reports of the database."""
    item = kube.get(rollout.CLUSTER, cluster_in_place(kube))
    return {} if item is None else item.get("status", {})


def primary(kube: Kube) -> str:
    """Return the name of the instance that takes writes."""
    return status(kube)["currentPrimary"]


def instances(kube: Kube) -> list[str]:
    """Return the names of the instances' pods."""
    selector = f"cnpg.io/cluster={cluster_in_place(kube)},cnpg.io/podRole=instance"
    return [pod["metadata"]["name"] for pod in kube.find("pod", selector)]


def node_of(kube: Kube, pod: str) -> str:
    """Return the node that a pod runs on. Raises `DeployError` where there is no such pod."""
    item = kube.get("pod", pod)
    if item is None:
        raise DeployError(f"there is no pod/{pod}")
    return str(item["spec"]["nodeName"])


def complete(kube: Kube, log: Log) -> None:
    """Wait until all instances are ready, and each standby follows the primary, which the operator does not look at."""
    rollout.wait(kube, rollout.CLUSTER, cluster_in_place(kube), log)
    wanted = len(instances(kube)) - 1

    def problem() -> str:
        try:
            following = int(kube.run("exec", primary(kube), "--container=postgres", "--", "psql", "-Atc", FOLLOWING))
        except DeployError as error:
            return str(error)
        return "" if following == wanted else f"{following} of {wanted} standbys follow the primary"

    verify.until(problem, log, timeout=120)


def taken_over(kube: Kube, log: Log, strike: Callable[[str], object]) -> None:
    """Strike the primary, and wait until another instance is it."""
    old = primary(kube)
    strike(old)

    def problem() -> str:
        now = status(kube)
        return "" if now.get("currentPrimary") not in ("", old, None) else f"{old} is primary: {now.get('phase')}"

    verify.until(problem, log, timeout=180)


def killed(kube: Kube, log: Log) -> None:
    """Kill the primary without notice, and wait until another instance is it."""
    taken_over(kube, log, lambda old: kube.run("delete", "pod", old, "--force", "--grace-period=0"))


def hung(kube: Kube, log: Log, instance: str) -> None:
    """Have an instance hang without ending, and do what the runbook prescribes.

    Its manager lives on and keeps the lease of the primary, so that CloudNativePG replaces it only when its pod ends.
    """
    kube.run("exec", instance, "--", "sh", "-c", SUSPEND)

    def problem() -> str:
        conditions = (kube.get("pod", instance) or {})["status"]["conditions"]
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        return f"{instance} hangs and is still ready" if ready else ""

    verify.until(problem, log, timeout=60)
    kube.run("delete", "pod", instance, "--force", "--grace-period=0")


def on_a_worker(kube: Kube, proof: Proof, load: Load) -> None:
    """Have the primary on a node that may be taken away, which the one with the API server may not.

    CloudNativePG moves it from a node that takes no new pods, to a standby that follows it.
    """
    node = node_of(kube, primary(kube))
    if "control-plane" in node:
        with outage(proof, load, "the primary moved to a worker") as log:
            kube.run("cordon", node)
            try:
                taken_over(kube, log, lambda _old: None)
            finally:
                kube.run("uncordon", node)
            complete(kube, log)


@contextmanager
def repeating(work: Callable[[], object], *, pause: float) -> Iterator[None]:
    """Do some work over and over, in a thread, with so many seconds between, while the block runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def primaries(kube: Kube, recorder: Recorder) -> Iterator[None]:
    """Record who is primary while the block runs."""
    last = ""

    def look() -> None:
        nonlocal last
        with suppress(DeployError, KeyError):
            if (now := primary(kube)) != last:
                recorder.event("primary", now)
                last = now

    with repeating(look, pause=0.5):
        yield


@contextmanager
def liveness(bench: Bench, proof: Proof) -> Iterator[None]:
    """Check that /livez answers in time while the block runs."""
    seconds, problems = [0.0], list[str]()

    def probe() -> None:
        began = time.monotonic()
        try:
            client.get("/livez").raise_for_status()
        except httpx.HTTPError as error:
            problems.append(repr(error))
        seconds.append(time.monotonic() - began)

    with httpx.Client(base_url=bench.target.url(), timeout=10) as client, repeating(probe, pause=0.25):
        yield
    measured = f"{len(seconds) - 1} probes, {len(problems)} failed, longest {max(seconds):.2f} s"
    proof.check(
        f"/livez answers within {ANSWER_SECONDS:.0f} s while the database hangs",
        measured,
        len(seconds) > 1 and not problems and max(seconds) <= ANSWER_SECONDS,
    )
    proof.notes += problems[:5]
