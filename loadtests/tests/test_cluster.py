"""Responses of the Kubernetes API, converted to entries of the flight record."""

import pytest

from loadtests import cluster
from locust_verdict.record import Pod

POD = {
    "metadata": {"name": "task-api-1", "deletionTimestamp": "2026-11-24T10:00:00Z"},
    "spec": {
        "containers": [
            {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "200m"}}},
            {"resources": {"requests": {"cpu": "0.05", "memory": "16M"}}},
        ]
    },
    "status": {
        "phase": "Running",
        "startTime": "2026-11-24T09:00:00Z",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T09:00:05Z"}],
    },
}
METRICS = {
    "timestamp": "2026-11-24T09:59:50Z",
    "window": "15.5s",
    "containers": [
        {"usage": {"cpu": "152345678n", "memory": "100Mi"}},
        {"usage": {"cpu": "1u", "memory": "0"}},
    ],
}


def test_a_pod_is_read_with_its_metrics() -> None:
    state = cluster.pod(POD, METRICS)
    assert state.ready
    assert state.deleting
    assert [state.cpu_request, state.cpu_limit] == pytest.approx([0.15, 0.2])
    assert state.memory_request == pytest.approx(256 * 2**20 + 16e6)
    assert state.cpu == pytest.approx(0.152346678)
    assert state.memory == 100 * 2**20
    assert (state.ready_changed or 0) - (state.started or 0) == 5
    assert state.window == 15.5


def test_a_pod_that_only_just_exists_is_read() -> None:
    bare = {"metadata": {"name": "new"}, "spec": {"containers": [{}]}, "status": {"phase": "Pending"}}
    assert cluster.pod(bare, None) == Pod("new", "Pending", ready=False)


def event(kind: str, reason: str, severity: str = "Normal") -> dict[str, object]:
    return {
        "involvedObject": {"kind": kind, "name": "task-api"},
        "reason": reason,
        "message": "New size: 5; reason: cpu resource utilization (percentage of request) above target",
        "lastTimestamp": "2026-11-24T10:00:00Z",
        "type": severity,
    }


@pytest.mark.parametrize(
    ("observed", "kind"),
    [
        (event("HorizontalPodAutoscaler", "SuccessfulRescale"), "hpa"),
        (event("Deployment", "ScalingReplicaSet"), "deploy"),
        (event("Pod", "Killing"), "kill"),
        (event("Pod", "Unhealthy", "Warning"), "warning"),
    ],
)
def test_events_of_interest_keep_their_reason_and_time(observed: dict[str, object], kind: str) -> None:
    state = cluster.happened(observed)
    assert state is not None
    assert state.kind == kind
    assert state.text.endswith("above target")
    assert state.at == cluster.moment("2026-11-24T10:00:00Z")


def test_everyday_events_are_left_out() -> None:
    assert cluster.happened(event("Pod", "Pulled")) is None


def test_the_last_write_of_the_status_is_the_last_sync() -> None:
    fields = [
        {"time": "2026-11-24T10:00:00Z", "subresource": "status"},
        {"time": "2026-11-24T10:00:15Z", "subresource": "status"},
        {"time": "2026-11-24T11:00:00Z"},
    ]
    assert cluster.synced({"metadata": {"managedFields": fields}}) == cluster.moment("2026-11-24T10:00:15Z")
    assert cluster.synced({"metadata": {}}) is None
