"""The controller's decisions in a flight record, compared with the simulator's, sync by sync."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from loadtests import LoadTestError
from loadtests.hpa.controller import Controller, Settings
from locust_verdict.record import Cluster, Entry

SYNC_SECONDS = 15.0
LONGEST_GAP = 2.5  # polls of the watcher may be this many seconds older than the sync they stand for


class NothingToReplayError(LoadTestError):
    """The record lacks what a replay needs."""


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
        """Return it as one sentence."""
        share = f"{100 * self.match:.1f} % of {len(self.steps)} decisions"
        return (
            f"the simulator made {share} as the controller did, and {self.rescales_matched} of {self.rescales} rescales"
        )


def states_of(entries: Iterable[Entry]) -> list[Cluster]:
    """Return the states of the cluster in a record. Raises `NothingToReplayError` for fewer than two."""
    states = [entry for entry in entries if isinstance(entry, Cluster)]
    if len(states) < 2:  # noqa: PLR2004
        raise NothingToReplayError("the record holds no states of a cluster: was it made with --cluster?")
    return states


def syncs(states: Sequence[Cluster]) -> list[float]:
    """Return when the controller synced.

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
    states = states_of(entries)
    settings = Settings.from_spec(states[0].autoscaler)
    # What was recommended before the record began is unknown: nothing, or always as many as there were. As long as that
    # makes a difference, it is not the simulator's decision that would be held against the controller's.
    controllers = [Controller(settings, states[0].at - age, states[0].replicas) for age in (0, math.inf)]
    moments = [state.at for state in states]
    steps = []
    for at, following in pairwise([*syncs(states), states[-1].at]):
        seen, after = (states[bisect_left(moments, moment) - 1] for moment in (at, following))
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
