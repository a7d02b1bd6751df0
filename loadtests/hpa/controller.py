"""What the HorizontalPodAutoscaler's controller decides (Kubernetes 1.34, autoscaling/v2), from what it sees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtests import LoadTestError
from locust_verdict.record import Pod


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


def _rules(side: Mapping[str, Any], default: Rules) -> Rules:
    policies = tuple(Policy(p["type"], p["value"], p["periodSeconds"]) for p in side.get("policies", ()))
    return Rules(
        side.get("stabilizationWindowSeconds", default.window),
        policies or default.policies,
        side.get("selectPolicy", "Max"),
        float(side.get("tolerance", default.tolerance)),
    )


class UnsupportedError(LoadTestError):
    """The autoscaler uses something that is not simulated."""


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
        """Return the decision at a sync, from the current `replicas` and the existing pods."""
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
        reason = f"{resource} needs {wanted}"
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
        """Return the replicas that one metric proposes, or None without metrics (`GetResourceReplicas` upstream)."""
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
        else:  # upstream leaves a ratio of 1 as it is; idle pods turn its direction, which changes nothing either
            usage |= dict.fromkeys(missing, 0.0)
        if rebalance:
            usage |= dict.fromkeys(unready, 0.0)
        again = self._ratio(resource, usage, requests)
        assert again is not None  # usage only grew
        if self._tolerated(again) or (ratio < 1) != (again < 1):
            return replicas
        wanted = math.ceil(again * len(usage))
        return min(wanted, replicas) if again < 1 else max(wanted, replicas)

    def _group(self, resource: str, at: float, pods: Sequence[Pod]) -> tuple[dict[str, float], list[str], list[str]]:
        """Return the usage of the pods that count, the pods that are not ready, and those without metrics."""
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
        """Return whether a pod's CPU does not count yet: it starts up, or was never ready."""
        if pod.started is None or pod.ready_changed is None:
            return True
        if pod.started + self._settings.cpu_initialization > at:
            return not pod.ready or (pod.measured or 0) < pod.ready_changed + pod.window
        return not pod.ready and pod.started + self._settings.initial_readiness > pod.ready_changed

    def _ratio(self, resource: str, usage: Mapping[str, float], requests: Mapping[str, float]) -> float | None:
        requested = sum(requests[name] for name in usage)
        if not requested:
            return None
        utilization = int(sum(usage.values()) * 100 / requested + 1e-9)  # whole per cent, as the controller computes
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
            limit = max(self._bound(settings.up, at, replicas, up=True), replicas)
            return min(wanted, limit, settings.most)
        limit = min(self._bound(settings.down, at, replicas, up=False), replicas)
        return max(wanted, limit, settings.least)

    def _bound(self, rules: Rules, at: float, replicas: int, *, up: bool) -> int:
        if rules.select == "Disabled":
            return replicas
        bounds = []
        sign = 1 if up else -1
        for policy in rules.policies:
            start = replicas - sum(change for when, change in self._events if when > at - policy.seconds)
            if policy.kind == "Pods":
                bounds.append(start + sign * policy.value)
            else:
                share = start * (1 + sign * policy.value / 100)
                bounds.append(math.ceil(share) if up else int(share))
        return max(bounds) if (rules.select == "Max") == up else min(bounds)
