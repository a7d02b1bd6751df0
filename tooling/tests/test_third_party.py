"""Images of others: each is pinned as its registry has it, or none is, and a scan looks at every one."""

import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tooling.findings import NotAssessed
from tooling.images import scan, third_party
from tooling.project import ROOT
from tooling.rehearsal.__main__ import registry
from tooling.tools import call

MANIFEST = """\
containers:
  - name: database
    image: registry.example.com/postgres:17   # a remark
  - image: ghcr.io/owner/tool:1.2.3
  - image: task-api
"""
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "pod.yaml"
    path.write_text(MANIFEST)
    return path


def test_pinned_files_name_tag_and_digest_and_lose_nothing(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "digest", lambda _image: DIGEST)
    third_party.pin([manifest])
    images = [one["image"] for one in yaml.safe_load(manifest.read_text())["containers"]]
    pinned = [f"registry.example.com/postgres:17@{DIGEST}", f"ghcr.io/owner/tool:1.2.3@{DIGEST}"]
    assert images == [*pinned, "task-api"]
    assert "# a remark" in manifest.read_text()
    assert set(third_party.references([manifest]).values()) == {DIGEST}
    third_party.pin([manifest], remove=True)
    assert manifest.read_text() == MANIFEST


def test_a_new_digest_replaces_the_old_one(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = f"sha256:{'b' * 64}"
    for digest in (DIGEST, renewed):
        monkeypatch.setattr(third_party, "digest", lambda _image, digest=digest: digest)
        third_party.pin([manifest])
    assert set(third_party.references([manifest]).values()) == {renewed}


def test_where_one_registry_cannot_be_read_no_file_is_changed(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(image: str) -> str:
        if image.startswith("registry.example.com"):
            raise NotAssessed("no such host")
        return DIGEST

    monkeypatch.setattr(third_party, "digest", digest)
    with pytest.raises(NotAssessed):
        third_party.pin([manifest])
    assert manifest.read_text() == MANIFEST


def test_an_image_with_two_digests_is_refused(manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"image: ghcr.io/owner/tool:1.2.3@{DIGEST}\n")
    with pytest.raises(NotAssessed, match="several digests"):
        third_party.references([manifest, other])


def test_the_repository_pins_each_image_the_same_everywhere_and_scans_all_that_a_deployment_runs() -> None:
    pins = third_party.references(third_party.files())
    scanned = {one.name for one in third_party.scanned(pins)}
    assert {image for image in pins if image not in scanned} == {
        image for image in pins if image.startswith("kindest/node:")
    }
    for name in ("compose.yaml", "k8s/components/monitoring/prometheus.yaml", "e2e/cloud/database.yaml"):
        assert ROOT / name in third_party.files()
    assert {image.partition(":")[0] for image in scanned} >= {
        "public.ecr.aws/docker/library/postgres",
        "quay.io/prometheus/prometheus",
        "grafana/grafana",
        "ghcr.io/rclone/rclone",
    }


@pytest.mark.parametrize(
    ("system", "results", "expected"),
    [
        ({"Family": "debian", "Name": "13.1"}, [("os-pkgs", "debian"), ("lang-pkgs", "gobinary")], ["Go", "debian 13"]),
        ({"Family": "alpine", "Name": "3.22.1"}, [("os-pkgs", "alpine")], ["alpine 3.22"]),
        ({}, [("lang-pkgs", "gobinary")], ["Go"]),
    ],
)
def test_the_database_is_probed_for_what_an_image_holds(
    system: dict[str, str], results: list[tuple[str, str]], expected: list[str]
) -> None:
    output: dict[str, Any] = {
        "Metadata": {"OS": system},
        "Results": [{"Class": kind, "Type": name, "Packages": [{}]} for kind, name in results],
    }
    assert scan.ecosystems(output) == expected


@pytest.mark.docker
def test_a_digest_is_the_one_that_the_registry_serves(tmp_path: Path) -> None:
    with registry(tmp_path) as address:
        image = f"{address}/owner/{uuid4().hex[:8]}:1.2"
        empty = subprocess.run(["tar", "-c", "-T", "/dev/null"], check=True, capture_output=True).stdout
        subprocess.run(["docker", "import", "-", image], input=empty, check=True, capture_output=True)
        try:
            call("docker", "push", "--quiet", image)
            served = call("docker", "image", "inspect", "--format={{index .RepoDigests 0}}", image).strip()
            file = tmp_path / "compose.yaml"
            file.write_text(f"services:\n  a:\n    image: {image}\n")
            third_party.pin([file])
        finally:
            call("docker", "image", "rm", image)
        pinned = yaml.safe_load(file.read_text())["services"]["a"]["image"]
        assert pinned == f"{image}@{served.partition('@')[2]}"
        call("docker", "pull", "--quiet", pinned)
        with pytest.raises(NotAssessed):
            third_party.digest(f"{address}/owner/nobody:1")
