"""The proofs: what is done to the cluster under load, and what must hold."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import markupsafe

from e2e.load import Load
from loadtests import timeline
from loadtests.cluster import watching
from locust_verdict import histogram
from locust_verdict.record import Cluster, Event, Recorder, Requests, read
from tooling.deploy import DeployError, backup, manifests, release, rollout, verify
from tooling.deploy.kube import Kube, Object, define, labels, refused
from tooling.deploy.release import Target
from tooling.deploy.steps import Log, Steps
from tooling.kubernetes import quantity
from tooling.page import render
from tooling.project import REPORTS, ROOT, service, services
from tooling.tools import call

FOLDER = REPORTS / "e2e"
DEPLOYMENT = service().name
TEMPLATE = Path(__file__).parent / "proof.html"
BROKEN = Path(__file__).parent / "broken"
CRDS = ROOT / "k8s" / "tests" / "crds"
API = labels({"app.kubernetes.io/component": "api"})

STEADY = 20.0  # requests a second: what two pods answer at ease
RECOVERY = 10.0  # seconds that the service may refuse once PostgreSQL is ready again
PODS, SECONDS = 5, 60.0  # so many ready pods within so many seconds of the step
CALM = 40.0  # requests a second before the step, from which its size is computed
# Cores, by what a request costs in the calm: more than the 0.4 that two pods may use. Requests get cheaper when there
# are more of them (3.4 ms at 40 a second, 1.8 ms at 150), so that it comes to about 0.37.
STEP_CPU = 0.7


@dataclass
class Check:
    """One thing that must hold, and what was measured."""

    claim: str
    measured: str
    holds: bool


@dataclass
class Phase:
    """One thing that was done, with the load's figures while it was."""

    name: str
    start: float
    end: float = 0.0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    p99_ms: float | None = None


@dataclass
class Proof:
    """A proof while it runs: its record, phases and checks."""

    name: str
    title: str
    recorder: Recorder
    steps: Steps
    phases: list[Phase] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, claim: str, measured: object, holds: bool) -> None:
        """Keep a check."""
        self.checks.append(Check(claim, str(measured), holds))
        self.recorder.event("pass" if holds else "fail", f"{claim}: {measured}")

    @contextmanager
    def phase(self, name: str, load: Load | None = None, *, settle: float = 5.0) -> Iterator[Log]:
        """Do something under load, and keep watching for `settle` seconds."""
        phase = Phase(name, time.time())
        before = (load.requests, len(load.failed), len(load.refused)) if load else (0, 0, 0)
        self.recorder.event("phase", name)
        with self.steps.step(name) as log:
            yield log
            time.sleep(settle)
            phase.end = time.time()
            if load:
                after = (load.requests, len(load.failed), len(load.refused))
                phase.requests, phase.failed, phase.refused = (b - a for a, b in zip(before, after, strict=True))
                log(f"{phase.requests} requests, {phase.failed} failed, {phase.refused} refused for a while")
            self.phases.append(phase)

    def ledger(self, load: Load) -> None:
        """Check what every load must find in the end."""
        acknowledged, wrong = load.audit()
        self.check("requests failed: 0", f"{len(load.failed)} of {load.requests}", not load.failed)
        self.check(
            "each acknowledged write is read once",
            f"{acknowledged} written, {len(wrong)} wrong",
            acknowledged > 0 and not wrong,
        )
        self.notes += [f"{trouble.request}: {trouble.what}" for trouble in load.failed[:20]] + wrong[:20]

    def write(self, folder: Path) -> bool:
        """Write JSON and page, and return whether every check holds."""
        entries = list(read(self.recorder.path))
        for phase in self.phases:
            within = [e for e in entries if isinstance(e, Requests) and phase.start <= e.at < phase.end]
            counts = histogram.add(histogram.decode(entry.intended) for entry in within if entry.intended)
            phase.p99_ms = histogram.percentile(counts, 99) if counts.any() else None
        passed = bool(self.checks) and all(check.holds for check in self.checks)
        result = {
            "proof": self.name,
            "title": self.title,
            "passed": passed,
            "checks": [asdict(check) for check in self.checks],
            "phases": [asdict(phase) for phase in self.phases],
            "notes": self.notes,
        }
        (folder / "proof.json").write_text(json.dumps(result, indent=2))
        chart = timeline.figure([timeline.Flight(self.name, entries)])
        drawn = chart.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
        events = [entry for entry in entries if isinstance(entry, Event)]
        page = render(str(TEMPLATE), **result, began=entries[0].at, events=events, chart=markupsafe.Markup(drawn))
        (folder / "proof.html").write_text(page)
        return passed


@dataclass(frozen=True)
class Bench:
    """What the proofs share: the deployed target, its image, and whether one may be deployed that nobody could scan."""

    target: Target
    image: str
    accept_unassessed: bool = False

    @property
    def kube(self) -> Kube:
        """The cluster."""
        return self.target.kube


def build(folder: Path, name: str, *options: str) -> str:
    """Build an image from a folder and return its name."""
    fixed = ("--quiet", "--load", "--provenance=false", f"--tag={name}")
    call("docker", "buildx", "build", *fixed, *options, ".", cwd=folder)
    return name


def next_version(image: str) -> str:
    """Build an image that differs from `image` in a label, so that its deploy is a rolling update; return its name."""
    with TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(f"FROM {image}\nLABEL e2e=next\n")
        return build(Path(folder), f"{image}-next")


def zero_drop(bench: Bench, proof: Proof) -> None:
    """Whatever is done to the service under load, no request fails, and no acknowledged write is lost or doubled."""
    kube, newer = bench.kube, next_version(bench.image)
    load = Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context), load.running(STEADY):
        with proof.phase("calm", load, settle=10):
            pass
        with proof.phase("rolling update", load):
            release.deploy(bench.target, newer, proof.steps)
        with proof.phase("rollback", load) as log:
            rollout.roll_back(kube, DEPLOYMENT, log)
        with proof.phase("pod deleted", load, settle=10) as log:
            kube.run("delete", "pod", one_ready(kube), "--wait=false")
            rollout.wait(kube, "deployment", DEPLOYMENT, log)
        load.resends = 5  # until every node has learned that the pod is gone
        with proof.phase("pod killed", load, settle=10) as log:
            kube.run("delete", "pod", one_ready(kube), "--force", "--grace-period=0")
            rollout.wait(kube, "deployment", DEPLOYMENT, log)
        load.resends = 0
        with proof.phase("node drained", load) as log:
            drained = drain(kube, log)
            proof.notes.append(
                f"drained: {drained}, a node without PostgreSQL; draining PostgreSQL's own is not proven here"
            )
        with proof.phase("PostgreSQL restarted", load, settle=15) as log:
            restart_postgres(kube, load, log)
            ready_again = time.time()
        kube.run("uncordon", drained)
    proof.ledger(load)
    unavailable = [trouble.at for trouble in load.refused if trouble.what.startswith("503")]
    late = sum(at > ready_again + RECOVERY for at in unavailable)
    claim = f"no 503 later than {RECOVERY:.0f} s after PostgreSQL is ready again"
    over = unavailable[-1] - unavailable[0] if unavailable else 0.0
    proof.check(claim, f"{late} of {len(unavailable)}, all over {over:.1f} s", not late)
    proof.notes.append(
        f"{len(load.cut)} requests cut off when a pod was killed without notice; each was answered when sent again"
    )
    proof.notes.append(
        f"{len(load.refused) - len(unavailable)} writes got 409 with Retry-After, and sent their key again"
    )


def one_ready(kube: Kube) -> str:
    """Name a pod that gets traffic."""
    name: str = next(pod["metadata"]["name"] for pod in kube.find("pod", API) if rollout.ready(pod))
    return name


def drain(kube: Kube, log: Log) -> str:
    """Drain the worker that does not hold the database, which has one copy; return its name."""
    postgres = kube.find("pod", "app.kubernetes.io/component=database")[0]["spec"]["nodeName"]
    node = next(
        pod["spec"]["nodeName"]
        for pod in kube.find("pod", API)
        if pod["spec"]["nodeName"] != postgres and rollout.ready(pod)
    )
    log(f"draining {node}")
    kube.run("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
    rollout.wait(kube, "deployment", DEPLOYMENT, log)
    return str(node)


def restart_postgres(kube: Kube, load: Load, log: Log) -> None:
    """Restart the database; while it is away it may answer that it is unavailable."""
    load.outage = True
    kube.run("delete", "pod", "postgres-0")
    rollout.wait(kube, "statefulset", "postgres", log)


def autoscaling(bench: Bench, proof: Proof) -> None:
    """A step of load takes the service from two pods to five and more within a minute, and back after it."""
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context):
        with proof.phase("two pods", settle=0) as log:
            scaled_to(kube, 2, log, timeout=240)
        with load.running(CALM):
            with proof.phase("calm", load, settle=45):
                pass
            cost = cpu_used(kube) / CALM
            load.rate = STEP_CPU / cost
            with proof.phase("step of load", load, settle=20) as log:
                seconds = until_ready(kube, PODS, log, timeout=120)
            step = proof.phases[-1]
            sent = step.requests / (step.end - step.start)
            proof.notes.append(
                f"{cost * 1000:.2f} ms of CPU a request in the calm; the step sends {load.rate:.0f} a second"
                f" and the clients came to {sent:.0f}; where that is less, this machine has no more CPU for them"
            )
            load.rate = STEADY
            with proof.phase("after the step", load) as log:
                scaled_to(kube, 2, log, timeout=300)
    most = max(
        (sum(pod.ready for pod in e.pods) for e in read(proof.recorder.path) if isinstance(e, Cluster)), default=0
    )
    proof.check(
        f"at least {PODS} pods ready within {SECONDS:.0f} s of the step",
        f"{PODS} after {seconds:.0f} s, {most} at most",
        seconds <= SECONDS,
    )
    proof.check("back to 2 pods after it", f"{len(kube.find('pod', API))} pods", len(kube.find("pod", API)) == 2)  # noqa: PLR2004
    proof.ledger(load)


def cpu_used(kube: Kube) -> float:
    """Return the CPU that the service's pods use, in cores."""
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{kube.namespace}/pods?labelSelector={API.replace('=', '%3D')}"
    containers = [container for pod in kube.raw(path)["items"] for container in pod["containers"]]
    return sum(quantity(container["usage"]["cpu"]) for container in containers)


def until_ready(kube: Kube, pods: int, log: Log, *, timeout: float) -> float:
    """Return the seconds until so many pods are ready, infinity if `timeout` passes first."""
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        ready = sum(rollout.ready(pod) for pod in kube.find("pod", API))
        log(f"{ready} ready after {time.monotonic() - began:.0f} s")
        if ready >= pods:
            return time.monotonic() - began
        time.sleep(1)
    return float("inf")


def scaled_to(kube: Kube, pods: int, log: Log, *, timeout: float) -> None:
    """Wait until the autoscaler has scaled the service to `pods`. Raises `DeployError` after `timeout` seconds."""

    def problem() -> str:
        count = len(kube.find("pod", API))
        return "" if count == pods else f"{count} pods"

    verify.until(problem, log, timeout=timeout)


def restoring(bench: Bench, proof: Proof) -> None:
    """A deleted namespace comes back with every task: a deploy, and the newest backup."""
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    with load.running(STEADY), proof.phase("tasks are written", load, settle=15):
        pass
    with proof.phase("backup", settle=0) as log:
        log(backup.run_now(kube, f"{DEPLOYMENT}-backup", log))
    with proof.phase("namespace deleted", settle=0):
        kube.run("delete", "namespace", kube.namespace, "--wait", "--timeout=180s")
    with proof.phase("deploy", settle=0):
        release.deploy(bench.target, bench.image, proof.steps)
    with proof.phase("restore", settle=0) as log:
        summary = backup.restore(kube, DEPLOYMENT, log)
        release.migrate(bench.target, log)
        log(summary)
    proof.ledger(load)
    began, ended = (next(p for p in proof.phases if p.name == name) for name in ("deploy", "restore"))
    proof.notes.append(f"from the deploy's start to the restored service: {ended.end - began.start:.0f} s")


FAILURES = {
    "broken-image": r"ImagePullBackOff",
    "failing-migration": r"job/task-api-migration: .* status 2",
    "missing-secret": r"has no secret/task-api-missing: make them first",
    "crash-loop": r"CrashLoopBackOff",
}
"""The overlays beside this file that must not come up, and the reason that the deploy must report."""


def refusing(bench: Bench, proof: Proof) -> None:
    """A deploy that cannot work fails with the right reason, and the old version goes on serving."""
    kube, load = bench.kube, Load(bench.target.url(), proof.recorder)
    with watching(proof.recorder.path, context=kube.context), load.running(STEADY):
        for name, reason in FAILURES.items():
            before = template(kube)
            with proof.phase(name, load) as log:
                error = failing(replace(bench.target, overlay=BROKEN / name), bench.image, proof.steps)
                log(str(error).splitlines()[0] if error else "it came up")
            text = f"{error}\n{error.evidence}" if error else "it came up"
            proof.check(f"{name}: fails with the reason {reason}", text.splitlines()[0], bool(re.search(reason, text)))
            proof.check(
                f"{name}: the old pods serve",
                state(kube),
                template(kube) == before and rollout.workload_state(deployment(kube)).done,
            )
            proof.notes.append(f"{name}:\n{text}")
        before = template(kube)
        with proof.phase("foreign-image", load) as log:
            answer = foreign_image(kube)
            log(answer)
        held = "not allowed in this namespace" in answer and template(kube) == before
        proof.check("foreign-image: the cluster refuses `kubectl set image`", answer.splitlines()[0], held)
        mended(bench, proof, load)
    proof.ledger(load)


def mended(bench: Bench, proof: Proof, load: Load) -> None:
    """Check that a deploy which failed for lack of an image is repeated as it is once this machine has the image."""
    lacking = replace(bench.target, overlay=BROKEN / "broken-image")
    (image,) = re.findall(r"value: \"(.+)\"", (lacking.overlay / "kustomization.yaml").read_text())
    with proof.phase("an image lacks again", load):
        error = failing(lacking, bench.image, proof.steps)
    call("docker", "tag", bench.image, image)
    try:
        with proof.phase("it is there: the same deploy", load, settle=0):
            began = time.monotonic()
            repeated = failing(lacking, bench.image, proof.steps)
            seconds = time.monotonic() - began
    finally:
        call("docker", "image", "rm", image)
    outcome = str(repeated).splitlines()[0] if repeated else f"serves after {seconds:.0f} s"
    proof.check("mended: the deploy that failed is green when repeated", outcome, bool(error) and not repeated)
    with proof.phase("the image of before", load):
        release.deploy(bench.target, bench.image, proof.steps)


def accepting(bench: Bench, proof: Proof) -> None:
    """The cluster's API server takes every object of every overlay, in a server-side dry run."""
    whole = Kube(bench.kube.context)
    define(whole, CRDS)
    for one in services():
        elsewhere = replace(whole, namespace=f"{one.name}-dry-run")
        whole.run("create", "namespace", elsewhere.namespace)
        try:
            for overlay in one.overlays:
                name = str(overlay.relative_to(ROOT))
                objects = manifests.render(one, elsewhere, overlay, bench.image, generate_secrets=False)
                for port in (port for item in objects if item["kind"] == "Service" for port in item["spec"]["ports"]):
                    port.pop("nodePort", None)  # the deployed service has it, which shows that it is accepted
                with proof.phase(name, settle=0):
                    problems = refused(whole, objects)
                accepted = f"{len(objects)} objects" if not problems else "; ".join(problems)
                proof.check(f"{name}: every object is accepted", accepted, bool(objects) and not problems)
        finally:
            whole.run("delete", "namespace", elsewhere.namespace, "--wait=false")


def foreign_image(kube: Kube) -> str:
    """Try another image past the deploy, and return the cluster's answer."""
    try:
        return kube.run("set", "image", f"deployment/{DEPLOYMENT}", "*=registry.invalid/task-api-of-nobody:1")
    except DeployError as error:
        return str(error)


def failing(target: Target, image: str, steps: Steps) -> DeployError | None:
    """Deploy, and return the error that ended it, if any."""
    try:
        release.deploy(target, image, steps)
    except DeployError as error:
        return error
    return None


def deployment(kube: Kube) -> Object:
    """Return the service's Deployment. Raises `DeployError` where there is none."""
    item = kube.get("deployment", DEPLOYMENT)
    if item is None:
        raise DeployError(f"there is no deployment/{DEPLOYMENT}")
    return item


def template(kube: Kube) -> Object:
    """Return what the service's pods are made from."""
    pods: Object = deployment(kube)["spec"]["template"]
    return pods


def state(kube: Kube) -> str:
    """Return how many pods there are of what."""
    return f"{rollout.workload_state(deployment(kube)).text}, {template(kube)['spec']['containers'][0]['image']}"


PROOFS: dict[str, tuple[str, Callable[[Bench, Proof], None]]] = {
    "zero-drop": ("No request is lost, whatever is done to the service", zero_drop),
    "autoscaling": ("From two pods to five and back, as the load requires", autoscaling),
    "restore": ("A deleted namespace comes back with every task", restoring),
    "dry-run": ("The API server accepts every object of every overlay", accepting),
    "refusal": ("A deploy that cannot work leaves the old version serving", refusing),
}
NIGHTLY = {
    "archive": "The archive may be away for a while, and the database comes back as it was at a moment",
    "database": "The replicated database outlives its node, its primary and its operator",
    "page": "The page that stays open over a rolling update and a rollback loses no change",
    "queue-age": "Deliveries that wait add pods, which go when none waits, and each delivery arrives",
    "upgrade": "The replicated database goes to PostgreSQL's next major version in place, and nothing is lost",
    "versions": "The last release is replaced, rolled back to and replaced again, and no request is lost",
    "cloud": "Both clouds' overlays serve, back up and restore, with stand-ins for what only a cloud has",
}
"""Proofs that take long or need more: they run where they are named."""
