"""The HorizontalPodAutoscaler's algorithm (Kubernetes 1.34, autoscaling/v2): replay a flight record, and ask what if.

Replay: at each sync the controller made, the simulator gets what the controller saw and decides; both are compared.
What if: the load of the record meets simulated pods under other settings, or many times the load.

`invoke hpa [--record FILE] [--what-if cpu=60,max=20,load=10]`; exit status 0, or 1 when the replay matches fewer
than 90 % of the decisions, 2 when the record holds nothing to replay.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls

from loadtests import histogram, timeline
from loadtests.record import BadRecordError, Cluster, Entry, Event, Pod, Requests, Sample, read
from tooling.project import REPORTS

SYNC_SECONDS = 15.0
REQUIRED_MATCH = 0.9
SATURATED = 0.9  # of its CPU limit: such a pod does not say what it would have used
METRICS_SECONDS = 15.0  # metrics-server's resolution
LONGEST_GAP = 2.5  # polls of the watcher may be this many seconds older than the sync they stand for


@dataclass(frozen=True)
class Policy:
    """At most so many pods, or so many per cent of the pods, in a period."""

    kind: str
    value: int
    seconds: float


@dataclass(frozen=True)
class Rules:
    """`behavior.scaleUp` or `behavior.scaleDown`."""

    window: float
    policies: tuple[Policy, ...]
    select: str = "Max"
    tolerance: float = 0.1


UP = Rules(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
DOWN = Rules(300, (Policy("Percent", 100, 15),))


@dataclass(frozen=True)
class Settings:
    """What decides: the HPA's spec, and the controller's own flags at their defaults."""

    least: int
    most: int
    targets: Mapping[str, int]  # resource -> average utilization in % of the request
    up: Rules = UP
    down: Rules = DOWN
    cpu_initialization: float = 300
    initial_readiness: float = 30

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Settings":
        """Read an HPA's spec. Raises UnsupportedError for metrics other than resource utilization."""
        targets = {}
        for metric in spec["metrics"]:
            if metric["type"] != "Resource" or "averageUtilization" not in metric["resource"]["target"]:
                raise UnsupportedError(f"only the utilization of cpu and memory is simulated, not {metric}")
            targets[metric["resource"]["name"]] = metric["resource"]["target"]["averageUtilization"]
        behavior = spec.get("behavior", {})
        up, down = (_rules(behavior.get(name, {}), default) for name, default in (("scaleUp", UP), ("scaleDown", DOWN)))
        return cls(spec.get("minReplicas", 1), spec["maxReplicas"], targets, up, down)


def _rules(given: Mapping[str, Any], default: Rules) -> Rules:
    policies = tuple(Policy(p["type"], p["value"], p["periodSeconds"]) for p in given.get("policies", ()))
    return Rules(
        given.get("stabilizationWindowSeconds", default.window),
        policies or default.policies,
        given.get("selectPolicy", "Max"),
        float(given.get("tolerance", default.tolerance)),
    )


class UnsupportedError(ValueError):
    """The autoscaler uses something that is not simulated."""


class NothingToReplayError(ValueError):
    """The record lacks what a replay needs."""


class Decision(msgspec.Struct, frozen=True):
    """What the controller decides at a sync, and why."""

    replicas: int
    reason: str


class Controller:
    """The controller of one HPA, with what it remembers: recommendations, and how it scaled lately."""

    def __init__(self, settings: Settings, at: float, replicas: int) -> None:
        self._settings = settings
        self._recommendations = [(at, replicas)]
        self._events: list[tuple[float, int]] = []  # (when, pods added, or taken away: negative)

    def decide(self, at: float, replicas: int, pods: Sequence[Pod]) -> Decision:
        """Decide at a sync, from the replicas asked for now and the pods there are."""
        settings = self._settings
        if replicas == 0:
            return Decision(0, "scaling is disabled at zero replicas")
        if replicas > settings.most or replicas < settings.least:
            return Decision(min(max(replicas, settings.least), settings.most), "outside minimum and maximum")
        proposals = {resource: self.propose(resource, at, replicas, pods) for resource in settings.targets}
        valid = {resource: number for resource, number in proposals.items() if number is not None}
        if not valid:
            return Decision(replicas, "no metrics")
        resource, wanted = max(valid.items(), key=lambda item: item[1])
        if len(valid) < len(proposals) and wanted < replicas:
            return Decision(replicas, "a metric is missing, so no scaling down")
        stable = self._stabilize(at, replicas, wanted)
        allowed = self._limit(at, replicas, stable)
        reason = f"{resource} asks for {wanted}"
        if stable != wanted:
            reason += f", stabilized {stable}"
        if allowed != stable:
            reason += f", limited to {allowed}"
        return Decision(allowed, reason)

    def scaled(self, at: float, before: int, after: int) -> None:
        """Remember that the number of replicas was changed."""
        if after != before:
            self._events.append((at, after - before))

    def propose(self, resource: str, at: float, replicas: int, pods: Sequence[Pod]) -> int | None:
        """Give the replicas that one metric asks for, None without metrics (the controller's `GetResourceReplicas`)."""
        requests = {pod.name: pod.cpu_request if resource == "cpu" else pod.memory_request for pod in pods}
        usage, unready, missing = self._group(resource, at, pods)
        ready = len(usage)
        ratio = self._ratio(resource, usage, requests)
        if ratio is None:
            return None
        rebalance = bool(unready) and ratio > 1
        if not rebalance and not missing:
            return replicas if self._tolerated(ratio) else math.ceil(ratio * ready)
        if ratio < 1:
            share = max(100, self._settings.targets[resource]) / 100
            usage |= {name: requests[name] * share for name in missing}
        elif ratio > 1:
            usage |= dict.fromkeys(missing, 0.0)
        if rebalance:
            usage |= dict.fromkeys(unready, 0.0)
        again = self._ratio(resource, usage, requests)
        assert again is not None  # usage only grew
        if self._tolerated(again) or (ratio < 1 < again) or (again < 1 < ratio):
            return replicas
        wanted = math.ceil(again * len(usage))
        backwards = (again < 1 and wanted > replicas) or (again > 1 and wanted < replicas)
        return replicas if backwards else wanted

    def _group(self, resource: str, at: float, pods: Sequence[Pod]) -> tuple[dict[str, float], list[str], list[str]]:
        """Give the usage of the pods that count, the pods that are not ready, and those without metrics."""
        usage: dict[str, float] = {}
        unready, missing = [], []
        for pod in pods:
            used = pod.cpu if resource == "cpu" else pod.memory
            if resource == "cpu" and used is not None:
                used = math.ceil(used * 1000 - 1e-6) / 1000  # the controller counts begun thousandths of a core
            if pod.deleting or pod.phase == "Failed":
                continue
            if pod.phase == "Pending" or (used is not None and resource == "cpu" and self._unready(pod, at)):
                unready.append(pod.name)
            elif used is None:
                missing.append(pod.name)
            else:
                usage[pod.name] = used
        return usage, unready, missing

    def _unready(self, pod: Pod, at: float) -> bool:
        """Say whether a pod's CPU does not count yet: it starts up, or was never ready."""
        if pod.started is None or pod.ready_changed is None:
            return True
        if pod.started + self._settings.cpu_initialization > at:
            return not pod.ready or (pod.measured or 0) < pod.ready_changed + pod.window
        return not pod.ready and pod.started + self._settings.initial_readiness > pod.ready_changed

    def _ratio(self, resource: str, usage: Mapping[str, float], requests: Mapping[str, float]) -> float | None:
        asked = sum(requests[name] for name in usage)
        if not asked:
            return None
        utilization = int(sum(usage.values()) * 100 / asked + 1e-9)  # whole per cent, as the controller computes
        return utilization / self._settings.targets[resource]

    def _tolerated(self, ratio: float) -> bool:
        return 1 - self._settings.down.tolerance <= ratio <= 1 + self._settings.up.tolerance

    def _stabilize(self, at: float, replicas: int, wanted: int) -> int:
        up, down = self._settings.up.window, self._settings.down.window
        lowest = min([wanted, *(number for when, number in self._recommendations if when > at - up)])
        highest = max([wanted, *(number for when, number in self._recommendations if when > at - down)])
        kept = [(when, number) for when, number in self._recommendations if when > at - max(up, down)]
        self._recommendations = [*kept, (at, wanted)]
        return min(max(replicas, lowest), highest)

    def _limit(self, at: float, replicas: int, wanted: int) -> int:
        settings = self._settings
        if wanted > replicas:
            limit = max(self._bound(settings.up, at, replicas, 1), replicas)
            return min(wanted, limit, settings.most)
        if wanted < replicas:
            limit = min(self._bound(settings.down, at, replicas, -1), replicas)
            return max(wanted, limit, settings.least)
        return min(max(wanted, settings.least), settings.most)

    def _bound(self, rules: Rules, at: float, replicas: int, sign: int) -> int:
        if rules.select == "Disabled":
            return replicas
        bounds = []
        for policy in rules.policies:
            start = replicas - sum(change for when, change in self._events if when > at - policy.seconds)
            if policy.kind == "Pods":
                bounds.append(start + sign * policy.value)
            else:
                share = start * (1 + sign * policy.value / 100)
                bounds.append(math.ceil(share) if sign > 0 else int(share))
        widest = (rules.select == "Max") == (sign > 0)
        return max(bounds) if widest else min(bounds)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One sync of the controller: what was seen to follow, and what the simulator decides."""

    at: float
    before: int
    observed: int
    predicted: int
    reason: str


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A record replayed. `match` is the share of the syncs where the simulator decided as the controller did."""

    steps: list[Step]
    match: float
    rescales: int
    rescales_matched: int

    @property
    def text(self) -> str:
        """Say it in one sentence."""
        share = f"{100 * self.match:.1f} % of {len(self.steps)} decisions"
        return (
            f"the simulator made {share} as the controller did, and {self.rescales_matched} of {self.rescales} rescales"
        )


def _states(entries: Iterable[Entry]) -> list[Cluster]:
    states = [entry for entry in entries if isinstance(entry, Cluster)]
    if len(states) < 2:  # noqa: PLR2004
        raise NothingToReplayError("the record holds no states of a cluster: was it made with --cluster?")
    return states


def syncs(states: Sequence[Cluster]) -> list[float]:
    """Give when the controller synced.

    The status is written only where something changed in it; between two writes the controller synced every 15 s.
    """
    seen = sorted({state.synced for state in states if state.synced and state.synced >= states[0].at - SYNC_SECONDS})
    seen = seen or [states[0].at]
    times: list[float] = [seen[0]]
    for last, this in [*pairwise(seen), (seen[-1], states[-1].at)]:
        steps = max(round((this - last) / SYNC_SECONDS), 1)
        width = (this - last) / steps if this in seen else SYNC_SECONDS
        times += [last + width * (step + 1) for step in range(steps)]
    return [at for at in times if states[0].at < at < states[-1].at - LONGEST_GAP]


def replay(entries: Iterable[Entry]) -> Replay:
    """Hold the simulator against a record, sync by sync. Raises NothingToReplayError and UnsupportedError."""
    states = _states(entries)
    settings = Settings.from_spec(states[0].autoscaler)
    # What was recommended before the record began is unknown: nothing, or always as many as there were. As long as that
    # makes a difference, it is not the simulator's decision that would be held against the controller's.
    controllers = [Controller(settings, states[0].at - age, states[0].replicas) for age in (0, math.inf)]
    moments = np.array([state.at for state in states])
    times = syncs(states)
    steps = []
    for at, following in zip(times, [*times[1:], states[-1].at], strict=True):
        seen = states[max(int(np.searchsorted(moments, at, side="left")) - 1, 0)]
        after = states[max(int(np.searchsorted(moments, following, side="left")) - 1, 0)]
        decision, other = (controller.decide(at, seen.replicas, seen.pods) for controller in controllers)
        for controller in controllers:
            controller.scaled(at, seen.replicas, after.replicas)
        if decision.replicas != other.replicas:
            continue
        steps.append(
            Step(
                at=at,
                before=seen.replicas,
                observed=after.replicas,
                predicted=decision.replicas,
                reason=decision.reason,
            )
        )
    if not steps:
        raise NothingToReplayError("the record is too short: it holds no sync of the autoscaler's controller")
    rescales = [step for step in steps if step.observed != step.before]
    return Replay(
        steps=steps,
        match=sum(step.observed == step.predicted for step in steps) / len(steps),
        rescales=len(rescales),
        rescales_matched=sum(step.observed == step.predicted for step in rescales),
    )


@dataclass(frozen=True)
class Load:
    """What the record's load asks of the pods: cores by second, what a pod uses idle, and what pods are like."""

    start: float
    cores: np.ndarray[Any, np.dtype[np.float64]]
    idle: float
    request: float
    limit: float
    memory: float
    memory_request: float
    start_seconds: float
    replicas: int
    censored: bool = field(default=False)  # pods were at their limits, and would have used more


def load_of(entries: Sequence[Entry]) -> Load:
    """Estimate the load from a record: CPU a request times requests a second; without requests, the CPU used.

    Raises NothingToReplayError where no pod was ever measured.
    """
    states = _states(entries)
    length = math.ceil(states[-1].at - states[0].at) + 1
    pods = [pod for state in states for pod in state.pods if pod.cpu is not None and pod.cpu_request]
    if not pods:
        raise NothingToReplayError("no pod of the record has metrics")
    rates = np.zeros(length)
    for entry in entries:
        if isinstance(entry, Requests) and 0 <= (place := int(entry.at - states[0].at)) < length:
            rates[place] += histogram.decode(entry.latency).sum()
    limit = pods[0].cpu_limit or math.inf
    rows, used = [], []
    for state in states:
        measured = [pod for pod in state.pods if pod.cpu is not None and pod.measured is not None]
        if measured and all((pod.cpu or 0) < SATURATED * limit for pod in measured):
            end = int(np.median([pod.measured or 0 for pod in measured]) - states[0].at)
            window = rates[max(end - int(measured[0].window or METRICS_SECONDS), 0) : max(end, 1)]
            rows.append([len(measured), float(window.mean()) if len(window) else 0.0])
            used.append(sum(pod.cpu or 0 for pod in measured))
    if rates.any() and rows:
        (idle, each), _ = nnls(np.array(rows), np.array(used))
        cores = each * rates
    else:
        idle = 0.0
        totals = [sum(pod.cpu or 0 for pod in state.pods) for state in states]
        cores = np.interp(np.arange(length), [state.at - states[0].at for state in states], totals)
    return Load(
        start=states[0].at,
        cores=cores,
        idle=float(idle),
        request=pods[0].cpu_request,
        limit=limit,
        memory=float(np.median([pod.memory or 0 for pod in pods])),
        memory_request=pods[0].memory_request,
        start_seconds=_start_seconds(states),
        replicas=states[0].replicas,
        censored=any((pod.cpu or 0) >= SATURATED * limit for pod in pods),
    )


def _start_seconds(states: Sequence[Cluster]) -> float:
    """Give how long a pod takes from its start until it is ready: the median of those that the record saw start."""
    ready = {
        pod.name: pod.ready_changed - pod.started
        for state in states
        for pod in state.pods
        if pod.ready and pod.started and pod.ready_changed and pod.started > states[0].at
    }
    return float(np.median(list(ready.values()))) if ready else 10.0


class Second(msgspec.Struct, frozen=True):
    """One simulated second."""

    at: float
    replicas: int
    ready: int
    utilization: float  # % of the request, of the pods that are ready
    missing: float  # cores that were asked for and not there


@dataclass
class _Pod:
    name: str
    started: float
    ready: float
    used: list[float] = field(default_factory=list)  # cores, second by second


def simulate(settings: Settings, load: Load) -> list[Second]:
    """Let the load meet pods that a simulated autoscaler manages."""
    controller = Controller(settings, load.start, load.replicas)
    replicas = load.replicas
    pods = [_Pod(f"pod-{number}", load.start - 1000, load.start - 990) for number in range(replicas)]
    measured: dict[str, tuple[float, float]] = {}
    seconds = []
    made = replicas
    for place, cores in enumerate(load.cores.tolist()):
        at = load.start + place
        serving = [pod for pod in pods if pod.ready <= at]
        share = cores / len(serving) + load.idle if serving else 0.0
        for pod in pods:
            pod.used.append(min(share, load.limit) if pod in serving else min(load.limit, load.request))
        if place and place % METRICS_SECONDS == 0:
            for pod in pods:
                if len(pod.used) >= METRICS_SECONDS:
                    measured[pod.name] = (at, float(np.mean(pod.used[-int(METRICS_SECONDS) :])))
        if place and place % SYNC_SECONDS == 0:
            decision = controller.decide(at, replicas, [_seen(pod, measured.get(pod.name), load, at) for pod in pods])
            controller.scaled(at, replicas, decision.replicas)
            for _ in range(decision.replicas - replicas):
                pods.append(_Pod(f"pod-{made}", at, at + load.start_seconds))
                made += 1
            replicas = decision.replicas
            pods = sorted(pods, key=lambda pod: pod.ready)[:replicas]  # a deployment takes the youngest away first
        possible = len(serving) * max(load.limit - load.idle, 0)
        utilization = 100 * min(share, load.limit) / load.request
        seconds.append(Second(at, replicas, len(serving), utilization, max(cores - possible, 0.0)))
    return seconds


def _seen(pod: _Pod, measured: tuple[float, float] | None, load: Load, at: float) -> Pod:
    return Pod(
        name=pod.name,
        phase="Running",
        ready=pod.ready <= at,
        started=pod.started,
        ready_changed=pod.ready if pod.ready <= at else pod.started,
        cpu_request=load.request,
        cpu_limit=load.limit,
        memory_request=load.memory_request,
        cpu=measured[1] if measured else None,
        memory=load.memory if measured else None,
        measured=measured[0] if measured else None,
        window=METRICS_SECONDS,
    )


class BadQuestionError(ValueError):
    """A --what-if that cannot be read."""


def ask(question: str, settings: Settings, load: Load) -> tuple[Settings, Load]:
    """Apply a question such as `cpu=60,max=20,load=10`. Raises BadQuestionError that names what can be asked."""
    for part in question.split(","):
        found = re.fullmatch(r"\s*(\w+)=(\d+(?:\.\d+)?)\s*", part)
        if not found:
            raise BadQuestionError(f"{part!r} is not of the form name=number; {KNOWN}")
        name, value = found[1], float(found[2])
        up, down = settings.up, settings.down
        changes: dict[str, dict[str, Any]] = {
            "cpu": {"targets": {**settings.targets, "cpu": int(value)}},
            "memory": {"targets": {**settings.targets, "memory": int(value)}},
            "min": {"least": int(value)},
            "max": {"most": int(value)},
            "up": {"up": replace(up, window=value)},
            "down": {"down": replace(down, window=value)},
            "tolerance": {"up": replace(up, tolerance=value), "down": replace(down, tolerance=value)},
        }
        if name in changes:
            settings = replace(settings, **changes[name])
        elif name == "load":
            load = replace(load, cores=load.cores * value)
        elif name == "start":
            load = replace(load, start_seconds=value)
        else:
            raise BadQuestionError(f"{name!r} cannot be asked; {KNOWN}")
    if settings.least > settings.most or min(settings.targets.values()) < 1 or settings.least < 1:
        raise BadQuestionError(f"{question}: min has to be 1 or more and at most max, and targets 1 % or more")
    return settings, load


KNOWN = (
    "known are cpu and memory (targets in %), min, max, up and down (stabilization windows in seconds), tolerance, "
    "load (times the recorded one) and start (seconds until a pod is ready)"
)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation came to."""

    question: str
    most_replicas: int
    short_seconds: int
    missing_core_seconds: float
    pod_hours: float

    @property
    def text(self) -> str:
        """Say it in one sentence."""
        short = f"{self.short_seconds} s short of CPU" if self.short_seconds else "never short of CPU"
        return f"{self.question}: up to {self.most_replicas} pods, {short}, {self.pod_hours:.2f} pod hours"


def answer(question: str, seconds: Sequence[Second]) -> Answer:
    """Sum a simulation up."""
    return Answer(
        question=question,
        most_replicas=max(second.replicas for second in seconds),
        short_seconds=sum(second.missing > 0 for second in seconds),
        missing_core_seconds=sum(second.missing for second in seconds),
        pod_hours=sum(second.replicas for second in seconds) / 3600,
    )


def samples(question: str, seconds: Sequence[Second]) -> list[Sample]:
    """Give a simulation's course as lines for the record's charts."""
    return [
        sample
        for second in seconds[::5]
        for sample in (
            Sample(second.at, "pods", second.replicas, question, "pods"),
            Sample(second.at, "simulated CPU", second.utilization, question, "% of request"),
            Sample(second.at, "cores missing", second.missing, question, "cores"),
        )
    ]


def newest() -> Path:
    """Give the newest record that saw a cluster. Raises NothingToReplayError where there is none."""
    records = sorted(REPORTS.glob("*/**/record.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    for record in records:
        if any(isinstance(entry, Cluster) for entry in read(record)):
            return record
    raise NothingToReplayError(
        f"no record under {REPORTS} saw a cluster: make one with `invoke load --cluster CONTEXT`"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay, ask, and draw."""
    parser = argparse.ArgumentParser(
        prog="hpa", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, nargs="?", help="a flight record made with --cluster; else the newest one")
    parser.add_argument("--what-if", action="append", default=[], metavar="NAME=NUMBER,...", help=KNOWN)
    options = parser.parse_args(arguments)
    try:
        record = options.record or newest()
        entries = list(read(record))
        replayed = replay(entries)
        print(replayed.text)
        for step in replayed.steps:
            if step.observed != step.predicted:
                after = step.at - replayed.steps[0].at
                print(f"  {after:6.0f} s: {step.before} to {step.observed}, simulated {step.predicted} ({step.reason})")
        load = load_of(entries)
        settings = Settings.from_spec(_states(entries)[0].autoscaler)
        questions = {"simulated": (settings, load), **{q: ask(q, settings, load) for q in options.what_if}}
    except (OSError, BadRecordError, NothingToReplayError, UnsupportedError, BadQuestionError) as error:
        print(f"hpa: {error}", file=sys.stderr)
        return 2
    if load.censored:
        print("pods were at their CPU limits: the load is at least what follows from the requests they answered")
    answers = []
    for question, asked in questions.items():
        seconds = simulate(*asked)
        answers.append(answer(question, seconds))
        print(answers[-1].text)
        entries += samples(question, seconds)
    entries += [Sample(step.at, "pods", step.predicted, "replayed", "pods") for step in replayed.steps]
    entries.append(Event(entries[0].at, "hpa", "; ".join([replayed.text, *(found.text for found in answers)])))
    timeline.draw(record.with_name("hpa.html"), {record.stem: entries})
    result = {"replay": replayed, "answers": answers}
    record.with_name("hpa.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(record.with_name("hpa.html"))
    return 0 if replayed.match >= REQUIRED_MATCH else 1
