"""One decision at a time, as in the table of Kubernetes's replica_calculator_test.go, and the syncs of a record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from loadtests.hpa.controller import DOWN, UP, Controller, Decision, Policy, Rules, Settings, UnsupportedError
from loadtests.hpa.replay import NothingToReplayError, Step, replay, states_of, syncs
from locust_verdict.record import Cluster, Pod

NOW = 100_000.0
READY: Mapping[str, Any] = {}
NEVER_READY = {"ready": False, "ready_changed": NOW - 9_999}
STARTING = {"started": NOW - 60, "ready_changed": NOW - 10}
PENDING = {"phase": "Pending", "ready": False, "cpu": None, "started": None, "ready_changed": None}
FAILED = {"phase": "Failed"}
DELETED = {"deleting": True}
LATE = {"cpu": None}  # no metrics yet


def pods(*made: tuple[float, Mapping[str, Any]]) -> list[Pod]:
    """Return pods that use so many cores and gigabytes, and request one of each."""
    usual = {"phase": "Running", "ready": True, "started": NOW - 10_000, "ready_changed": NOW - 9_000}
    usual |= {"cpu_request": 1.0, "memory_request": 1.0, "measured": NOW, "window": 15.0}
    return [
        Pod(**{**usual, "name": f"pod-{number}", "cpu": used, "memory": used, **more})
        for number, (used, more) in enumerate(made)
    ]


def settings(target: int = 50, **more: Any) -> Settings:
    return replace(Settings(least=1, most=100, targets={"cpu": target}, down=replace(DOWN, window=0)), **more)


def exact(target: int, resource: str = "cpu") -> Settings:
    """Return settings under which every deviation from the target counts."""
    up, down = replace(UP, tolerance=0), replace(DOWN, tolerance=0, window=0)
    return settings(targets={resource: target}, up=up, down=down)


def propose(given: Settings, replicas: int, seen: Sequence[Pod], resource: str = "cpu") -> int | None:
    return Controller(given, NOW - 10_000, replicas).propose(resource, NOW, replicas, seen)


@pytest.mark.parametrize(
    ("target", "replicas", "seen", "expected"),
    [
        pytest.param(30, 3, [(0.3, READY), (0.5, READY), (0.7, READY)], 5, id="up"),
        pytest.param(30, 3, [(0.3, NEVER_READY), (0.5, READY), (0.7, READY)], 4, id="up less for an unready pod"),
        pytest.param(30, 3, [(0.3, STARTING), (0.5, READY), (0.7, READY)], 4, id="up less for a pod that starts"),
        pytest.param(30, 3, [(0, PENDING), (0.5, READY), (0.7, READY)], 4, id="up less for a pending pod"),
        pytest.param(50, 2, [(0.9, NEVER_READY), (0.6, READY), (0.6, READY)], 2, id="an unready pod turns it down"),
        pytest.param(30, 2, [(0.9, FAILED), (0.9, DELETED), (0.5, READY), (0.7, READY)], 4, id="failed and deleted"),
        pytest.param(50, 5, [(n, READY) for n in (0.1, 0.3, 0.5, 0.25, 0.25)], 3, id="down"),
        pytest.param(
            50, 5, [(0.1, READY), (0.3, READY), (0.5, READY), *[(0.25, NEVER_READY)] * 2], 2, id="down unready"
        ),
        pytest.param(50, 5, [(0.1, READY), (0.3, READY), (0.5, READY), *[(0.25, STARTING)] * 2], 2, id="down starting"),
        pytest.param(50, 2, [(0.5, READY), (0.9, NEVER_READY)], 2, id="on target an unready pod is not rebalanced"),
        pytest.param(100, 2, [(1.0, READY), (0, LATE)], 2, id="missing on target"),
        pytest.param(70, 1, [(0.7, READY), (0, LATE)], 1, id="missing on target, whatever it might use"),
        pytest.param(30, 2, [(0.3, READY), (0, LATE), (0, LATE)], 2, id="missing on target, were it idle"),
        pytest.param(100, 2, [(1.9, READY), (0, LATE)], 2, id="missing while above"),
        pytest.param(100, 2, [(0.6, READY), (0, LATE)], 2, id="missing while below"),
        pytest.param(50, 3, [(0.1, NEVER_READY), (0.45, READY), (0, LATE)], 3, id="missing and unready turn it up"),
        pytest.param(100, 3, [(1.5, READY), (0, LATE), (0, LATE)], 3, id="missing turn it down"),
        pytest.param(50, 3, [(0.1, NEVER_READY), (2.0, READY), (0, LATE)], 4, id="missing and unready, up"),
        pytest.param(50, 4, [(0.1, NEVER_READY), (0.1, READY), (0.1, READY), (0, LATE)], 3, id="missing, down"),
        pytest.param(50, 4, [(0.1, READY), (0.1, READY), (0, {**LATE, "started": None})], 3, id="not started, missing"),
        pytest.param(
            50, 2, [(0.1, READY), (0.1, READY), (0, LATE)], 2, id="a surge of pods does not turn down into up"
        ),
        pytest.param(50, 9, [(2.0, READY), (2.0, READY), (0, LATE)], 9, id="few pods do not turn up into down"),
        pytest.param(50, 9, [(0.6, READY), (0.6, READY)], 3, id="nor does anything guard it where no pod is missing"),
    ],
)
def test_a_metric_proposes_what_kubernetes_calculates(
    target: int, replicas: int, seen: list[tuple[float, Mapping[str, Any]]], expected: int
) -> None:
    assert propose(settings(target), replicas, pods(*seen)) == expected


@pytest.mark.parametrize(
    ("target", "used", "expected"),
    [
        (100, 0.05, 9),  # (5 + 9 * 100) / 10 = 90 %, and a share of 101 % would be 91
        (150, 0.15, 10),  # (15 + 9 * 150) / 10 = 136 %: a target above the request counts instead
    ],
)
def test_a_missing_pod_counts_its_whole_request_or_the_target_above_it(target: int, used: float, expected: int) -> None:
    seen = pods((used, READY), *[(0, {"memory": None})] * 9)
    assert propose(exact(target, "memory"), 10, seen, "memory") == expected


@pytest.mark.parametrize(("cores", "target"), [(0.599, 59), (0.5, 50), (0.5985, 59)])
def test_whole_thousandths_of_a_core_are_whole_per_cent(cores: float, target: int) -> None:
    assert propose(exact(target), 5, pods(*[(cores, READY)] * 3)) == 5
    assert propose(exact(target - 1), 5, pods(*[(cores, READY)] * 3)) == 4
    assert propose(exact(target + 1), 5, pods(*[(cores, READY)] * 3)) == 3


@pytest.mark.parametrize(("used", "expected"), [(0.9, 5), (0.89, 3), (1.1, 5), (1.11, 4)])
def test_the_tolerance_includes_its_ends(used: float, expected: int) -> None:
    given = settings(targets={"memory": 100})
    assert propose(given, 5, pods(*[(used, READY)] * 3), "memory") == expected


def test_memory_counts_in_pods_that_are_not_ready() -> None:
    given = settings(targets={"memory": 30})
    assert propose(given, 3, pods((0.3, NEVER_READY), (0.5, STARTING), (0.7, READY)), "memory") == 5


def test_pods_that_request_nothing_have_no_utilization() -> None:
    assert propose(settings(), 2, pods((0.5, {"cpu_request": 0.0}))) is None


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        ({"started": None}, False),
        ({"ready_changed": None}, False),
        ({"started": NOW - 300, "ready": False, "ready_changed": NOW - 100}, True),  # was ready, and 5 minutes passed
        ({"started": NOW - 299, "ready": False, "ready_changed": NOW - 100}, False),
        ({"started": NOW - 299, "ready_changed": NOW - 15}, True),  # its whole window was measured
        ({"started": NOW - 299, "ready_changed": NOW - 14}, False),
        ({"started": NOW - 400, "ready_changed": NOW - 14}, True),
        ({"started": NOW - 400, "ready": False, "ready_changed": NOW - 370}, True),
        ({"started": NOW - 400, "ready": False, "ready_changed": NOW - 371}, False),  # never ready
    ],
)
def test_cpu_counts_once_a_pod_was_ready_and_measured_for_a_window(state: Mapping[str, Any], *, counts: bool) -> None:
    seen = pods((0.6, READY), (0.6, READY), (0.9, state))
    assert propose(settings(30), 3, seen) == (7 if counts else 4)  # 70 % of 30, or 120 / 3


def decide(given: Settings, replicas: int, *used: float, **more: Any) -> Decision:
    seen = pods(*[(one, more) for one in used])
    return Controller(given, NOW - 10_000, replicas).decide(NOW, replicas, seen)


BOTH = settings(targets={"cpu": 50, "memory": 50})


@pytest.mark.parametrize(
    ("decision", "replicas", "reason"),
    [
        (partial(decide, settings(), 0), 0, "scaling is disabled at zero replicas"),
        (partial(decide, settings(most=2), 3, 0.5), 2, "outside minimum and maximum"),
        (partial(decide, settings(least=4), 3, 0.5), 4, "outside minimum and maximum"),
        (partial(decide, settings(most=2), 2, 0.2, 0.2), 1, "cpu needs 1"),
        (partial(decide, settings(least=2), 2, 0.9, 0.9), 4, "cpu needs 4"),
        (partial(decide, settings(), 1), 1, "no metrics"),
        (partial(decide, settings(), 2, 0.5, 0.5), 2, "cpu needs 2"),
        (partial(decide, settings(), 3, 2, 2, 2), 7, "cpu needs 12, limited to 7"),
        (partial(decide, BOTH, 2, 0.2, 0.2, memory=0.8), 4, "memory needs 4"),
        (partial(decide, BOTH, 2, 0.2, 0.2, memory=None), 2, "a metric is missing, so no scaling down"),
        (partial(decide, BOTH, 2, 0.5, 0.5, memory=None), 2, "cpu needs 2"),
        (partial(decide, BOTH, 2, 0.8, 0.8, memory=None), 4, "cpu needs 4"),
    ],
)
def test_a_decision_has_its_reason(decision: Callable[[], Decision], replicas: int, reason: str) -> None:
    assert decision() == Decision(replicas, reason)


@pytest.mark.parametrize(("after", "expected"), [(29, 6), (30, 1)])
def test_a_recommendation_counts_for_less_than_its_window(after: float, expected: int) -> None:
    given = settings(down=replace(DOWN, window=30))
    controller = Controller(given, NOW, 6)
    decision = controller.decide(NOW + after, 6, pods(*[(0.05, READY)] * 6))
    assert decision.replicas == expected
    assert decision.reason == ("cpu needs 1" if expected == 1 else "cpu needs 1, stabilized 6")


@pytest.mark.parametrize(("after", "expected"), [(29, 2), (30, 6)])
def test_scaling_up_waits_less_than_its_window(after: float, expected: int) -> None:
    controller = Controller(settings(up=replace(UP, window=30)), NOW, 2)
    assert controller.decide(NOW + after, 2, pods((1.5, READY), (1.5, READY))).replicas == expected


HALF, TWO = Policy("Percent", 50, 60), Policy("Pods", 2, 60)


@pytest.mark.parametrize(
    ("rules", "up", "down"),
    [
        (Rules(0, (HALF,)), 14, 4),  # half of nine more is begun, half of nine less is whole
        (Rules(0, (TWO,)), 11, 7),
        (Rules(0, (HALF, TWO)), 14, 4),
        (Rules(0, (HALF, TWO), "Min"), 11, 7),
        (Rules(0, (HALF, TWO), "Disabled"), 9, 9),
    ],
)
def test_policies_limit_a_step(rules: Rules, up: int, down: int) -> None:
    assert decide(settings(up=rules), 9, *[5.0] * 9).replicas == up
    assert decide(settings(down=rules), 9, *[0.01] * 9).replicas == down


def test_per_cent_of_a_policy_are_of_the_pods() -> None:
    rules = Rules(0, (Policy("Percent", 2000, 60),))
    assert decide(settings(most=1000, up=rules), 9, *[200.0] * 9).replicas == 189


@pytest.mark.parametrize(("after", "expected"), [(59, 5), (60, 7)])
def test_a_change_counts_for_less_than_its_policys_period(after: float, expected: int) -> None:
    controller = Controller(settings(up=Rules(0, (TWO,))), NOW - 10_000, 5)
    controller.scaled(NOW, 3, 5)
    controller.scaled(NOW, 5, 5)
    assert controller.decide(NOW + after, 5, pods(*[(5.0, READY)] * 5)).replicas == expected


SPEC: dict[str, Any] = {
    "maxReplicas": 10,
    "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    ],
}


def test_what_a_spec_does_not_set_is_kubernetes_default() -> None:
    assert Settings.from_spec(SPEC) == Settings(1, 10, {"cpu": 50}, UP, DOWN)
    behavior = {
        "scaleUp": {"tolerance": "0.05", "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"},
    }
    read = Settings.from_spec({**SPEC, "minReplicas": 2, "behavior": behavior})
    assert read == Settings(
        2, 10, {"cpu": 50}, Rules(0, (TWO,), tolerance=0.05), replace(DOWN, window=0, select="Disabled")
    )


def test_a_resource_with_an_absolute_target_is_refused() -> None:
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"}}}
    with pytest.raises(UnsupportedError, match="AverageValue"):
        Settings.from_spec({**SPEC, "metrics": [metric]})


def state(after: float, synced: float | None = None, replicas: int = 3, used: float = 0.5, **spec: Any) -> Cluster:
    """Return what a watcher writes so many seconds after NOW."""
    written = None if synced is None else NOW + synced
    return Cluster(NOW + after, replicas, pods(*[(used, READY)] * replicas), {**SPEC, **spec}, written)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param([state(0), state(2), state(60)], [15, 30, 45], id="from the first state where none is known"),
        pytest.param([state(0), state(60)], [15, 30, 45], id="two states"),
        pytest.param([state(0, -14), state(2), state(60)], [1, 16, 31, 46], id="the last sync before the record"),
        pytest.param([state(0, -16), state(2), state(60)], [15, 30, 45], id="an older sync does not help"),
        pytest.param([state(0), state(6, 5), state(38, 36.5), state(60)], [5, 20.75, 36.5, 51.5], id="between two"),
        pytest.param([state(0), state(6, 5), state(9, 8), state(22)], [5, 8], id="two writes at once"),
        pytest.param([state(0), state(18, 17), state(20)], [17], id="three seconds before the end"),
        pytest.param([state(0), state(18, 17.5), state(20)], [], id="too close to the end"),
    ],
)
def test_the_controller_synced_every_fifteen_seconds_between_the_writes_of_its_status(
    states: list[Cluster], expected: list[float]
) -> None:
    assert [at - NOW for at in syncs(states)] == expected


def test_each_sync_is_compared_with_the_state_right_before_it_and_before_the_next() -> None:
    slow = {"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}
    replicas = dict.fromkeys(range(0, 16, 2), 2) | dict.fromkeys(range(16, 44, 2), 3)
    replicas |= dict.fromkeys(range(44, 58, 2), 4) | {58: 6, 60: 9}
    used = {28: 2.0, 44: 0.9}
    record = [state(at, None, number, used.get(at, 0.5), behavior=slow) for at, number in replicas.items()]
    other = msgspec.structs.replace(record[1], autoscaler={})  # the spec at the beginning decides
    result = replay([record[0], other, *record[2:]])
    assert result.steps == [
        Step(at=NOW + 15, before=2, observed=3, predicted=2, reason="cpu needs 2"),
        Step(at=NOW + 30, before=3, observed=4, predicted=4, reason="cpu needs 12, limited to 4"),
        Step(at=NOW + 45, before=4, observed=6, predicted=4, reason="cpu needs 8, limited to 4"),
    ]
    assert (result.match, result.rescales, result.rescales_matched) == (1 / 3, 3, 1)
    assert result.text == "the simulator made 33.3 % of 3 decisions as the controller did, and 1 of 3 rescales"


@pytest.mark.parametrize(("synced", "first"), [(15, 60), (14.5, 74.5)])
def test_a_decision_counts_as_soon_as_what_was_recommended_before_the_record_cannot_matter(
    synced: float, first: float
) -> None:
    patient = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    record = [state(2 * n, synced if n else None, 3, 0.1, behavior=patient) for n in range(60)]
    assert replay(record).steps[0].at == NOW + first


def test_a_record_without_a_sync_is_too_short() -> None:
    with pytest.raises(NothingToReplayError, match="too short"):
        replay([state(0), state(10)])
    with pytest.raises(NothingToReplayError, match="--cluster"):
        states_of([state(0)])
    assert len(states_of([state(0), state(10)])) == 2
