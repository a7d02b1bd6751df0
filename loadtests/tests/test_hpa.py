"""The HPA simulator decides as Kubernetes's controller does, in the cases that its documentation and code define."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.hpa import command, controller, replay, what_if
from loadtests.hpa.controller import Controller, Policy, Rules, Settings
from loadtests.hpa.what_if import Load
from loadtests.tests.conftest import START, MakeRun
from locust_verdict.record import Cluster, Entry, Pod, Recorder, Sample

SPEC = {
    "minReplicas": 2,
    "maxReplicas": 10,
    "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    ],
    "behavior": {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 60,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    },
}
SETTINGS = Settings.from_spec(SPEC)
NOW = START + 1000


def pods(*used: float | None, **more: object) -> list[Pod]:
    """Return old, ready pods that use so much of their request of 0.1 cores; None: without metrics."""
    made = [
        Pod(
            name=f"pod-{number}",
            phase="Running",
            ready=True,
            started=START,
            ready_changed=START + 5,
            cpu_request=0.1,
            cpu_limit=0.2,
            cpu=None if share is None else share / 10,
            measured=NOW - 5,
            window=15,
        )
        for number, share in enumerate(used)
    ]
    return [*made[:-1], _changed(made[-1], **more)]


def _changed(pod: Pod, **more: object) -> Pod:
    fields = {name: getattr(pod, name) for name in pod.__struct_fields__}
    return Pod(**{**fields, **more})


def decide(seen: list[Pod], replicas: int, settings: Settings = SETTINGS, remembered: int | None = None) -> int:
    controller = Controller(settings, NOW - (10 if remembered else 10_000), remembered or replicas)
    return controller.decide(NOW, replicas, seen).replicas


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ((0.70, 0.70), 2),  # on target
        ((0.76, 0.76), 2),  # 76/70 is within the tolerance of 10 %
        ((0.78, 0.78), 3),  # 78/70 is not
        ((2.0, 2.0), 6),  # ceil(2 * 200/70)
        ((0.7, 0.7, 0.1), 3),  # 50/70 needs ceil(2.14)
        ((0.1, 0.1, 0.1), 2),  # not below the minimum
        ((0.719, 0.819), 2),  # whole per cent: 76.9 counts as 76
    ],
)
def test_replicas_follow_the_ratio_of_use_to_target(used: tuple[float, ...], expected: int) -> None:
    assert decide(pods(*used), len(used)) == expected


def test_begun_thousandths_of_a_core_count_whole() -> None:
    assert decide(pods(0.856, 1.256), 2) == 4  # 86 + 126 of 200 thousandths are 106 %, 105.6 would be 105


def test_a_step_up_is_limited_to_the_larger_of_double_and_four_more() -> None:
    assert decide(pods(*[2.0] * 3), 3, replace(SETTINGS, targets={"cpu": 20}, most=100)) == 7
    assert decide(pods(*[2.0] * 6), 6, replace(SETTINGS, targets={"cpu": 20}, most=100)) == 12


def test_the_smaller_policy_counts_where_min_is_selected_and_none_where_disabled() -> None:
    eager = replace(SETTINGS, targets={"cpu": 20}, most=100)
    assert decide(pods(*[2.0] * 3), 3, replace(eager, up=replace(eager.up, select="Min"))) == 6
    assert decide(pods(*[2.0] * 3), 3, replace(eager, up=replace(eager.up, select="Disabled"))) == 3


def test_pods_added_in_a_policys_period_count_against_it() -> None:
    controller = Controller(replace(SETTINGS, targets={"cpu": 20}, most=100), NOW - 10_000, 3)
    controller.scaled(NOW - 10, 3, 7)
    assert controller.decide(NOW, 7, pods(*[2.0] * 7)).replicas == 7
    assert controller.decide(NOW + 10, 7, pods(*[2.0] * 7)).replicas == 14


def test_scaling_down_waits_for_the_highest_recommendation_of_the_window() -> None:
    controller = Controller(SETTINGS, NOW - 10_000, 6)
    assert controller.decide(NOW, 6, pods(*[0.75] * 6)).replicas == 6
    low = pods(*[0.1] * 6)
    assert [controller.decide(NOW + after, 6, low).replicas for after in (15, 30, 45, 59)] == [6, 6, 6, 6]
    assert controller.decide(NOW + 61, 6, low).replicas == 2


def test_scaling_up_waits_for_the_lowest_recommendation_of_its_window() -> None:
    settings = replace(SETTINGS, up=replace(SETTINGS.up, window=30))
    controller = Controller(settings, NOW - 10_000, 2)
    controller.decide(NOW - 15, 2, pods(0.7, 0.7))
    assert controller.decide(NOW, 2, pods(2.0, 2.0)).replicas == 2
    assert controller.decide(NOW + 16, 2, pods(2.0, 2.0)).replicas == 6


def test_half_of_the_pods_a_minute_may_go() -> None:
    settings = replace(SETTINGS, down=Rules(0, (Policy("Percent", 50, 60),)))
    controller = Controller(settings, NOW - 10_000, 9)
    assert controller.decide(NOW, 9, pods(*[0.01] * 9)).replicas == 4
    controller.scaled(NOW, 9, 4)
    assert controller.decide(NOW + 15, 4, pods(*[0.01] * 4)).replicas == 4
    assert controller.decide(NOW + 61, 4, pods(*[0.01] * 4)).replicas == 2


def test_a_pod_without_metrics_counts_as_idle_when_scaling_up() -> None:
    assert decide(pods(2.0, 2.0, None), 3) == 6  # (200 + 200 + 0) / 300 = 133 % of 70


def test_a_pod_without_metrics_counts_as_using_its_request_when_scaling_down() -> None:
    assert decide(pods(0.2, 0.2, 0.2, None), 4, remembered=None) == 3  # (20 * 3 + 100) / 400 = 40 % of 70
    assert decide(pods(0.3, 0.3, None), 3) == 3  # 53 % of 70 needs ceil(2.27)


def test_no_metrics_at_all_change_nothing() -> None:
    assert decide(pods(None, None, None), 3) == 3


def test_a_metric_that_would_change_direction_with_missing_pods_changes_nothing() -> None:
    assert decide(pods(0.8, None), 2) == 2


def test_a_pod_that_starts_up_counts_as_idle_however_busy_it_is() -> None:
    young = {"started": NOW - 20, "ready_changed": NOW - 8}
    assert decide(pods(1.2, 1.2, 2.0, **young), 3) == 4  # 240 / 300 = 80 % of 70, not 146 %
    settled = {"started": NOW - 60, "ready_changed": NOW - 50}
    assert decide(pods(1.2, 1.2, 2.0, **settled), 3) == 7


def test_a_pod_that_was_never_ready_does_not_count_and_a_deleted_one_is_ignored() -> None:
    never = {"ready": False, "started": START, "ready_changed": START + 1}
    assert decide(pods(0.7, 0.7, 2.0, **never), 3) == 3
    assert decide(pods(0.78, 0.78, 2.0, deleting=True), 2) == 3


def test_replicas_outside_the_bounds_are_brought_inside() -> None:
    assert decide(pods(*[2.0] * 12), 12) == 10
    assert decide(pods(2.0), 1) == 2
    assert decide(pods(2.0), 0) == 0


def test_the_metric_that_asks_for_more_decides() -> None:
    both = replace(SETTINGS, targets={"cpu": 70, "memory": 80})
    seen = [_changed(pod, memory=0.95, memory_request=1.0) for pod in pods(0.1, 0.1, 0.1)]
    assert decide(seen, 3, both) == 4
    unknown = pods(0.1, 0.1, 0.1)  # memory is missing: no scaling down
    assert decide(unknown, 3, both) == 3


@given(st.lists(st.floats(0, 2), min_size=1, max_size=10), st.integers(1, 10), st.integers(0, 10))
def test_decisions_stay_within_bounds(used: list[float], least: int, extra: int) -> None:
    settings = replace(SETTINGS, least=least, most=least + extra)
    assert least <= decide(pods(*used), len(used), settings) <= least + extra


def test_metrics_other_than_utilization_are_refused() -> None:
    external = {**SPEC, "metrics": [{"type": "External", "external": {}}]}
    with pytest.raises(controller.UnsupportedError, match="only the utilization of cpu and memory is simulated"):
        Settings.from_spec(external)


LOAD = Load(
    start=START,
    cores=np.concatenate([np.full(90, 0.08), np.full(240, 0.5), np.full(300, 0.05)]),
    idle=0.005,
    request=0.1,
    limit=0.2,
    memory=9e7,
    memory_request=2.6e8,
    start_seconds=6,
    replicas=2,
)


def watched(settings: Settings = SETTINGS, load: Load = LOAD) -> list[Entry]:
    """Return the record of a run whose pods and autoscaler were simulated, as the watcher of a cluster writes it."""
    entries: list[Entry] = []
    for second in what_if.simulate(settings, load)[::2]:
        share = second.utilization / 1000
        seen = [
            Pod(f"pod-{number}", "Running", True, False, START - 500, START - 490, 0.1, 0.2, 0, share, 0, second.at, 15)
            for number in range(second.ready)
        ]
        synced = START + (second.at - START) // 15 * 15
        entries.append(Cluster(second.at, second.replicas, seen, SPEC, synced))
    return entries


def test_the_load_is_met_by_more_pods_and_given_back() -> None:
    course = what_if.simulate(SETTINGS, LOAD)
    replicas = [second.replicas for second in course]
    assert replicas[0] == replicas[-1] == 2
    assert 7 <= max(replicas) <= 9
    assert course[200].missing == 0


def test_other_settings_and_more_load_change_the_answer() -> None:
    def most(question: str) -> int:
        return what_if.answer(question, what_if.simulate(*what_if.alter(question, SETTINGS, LOAD))).most_replicas

    assert most("cpu=70") < most("cpu=50") <= 10
    assert most("load=3") == 10
    assert most("load=3,max=40") > 20
    lean = what_if.answer("", what_if.simulate(*what_if.alter("max=2", SETTINGS, LOAD)))
    assert lean.short_seconds > 200


@pytest.mark.parametrize("question", ["cpu", "cpu=x", "colour=3", "min=5,max=2", "cpu=0", "min=0", ""])
def test_a_question_that_cannot_be_read_says_what_can_be_asked(question: str) -> None:
    with pytest.raises(what_if.BadQuestionError, match=r"known are cpu|has to be 1 or more"):
        what_if.alter(question, SETTINGS, LOAD)


def test_a_record_is_replayed_and_answers_what_if(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.jsonl"
    with Recorder(path) as recorder:
        for entry in [*watched(), *make_run({"GET /tasks": 5}, seconds=200)]:
            recorder.write(entry)
    status = command.main([str(path), "--what-if", "cpu=50,max=20", "--what-if", "load=10"])
    result = json.loads((tmp_path / "hpa.json").read_text())
    output = capsys.readouterr().out
    assert (status == 0) is (result["replay"]["match"] >= 0.9)
    assert result["replay"]["match"] > 0.8
    assert [one["question"] for one in result["answers"]] == ["simulated", "cpu=50,max=20", "load=10"]
    assert "of the decisions" in output or "decisions as the controller did" in output
    assert "cpu=50,max=20" in (tmp_path / "hpa.html").read_text()


@pytest.mark.parametrize("entries", [[], [Sample(START, "pods", 2)]])
def test_a_record_without_a_cluster_is_refused(
    tmp_path: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.jsonl"
    with Recorder(path) as recorder:
        for entry in entries:
            recorder.write(entry)
    assert command.main([str(path)]) == 2
    assert "was it made with --cluster?" in capsys.readouterr().err


def test_a_missing_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_what_depends_on_the_time_before_the_record_is_not_held_against_anybody() -> None:
    idle = pods(0.1, 0.1, 0.1)
    states = [Cluster(START + 2 * n, 3 if n < 10 else 2, idle[: 3 if n < 10 else 2], SPEC, START) for n in range(60)]
    replayed = replay.replay(states)
    assert (replayed.match, replayed.rescales) == (1, 0)  # 3 to 2 came of recommendations that nobody saw
    assert len(replayed.steps) < len(replay.syncs(states))


def test_a_controller_that_decided_otherwise_is_found_out() -> None:
    entries = watched(replace(SETTINGS, most=2))  # but the recorded spec allows ten
    assert replay.replay(entries).match < 0.7
