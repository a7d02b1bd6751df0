"""The parts of a deploy that need no cluster: checks, order, comparison and messages."""

import json
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from task_api.config import Settings
from task_api.http.app import create_app
from task_api.http.context import Services
from task_core.config import SecretKey
from task_core.database import Database
from tooling.canaries.fixtures import serving
from tooling.deploy import (
    K8S,
    DeployError,
    backup,
    cluster,
    keda,
    kube,
    manifests,
    operator,
    release,
    rollout,
    verify,
    view,
)
from tooling.deploy.kube import Change, Object
from tooling.deploy.steps import Log, Steps
from tooling.findings import Finding, Report, Scan, Severity
from tooling.images import trust
from tooling.images.provenance import Untrusted
from tooling.project import Service, service, services
from tooling.service import running
from tooling.tools import digest

IDENTITY = "sha256:" + "a" * 64
ACCOUNTS = {"AUTH": "on", "JWT_KEYS": f"k1:{secrets.token_urlsafe(32)}", "LOG_LEVEL": "warning"}


def silent(_news: str) -> None:
    """Take no interest in the progress."""


def item(kind: str, name: str = "task-api", component: str = "", **more: Any) -> Object:
    labels = {"app.kubernetes.io/component": component} if component else {}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "task-api", "labels": labels},
        **more,
    }


@dataclass(frozen=True)
class Recorded(kube.Kube):
    """A cluster that holds `objects` and records the calls to it."""

    context: str = "nowhere"
    namespace: str = "task-api"
    objects: list[Object] = field(default_factory=list)
    applied: list[Object] = field(default_factory=list)
    handed_over: list[str] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        self.commands.append(arguments)
        return stdin or ""

    def get(self, kind: str, name: str) -> Object | None:
        matching = [item for item in self.objects if (item["kind"].lower(), item["metadata"]["name"]) == (kind, name)]
        return matching[0] if matching else None

    def find(self, kind: str, selector: str = "") -> list[Object]:
        del selector
        return [item for item in self.objects if item["kind"].lower() in kind.split(",")]

    def apply(self, objects: Sequence[Object]) -> list[Change]:
        self.applied.extend(objects)
        return []

    def hand_over_replicas(self, deployment: Object) -> None:
        self.handed_over.append(deployment["metadata"]["name"])


# What may run while a deploy replaces it.


def test_images_of_what_is_in_the_namespace_stay_allowed_while_they_are_replaced() -> None:
    """A deploy from another repository could not delete the Job of the last one, nor make its pods again."""

    def running(image: str) -> Object:
        return {"template": {"spec": {"initContainers": [{"image": "prepare:1"}], "containers": [{"image": image}]}}}

    cluster = Recorded(
        objects=[
            item("Job", spec=running("old.example/task-api@sha256:1")),
            item("ReplicaSet", spec=running("older.example/task-api@sha256:2")),
            item("Pod", spec={"containers": [{"image": "postgres:17"}]}),
            item("ConfigMap", data={"image": "foreign:1"}),
        ]
    )
    assert release.images_in_use(cluster) == {
        "old.example/task-api@sha256:1",
        "older.example/task-api@sha256:2",
        "postgres:17",
        "prepare:1",
    }


# What applying changed.


def test_tells_created_changed_and_unchanged_objects_apart() -> None:
    same, old, new = (
        item("Service"),
        item("ConfigMap", data={"LOG_LEVEL": "info"}),
        item("ConfigMap", data={"LOG_LEVEL": "debug"}),
    )
    compared = kube.changes([same, old], [same, new, item("Job")])
    assert [(change.verb, change.name) for change in compared] == [
        ("unchanged", "service/task-api"),
        ("changed", "configmap/task-api"),
        ("created", "job/task-api"),
    ]
    assert "-  LOG_LEVEL: info" in compared[1].diff
    assert "+  LOG_LEVEL: debug" in compared[1].diff


def test_what_the_server_keeps_for_itself_is_no_change() -> None:
    old, new = item("Service", status={"a": 1}), item("Service", status={"a": 2})
    new["metadata"] = {**new["metadata"], "resourceVersion": "7", "managedFields": [{}]}
    assert kube.changes([old], [new])[0].verb == "unchanged"


@given(st.text(min_size=12))
def test_a_secret_is_never_shown(value: str) -> None:
    shown = kube.readable(item("Secret", data={"JWT_KEYS": value + "MARK"}))
    assert "MARK" not in "\n".join(shown)


# In which order.


@pytest.mark.parametrize(
    ("thing", "stage"),
    [
        (item("Job", component="migration"), "migration"),
        (item("StatefulSet", "postgres", "database"), "database"),
        (item("Deployment", component="api"), "service"),
        (item("HorizontalPodAutoscaler"), "service"),
        (item("ScaledObject"), "service"),
        (item("StatefulSet", "prometheus", "monitoring"), "monitoring"),
        (item("Service", "postgres", "database"), "foundation"),
        (item("Secret"), "foundation"),
        (item("Namespace"), "foundation"),
    ],
)
def test_each_object_has_its_stage(thing: Object, stage: str) -> None:
    assert manifests.stage(thing) == stage


def test_every_image_is_found_wherever_its_pod_is() -> None:
    pod = {"spec": {"containers": [{"image": "a:1"}, {"image": "b:2"}]}}
    nested = item("CronJob", spec={"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "c:3"}]}}}}})
    assert manifests.images([item("Deployment", spec={"template": pod}), nested, item("Service")]) == {
        "a:1",
        "b:2",
        "c:3",
    }


SCALED = pytest.mark.parametrize(
    "scaled", [item(kind, spec={"scaleTargetRef": {"name": "task-api"}}) for kind in manifests.AUTOSCALERS]
)


@SCALED
def test_the_first_deploy_says_how_many_pods_and_hands_the_number_over(scaled: Object) -> None:
    cluster = Recorded()
    release.apply_service(cluster, [item("Deployment", spec={"replicas": 3}), scaled], first=True)
    assert cluster.applied[0]["spec"]["replicas"] == 3
    assert cluster.handed_over == ["task-api"]


@SCALED
def test_later_deploys_leave_the_number_of_pods_to_the_autoscaler(scaled: Object) -> None:
    cluster = Recorded()
    release.apply_service(cluster, [item("Deployment", spec={"replicas": 3}), scaled], first=False)
    assert "replicas" not in cluster.applied[0]["spec"]
    assert cluster.handed_over == []


def test_settings_go_when_no_revision_uses_them() -> None:
    template = {
        "spec": {"containers": [{"envFrom": [{"configMapRef": {"name": "used"}}, {"secretRef": {"name": "kept"}}]}]}
    }
    cluster = Recorded(
        objects=[
            item("ReplicaSet", spec={"template": template}),
            *(item("ConfigMap", name) for name in ("used", "old", "new")),
            item("Secret", "kept"),
        ]
    )
    assert release.prune(cluster, [item("ConfigMap", "new")], "task-api") == ["ConfigMap/old"]
    assert cluster.commands == [("delete", "configmap", "old")]


# Whether it is there, and why not.


def deployment(**status: Any) -> Object:
    thing = item("Deployment", spec={"replicas": 2, "selector": {"matchLabels": {}}}, status=status)
    thing["metadata"]["generation"] = 1
    return thing


COMPLETE = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "done", "failure"),
    [
        (COMPLETE, True, ""),
        ({**COMPLETE, "observedGeneration": 0}, False, ""),
        ({**COMPLETE, "updatedReplicas": 1}, False, ""),
        ({**COMPLETE, "replicas": 3}, False, ""),
        ({**COMPLETE, "availableReplicas": 1}, False, ""),
        (
            {
                **COMPLETE,
                "updatedReplicas": 1,
                "conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}],
            },
            False,
            "exceeded quota",
        ),
        (
            {
                **COMPLETE,
                "updatedReplicas": 1,
                "conditions": [
                    {
                        "type": "Progressing",
                        "status": "False",
                        "reason": "ProgressDeadlineExceeded",
                        "message": "no progress",
                    }
                ],
            },
            False,
            "no progress",
        ),
    ],
)
def test_a_rollout_is_done_when_only_new_pods_are_there_and_available(status: Object, done: bool, failure: str) -> None:
    state = rollout.workload_state(deployment(**status))
    assert (state.done, state.failure) == (done, failure)


def test_a_job_ends_well_or_badly() -> None:
    good, bad = (
        item("Job", spec={}, status={"conditions": [{"type": kind, "status": "True", "message": "why"}]})
        for kind in ("Complete", "Failed")
    )
    assert rollout.workload_state(good).done
    assert rollout.workload_state(bad).failure == "why"


def pod(state: Object, *, restart: str = "Always", last: Object | None = None) -> Object:
    container = {"name": "c", "ready": False, "state": state, "lastState": last or {}, "restartCount": 0}
    return item("Pod", spec={"restartPolicy": restart}, status={"containerStatuses": [container]})


@pytest.mark.parametrize("reason", sorted(rollout.HOPELESS))
def test_a_pod_that_waits_in_vain_is_given_up_with_its_reason(reason: str) -> None:
    waiting = pod(
        {"waiting": {"reason": reason, "message": "details"}}, last={"terminated": {"exitCode": 2, "reason": "Error"}}
    )
    assert rollout.pod_failure(waiting) == f"{reason}: details; it ended with status 2 (Error)"


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", "ErrImagePull"])
def test_a_pod_that_may_still_come_is_waited_for(reason: str) -> None:
    assert rollout.pod_failure(pod({"waiting": {"reason": reason}})) == ""


def test_a_pod_whose_settings_are_only_late_is_waited_for() -> None:
    late = {"reason": "CreateContainerConfigError", "message": "failed to sync configmap cache: timed out"}
    assert rollout.pod_failure(pod({"waiting": late})) == ""


def test_a_crash_ends_the_wait_only_where_nothing_starts_the_container_again() -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    assert rollout.pod_failure(pod(ended, restart="Never")) == "c ended with status 1 (Error)"
    assert rollout.pod_failure(pod(ended)) == ""
    assert rollout.pod_failure(pod({"terminated": {"exitCode": 0, "reason": "Completed"}}, restart="Never")) == ""


def test_waiting_raises_at_once_with_events_and_log() -> None:
    class Crashing(Recorded):
        def run(self, *arguments: str, stdin: str | None = None) -> str:
            del stdin
            if arguments[0] == "logs":
                return "THREADS: has to be at least 1\n"
            event = {"type": "Warning", "reason": "BackOff", "message": "back-off restarting"}
            return json.dumps({"items": [event]})

    crashed = pod({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}})
    cluster = Crashing(objects=[deployment(**{**COMPLETE, "availableReplicas": 0}), crashed])
    with pytest.raises(DeployError, match="deployment/task-api: CrashLoopBackOff") as error:
        rollout.wait(cluster, "deployment", "task-api", silent)
    assert "back-off restarting" in error.value.evidence
    assert "THREADS: has to be at least 1" in error.value.evidence


def test_events_of_an_earlier_pod_of_the_same_name_are_no_evidence() -> None:
    restarted = item("Pod", "postgres-0", spec={}, status={})
    restarted["metadata"]["uid"] = "the-new-one"
    cluster = Answering()
    rollout.evidence(cluster, restarted)
    assert cluster.commands[0][2] == "--field-selector=involvedObject.name=postgres-0,involvedObject.uid=the-new-one"


class Answering(Recorded):
    """A cluster without events and logs."""

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        super().run(*arguments, stdin=stdin)
        return '{"items": []}' if arguments[0] == "get" else ""


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    cluster = Clock()
    monkeypatch.setattr(rollout, "time", cluster)
    return cluster


def test_pods_that_are_replaced_one_after_another_are_waited_for(clock: Clock) -> None:
    class Rolling(Recorded):
        def get(self, kind: str, name: str) -> Object:
            del kind, name
            done = min(int(clock.now // 100), 10)
            status = {**COMPLETE, "replicas": 10, "updatedReplicas": done, "availableReplicas": done}
            rolling = deployment(**status)
            rolling["spec"] |= {"replicas": 10, "progressDeadlineSeconds": 120}
            return rolling

    rollout.wait(Rolling(), "deployment", "task-api", silent)
    assert clock.now == pytest.approx(1000, abs=1)


class Mended(Answering):
    """A cluster whose pod waits in a back-off until it is deleted; what was noted of it before stays for a while."""

    def find(self, kind: str, selector: str = "") -> list[Object]:
        deleted = any(command[:2] == ("delete", "pod") for command in self.commands)
        return [] if kind == "pod" and deleted else super().find(kind, selector)

    def get(self, kind: str, name: str) -> Object | None:
        deleted = len(self.commands) and any(command[0] == "delete" for command in self.commands)
        self.commands.append(("look",))
        looks = self.commands.count(("look",))
        return super().get(kind, name) if not deleted or looks < 5 else deployment(**COMPLETE)


OVERDUE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no progress"}


@pytest.mark.parametrize("conditions", [[], [{**OVERDUE, "lastUpdateTime": "2026-01-01T00:00:00Z"}]])
def test_a_deploy_is_repeated_after_its_cause_is_mended(clock: Clock, conditions: list[Object]) -> None:
    stuck = deployment(**{**COMPLETE, "availableReplicas": 1, "conditions": conditions})
    waiting = pod({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
    cluster = Mended(objects=[stuck, waiting])
    rollout.wait(cluster, "deployment", "task-api", silent)
    assert ("delete", "pod", "task-api", "--wait=false", "--ignore-not-found") in cluster.commands
    assert clock.now < rollout.MARGIN


def test_a_failure_that_stays_is_believed_after_a_minute(clock: Clock) -> None:
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota", "lastUpdateTime": "2026-01-01"}
    cluster = Answering(objects=[deployment(**{**COMPLETE, "updatedReplicas": 1, "conditions": [quota]})])
    with pytest.raises(DeployError, match="exceeded quota"):
        rollout.wait(cluster, "deployment", "task-api", silent)
    assert clock.now == rollout.MARGIN


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("failed to authorize: 401 Unauthorized", True),
        ("pull access denied, repository does not exist or may require authorization", True),
        ("dial tcp: lookup registry.example.com: no such host", False),
    ],
)
def test_a_pull_refused_for_lack_of_credentials_says_which_command_makes_them(message: str, hint: bool) -> None:
    refused = pod({"waiting": {"reason": "ImagePullBackOff", "message": message}})
    refused["status"]["containerStatuses"][0]["image"] = "registry.example.com/task-api:1"
    refused["spec"]["imagePullSecrets"] = [{"name": "pulls"}]
    command = "kubectl --namespace task-api create secret docker-registry pulls --docker-server=registry.example.com"
    assert (command in rollout.pod_failure(refused)) is hint


# How images come into the cluster.


@dataclass
class Programs:
    """Stands in for docker and kind: worker nodes that can pull some images, and an engine that holds others."""

    api: str = "1.48"
    pullable: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    def run(self, *command: str, log: Log | None = None) -> str:
        del log
        text = " ".join(command)
        self.calls.append(text)
        if text.startswith("kind get nodes"):
            return "task-api-control-plane task-api-worker"
        if command[0] == "docker" and command[1] == "version":
            return f"{self.api} linux/arm64"
        if "crictl pull" in text and not text.endswith(self.pullable or ("nothing",)):
            raise DeployError("pull access denied")
        if text.startswith("docker image ls"):
            return "c0ffee" if command[-1] in self.held else ""
        return ""


def loaded(monkeypatch: pytest.MonkeyPatch, programs: Programs, *images: str) -> list[str]:
    """Load images, and return the calls that copied any."""
    monkeypatch.setattr(cluster, "run", programs.run)
    cluster.load(images, silent)
    return [call.partition(" --output")[0] for call in programs.calls if " save " in call or "kind load" in call]


def test_only_what_the_cluster_cannot_pull_is_copied_and_for_one_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled, own = "quay.io/prometheus/prometheus:v3.5.3", "task-api:0123456789ab"
    programs = Programs(pullable=(pulled,), held=(pulled, own))
    save, kind = loaded(monkeypatch, programs, pulled, own)
    assert save == "docker save --platform=linux/arm64"
    assert programs.calls[-2].endswith(own)
    assert kind.startswith("kind load image-archive")
    assert kind.endswith("--nodes task-api-worker")


def test_what_no_registry_answers_for_is_copied_where_the_engine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(held=("quay.io/a:1",))
    assert len(loaded(monkeypatch, programs, "quay.io/a:1", "quay.io/b:1")) == 2


def test_an_engine_before_docker_28_saves_without_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    save, _ = loaded(monkeypatch, Programs(api="1.47", held=("task-api:1",)), "task-api:1")
    assert save == "docker save"


@pytest.mark.parametrize("seconds", [600, 3600])
def test_a_job_is_waited_for_as_long_as_it_may_run(clock: Clock, seconds: int) -> None:
    spec = {"activeDeadlineSeconds": seconds, "selector": {"matchLabels": {}}}

    class Running(Recorded):
        def get(self, kind: str, name: str) -> Object:
            del kind, name
            ended = {"conditions": [{"type": "Complete", "status": "True"}]} if clock.now > seconds else {}
            return item("Job", spec=spec, status=ended)

    rollout.wait(Running(), "job", "task-api", silent)
    with pytest.raises(DeployError, match=f"not complete after {seconds + 60} s: 0 running"):
        rollout.wait(Recorded(objects=[item("Job", spec=spec)]), "job", "task-api", silent)


def test_waiting_for_a_database_ends_and_says_how_far_it_came(clock: Clock) -> None:
    thing = deployment(**{**COMPLETE, "availableReplicas": 1}) | {"kind": "StatefulSet"}
    with pytest.raises(DeployError, match=r"not complete after \d+ s: 2/2 updated, 1/2 available"):
        rollout.wait(Recorded(objects=[thing]), "statefulset", "task-api", silent)
    assert clock.now <= 15 * 60


@pytest.mark.parametrize(
    ("local", "answered", "seconds"), [(True, False, 60), (False, True, 60), (False, False, 15 * 60)]
)
def test_only_a_clouds_new_address_has_a_quarter_of_an_hour_to_answer(
    monkeypatch: pytest.MonkeyPatch, local: bool, answered: bool, seconds: float
) -> None:
    timeouts: list[float] = []

    def answers(_url: str, _log: Log, *, timeout: float) -> None:
        timeouts.append(timeout)
        if not (answered or timeout):
            raise DeployError("no such name")

    monkeypatch.setattr(verify, "answers", answers)
    monkeypatch.setattr(verify, "task_round", lambda *_: None)
    monkeypatch.setattr(verify, "autoscaler_reads", lambda *_: None)
    monkeypatch.setattr(verify, "account", lambda _kube: {})
    ingress = item("Ingress", spec={"rules": [{"host": "tasks.example.com"}]})
    target = release.Target(Path(), Recorded(objects=[ingress]), local, service("task-api"))
    release.roll_out(target, [], Steps("deploy"))
    assert timeouts == [*([] if local else [0]), seconds]


# The way back.


def revisions(*numbers: int, newest: int) -> list[Object]:
    running = deployment(**COMPLETE)
    running["metadata"]["annotations"] = {rollout.REVISION: str(newest)}
    sets = []
    for number in numbers:
        labels = {"pod-template-hash": f"h{number}", "a": "b"}
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"of": number}},
        }
        replica_set = item("ReplicaSet", f"task-api-h{number}", spec=spec)
        replica_set["metadata"]["annotations"] = {rollout.REVISION: str(number)}
        sets.append(replica_set)
    return [running, *sets]


def test_going_back_brings_the_whole_template_of_the_revision_before() -> None:
    cluster = Recorded(objects=revisions(1, 3, 4, newest=4))
    assert rollout.roll_back(cluster, "task-api", silent) == 3
    (applied,) = cluster.applied
    assert applied["spec"]["template"] == {"metadata": {"labels": {"a": "b"}}, "spec": {"of": 3}}
    assert "replicas" not in applied["spec"]


def test_there_is_no_going_back_before_the_first_revision() -> None:
    with pytest.raises(DeployError, match="no revision before this one"):
        rollout.roll_back(Recorded(objects=revisions(1, newest=1)), "task-api", silent)


def test_a_failed_first_deploy_has_nothing_to_go_back_to() -> None:
    cluster = Recorded(objects=revisions(1, newest=1))
    assert "first deploy" in release.go_back(cluster, "task-api", 0, Steps("t"))
    assert cluster.applied == []


def test_a_deploy_that_changed_no_pod_is_not_taken_back() -> None:
    cluster = Recorded(objects=revisions(1, 2, newest=2))
    assert "nothing to go back to" in release.go_back(cluster, "task-api", 2, Steps("t"))
    assert cluster.applied == []


# What clients may reach.


def test_the_ingress_leads_to_every_route_but_the_metrics_and_the_administration() -> None:
    settings = Settings(auth="on", jwt_keys=(SecretKey("k1", "s" * 32),), webhooks="on")
    routes = {rule.rule for rule in create_app(Services(settings, Database(settings))).url_map.iter_rules()}
    (rule,) = yaml.safe_load((K8S / "components" / "cloud" / "ingress.yaml").read_text())["spec"]["rules"]
    reached = {
        path["path"]: {
            route
            for route in routes
            if route == path["path"] or (path["pathType"] == "Prefix" and route.startswith(path["path"] + "/"))
        }
        for path in rule["http"]["paths"]
    }
    inside = {route for route in routes if route == "/metrics" or route.startswith("/admin/")}
    assert set().union(*reached.values()) == routes - inside
    assert all(reached.values())


# Which image.


def report(*findings: Finding, problem: str = "", target: str = IDENTITY) -> Report:
    scan = Scan(tool="trivy-image", version="1", targets=(target,), findings=findings, problem=problem)
    return Report.of("build", [scan])


FLAW = Finding(tool="trivy-image", rule="CVE-1", severity=Severity.CRITICAL, message="bad", path="openssl")


def test_a_clean_image_may_be_deployed() -> None:
    assert "clean" in trust.judged(report(), IDENTITY, accept_unassessed=False)


@pytest.mark.parametrize("accept", [False, True])
def test_an_image_with_findings_is_never_deployed(accept: bool) -> None:
    with pytest.raises(Untrusted, match="findings"):
        trust.judged(report(FLAW), IDENTITY, accept_unassessed=accept)


def test_an_image_that_was_not_assessed_needs_to_be_accepted_aloud() -> None:
    unassessed = report(problem="there is no vulnerability database (DNS)")
    with pytest.raises(Untrusted, match="--accept-unassessed"):
        trust.judged(unassessed, IDENTITY, accept_unassessed=False)
    assert "NOT ASSESSED (there is no vulnerability database)" in trust.judged(
        unassessed, IDENTITY, accept_unassessed=True
    )


def test_another_images_report_says_nothing() -> None:
    with pytest.raises(Untrusted, match="another image"):
        trust.judged(report(target="sha256:" + "b" * 64), IDENTITY, accept_unassessed=False)


def test_a_pushed_image_needs_a_digest() -> None:
    with pytest.raises(Untrusted, match="a tag can move"):
        trust.pushed("registry.example/task-api:latest")


# Messages before anything changes.


def test_an_unknown_overlay_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DeployError, match=r"eks, .*gke, .*kind, "):
        release.Target.of("nowhere")


@pytest.mark.parametrize("overlay", ["eks", "gke"])
def test_a_cloud_needs_its_context(overlay: str) -> None:
    with pytest.raises(DeployError, match="kubectl config get-contexts"):
        release.Target.of(overlay)


def test_a_taken_port_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(cluster, "PORTS", [port])
        with pytest.raises(DeployError, match=f"port {port} .* is taken: stop what listens there"):
            cluster.check_port()
    cluster.check_port()


def test_what_pods_need_and_nobody_has_made_is_named_before_anything_changes() -> None:
    container = {
        "image": "a:1",
        "envFrom": [{"secretRef": {"name": "task-api"}}, {"configMapRef": {"name": "settings"}}],
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "a", "optional": True}}}],
    }
    volumes = [{"name": "ca", "configMap": {"name": "database-ca"}}, {"name": "run", "emptyDir": {}}]
    pods = item("Deployment", spec={"template": {"spec": {"containers": [container], "volumes": volumes}}})
    settings = item("ConfigMap", "settings")
    cluster = Recorded()
    assert manifests.missing(cluster, [pods, settings]) == ["configmap/database-ca", "secret/task-api"]
    external = item("ExternalSecret", spec={"target": {"name": "task-api"}})
    assert manifests.missing(cluster, [pods, settings, external]) == ["configmap/database-ca"]
    assert manifests.missing(Recorded(objects=[item("ConfigMap", "database-ca")]), [pods, settings, external]) == []
    volumes.append({"name": "ca", "secret": {"secretName": "database-ca"}})  # the deploy makes it
    database = item("Cluster", "postgres", spec={"bootstrap": {"initdb": {"secret": {"name": "postgres"}}}})
    assert manifests.missing(cluster, [pods, settings, external, database]) == [
        "configmap/database-ca",
        "secret/postgres",
    ]


def test_a_deploy_waits_for_the_secret_store() -> None:
    cluster = Recorded()
    release.wait_for_secrets(cluster, [item("ExternalSecret"), item("Secret", "other")])
    assert cluster.commands == [("wait", "externalsecret/task-api", "--for=condition=Ready", "--timeout=120s")]


def test_a_deploy_warns_where_no_alert_reaches_anybody() -> None:
    volumes = [{"name": "receivers", "secret": {"secretName": "alert-receivers", "optional": True}}]
    alertmanager = item("StatefulSet", "alertmanager", spec={"template": {"spec": {"volumes": volumes}}})
    assert "create secret generic alert-receivers" in verify.unreceived(Recorded(), [alertmanager])
    cluster = Recorded(objects=[item("Secret", "alert-receivers", data={"page": "aHR0cHM6"})])
    assert verify.unreceived(cluster, [alertmanager]) == ""
    assert verify.unreceived(Recorded(), []) == ""


def test_a_restore_names_its_backup_to_each_container_of_the_job() -> None:
    class Cluster(Recorded):
        def run(self, *arguments: str, stdin: str | None = None) -> str:
            super().run(*arguments, stdin=stdin)
            pod = {"initContainers": [{"name": "fetch"}], "containers": [{"name": "restore", "env": []}]}
            return json.dumps(item("Job", spec={"template": {"spec": pod}})) if arguments[0] == "create" else "restored"

        def get(self, kind: str, name: str) -> Object:
            del kind, name
            return item("Job", spec={}, status={"conditions": [{"type": "Complete", "status": "True"}]})

    cluster = Cluster()
    assert backup.restore(cluster, "task-api", silent, "2026-01-01.dump") == "restored"
    assert "--from=cronjob/task-api-restore" in cluster.commands[0]
    pod = cluster.applied[0]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["env"] == [{"name": "BACKUP", "value": "2026-01-01.dump"}]


PULL_ERROR = "failed to pull and unpack image: " + "no such host " * 40


def test_the_status_is_readable_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = pod({"waiting": {"reason": "ImagePullBackOff", "message": PULL_ERROR}})
    waiting["metadata"]["name"] = "task-api-5b9f4f9c8d-abcde"
    waiting["spec"] |= {"nodeName": "ip-10-0-12-34.eu-central-1.compute.internal", "containers": [{}]}
    running = deployment(**COMPLETE)
    running["spec"]["template"] = {"spec": {"containers": [{"image": "task-api:1"}]}}
    cluster = Recorded(objects=[running, waiting])
    view.show(cluster, "task-api", "http://127.0.0.1:30080", Console(width=80))
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if "0/1" in line]
    assert "task-api-5b9f4f9c8d-abcde" in row
    assert len(row) <= 80
    assert f"task-api-5b9f4f9c8d-abcde waits: ImagePullBackOff: {PULL_ERROR}" in printed


# Proof that it works.


def autoscaler(**values: int) -> Object:
    metrics = [
        {"type": "Resource", "resource": {"name": name, "target": {"averageUtilization": target}}}
        for name, target in (("cpu", 70), ("memory", 80))
    ]
    current = [
        {"type": "Resource", "resource": {"name": name, "current": {"averageUtilization": value}}}
        for name, value in values.items()
    ]
    return item("HorizontalPodAutoscaler", spec={"metrics": metrics}, status={"currentMetrics": current or None})


def test_the_autoscaler_must_read_every_metric() -> None:
    assert verify.autoscaler_text(autoscaler(cpu=12, memory=40)) == (True, "cpu: 12%/70%, memory: 40%/80%")
    assert verify.autoscaler_text(autoscaler(cpu=12)) == (False, "cpu: 12%/70%, memory: <unknown>/80%")
    assert verify.autoscaler_text(autoscaler())[0] is False
    with pytest.raises(DeployError, match="<unknown>"):
        verify.autoscaler_reads(Recorded(objects=[autoscaler(cpu=1)]), "task-api", silent, timeout=0)


def test_a_metric_from_outside_has_its_value_in_the_autoscalers_text() -> None:
    metric = {"metric": {"name": "s0-age"}}
    scaled = autoscaler(cpu=12, memory=40)
    scaled["spec"]["metrics"].append({"type": "External", "external": {**metric, "target": {"value": "10"}}})
    scaled["status"]["currentMetrics"].append({"type": ""})  # Kubernetes' own, of a metric that it could not read
    assert verify.autoscaler_text(scaled) == (False, "cpu: 12%/70%, memory: 40%/80%, s0-age: <unknown>/10")
    scaled["status"]["currentMetrics"][-1] = {"type": "External", "external": {**metric, "current": {"value": "25"}}}
    assert verify.autoscaler_text(scaled) == (True, "cpu: 12%/70%, memory: 40%/80%, s0-age: 25/10")


def test_a_cluster_without_keda_is_named_before_anything_is_deployed_to_it() -> None:
    lacking = Recorded()
    target = release.Target(Path(), lacking, local=False, service=service())
    with pytest.raises(DeployError, match="nowhere has no KEDA: install it first"):
        release.provide_operators(target, [item("ScaledObject")], Steps("deploy"))
    assert lacking.applied == []


class ByNamespace(Recorded):
    """A cluster whose kubectl takes objects of the namespace that it is called for, and of none, as the real one."""

    def apply(self, objects: Sequence[Object]) -> list[Change]:
        assert {one["metadata"].get("namespace", self.namespace) for one in objects} <= {self.namespace}
        return super().apply(objects)


def test_keda_is_installed_with_its_objects_of_other_namespaces_and_registered_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, foreign = ({"kind": "Role", "metadata": {"name": "r", "namespace": one}} for one in ("keda", "kube-system"))
    whole = {"kind": "Namespace", "metadata": {"name": "keda"}}
    registration = {"kind": "APIService", "metadata": {"name": keda.API}}
    monkeypatch.setattr(keda, "manifest", lambda _kube: [registration, own, whole, foreign])
    monkeypatch.setattr(keda, "wait", lambda *_: None)
    into = ByNamespace()
    keda.install(into, silent)
    assert (into.applied[0], into.applied[-1]) == (whole, registration)
    assert sorted(map(str, into.applied[1:-1])) == sorted(map(str, (own, foreign)))


@pytest.mark.parametrize(
    "status", [{}, {"conditions": None}, {"conditions": [{"type": "Established", "status": "False"}]}]
)
def test_a_kind_that_the_api_server_has_not_looked_at_yet_is_waited_for(status: Object) -> None:
    defined = item("CustomResourceDefinition", "things.example.com", status=status)
    with pytest.raises(DeployError, match="not served"):
        kube.establish(Recorded(objects=[defined]), timeout=0)
    served = {"conditions": [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}
    kube.establish(Recorded(objects=[defined | {"status": served}]), timeout=0)


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with running({**ACCOUNTS, "LOGIN_LIMIT": "2/hour"}, workers=1) as address:
        yield address


def checked(url: str, credentials: dict[str, str]) -> str:
    """Check with these credentials, and return the message."""
    news: list[str] = []
    verify.task_round(url, credentials, news.append)
    return news[-1]


def test_every_checkout_checks_with_the_account_that_the_cluster_keeps(served: str) -> None:
    cluster = Recorded()
    first = verify.account(cluster)
    assert first == verify.account(Recorded(objects=cluster.applied))
    assert first != verify.account(Recorded())
    assert "written, read and removed" in checked(served, first)
    assert "written, read and removed" in checked(served, first)


def test_the_cleaning_up_spares_the_account() -> None:
    cluster = Recorded()
    verify.account(cluster)
    assert "labels" not in cluster.applied[0]["metadata"]


def test_an_incomplete_account_is_named_with_a_remedy() -> None:
    with pytest.raises(DeployError, match="deploy-check has no 'password': put it in"):
        verify.account(Recorded(objects=[item("Secret", verify.ACCOUNT, data={"email": "YUBiLmM="})]))


def test_an_account_with_another_password_is_no_reason_to_roll_back(served: str) -> None:
    account = verify.account(Recorded())
    checked(served, account)
    assert "409: the account has another password than the Secret deploy-check" in checked(
        served, {**account, "password": "never the right one"}
    )


def test_a_strangers_wrong_logins_are_no_reason_to_roll_back(served: str) -> None:
    account = verify.account(Recorded())
    checked(served, account)
    for _ in range(3):
        httpx.post(f"{served}/auth/login", json={**account, "password": "never the right one"})
    assert checked(served, account).startswith("WARNING: no task was written and read: /auth/login answers 429")


def test_closed_registration_is_no_reason_to_roll_back_and_has_a_remedy() -> None:
    with running({**ACCOUNTS, "REGISTRATION": "closed"}, workers=1) as address:
        assert "into the Secret deploy-check" in checked(address, verify.account(Recorded()))


@pytest.mark.parametrize("broken", ["/auth/login", "/tasks"])
def test_a_wrong_answer_fails(broken: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = b'{"access_token": "t"}'
            self.send_response(500 if self.path == broken else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
            pass

    with serving(Handler) as address, pytest.raises(DeployError, match=f"{broken} answers 500"):
        verify.task_round(f"http://{address}", {}, silent)


def test_a_connection_that_breaks_fails() -> None:
    with pytest.raises(DeployError, match=r"http://127\.0\.0\.1:1/auth/login"):
        verify.task_round("http://127.0.0.1:1", {}, silent)


@pytest.mark.parametrize(("answer", "problem"), [("2", ""), ("1", "Prometheus scrapes 1 of 2 pods"), ("", "0 of 2")])
def test_prometheus_is_asked_in_its_own_pod(answer: str, problem: str) -> None:
    class Watched(Recorded):
        def run(self, *arguments: str, stdin: str | None = None) -> str:
            super().run(*arguments, stdin=stdin)
            return json.dumps([{"metric": {}, "value": [1.5, answer]}] if answer else [])

    cluster = Watched(objects=[deployment(readyReplicas=2)])
    with pytest.raises(DeployError, match=problem) if problem else nullcontext():
        verify.scraped(cluster, "task-api", silent, timeout=0)
    assert cluster.commands[0][:4] == ("exec", "statefulset/prometheus", "--", "promtool")
    assert '{job="task-api"}' in cluster.commands[0][-1], "pods of another service are none of this one"


def test_a_service_that_does_not_answer_is_named() -> None:
    with pytest.raises(DeployError, match=r"http://127\.0\.0\.1:1/readyz"):
        verify.answers("http://127.0.0.1:1", silent, timeout=0)


# Progress.


def test_the_record_holds_each_step_its_time_and_how_it_ended(tmp_path: Path) -> None:
    steps = Steps("deploy")
    with steps.step("first") as log:
        log("half way")
    steps.mark("first 200")
    with pytest.raises(DeployError), steps.step("second"):
        raise DeployError("no room <b>")
    steps.write(tmp_path, "no room <b>")
    record = json.loads((tmp_path / "deploy.json").read_text())
    assert [(step["name"], step["outcome"], step["note"]) for step in record["steps"]] == [
        ("first", "done", "half way"),
        ("second", "failed", ""),
    ]
    assert 0 <= record["marks"]["first 200"] <= record["seconds"]
    assert datetime.fromtimestamp(record["began_at"], UTC) <= datetime.now(UTC)
    page = (tmp_path / "deploy.html").read_text()
    assert "no room &lt;b&gt;" in page


def test_news_is_printed_once_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps("deploy").step("wait") as log:
        log("1 of 3")
        log("1 of 3")
        log("2 of 3")
    printed = capsys.readouterr().out
    assert printed.count("wait: 1 of 3") == 1
    assert printed.count("wait: 2 of 3") == 1


# The database of one's choice.


def test_an_overlay_has_the_databases_of_its_variants() -> None:
    kind, eks = K8S / "overlays" / "kind", K8S / "overlays" / "eks"
    assert manifests.with_database(kind, "") == manifests.with_database(kind, "single") == kind
    assert manifests.with_database(kind, "replicated") == kind.with_name("kind-replicated")
    assert manifests.with_database(eks, "") == manifests.with_database(eks, "managed") == eks
    assert manifests.with_database(eks, "replicated") == eks.with_name("eks-replicated")
    with pytest.raises(DeployError, match="overlay eks has no database 'single': it has managed, replicated"):
        manifests.with_database(eks, "single")
    with pytest.raises(DeployError, match="replicated, single"):
        manifests.with_database(kind, "sharded")


@pytest.mark.parametrize(
    ("current", "deployed", "way"),
    [("Cluster", "StatefulSet", "add --database replicated"), ("StatefulSet", "Cluster", "leave --database out")],
)
def test_a_deploy_never_puts_an_empty_database_in_the_place_of_another(current: str, deployed: str, way: str) -> None:
    kinds = {"Cluster": rollout.CLUSTER, "StatefulSet": "StatefulSet"}
    definition = item("CustomResourceDefinition", operator.CRD)
    cluster = Recorded(objects=[definition, item(kinds[current], "postgres")])
    with pytest.raises(DeployError, match=f"{way}.*cluster-backup.*nothing was changed"):
        release.check_database(cluster, [item(deployed, "postgres")])
    release.check_database(cluster, [item(current, "postgres")])
    release.check_database(Recorded(), [item(deployed, "postgres")])


def test_a_service_is_not_deployed_before_the_one_whose_database_it_uses() -> None:
    def target(one: Service, *there: Object, local: bool = True) -> release.Target:
        return release.Target(Path(), Recorded(objects=list(there)), local, one)

    sharer = next(one for one in services() if one.database and not one.migrations)
    with pytest.raises(DeployError, match=r"database of task-api.*deploy --name task-api.*nothing was changed"):
        release.check_owner(target(sharer))
    release.check_owner(target(sharer, item("Deployment")))
    release.check_owner(target(sharer, local=False))  # whose DATABASE_URL may name any
    release.check_owner(target(service()))


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({}, False),
        ({"readyInstances": 2, "conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"readyInstances": 3, "conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"readyInstances": 3, "conditions": [{"type": "Ready", "status": "True"}]}, True),
    ],
)
def test_a_replicated_database_is_there_when_all_its_instances_are_ready(status: Object, done: bool) -> None:
    spec, data = {"instances": 3, "imageName": "postgresql:17"}, {"pgDataImageInfo": {"image": "postgresql:17"}}
    assert rollout.workload_state(item("Cluster", spec=spec, status=status | data)).done is done


@pytest.mark.parametrize("status", [{}, {"pgDataImageInfo": {"image": "postgresql:17", "majorVersion": 17}}])
def test_a_replicated_database_is_not_there_before_its_data_are_of_the_version_that_it_shall_have(
    status: Object,
) -> None:
    """Right after the change of its image all instances are still ready, with the version before."""
    there = {"readyInstances": 3, "conditions": [{"type": "Ready", "status": "True"}]}
    spec = {"instances": 3, "imageName": "postgresql:18"}
    assert not rollout.workload_state(item("Cluster", spec=spec, status=status | there)).done


def test_the_operators_manifest_is_taken_by_its_hash_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "cnpg.yaml"
    monkeypatch.setenv(operator.SETTING, str(copy))
    with pytest.raises(DeployError, match="is no file"):
        operator.manifest()
    container = {"image": operator.IMAGE, "imagePullPolicy": "Always"}
    template = {"metadata": {"labels": {"app": "operator"}}, "spec": {"containers": [container]}}
    copy.write_text(yaml.safe_dump(item("Deployment", spec={"replicas": 1, "template": template})))
    with pytest.raises(
        DeployError, match=rf"has the SHA-256 \w+; CloudNativePG {operator.VERSION} has {operator.SHA256}"
    ):
        operator.manifest()
    assert copy.exists()
    monkeypatch.setattr(operator, "SHA256", digest(copy))
    (deployment,) = operator.manifest()
    pods = deployment["spec"]["template"]["spec"]
    assert pods["containers"] == [{**container, "imagePullPolicy": "IfNotPresent"}]
    (spread,) = pods["topologySpreadConstraints"]
    assert (deployment["spec"]["replicas"], spread["topologyKey"]) == (2, "kubernetes.io/hostname")
    assert spread["whenUnsatisfiable"] == "DoNotSchedule"  # after a drain both would stay on one node
    assert spread["labelSelector"]["matchLabels"] == {"app": "operator"}


def test_a_machine_without_a_network_learns_which_copy_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_url: str, path: Path) -> None:
        path.write_text("half")
        raise httpx.ConnectError("no route")

    monkeypatch.delenv(operator.SETTING, raising=False)
    monkeypatch.setattr(operator, "CACHE", tmp_path)
    monkeypatch.setattr(operator, "download", refuse)
    with pytest.raises(DeployError, match=f"get https://.* and set {operator.SETTING}"):
        operator.manifest()
    assert not list(tmp_path.iterdir())
