"""The archive of the replicated database, and a recovery from it."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tooling.deploy import DeployError, archive, kube, manifests, operator, recovery, release, rollout
from tooling.deploy.kube import Change, Object
from tooling.deploy.release import Target
from tooling.project import service
from tooling.tools import digest

PLACE = archive.Place(
    "s3://bucket/path", "https://storage.example.com", {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
)
FIRST = "2026-11-26T02:47:10Z"


def item(kind: str, name: str, **fields: Object) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


def store(**windows: str) -> Object:
    known = {name.replace("_", "-"): {"firstRecoverabilityPoint": first} for name, first in windows.items()}
    configuration = {"destinationPath": PLACE.url}
    return item(
        archive.STORE,
        archive.NAME,
        spec={"configuration": configuration},
        status={"serverRecoveryWindow": known},
    )


CRD = item("customresourcedefinition", archive.CRD)


@dataclass(frozen=True)
class Recorded(kube.Kube):
    """A cluster with `objects`, which records what is done to it; `pods` are those that it has each time."""

    context: str = "nowhere"
    namespace: str = "task-api"
    objects: list[Object] = field(default_factory=list)
    pods: list[list[Object]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    applied: list[Object] = field(default_factory=list)

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        self.done.append(" ".join(arguments))
        return stdin or ""

    def get(self, kind: str, name: str) -> Object | None:
        return next((one for one in self.objects if (one["kind"], one["metadata"]["name"]) == (kind, name)), None)

    def find(self, kind: str, selector: str = "") -> list[Object]:
        del kind, selector
        self.done.append("look for pods")
        return self.pods.pop(0) if self.pods else []

    def apply(self, objects: Sequence[Object]) -> list[Change]:
        self.applied.extend(objects)
        return []


def silent(_news: str) -> None:
    pass


# The place.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (archive.ENDPOINT, archive.REGION, *archive.CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def entered(**credentials: Object) -> list[Object]:
    """Return an ObjectStore that gets in by these credentials."""
    return [item("ObjectStore", "archive", spec={"configuration": credentials, "instanceSidecarConfiguration": {}})]


WITH_KEYS = {"s3Credentials": {"accessKeyId": {"name": "archive", "key": "AWS_ACCESS_KEY_ID"}}}


def test_nothing_of_the_place_has_a_default(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeployError, match=r"needs AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in"):
        archive.Place.of("s3://bucket/path").enter(entered(**WITH_KEYS))
    for name in archive.CREDENTIALS:
        environment.setenv(name, "given")
    environment.setenv(archive.ENDPOINT, "storage.example.com")
    with pytest.raises(DeployError, match="is no address: https://HOST"):
        archive.Place.of("s3://bucket/path").enter(entered(**WITH_KEYS))
    environment.setenv(archive.ENDPOINT, "https://storage.example.com")
    place = archive.Place.of("s3://bucket/path/")
    assert place.url == "s3://bucket/path"
    place.enter(objects := entered(**WITH_KEYS))
    assert objects[1]["stringData"] == dict.fromkeys(archive.CREDENTIALS, "given")


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("s3://bucket/path", {"s3Credentials": {"inheritFromIAMRole": True}}),
        ("gs://bucket/path", {"googleCredentials": {"gkeEnvironment": True}}),
    ],
)
def test_a_workload_identity_takes_no_key_of_the_person_who_deploys(
    url: str, credentials: Object, environment: pytest.MonkeyPatch
) -> None:
    for name in (*archive.CREDENTIALS, archive.ENDPOINT):
        environment.setenv(name, "https://given")
    archive.Place.of(url).enter(objects := entered(**credentials))
    (store,) = objects
    assert store["spec"]["configuration"] == {**credentials, "destinationPath": url}


@pytest.mark.parametrize(
    ("url", "scheme", "credentials"),
    [("gs://bucket", "s3", "s3Credentials"), ("s3://bucket", "gs", "googleCredentials")],
)
def test_a_place_in_another_clouds_storage_is_refused(url: str, scheme: str, credentials: str) -> None:
    with pytest.raises(DeployError, match=f"is no place of this overlay: name it as {scheme}://"):
        archive.Place(url).enter(entered(**{credentials: {}}))


@pytest.mark.parametrize("url", ["bucket/path", "https://bucket/path", "s3:///path"])
def test_a_place_is_named_as_a_folder_of_a_bucket(url: str) -> None:
    with pytest.raises(DeployError, match="s3://BUCKET/PATH"):
        archive.Place.of(url)


@pytest.mark.parametrize(
    ("endpoint", "port"), [("https://a.example", 443), ("http://a.example", 80), ("http://a.example:9000", 9000)]
)
def test_the_instances_may_reach_the_object_storage_at_its_port(endpoint: str, port: int) -> None:
    policies = [item("NetworkPolicy", "postgres-archive", spec={}), item("NetworkPolicy", "other", spec={})]
    objects = [*policies, *entered(**WITH_KEYS)]
    replace(PLACE, endpoint=endpoint).enter(objects)
    assert objects[0]["spec"]["egress"] == [{"ports": [{"port": port, "protocol": "TCP"}]}]
    assert objects[1]["spec"] == {}


def test_a_deploy_enters_place_and_credentials_and_lets_the_plugins_image_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "cluster_in_place", lambda _kube: "postgres")
    overlay = manifests.with_database(manifests.overlay_folder(service(), "kind"), "replicated", archived=True)
    objects = manifests.render(
        service(), kube.Kube("nowhere", "task-api"), overlay, "task-api:1", generate_secrets=False, place=PLACE
    )
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    configuration = by_name["ObjectStore", "archive"]["spec"]["configuration"]
    assert (configuration["destinationPath"], configuration["endpointURL"]) == (PLACE.url, PLACE.endpoint)
    secret = by_name["Secret", "archive"]
    assert secret["stringData"] == PLACE.credentials
    assert secret["metadata"]["labels"]["app.kubernetes.io/part-of"] == "task-api"  # so that it goes with the archive
    assert secret["metadata"]["namespace"] == "task-api"
    policy = by_name["ValidatingAdmissionPolicy", "task-api-images"]
    assert "plugin\\-barman\\-cloud\\-sidecar" in json.dumps(policy).replace("\\\\", "\\")


def test_only_the_replicated_database_has_an_archive() -> None:
    kind = manifests.overlay_folder(service(), "kind")
    for overlay in (kind, *(manifests.overlay_folder(service(), cloud) for cloud in ("eks", "gke"))):
        name = manifests.with_database(overlay, "replicated", archived=True).name
        assert name == f"{overlay.name}-archived"
    for database in ("", "single"):
        with pytest.raises(DeployError, match="add --database replicated"):
            manifests.with_database(kind, database, archived=True)
    with pytest.raises(DeployError, match="leave --archive out"):
        manifests.with_database(manifests.overlay_folder(service(), "kind-webhooks"), "", archived=True)


def test_a_deploy_neither_ends_nor_moves_an_archive(tmp_path: Path) -> None:
    cluster = Recorded(objects=[CRD, store()])
    target = Target(tmp_path, cluster, local=True, service=service())
    database = [item("Cluster", "postgres", spec={})]
    for place in (None, replace(PLACE, url="s3://another/path")):
        with pytest.raises(DeployError, match=r"archived in s3://bucket/path: add --archive s3://bucket/path"):
            release.check_archive(replace(target, place=place), database)
    release.check_archive(replace(target, place=PLACE), database)
    release.check_archive(replace(target, kube=Recorded()), database)


@pytest.mark.parametrize(("image", "refused"), [("postgresql:17.9-minimal", False), ("postgresql:18-minimal", True)])
def test_an_archive_is_of_one_major_version(image: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "place_of", lambda _kube: PLACE.url)
    data = {"pgDataImageInfo": {"image": "registry.example.com:5000/postgresql:17-minimal", "majorVersion": 17}}
    kube = Recorded(objects=[item(rollout.CLUSTER, "postgres", status=data)])
    target = Target(Path(), kube, local=True, service=service(), place=PLACE)
    wanted = [item("Cluster", "postgres", spec={"imageName": f"registry.example.com:5000/{image}"})]
    if refused:
        with pytest.raises(DeployError, match=r"an archive is of one major version, not of 17 and 18: end it with"):
            release.check_archive(target, wanted)
    else:
        release.check_archive(target, wanted)


# The certificate authority.


def test_clients_trust_a_recovered_database_because_its_authority_is_made_once() -> None:
    named = [item("Cluster", "postgres", spec={"certificates": {"serverCASecret": operator.AUTHORITY}})]
    (secret,) = operator.authority(Recorded(), named)
    made = x509.load_pem_x509_certificate(secret["stringData"]["ca.crt"].encode())
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert secret["stringData"]["ca.key"].startswith("-----BEGIN EC PRIVATE KEY-----")  # CloudNativePG reads no other
    assert operator.authority(Recorded(objects=[item("secret", operator.AUTHORITY)]), named) == []
    assert operator.authority(Recorded(), [item("Cluster", "postgres", spec={})]) == []


# The plugin.


def test_the_plugin_is_the_release_without_cert_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = {"image": "testing:main", "args": ["operator", "--leader-elect"]}
    pods = {"metadata": {"labels": {"app": "barman-cloud"}}, "spec": {"containers": [container]}}
    certificate = {**item("Certificate", "server"), "apiVersion": "cert-manager.io/v1"}
    deployment = item("Deployment", "barman-cloud", spec={"strategy": {"type": "Recreate"}, "template": pods})
    copy = tmp_path / "manifest.yaml"
    copy.write_text(yaml.safe_dump_all([certificate, deployment, item("Secret", "plugin", data={})]))
    monkeypatch.setenv(archive.SETTING, str(copy))
    with pytest.raises(DeployError, match=f"barman-cloud {archive.VERSION} has {archive.SHA256}"):
        archive.manifest()
    monkeypatch.setattr(archive, "SHA256", digest(copy))
    made, secret = archive.manifest()
    assert base64.b64decode(secret["data"]["SIDECAR_IMAGE"]).decode() == archive.SIDECAR
    assert made["spec"]["replicas"] == operator.REPLICAS  # each answers, as none leads
    assert made["spec"]["template"]["spec"]["containers"] == [
        {"image": archive.IMAGE, "imagePullPolicy": "IfNotPresent", "args": ["operator"]}
    ]


def test_plugin_and_operator_get_certificates_once() -> None:
    cluster = Recorded(namespace=operator.NAMESPACE)
    server, client = archive.trust(cluster)
    read = x509.load_pem_x509_certificate(server["stringData"]["tls.crt"].encode())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["barman-cloud"]  # the Service's, by which the operator calls it
    uses = x509.load_pem_x509_certificate(client["stringData"]["tls.crt"].encode()).extensions
    assert ExtendedKeyUsageOID.CLIENT_AUTH in uses.get_extension_for_class(x509.ExtendedKeyUsage).value
    there = [item("secret", one["metadata"]["name"]) for one in (server, client)]
    assert archive.trust(Recorded(objects=there)) == []


# The moment.


@pytest.mark.parametrize("text", ["yesterday", "2026-11-26T12:00:00", "2026-11-26", ""])
def test_a_moment_without_its_zone_is_refused(text: str) -> None:
    with pytest.raises(DeployError, match="2026-11-26T12:00:00Z"):
        recovery.moment(text)


def test_a_moment_in_the_future_is_refused() -> None:
    with pytest.raises(DeployError, match="is in the future"):
        recovery.moment((datetime.now(UTC) + timedelta(minutes=1)).isoformat())
    assert recovery.moment("2026-11-26T13:00:00+01:00") == datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_a_recovery_without_an_archive_is_refused() -> None:
    for cluster in (Recorded(), Recorded(objects=[CRD])):
        with pytest.raises(DeployError, match="has no archive: deploy it with --database replicated --archive"):
            recovery.source(cluster, datetime.now(UTC))


def test_a_moment_before_the_first_base_backup_is_refused() -> None:
    early = datetime(2026, 11, 26, 2, tzinfo=UTC)
    with pytest.raises(DeployError, match=f"before the first base backup: the archive begins with {FIRST}"):
        recovery.source(Recorded(objects=[CRD, store(postgres=FIRST)]), early)
    with pytest.raises(DeployError, match="which is missing"):
        recovery.source(Recorded(objects=[CRD, store()]), early)


def test_what_was_in_place_at_a_moment_is_recovered() -> None:
    """After a recovery that went back too far, a later moment is still in the archive of the database before."""
    objects = [CRD, store(postgres=FIRST, postgres_20261127t120000="2026-11-27T12:01:00Z")]
    cluster = Recorded(objects=objects)
    assert recovery.source(cluster, datetime(2026, 11, 27, 12, tzinfo=UTC)) == "postgres"
    assert recovery.source(cluster, datetime(2026, 11, 27, 13, tzinfo=UTC)) == "postgres-20261127t120000"


# The recovered database.

CLUSTER = item(
    rollout.CLUSTER,
    "postgres",
    spec={
        "instances": 3,
        "bootstrap": {"initdb": {"database": "tasks", "owner": "task_api", "secret": {"name": "postgres"}, "a": 1}},
        "plugins": [{"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True}],
    },
)


def test_the_recovered_database_is_like_the_present_one_and_ends_at_the_moment() -> None:
    at = datetime(2026, 11, 27, 12, 0, 0, 500000, tzinfo=UTC)
    made = recovery.recovered(Recorded(objects=[CLUSTER]), "postgres", "postgres", at, "postgres-new")
    assert made["metadata"]["name"] == "postgres-new"
    assert made["spec"]["instances"] == CLUSTER["spec"]["instances"]
    assert made["spec"]["bootstrap"]["recovery"] == {
        "database": "tasks",
        "owner": "task_api",
        "secret": {"name": "postgres"},
        "source": "archive",
        "recoveryTarget": {"targetTime": "2026-11-27 12:00:00.500000+00"},
    }
    (origin,) = made["spec"]["externalClusters"]
    assert origin["plugin"]["parameters"] == {"barmanObjectName": "archive", "serverName": "postgres"}
    again = replace(Recorded(), objects=[{**made, "kind": rollout.CLUSTER}])
    next_one = recovery.recovered(again, "postgres-new", "postgres-new", at, "postgres-newer")
    assert set(next_one["spec"]["bootstrap"]) == {"recovery"}  # never two ways at once


def test_what_was_recovered_is_checked_before_it_is_put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime(2026, 11, 27, 12, tzinfo=UTC)
    held = {"revision": "0014", "rows": {"tasks": 2}, "last_change": "2026-11-27T13:00:00+01:00"}
    monkeypatch.setattr(recovery, "psql", lambda *_arguments: json.dumps(held))
    assert str(recovery.checked(Recorded(), "postgres-new", at)).endswith("rows: tasks 2")
    held["last_change"] = "2026-11-27T12:00:02+00:00"
    with pytest.raises(DeployError, match=r"after 2026-11-27 12:00:00.*goes on, and postgres-new is left for a look"):
        recovery.checked(Recorded(), "postgres-new", at)

    def refuse(*_arguments: object) -> str:
        raise DeployError("the database system is shutting down")

    monkeypatch.setattr(recovery, "psql", refuse)
    with pytest.raises(DeployError, match="cannot be read; the present database goes on"):
        recovery.checked(Recorded(), "postgres-new", at)


def test_the_old_database_has_stopped_before_the_service_is_led_to_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    cluster = Recorded(objects=[CLUSTER], pods=[[item("Pod", "postgres-1")], []])
    recovery.put_in_place(cluster, "postgres", "postgres-new", silent)
    stop, *looks, lead = cluster.done
    assert stop == f"annotate {rollout.CLUSTER} postgres --overwrite cnpg.io/hibernation=on"
    assert looks == ["look for pods"] * 2
    assert lead.startswith("patch service postgres")
    assert lead.endswith('{"spec": {"selector": {"cnpg.io/cluster": "postgres-new"}}}')


def test_a_recovery_that_fails_is_removed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(rollout, "evidence", lambda _kube, pod: pod["metadata"]["name"])
    failed = [item("Pod", f"recovery-{number}", status={"phase": "Failed"}) for number in range(2)]
    cluster = Recorded(pods=[[], failed[:1], [], failed])
    lines = ['{"level":"error","msg":"while restoring","error":"InvalidAccessKeyId"}', '{"level":"info","msg":"bye"}']
    monkeypatch.setattr(Recorded, "run", lambda *_arguments, **_options: "\n".join(["text", *lines]))
    with pytest.raises(DeployError, match="fails: InvalidAccessKeyId; the present database goes on"):
        recovery.started(cluster, "postgres-new", silent)


def test_what_the_object_storage_responds_is_reported() -> None:
    message = "2026-11-27 18:38:02,407 [201] ERROR: Barman cloud WAL archiver exception: Could not connect"
    entries = [{"logger": "barman-cloud-wal-archive", "msg": message}, {"level": "error", "msg": "exit status 4"}]
    log = "\n".join(["Defaulted container", *(json.dumps(entry) for entry in entries)])
    assert archive.complaint(log) == "Barman cloud WAL archiver exception: Could not connect"
    assert archive.complaint(json.dumps(entries[1])) == ""


def test_base_backups_are_made_of_the_database_in_place_alone() -> None:
    schedule = item(recovery.SCHEDULE, "postgres", spec={"cluster": {"name": "postgres"}}, status={})
    cluster = Recorded(objects=[schedule])
    recovery.schedule(cluster, "postgres", "postgres-new")
    (made,) = cluster.applied
    assert (made["metadata"]["name"], made["spec"]["cluster"]["name"]) == ("postgres-new", "postgres-new")
    assert "status" not in made
    assert cluster.done == [f"delete {recovery.SCHEDULE} postgres"]


def test_a_later_deploy_describes_the_database_that_is_in_place() -> None:
    selector = {"cnpg.io/cluster": "postgres-new", "cnpg.io/instanceRole": "primary"}
    cluster = Recorded(objects=[item("service", "postgres", spec={"selector": selector})])
    assert manifests.cluster_in_place(cluster) == "postgres-new"
    assert manifests.cluster_in_place(Recorded()) == "postgres"
    single = item("service", "postgres", spec={"selector": {"app.kubernetes.io/name": "postgres"}})
    assert manifests.cluster_in_place(Recorded(objects=[single])) == "postgres"
    objects = [
        item("Cluster", "postgres", spec={}),
        item("ScheduledBackup", "postgres", spec={"cluster": {"name": "postgres"}}),
        item("Service", "postgres", spec={"selector": {**selector, "cnpg.io/cluster": "postgres"}}),
        item("Service", "task-api", spec={"selector": {"app.kubernetes.io/name": "task-api"}}),
    ]
    manifests.rename_cluster(objects, "postgres-new")
    assert [one["metadata"]["name"] for one in objects] == ["postgres-new", "postgres-new", "postgres", "task-api"]
    assert objects[1]["spec"]["cluster"]["name"] == "postgres-new"
    assert objects[2]["spec"]["selector"] == selector
