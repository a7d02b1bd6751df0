"""What may be pushed, and what may be deployed."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from tooling import findings, tools
from tooling.canaries.fixtures import oci_registry
from tooling.findings import Database, NotConfigured, Report, Scan, Unreachable
from tooling.images import build, provenance, push
from tooling.images.provenance import Untrusted
from tooling.project import service
from tooling.service import free_port
from tooling.tools import call

DIGEST = "sha256:" + "a" * 64
KEY = Ed25519PrivateKey.generate()


def report(**changes: str) -> Report:
    scan = Scan(tool="trivy-image", version="1", targets=(DIGEST,), database=Database("real", datetime.now(UTC)))
    made = Report.of("build", [scan], strict=True)
    return msgspec.structs.replace(made, **{"revision": "abc", **changes})


@pytest.fixture
def sbom(tmp_path: Path) -> Path:
    path = tmp_path / "sbom.cdx.json"
    path.write_text("{}")
    return path


def test_what_is_attached_to_an_image_is_verified_by_its_digest(sbom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    monkeypatch.setenv("PROVENANCE_PUBLIC_KEY", KEY.public_key().public_bytes(*form).decode())
    with oci_registry(DIGEST) as host:
        repository = f"{host}/owner/task-api"
        content = provenance.statement(repository, DIGEST, report(), [], sbom)
        provenance.attach(repository, DIGEST, provenance.sign(content, KEY))
        provenance.verify(f"{repository}@{DIGEST}", revision="abc")
        with pytest.raises(Untrusted, match="built from abc, not from def"):
            provenance.verify(f"{repository}@{DIGEST}", revision="def")
        assert provenance.main([f"{repository}@{DIGEST}"]) == 0
        assert provenance.main([f"{repository}@sha256:{'b' * 64}"]) == 1
        assert provenance.main([f"{repository}:latest"]) == 2


def test_the_statement_names_builder_image_and_commit(sbom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GITHUB_RUN_ID": "7",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "owner/repo",
        "GITHUB_WORKFLOW_REF": "owner/repo/.github/workflows/pipeline.yml@refs/heads/main",
    }.items():
        monkeypatch.setenv(name, value)
    content = provenance.statement("ghcr.io/owner/task-api", DIGEST, report(), [{"uri": "git+x"}], sbom)
    details = content["predicate"]["runDetails"]
    assert content["subject"] == [{"name": "ghcr.io/owner/task-api", "digest": {"sha256": "a" * 64}}]
    assert details["builder"]["id"].endswith("pipeline.yml@refs/heads/main")
    assert details["metadata"]["invocationId"] == "https://github.com/owner/repo/actions/runs/7"
    assert content["predicate"]["buildDefinition"]["resolvedDependencies"] == [{"uri": "git+x"}]


@given(st.binary(), st.integers(0, 10_000))
def test_no_changed_byte_passes_the_signature(extra: bytes, at: int) -> None:
    envelope = provenance.sign({"subject": []}, KEY)
    payload = bytearray(base64.b64decode(envelope["payload"]))
    at %= len(payload)
    payload[at : at + 1] = bytes([payload[at] ^ 1]) + extra
    with pytest.raises(Untrusted):
        provenance.opened({**envelope, "payload": base64.b64encode(payload).decode()}, KEY.public_key())


def test_a_signature_over_another_type_of_payload_is_not_trusted() -> None:
    envelope = provenance.sign({"subject": []}, KEY)
    with pytest.raises(Untrusted, match="not signed"):
        provenance.opened({**envelope, "payloadType": "text/plain"}, KEY.public_key())
    other = Envelope(b"{}", "text/plain", {})
    other.sign(CryptoSigner(KEY, provenance.anonymous(KEY.public_key())))
    with pytest.raises(Untrusted, match="signed as text/plain"):
        provenance.opened(other.to_dict(), KEY.public_key())


@pytest.mark.parametrize("envelope", [{}, {"payload": "?", "signatures": []}, {"payload": "YQ==", "signatures": [{}]}])
def test_what_is_no_envelope_is_not_trusted(envelope: dict[str, object]) -> None:
    with pytest.raises(Untrusted):
        provenance.opened(envelope, KEY.public_key())


def test_a_signed_statement_of_another_shape_is_an_objection() -> None:
    assert provenance.objections({"subject": []}, DIGEST, None)[0][0] == "malformed"


def test_an_image_of_uncommitted_changes_is_an_objection(sbom: Path) -> None:
    content = provenance.statement("r", DIGEST, report(revision="abc+"), [], sbom)
    assert [rule for rule, _ in provenance.objections(content, DIGEST, None)] == ["uncommitted"]


WORKFLOWS = "https://github.com/o/r/.github/workflows"


@pytest.mark.parametrize(
    ("workflow", "accepted"),
    [
        ("pipeline.yml@refs/heads/main", True),
        ("release.yml@refs/tags/v1.0.0", True),
        ("pipeline.yml@refs/heads/main-of-a-stranger", False),
        ("pipeline.yml@refs/heads/feature", False),
        ("pipeline.yml@refs/pull/7/merge", False),
        ("other.yml@refs/heads/main", False),
        ("release.yml@refs/heads/v1", False),
    ],
)
def test_images_of_main_and_of_tags_alone_are_accepted(
    sbom: Path, monkeypatch: pytest.MonkeyPatch, workflow: str, accepted: bool
) -> None:
    monkeypatch.setenv("GITHUB_RUN_ID", "1")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_WORKFLOW_REF", f"o/r/.github/workflows/{workflow}")
    content = provenance.statement("r", DIGEST, report(), [], sbom)
    builders = f"{WORKFLOWS}/pipeline.yml@refs/heads/main {WORKFLOWS}/release.yml@refs/tags/v*"
    rules = [rule for rule, _ in provenance.objections(content, DIGEST, None, builders)]
    assert rules == ([] if accepted else ["other-builder"])
    assert provenance.objections(content, DIGEST, None) == []


def test_without_a_key_nothing_is_signed_and_nothing_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROVENANCE_KEY", raising=False)
    monkeypatch.delenv("PROVENANCE_PUBLIC_KEY", raising=False)
    monkeypatch.setattr(provenance, "KEY", tmp_path / "none.pem")
    with pytest.raises(NotConfigured, match="set PROVENANCE_KEY"):
        provenance.signing_key()
    with pytest.raises(NotConfigured, match="set PROVENANCE_PUBLIC_KEY"):
        provenance.trusted_key()


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "provenance.pem"
    provenance.make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        provenance.make_key(path)


def test_a_registry_that_returns_another_content_is_not_believed(sbom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with oci_registry(DIGEST) as host:
        repository = f"{host}/task-api"
        content = provenance.statement(repository, DIGEST, report(), [], sbom)
        provenance.attach(repository, DIGEST, provenance.sign(content, KEY))

        class Other:
            content = b"{}"

        monkeypatch.setattr("oras.provider.Registry.get_blob", lambda *_, **__: Other())
        with pytest.raises(Unreachable, match="another provenance"):
            provenance.fetch(repository, DIGEST)


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("v1.2.3", ["sha-0123456789ab", "1.2.3", "1.2", "latest"]),
        ("v1.2.3-4-gabc", ["sha-0123456789ab"]),
        ("0123456789ab", ["sha-0123456789ab"]),
    ],
)
def test_tags_come_from_git(version: str, names: list[str]) -> None:
    assert push.tags(version, "0123456789abcdef") == names


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("IMAGE_REPOSITORY", "PROVENANCE_KEY", "REQUIRED_GATES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(provenance, "KEY", tmp_path / "none.pem")
    monkeypatch.setattr(findings, "REPORTS", tmp_path)
    monkeypatch.setattr(findings, "ROOT", tmp_path)
    return monkeypatch


def test_without_a_repository_nothing_is_pushed(
    unconfigured: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push.main([]) == 0
    assert "not configured push: task-api: IMAGE_REPOSITORY is not set" in capsys.readouterr().out
    unconfigured.setenv("REQUIRED_GATES", "push")
    assert push.main([]) == 2


def test_without_a_key_nothing_is_pushed(unconfigured: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unconfigured.setenv("IMAGE_REPOSITORY", "127.0.0.1:9/owner/task-api")
    assert push.main([]) == 0
    assert "not configured push: task-api: no key signs: set PROVENANCE_KEY" in capsys.readouterr().out


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("a registry program is missing: install Debian's docker-registry")
    port = free_port()
    settings = tmp_path / "registry.yml"
    storage = f"{{filesystem: {{rootdirectory: {tmp_path}/data}}}}"
    settings.write_text(f"version: 0.1\nstorage: {storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with subprocess.Popen(
        [program, "serve", str(settings)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/v2/").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.docker
def test_an_image_is_pushed_by_digest_and_its_provenance_lies_beside_it(registry: str, sbom: Path) -> None:
    archive = subprocess.run(["tar", "-c", "-C", str(sbom.parent), sbom.name], check=True, capture_output=True).stdout
    name = f"pushed-{os.getpid()}"
    subprocess.run(["docker", "import", "-", name], input=archive, check=True, capture_output=True)
    repository = f"{registry}/owner/task-api"
    try:
        digest = push.push(repository, name, ["1.2.3", "1.2"])
        for tag in ("1.2.3", "1.2"):
            manifest = httpx.head(
                f"http://{registry}/v2/owner/task-api/manifests/{tag}",
                headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            )
            assert manifest.headers["Docker-Content-Digest"] == digest
        content = provenance.statement(repository, digest, report(), [], sbom)
        provenance.attach(repository, digest, provenance.sign(content, KEY))
        assert provenance.check(f"{repository}@{digest}", key=KEY.public_key()).findings == ()
        (envelope,) = provenance.fetch(repository, digest)
        statement = json.loads(base64.b64decode(envelope["payload"]))
        assert statement["subject"][0]["digest"]["sha256"] == digest.removeprefix("sha256:")
    finally:
        call("docker", "image", "rm", name, f"{repository}:1.2.3", f"{repository}:1.2")


@pytest.mark.docker
def test_the_base_images_are_named_by_the_digests_that_the_engine_has() -> None:
    commit, *bases = push.materials(service())
    assert re.fullmatch(r"[0-9a-f]{40}", commit["digest"]["gitCommit"])
    assert [base["uri"] for base in bases] == [f"docker:{name}" for name in build.bases(service())]
    for base in bases:
        engine = json.loads(call("docker", "image", "inspect", base["uri"].removeprefix("docker:")))[0]
        assert base["digest"]["sha256"] in json.dumps([engine["Id"], engine["RepoDigests"]])


def test_a_base_image_is_one_that_no_stage_of_the_dockerfile_makes() -> None:
    assert [base.partition(":")[0] for base in build.bases(service())] == [
        "gcr.io/distroless/python3-debian13",
        "python",
    ]


@pytest.mark.docker
def test_a_base_image_that_is_missing_is_pulled_before_the_build(registry: str, tmp_path: Path) -> None:
    name = f"{registry}/base:1"
    archive = subprocess.run(["tar", "-c", "-C", str(tmp_path), "registry.yml"], check=True, capture_output=True).stdout
    subprocess.run(["docker", "import", "-", name], input=archive, check=True, capture_output=True)
    call("docker", "push", name)
    call("docker", "image", "rm", name)
    build._pull(name)
    try:
        assert build.inspect(name)["RepoDigests"]
    finally:
        call("docker", "image", "rm", name)


def pushed(registry: str, folder: Path, name: str) -> str:
    """Push an image of one small file; return its reference by digest."""
    (folder / name).write_text(name)
    archive = subprocess.run(["tar", "-c", "-C", str(folder), name], check=True, capture_output=True).stdout
    image = f"{registry}/owner/{name}:1"
    subprocess.run(["docker", "import", "-", image], input=archive, check=True, capture_output=True)
    try:
        return f"{registry}/owner/{name}@{push.push(f'{registry}/owner/{name}', image, ['1'])}"
    finally:
        call("docker", "image", "rm", image)


@pytest.mark.docker
@pytest.mark.parametrize("form", ["--new-bundle-format=true", "--new-bundle-format=false"])
def test_cosign_accepts_the_provenance_and_refuses_another_key_another_digest_and_a_missing_one(
    registry: str, sbom: Path, tmp_path: Path, form: str
) -> None:
    if tools.known()["cosign"].path() is None:
        pytest.skip(f"cosign is missing: {tools.known()['cosign'].get}")

    def verdict(reference: str, key: Ed25519PrivateKey) -> tuple[int, str]:
        public = tmp_path / "public.pem"
        pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        public.write_bytes(key.public_key().public_bytes(*pem))
        command = ("verify-attestation", f"--key={public}", "--insecure-ignore-tlog", "--type=slsaprovenance1", form)
        done = tools.run("cosign", *command, "--allow-http-registry", reference, expect=(0, 1))
        return done.returncode, done.stderr

    signed, other = (pushed(registry, tmp_path, name) for name in ("signed", "other"))
    repository, _, digest = signed.partition("@")
    envelope = provenance.sign(provenance.statement(repository, digest, report(), [], sbom), KEY)
    provenance.attach(repository, digest, envelope)
    assert verdict(signed, KEY)[0] == 0
    code, content = verdict(signed, Ed25519PrivateKey.generate())
    assert (code, "accepted signatures do not match threshold" in content) == (1, True), content
    code, content = verdict(other, KEY)
    assert (code, "no matching attestations" in content) == (1, True), content
    repository, _, digest = other.partition("@")
    provenance.attach(repository, digest, envelope)
    code, content = verdict(other, KEY)
    assert (code, "digest" in content) == (1, True), content
