"""What every overlay must be, rendered as a deploy renders it."""

import base64
import fnmatch
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from monitoring import operator_rules
from tooling import secret_files
from tooling.deploy import DeployError, cluster, keda, manifests
from tooling.deploy.kube import Kube
from tooling.deploy.manifests import AUTOSCALERS
from tooling.kubernetes import quantity
from tooling.project import Service, migrating, service, services
from tooling.tools import call, digest

K8S = Path(__file__).parent.parent
ROOT = K8S.parent
VERSION = "1.34"
OVERLAYS = [str(folder.relative_to(K8S / "overlays")) for folder in service().overlays]
GOOGLE_KEEPS_SECONDS = 600  # what its load balancer's connections to pods live idle; nobody can set it
FURTHER = [
    f"../{overlay.relative_to(ROOT)}" for further in services() if not further.default for overlay in further.overlays
]
"""The overlays of every service but the default one."""

EVERYTHING = [*(f"overlays/{name}" for name in OVERLAYS), "metrics-server", *FURTHER]

DEFINED_ELSEWHERE = {
    definition["spec"]["names"]["kind"]
    for file in (Path(__file__).parent / "crds").glob("*.yaml")
    for definition in yaml.safe_load_all(file.read_text())
}
"""Kinds that clouds and operators add: tests/test_api_server.py holds them to their definitions."""

Object = dict[str, Any]


@cache
def text(folder: str) -> str:
    """Render a folder of k8s/."""
    return call("kubectl", "kustomize", K8S / folder)


def objects(folder: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(text(folder)) if item]


def one(folder: str, kind: str, name: str = "task-api") -> Object:
    (match,) = [item for item in objects(folder) if item["kind"] == kind and item["metadata"]["name"] == name]
    return match


def pod_specs(value: Any) -> Iterator[Object]:
    """Find every pod's spec."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from pod_specs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_specs(inner)


@pytest.mark.parametrize("folder", sorted((ROOT / "e2e" / "broken").iterdir()), ids=lambda folder: folder.name)
def test_a_broken_overlay_fails_on_the_cluster_and_not_when_it_is_rendered(folder: Path) -> None:
    assert objects(str(folder))


def misconfigurations(folder: Path) -> list[str]:
    """Return Trivy's checks that fail, HIGH or worse; raise where it looked at nothing."""
    options = ["--quiet", "--skip-check-update", "--severity=HIGH,CRITICAL", "--format=json"]
    report = json.loads(call("trivy", "config", *options, folder))
    assert report.get("Results"), "Trivy has looked at nothing"
    return [
        f"{entry['ID']} {entry['Title']}"
        for result in report["Results"]
        for entry in result.get("Misconfigurations", [])
    ]


@pytest.mark.parametrize("folder", EVERYTHING)
def test_holds_to_the_schemas_of_kubernetes(folder: str) -> None:
    for item in objects(folder):
        if item["kind"] not in DEFINED_ELSEWHERE:
            kubernetes_validate.validate(item, VERSION, strict=True)


def test_the_schemas_reject_an_unknown_field() -> None:
    broken = one("overlays/kind", "Deployment")
    broken["spec"]["template"]["spec"]["containers"][0]["liveness"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="liveness"):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize("folder", EVERYTHING)
def test_trivy_has_no_high_finding(folder: str, tmp_path: Path) -> None:
    (tmp_path / "rendered.yaml").write_text(text(folder))
    assert misconfigurations(tmp_path) == []


def test_trivy_finds_a_privileged_pod(tmp_path: Path) -> None:
    broken = one("overlays/kind", "Deployment")
    broken["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump(broken))
    assert any(re.match(r"KSV-?0*17 ", finding) for finding in misconfigurations(tmp_path))


@pytest.mark.parametrize("folder", EVERYTHING)
def test_a_pod_gets_a_token_only_where_it_speaks_to_the_api(folder: str) -> None:
    with_token = {
        item["metadata"]["name"]
        for item in objects(folder)
        for spec in pod_specs(item)
        if spec.get("automountServiceAccountToken") is not False
    }
    assert with_token <= {"prometheus", "kube-state-metrics", "metrics-server"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_pod_outlives_its_own_draining(name: str) -> None:
    spec = one(f"overlays/{name}", "Deployment")["spec"]["template"]["spec"]
    source = spec["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    settings = one(f"overlays/{name}", "ConfigMap", source)["data"]
    leaving = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = leaving + float(settings["DRAIN_SECONDS"]) + float(settings["GRACEFUL_TIMEOUT"])
    assert leaving > 0
    assert drain < spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_quota_has_room_for_the_most_pods_and_a_rollout(name: str) -> None:
    matches = objects(f"overlays/{name}")
    most = one(f"overlays/{name}", "HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    surge = one(f"overlays/{name}", "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    quota = one(f"overlays/{name}", "ResourceQuota")["spec"]["hard"]
    needed = {"pods": 0.0, "requests.cpu": 0.0, "requests.memory": 0.0, "limits.cpu": 0.0, "limits.memory": 0.0}
    for item in matches:
        copies = most + surge if item["kind"] == "Deployment" and item["metadata"]["name"] == "task-api" else 1
        if item["kind"] == "Cluster":  # its instances, and a job that makes one
            needed["pods"] += item["spec"]["instances"] + 1
            for kind, resources in item["spec"]["resources"].items():
                for resource, amount in resources.items():
                    needed[f"{kind}.{resource}"] += (item["spec"]["instances"] + 1) * quantity(str(amount))
        for spec in pod_specs(item):
            needed["pods"] += copies
            for container in spec["containers"]:
                for kind, resources in container["resources"].items():
                    for resource, amount in resources.items():
                        needed[f"{kind}.{resource}"] += copies * quantity(str(amount))
    assert {key: amount for key, amount in needed.items() if amount > quantity(str(quota[key]))} == {}


def test_the_cluster_maps_the_port_of_the_service() -> None:
    mappings = cluster.configuration()["nodes"][0]["extraPortMappings"]
    (port,) = one("overlays/kind", "Service")["spec"]["ports"]
    assert (port["nodePort"], "127.0.0.1") in {(one["containerPort"], one["listenAddress"]) for one in mappings}


@pytest.mark.parametrize("name", ["eks", "gke"])
def test_what_is_your_own_stands_in_the_settings_alone(name: str) -> None:
    settings = yaml.safe_load((K8S / "overlays" / name / "settings.yaml").read_text())["data"]
    ingress = one(f"overlays/{name}", "Ingress")["spec"]
    assert {ingress["rules"][0]["host"], *ingress["tls"][0]["hosts"]} == {settings["host"]}
    account = one(f"overlays/{name}", "ServiceAccount", "task-api-backup")
    assert set(account["metadata"]["annotations"].values()) <= set(settings.values())
    assert account["imagePullSecrets"] == one(f"overlays/{name}", "ServiceAccount")["imagePullSecrets"]
    assert account["imagePullSecrets"] == [{"name": settings["image-pull"]}]
    assert one(f"overlays/{name}", "ConfigMap", "backup-store")["data"]["BUCKET"] == settings["bucket"]
    assert not [item for item in objects(f"overlays/{name}") if item["metadata"]["name"] == "settings"]
    assert "type" not in one(f"overlays/{name}", "Service")["spec"]  # ClusterIP, behind the load balancer
    assert "kind: Secret" not in text(f"overlays/{name}")


@pytest.mark.parametrize("name", ["eks", "gke"])
def test_the_load_balancer_asks_what_the_kubelet_asks(name: str) -> None:
    (container,) = one(f"overlays/{name}", "Deployment")["spec"]["template"]["spec"]["containers"]
    probe = container["readinessProbe"]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if name == "eks":
        path = one("overlays/eks", "Ingress")["metadata"]["annotations"]["alb.ingress.kubernetes.io/healthcheck-path"]
        assert path == probe["path"]
    else:
        check = one("overlays/gke", "BackendConfig")["spec"]["healthCheck"]
        assert (check["requestPath"], check["port"]) == (probe["path"], ports[probe["port"]])
        named = one("overlays/gke", "Service")["metadata"]["annotations"]["cloud.google.com/backend-config"]
        assert json.loads(named) == {"default": "task-api"}


def test_google_keeps_no_connection_longer_than_the_service() -> None:
    (container,) = one("overlays/gke", "Deployment")["spec"]["template"]["spec"]["containers"]
    settings = {setting["name"]: setting.get("value") for setting in container["env"]}
    assert float(settings["IDLE_SECONDS"]) > GOOGLE_KEEPS_SECONDS


def test_every_pod_on_gke_may_ask_the_name_server_of_its_node() -> None:
    reached = set()
    for policy in objects("overlays/gke"):
        if policy["kind"] == "NetworkPolicy" and not policy["spec"]["podSelector"]:
            for rule in policy["spec"].get("egress", []):
                if {("UDP", 53), ("TCP", 53)} == {(port["protocol"], port["port"]) for port in rule["ports"]}:
                    for peer in rule["to"]:
                        block, pods = peer.get("ipBlock", {}), peer.get("podSelector", {}).get("matchLabels", {})
                        reached |= {block.get("cidr"), pods.get("k8s-app")}
    assert reached >= {"kube-dns", "node-local-dns", "169.254.20.10/32", "169.254.169.254/32"}


def test_compose_and_the_cluster_run_the_same_images() -> None:
    composed = {
        service["image"] for service in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    }
    names = {image.partition(":")[0]: image for image in composed}
    for item in objects("overlays/kind"):
        for spec in pod_specs(item):
            for container in spec["containers"]:
                name = container["image"].partition(":")[0]
                assert container["image"] == names.get(name, container["image"]) or name == "task-api"


def test_prometheus_gets_every_rule_file() -> None:
    mounted = {
        key
        for item in objects("overlays/kind")
        if item["kind"] == "ConfigMap" and item["metadata"]["name"].startswith("prometheus-rules")
        for key in item["data"]
    }
    assert mounted == {path.name for path in (ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml")}


def clients_of_the_database(folder: str) -> Iterator[tuple[str, Object, Object]]:
    """Yield name, pod and container of each workload that connects to the database."""
    for item in objects(folder):
        for spec in pod_specs(item):
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                settings = {setting["name"] for setting in container.get("env", [])}
                if "DATABASE_URL" in settings or any("secretRef" in source for source in container.get("envFrom", [])):
                    yield item["metadata"]["name"], spec, container


MANAGED = {"configMap": {"name": "database-ca"}}
REPLICATED = {"secret": {"secretName": "database-ca", "items": [{"key": "ca.crt", "path": "ca.pem"}]}}


@pytest.mark.parametrize(
    ("name", "authority"),
    [
        ("eks", MANAGED),
        ("gke", MANAGED),
        *((f"{cloud}-{variant}", REPLICATED) for cloud in ("eks", "gke") for variant in ("replicated", "archived")),
    ],
)
def test_every_client_of_a_clouds_database_verifies_its_certificate(name: str, authority: Object) -> None:
    workloads = set()
    for workload, spec, container in clients_of_the_database(f"overlays/{name}"):
        settings = {setting["name"]: setting.get("value") for setting in container.get("env", [])}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                settings |= one(f"overlays/{name}", "ConfigMap", source["configMapRef"]["name"])["data"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (volume,) = [one for one in spec["volumes"] if one["name"] == mounts["/etc/database-ca"]]
        assert volume == {"name": "database-ca", **authority}
        assert (settings["PGSSLMODE"], settings["PGSSLROOTCERT"]) == ("verify-full", "/etc/database-ca/ca.pem")
        workloads.add(workload)
    assert workloads == {"task-api", "task-api-migration", "task-api-backup", "task-api-restore"}


@pytest.mark.parametrize("name", ["eks", "gke"])
def test_backups_leave_the_cluster_by_an_identity_of_their_own(name: str) -> None:
    claims = {item["metadata"]["name"] for item in objects(f"overlays/{name}") if "Claim" in item["kind"]}
    assert claims == set()
    for job, transfer in (("task-api-backup", "containers"), ("task-api-restore", "initContainers")):
        spec = one(f"overlays/{name}", "CronJob", job)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = spec[transfer]
        assert container["envFrom"] == [{"configMapRef": {"name": "backup-store"}}]
        assert spec["serviceAccountName"] == "task-api-backup"
    assert one(f"overlays/{name}", "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "task-api"


@pytest.mark.parametrize(
    ("name", "annotation", "setting", "credentials"),
    [
        ("eks", "eks.amazonaws.com/role-arn", "archive-role", {"s3Credentials": {"inheritFromIAMRole": True}}),
        (
            "gke",
            "iam.gke.io/gcp-service-account",
            "archive-account",
            {"googleCredentials": {"gkeEnvironment": True}},
        ),
    ],
)
def test_a_clouds_archive_is_entered_by_an_identity_that_a_recovered_database_has_too(
    name: str, annotation: str, setting: str, credentials: Object
) -> None:
    overlay = f"overlays/{name}-archived"
    settings = yaml.safe_load((K8S / "overlays" / name / "settings.yaml").read_text())["data"]
    cluster = one(overlay, "Cluster", "postgres")["spec"]
    account = one(overlay, "ServiceAccount", cluster["serviceAccountName"])
    assert account["metadata"]["annotations"] == {annotation: settings[setting]}
    assert "automountServiceAccountToken" not in account  # an instance reports to the API server
    configuration = one(overlay, "ObjectStore", "archive")["spec"]["configuration"]
    kept = {key: value for key, value in configuration.items() if "Credentials" in key or key == "endpointURL"}
    assert kept == credentials
    assert "kind: Secret\n" not in text(overlay)


@pytest.mark.parametrize("name", ["eks-replicated", "gke-replicated"])
def test_a_replicated_database_of_a_cloud_loses_a_zone_at_most(name: str) -> None:
    spec = one(f"overlays/{name}", "Cluster", "postgres")["spec"]
    (constraint,) = spec["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraint["whenUnsatisfiable"] == "DoNotSchedule"
    assert "postgres" in spec["certificates"]["serverAltDNSNames"]  # the host in DATABASE_URL
    assert spec["storage"]["storageClass"]
    assert not [item for item in objects(f"overlays/{name}") if item["metadata"]["name"] == "database-clients"]


def test_the_machine_keeps_its_backups_in_a_folder() -> None:
    spec = one("overlays/kind", "CronJob", "task-api-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "task-api-backups"}


def test_google_speaks_tls_1_2_at_least_and_sends_plain_http_on() -> None:
    front = one("overlays/gke", "FrontendConfig")["spec"]
    settings = yaml.safe_load((K8S / "overlays" / "gke" / "settings.yaml").read_text())["data"]
    assert front == {"sslPolicy": settings["ssl-policy"], "redirectToHttps": {"enabled": True}}
    annotations = one("overlays/gke", "Ingress")["metadata"]["annotations"]
    assert annotations["networking.gke.io/v1beta1.FrontendConfig"] == "task-api"


def test_the_operator_gets_the_rules_that_prometheus_reads() -> None:
    written = dict(operator_rules.written())
    assert written.keys() == {file for one in services() for file in one.manifests.glob("components/*/rules.yaml")}
    for file, expected in written.items():
        assert file.read_text() == expected, "run `python -m monitoring.operator_rules`"


def test_every_receiver_configuration_has_the_same_routes() -> None:
    webhooks, chat = (
        yaml.safe_load((folder / "alertmanager.yml").read_text())
        for folder in (ROOT / "monitoring" / "alertmanager", K8S / "components" / "pagerduty-slack")
    )
    assert chat["route"] == webhooks["route"]
    assert chat["inhibit_rules"] == webhooks["inhibit_rules"]
    assert [one["name"] for one in chat["receivers"]] == [one["name"] for one in webhooks["receivers"]]


@pytest.mark.parametrize("name", ["kind", "kind-replicated"])
def test_each_database_has_the_same_service_and_secret(name: str) -> None:
    (port,) = one(f"overlays/{name}", "Service", "postgres")["spec"]["ports"]
    assert port["port"] == 5432
    kinds = {item["kind"] for item in objects(f"overlays/{name}") if item["metadata"]["name"] == "postgres"}
    assert len(kinds & {"StatefulSet", "Cluster"}) == 1
    assert "name: postgres" in text(f"overlays/{name}")


def test_an_acknowledged_commit_is_on_two_nodes() -> None:
    spec = one("overlays/kind-replicated", "Cluster", "postgres")["spec"]
    synchronous = spec["postgresql"]["synchronous"]
    assert synchronous == {"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True}
    assert spec["instances"] == 3
    spread = spec["affinity"]
    assert (spread["podAntiAffinityType"], spread["topologyKey"]) == ("required", "kubernetes.io/hostname")


def test_a_standby_keeps_its_connection_until_kubernetes_has_declared_the_primarys_node_gone() -> None:
    grace, period = 50, 5  # kube-controller-manager's defaults for node-monitor-grace-period and node-monitor-period
    parameters = one("overlays/kind-replicated", "Cluster", "postgres")["spec"]["postgresql"]["parameters"]
    assert int(parameters["wal_receiver_timeout"].removesuffix("s")) >= grace + period + 15


def rule(alert: str) -> str:
    """Return the expression of an alert."""
    rules = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "rules" / "kubernetes.yml").read_text())
    (expression,) = [one["expr"] for one in rules["groups"][0]["rules"] if one["alert"] == alert]
    return str(expression)


def test_the_alert_on_standbys_expects_one_less_than_there_are_instances() -> None:
    cluster = one("overlays/kind-replicated", "Cluster", "postgres")
    assert rule("TaskApiStandbyMissing").endswith(
        f'{{cnpg_io_cluster=~"postgres.*"}}) < {cluster["spec"]["instances"] - 1}'
    )


@pytest.mark.parametrize("claim", ["data-postgres-0", "postgres-1", "postgres-3", "task-api-backups"])
def test_every_volume_is_watched_for_filling(claim: str) -> None:
    (pattern,) = re.findall(r'persistentvolumeclaim=~"(.+?)"', rule("TaskApiVolumeFilling"))
    assert re.fullmatch(pattern, claim)  # PromQL anchors at both ends


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Return whether a selector that is not empty selects what has the labels."""
    expressions = selector.get("matchExpressions", [])
    there = all(
        one["key"] in labels and labels[one["key"]] in one.get("values", [labels[one["key"]]]) for one in expressions
    )
    return bool(selector) and there and selector.get("matchLabels", {}).items() <= labels.items()


def test_only_the_service_its_jobs_and_the_operator_reach_the_instances() -> None:
    reached: dict[int, set[str]] = {}
    labels = {"cnpg.io/cluster": "postgres", "app.kubernetes.io/component": "database"}
    inherited = one("overlays/kind-replicated", "Cluster", "postgres")["spec"]["inheritedMetadata"]["labels"]
    assert inherited.items() <= labels.items()
    for policy in objects("overlays/kind-replicated"):
        if policy["kind"] == "NetworkPolicy" and selects(policy["spec"]["podSelector"], labels):
            for rule in policy["spec"].get("ingress", []):
                for port in rule["ports"]:
                    reached.setdefault(port["port"], set()).update(json.dumps(peer) for peer in rule["from"])
    assert set(reached) == {5432, 8000, 9187}
    assert all(
        "cnpg" in peer or "prometheus" in peer or "component" in peer for peers in reached.values() for peer in peers
    )
    assert not any("component" in peer for peer in reached[8000])


def local(sharer: Service) -> Path:
    """Return the overlay of the local cluster."""
    return sharer.manifests / "overlays" / "kind"


SHARERS = [one for one in services() if one.database and not one.migrations]


@pytest.mark.parametrize("sharer", SHARERS, ids=lambda one: one.name)
def test_a_service_reaches_the_database_in_the_namespace_of_who_migrates_it(
    sharer: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = secret_files.ensure(tmp_path)
    monkeypatch.setattr(secret_files, "ensure", lambda: files)
    rendered = manifests.render(
        sharer, Kube("no-cluster", sharer.name), local(sharer), f"{sharer.name}:latest", generate_secrets=True
    )
    (secret,) = [item for item in rendered if item["kind"] == "Secret"]
    url = base64.b64decode(secret["data"]["DATABASE_URL"]).decode()
    owner = migrating(sharer)
    assert url.endswith(f"@postgres.{owner.name}/{owner.database}")
    policies = objects("overlays/kind")
    peers = [
        peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name")
        for policy in policies
        if policy["kind"] == "NetworkPolicy" and policy["metadata"]["name"] == "postgres"
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    assert sharer.name in peers


def test_with_webhooks_prometheus_watches_notifier_and_may_find_its_pods() -> None:
    folder = "overlays/kind-webhooks"
    volumes = one(folder, "StatefulSet", "prometheus")["spec"]["template"]["spec"]["volumes"]
    (mounted,) = [volume["configMap"] for volume in volumes if volume["name"] == "services"]
    files = one(folder, "ConfigMap", mounted["name"])["data"]
    (read,) = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())[
        "scrape_config_files"
    ][1:]
    paths = {f"/etc/services/{entry['path']}": entry["key"] for entry in mounted["items"]}
    (path,) = fnmatch.filter(paths, read)
    (job,) = yaml.safe_load(files[paths[path]])["scrape_configs"]
    (namespace,) = job["kubernetes_sd_configs"][0]["namespaces"]["names"]
    sharer = service(job["job_name"])
    assert namespace == sharer.name
    further = f"../{local(sharer).relative_to(ROOT)}"
    granted = {
        (subject["namespace"], subject["name"])
        for item in objects(further)
        if item["kind"] == "RoleBinding"
        for subject in item["subjects"]
    }
    watching = {("task-api", "prometheus"), ("task-api", "kube-state-metrics")}
    assert granted == watching
    (arguments,) = [
        container["args"]
        for spec in pod_specs(one(folder, "Deployment", "kube-state-metrics"))
        for container in spec["containers"]
    ]
    assert f"--namespaces=$(NAMESPACE),{namespace}" in arguments
    alerts = {entry.get("alert") for group in yaml.safe_load(files["rules.yml"])["groups"] for entry in group["rules"]}
    assert "NotifierQueueOld" in alerts


OF_SERVICES = [
    (folder, further.name)
    for folder in EVERYTHING
    for further in services()
    if folder.startswith("overlays/") == further.default and folder != "metrics-server"
]
"""Each overlay of each service, with the service's name."""
PROXIES = {"kind": "0", "eks": "1", "gke": "2"}
"""How many proxies of a platform add an address to X-Forwarded-For; one more, and a client chooses its own address."""


def labels_of(folder: str, kind: str, name: str) -> dict[str, str]:
    labels: dict[str, str] = one(folder, kind, name)["spec"]["template"]["metadata"]["labels"]
    return labels


def settings_of(folder: str, name: str) -> dict[str, str]:
    """Return the settings of a service's pods, without its secrets."""
    (container,) = one(folder, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    sources = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    named = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    return {key: value for each in sources for key, value in one(folder, "ConfigMap", each)["data"].items()} | named


def least_pods(folder: str, name: str) -> int:
    """Return how many pods the autoscaler leaves a service, whoever makes it."""
    scalers = [item for item in objects(folder) if item["kind"] in AUTOSCALERS and item["metadata"]["name"] == name]
    (spec,) = (item["spec"] for item in scalers)
    return int(spec.get("minReplicas") or spec["minReplicaCount"])


@pytest.mark.parametrize(("folder", "name"), OF_SERVICES)
def test_a_service_stays_up_while_pods_are_replaced_and_nodes_drained(folder: str, name: str) -> None:
    spec = one(folder, "Deployment", name)["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert least_pods(folder, name) >= 2
    budget = one(folder, "PodDisruptionBudget", name)["spec"]
    assert budget["maxUnavailable"] == 1
    assert selects(budget["selector"], labels_of(folder, "Deployment", name))


@pytest.mark.parametrize(("folder", "name"), OF_SERVICES)
def test_a_database_that_is_away_takes_pods_out_of_the_service_and_restarts_none(folder: str, name: str) -> None:
    (container,) = one(folder, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    probes = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


@pytest.mark.parametrize("folder", EVERYTHING)
def test_every_service_leads_to_pods(folder: str) -> None:
    pods = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in objects(folder)
        if item["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}
    ]
    for item in objects(folder):
        if item["kind"] == "Service" and item["spec"].get("type") != "ExternalName":
            selector = item["spec"].get("selector", {})
            of_the_operator = any(key.startswith("cnpg.io/") for key in selector)
            assert of_the_operator or any(selector.items() <= labels.items() for labels in pods), item["metadata"]


@pytest.mark.parametrize(("folder", "name"), OF_SERVICES)
def test_a_namespace_is_closed_but_for_what_is_allowed(folder: str, name: str) -> None:
    labels = one(folder, "Namespace", name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    closed = one(folder, "NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for item in objects(folder):
        if item["kind"] == "NetworkPolicy":
            rules = [*item["spec"].get("ingress", []), *item["spec"].get("egress", [])]
            assert all(rule.keys() & {"ports", "from", "to"} for rule in rules), f"{item['metadata']['name']} opens all"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_cluster_refuses_what_the_admission_policy_refuses(name: str) -> None:
    folder = f"overlays/{name}"
    assert one(folder, "ValidatingAdmissionPolicy", "task-api-images")["spec"]["failurePolicy"] == "Fail"
    binding = one(folder, "ValidatingAdmissionPolicyBinding", "task-api-images")["spec"]
    assert binding["validationActions"] == ["Deny"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_nobody_is_served_without_an_account_nor_chooses_the_address_it_is_counted_by(name: str) -> None:
    settings = settings_of(f"overlays/{name}", "task-api")
    assert settings["AUTH"] == "on"
    assert settings["TRUSTED_PROXIES"] == PROXIES[name.partition("-")[0]]
    assert "RATE_LIMIT" in settings


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_backup_runs_every_night_and_a_restore_by_hand_alone(name: str) -> None:
    jobs = {item["metadata"]["name"]: item["spec"] for item in objects(f"overlays/{name}") if item["kind"] == "CronJob"}
    assert {job: spec.get("suspend", False) for job, spec in jobs.items()} == {
        "task-api-backup": False,
        "task-api-restore": True,
    }
    assert re.fullmatch(r"\d+ \d+ \* \* \*", jobs["task-api-backup"]["schedule"])


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name.startswith("eks")])
def test_amazon_speaks_tls_1_2_at_least_and_sends_plain_http_on(name: str) -> None:
    annotations = one(f"overlays/{name}", "Ingress")["metadata"]["annotations"]
    prefix = "alb.ingress.kubernetes.io"
    assert annotations[f"{prefix}/ssl-redirect"] == "443"
    assert annotations[f"{prefix}/ssl-policy"] == "ELBSecurityPolicy-TLS13-1-2-2021-06"


@pytest.mark.parametrize("works", [True, False])
def test_a_backup_deletes_what_is_old_and_never_the_newest(tmp_path: Path, *, works: bool) -> None:
    backups, programs = tmp_path / "backups", tmp_path / "programs"
    for folder in (backups, programs):
        folder.mkdir()
    for name, code in {"pg_dump": 0 if works else 1, "pg_restore": 0}.items():
        stub = f'for one in "$@"; do case "$one" in --file=*) touch "${{one#--file=}}" ;; esac; done\nexit {code}\n'
        (programs / name).write_text(f"#!/bin/bash\n{stub}")
        (programs / name).chmod(0o755)
    old = [backups / f"2026-01-0{day}T021700Z.dump" for day in (1, 2, 3)]
    for dump in old:
        dump.touch()
        os.utime(dump, (0, 0))
    script = (K8S / "base" / "backup.sh").read_text().replace("/backups", str(backups))
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "DATABASE_URL": "postgresql://"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is works, done.stderr
    kept = sorted(backups.iterdir())
    assert kept[0] == old[-1]
    assert len(kept) == 1 + works


CLOUDS = [(one, name) for one in SHARERS for name in ("eks", "gke")]
in_clouds = pytest.mark.parametrize(("sharer", "name"), CLOUDS, ids=[f"{one.name}-{name}" for one, name in CLOUDS])


@in_clouds
def test_a_sharer_reaches_a_clouds_database_and_verifies_its_certificate(sharer: Service, name: str) -> None:
    folder = f"../{sharer.path}/k8s/overlays/{name}"
    ((_, spec, container),) = clients_of_the_database(folder)
    (source,) = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    settings = one(folder, "ConfigMap", source)["data"]
    assert (settings["PGSSLMODE"], settings["PGSSLROOTCERT"]) == ("verify-full", "/etc/database-ca/ca.pem")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mounts["/etc/database-ca"]]
    assert volume == {"name": "database-ca", **MANAGED}
    assert one(folder, "NetworkPolicy", "database-clients") == {
        **one(f"overlays/{name}", "NetworkPolicy", "database-clients"),
        "metadata": one(folder, "NetworkPolicy", "database-clients")["metadata"],
        "spec": {
            **one(f"overlays/{name}", "NetworkPolicy", "database-clients")["spec"],
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "api"}},
        },
    }
    dns = "dns-of-the-node"
    assert one(folder, "NetworkPolicy", dns)["spec"] == one(f"overlays/{name}", "NetworkPolicy", dns)["spec"]
    pull = yaml.safe_load((ROOT / sharer.path / "k8s" / "overlays" / name / "settings.yaml").read_text())["data"]
    assert one(folder, "ServiceAccount", sharer.name)["imagePullSecrets"] == [{"name": pull["image-pull"]}]
    assert not {"Secret", "Ingress"} & {item["kind"] for item in objects(folder)}
    assert "type" not in one(folder, "Service", sharer.name)["spec"]  # reached from inside the cluster alone


def with_components(sharer: Service, folder: Path, *components: str) -> str:
    """Write an overlay of one's own on top of EKS's, with components of the service; return what it renders to."""
    place = sharer.manifests
    kustomization = {
        "kind": "Kustomization",
        "namespace": sharer.name,
        "resources": [os.path.relpath(place / "overlays" / "eks", folder)],
        "components": [os.path.relpath(place / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return call("kubectl", "kustomize", folder)


def test_notifier_may_scale_by_the_age_of_its_queue_beside_what_its_autoscaler_has_by_default(tmp_path: Path) -> None:
    notifier = service("notifier")
    items = list(yaml.safe_load_all(with_components(notifier, tmp_path.resolve(), "queue-age")))
    (scaled,) = [item["spec"] for item in items if item["kind"] in AUTOSCALERS]
    by_default = one(f"../{notifier.path}/k8s/overlays/eks", "HorizontalPodAutoscaler", notifier.name)["spec"]
    assert scaled["scaleTargetRef"]["name"] == by_default["scaleTargetRef"]["name"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (
        by_default["minReplicas"],
        by_default["maxReplicas"],
    )
    made = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    assert made == {"name": notifier.name, "behavior": by_default["behavior"]}
    age, cpu = scaled["triggers"]
    (metric,) = by_default["metrics"]
    assert (cpu["type"], cpu["metadata"]) == ("cpu", {"value": str(metric["resource"]["target"]["averageUtilization"])})
    (reached,) = [item for item in items if item["kind"] == "Service"]
    address = urlsplit(age["metadata"]["url"])
    assert address.hostname == f"{reached['metadata']['name']}.{reached['metadata']['namespace']}"
    assert (address.port or 80) in {port["port"] for port in reached["spec"]["ports"]}
    document = json.loads((notifier.folder / "released-openapi.json").read_text())
    (answer,) = document["paths"][address.path]["get"]["responses"]["200"]["content"].values()
    answered = document["components"]["schemas"][answer["schema"]["$ref"].rpartition("/")[2]]
    assert age["metadata"]["valueLocation"] in answered["properties"]


def test_keda_runs_from_the_images_of_its_release_by_its_modules_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "keda.zip"
    pod = {"spec": {"containers": [{"name": "one", "image": f"{keda.IMAGES[0]}:main", "imagePullPolicy": "Always"}]}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": pod}}
    with zipfile.ZipFile(module, "w") as archive:
        archive.writestr(f"{keda.MODULE}/config/minimal/kustomization.yaml", yaml.safe_dump({"resources": ["d.yaml"]}))
        archive.writestr(f"{keda.MODULE}/config/minimal/d.yaml", yaml.safe_dump(deployment))
    monkeypatch.setenv(keda.SETTING, str(module))
    with pytest.raises(DeployError, match=rf"KEDA {keda.VERSION} has {keda.SHA256}"):
        keda.manifest(Kube("nowhere"))
    monkeypatch.setattr(keda, "SHA256", digest(module))
    (made,) = keda.manifest(Kube("nowhere"))
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container == {
        "name": "one",
        "image": f"{keda.IMAGES[0]}:{keda.VERSION}",
        "imagePullPolicy": "IfNotPresent",
    }


def test_an_operators_prometheus_scrapes_notifier_under_the_name_that_the_rules_select(tmp_path: Path) -> None:
    rendered = with_components(service("notifier"), tmp_path.resolve(), "kube-prometheus-stack")
    items = list(yaml.safe_load_all(rendered))
    (monitor,) = [item for item in items if item["kind"] == "ServiceMonitor"]
    (scraped,) = [
        item
        for item in items
        if item["kind"] == "Service" and selects(monitor["spec"]["selector"], item["metadata"]["labels"])
    ]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in scraped["spec"]["ports"]}
    job = scraped["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    rules = [item for item in items if item["kind"] == "PrometheusRule"]
    alerts = [entry for item in rules for group in item["spec"]["groups"] for entry in group["rules"]]
    assert f'up{{job="{job}"}} == 0' in {entry["expr"] for entry in alerts}
    assert {item["metadata"]["labels"]["release"] for item in [monitor, *rules]} == {"kube-prometheus-stack"}
