"""The load of a flight record on simulated pods: under other settings, or many times the load."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls

from loadtests import LoadTestError
from loadtests.hpa.controller import Controller, Settings
from loadtests.hpa.replay import SYNC_SECONDS, NothingToReplayError, states_of
from locust_verdict import histogram
from locust_verdict.record import Cluster, Entry, Pod, Requests, Sample

SATURATED = 0.9  # of its CPU limit: what such a pod would have used is unknown
METRICS_SECONDS = 15.0  # metrics-server's resolution


@dataclass(frozen=True)
class Load:
    """The load of a record: cores by second, what an idle pod uses, and the pods' requests and limits."""

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
    states = states_of(entries)
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
    """Return how long a pod takes from its start until it is ready: the median of those that the record saw start."""
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
    missing: float  # cores that were needed and not available


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


class BadQuestionError(LoadTestError):
    """A --what-if that cannot be read."""


def alter(question: str, settings: Settings, load: Load) -> tuple[Settings, Load]:
    """Apply a question such as `cpu=60,max=20,load=10`. Raises BadQuestionError, which lists the names."""
    for part in question.split(","):
        match = re.fullmatch(r"\s*(\w+)=(\d+(?:\.\d+)?)\s*", part)
        if not match:
            raise BadQuestionError(f"{part!r} is not of the form name=number; {KNOWN}")
        name, value = match[1], float(match[2])
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
            raise BadQuestionError(f"{name!r} cannot be changed; {KNOWN}")
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
        """Return it as one sentence."""
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
    """Return a simulation's course as lines for the record's charts."""
    return [
        sample
        for second in seconds[::5]
        for sample in (
            Sample(second.at, "pods", second.replicas, question, "pods"),
            Sample(second.at, "simulated CPU", second.utilization, question, "% of request"),
            Sample(second.at, "cores missing", second.missing, question, "cores"),
        )
    ]
