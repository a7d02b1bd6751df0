"""Planted defects for the build stage."""

import base64
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tooling.canaries import canary, trivy_database
from tooling.canaries.fixtures import oci_registry, plant
from tooling.findings import Database, Report, Scan
from tooling.images import provenance, push, scan
from tooling.tools import call, require

DEBIAN = "debian 13"
CURRENT = "Package: base-files\nStatus: install ok installed\nVersion: 13.8\nArchitecture: amd64\n"


@contextmanager
def planted_image(python: dict[str, str], debian: dict[str, str]) -> Iterator[str]:
    """Make an image that holds nothing but the records of these packages, and remove it afterwards."""
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
        "etc/debian_version": "13.8\n",
        "var/lib/dpkg/status.d/base-files": CURRENT,
    }
    for name, version in debian.items():
        files[f"var/lib/dpkg/status.d/{name}"] = CURRENT.replace("base-files", name).replace("13.8", version)
    for name, version in python.items():
        files[f"app/lib/{name}-{version}.dist-info/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content.encode()))
    name = f"canary-{uuid4().hex[:12]}"
    subprocess.run([require("docker"), "import", "-", name], input=archive.getvalue(), check=True, capture_output=True)
    try:
        yield name
    finally:
        call("docker", "image", "rm", name)


def scanned_with(folder: Path, python: dict[str, str], debian: dict[str, str], tree: trivy_database.Tree) -> Scan:
    """Scan a planted image with a planted database."""
    trivy_database.write(folder, tree)
    with planted_image(python, debian) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "a Python package with a known vulnerability", rule="CVE-2018-1000656", path="flask")
def vulnerable_python(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "0.12"}, {}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "a system package with a known vulnerability", rule="CVE-2023-5363", path="openssl")
def vulnerable_system(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "3.1.3"}, {"openssl": "3.0.9-1"}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "an empty database", problem="knows nothing about Python and debian 13")
def empty_database(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "0.12"}, {}, {"data-source": {}, "vulnerability": {}})


@canary("build/trivy-image", "a database without the image's distribution", problem="knows nothing about debian 13")
def other_distribution(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "3.1.3"}, {"openssl": "3.0.9-1"}, trivy_database.advisories("debian 11"))


@canary("build/trivy-image", "a database that is too old", problem="older than 72 hours")
def old_database(folder: Path) -> Scan:
    trivy_database.write(folder, trivy_database.advisories(DEBIAN), age=timedelta(hours=73))
    with planted_image({"flask": "0.12"}, {}) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "no database at all", problem="there is no vulnerability database")
def no_database(folder: Path) -> Scan:
    with planted_image({"flask": "0.12"}, {}) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "an image that tells nothing of its packages", problem="saw no packages")
def bare_image(folder: Path) -> Scan:
    return scanned_with(folder, {}, {}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "an image that is not there", problem="trivy ended with code 1")
def missing_image(folder: Path) -> Scan:
    trivy_database.write(folder, trivy_database.advisories(DEBIAN))
    return scan.trivy_image("127.0.0.1:9/canary", folder, refresh=False)


@canary("build/sbom", "an image that hides a locked package from scanners", rule="unseen-package", path="gunicorn")
def hidden_package(folder: Path) -> Scan:
    lock = folder / plant(folder, "requirements.txt", "flask==3.1.3\ngunicorn==23.0.0\n")
    with planted_image({"flask": "3.1.3"}, {}) as name:
        return scan.sbom(name, lock, folder / "sbom.cdx.json")


@canary("build/size", "an image that is too large", rule="too-large", path="image")
def large_image(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    with planted_image({"flask": "3.1.3"}, {}) as name:
        return scan.size(name, most=0.0001)


@canary("build/size", "an image that is not there", problem="No such image")
def no_image(folder: Path) -> Scan:  # noqa: ARG001
    return scan.size("127.0.0.1:9/canary")


IMAGE = "sha256:" + "1" * 64


def scanned(*, problem: str = "", fixture: bool = False) -> Report:
    """Give a report on IMAGE, of a commit."""
    database = Database("planted", datetime.now(UTC), fixture=fixture)
    found = Scan(tool="trivy-image", version="1", targets=(IMAGE,), database=database, problem=problem)
    report = Report.of("build", [found], strict=True)
    return msgspec.structs.replace(report, revision="abc")


@canary("build/push", "an image that was not scanned", rule="other-image", path="sha256:" + "2" * 64)
def push_unscanned(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    return push.fit(scanned(), "sha256:" + "2" * 64, "abc")


@canary("build/push", "an image whose scan could not assess it", rule="not-clean", path=IMAGE)
def push_not_assessed(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(scanned(problem="no database"), IMAGE, "abc")


@canary("build/push", "a report on another commit", rule="other-revision", path=IMAGE)
def push_other_revision(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(scanned(), IMAGE, "def")


@canary("build/push", "changes that no commit holds", rule="uncommitted", path=IMAGE)
def push_uncommitted(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(msgspec.structs.replace(scanned(), revision="abc+"), IMAGE, "abc+")


def attested(folder: Path, report: Report, *, signed_by_other: bool = False, tampered: bool = False) -> Scan:
    """Attach a provenance of IMAGE to it in a registry and check that; TAMPERED changes what was signed."""
    key = Ed25519PrivateKey.generate()
    bill = folder / plant(folder, "sbom.cdx.json", "{}")
    with oci_registry(IMAGE) as host:
        repository = f"{host}/canary"
        said = provenance.statement(repository, IMAGE, report, [], bill)
        envelope = provenance.sign(said, Ed25519PrivateKey.generate() if signed_by_other else key)
        if tampered:
            payload = json.dumps(said | {"changed": True}).encode()
            envelope["payload"] = base64.b64encode(payload).decode()
        provenance.attach(repository, IMAGE, envelope)
        return anonymous(provenance.check(f"{repository}@{IMAGE}", revision="abc", key=key.public_key()))


def anonymous(scan: Scan) -> Scan:
    """Leave the registry's passing port out of the findings' places, so that a canary can expect one."""
    return msgspec.structs.replace(
        scan, findings=tuple(msgspec.structs.replace(finding, path="canary") for finding in scan.findings)
    )


@canary("build/provenance", "an image without provenance", rule="no-provenance", path="canary")
def no_provenance(folder: Path) -> Scan:  # noqa: ARG001
    with oci_registry() as host:
        key = Ed25519PrivateKey.generate().public_key()
        return anonymous(provenance.check(f"{host}/canary@{IMAGE}", key=key))


@canary("build/provenance", "a provenance that a stranger signed", rule="bad-signature", path="canary")
def stranger(folder: Path) -> Scan:
    return attested(folder, scanned(), signed_by_other=True)


@canary("build/provenance", "a provenance that was changed after it was signed", rule="bad-signature", path="canary")
def changed(folder: Path) -> Scan:
    return attested(folder, scanned(), tampered=True)


@canary("build/provenance", "an image whose scan was not clean", rule="not-clean", path="canary")
def not_clean(folder: Path) -> Scan:
    return attested(folder, scanned(problem="no database"))


@canary("build/provenance", "an image that was compared with a fixture", rule="fixture", path="canary")
def fixture(folder: Path) -> Scan:
    return attested(folder, scanned(fixture=True))


@canary("build/provenance", "an image of another commit", rule="other-revision", path="canary")
def other_commit(folder: Path) -> Scan:
    return attested(folder, msgspec.structs.replace(scanned(), revision="def"))


@canary("build/provenance", "an image of another builder", rule="other-builder", path="canary")
def other_builder(folder: Path) -> Scan:
    pipeline = "https://github.com/owner/repository/.github/workflows/pipeline.yml@refs/heads/main"
    with patch.dict(os.environ, PROVENANCE_BUILDERS=pipeline):
        return attested(folder, scanned())


@canary("build/provenance", "a tag instead of a digest", problem="names no digest")
def tag_only(folder: Path) -> Scan:  # noqa: ARG001
    return provenance.check("127.0.0.1:9/canary:latest", key=Ed25519PrivateKey.generate().public_key())


@canary("build/provenance", "a registry that is not there", problem="does not answer")
def no_registry(folder: Path) -> Scan:  # noqa: ARG001
    return provenance.check(f"127.0.0.1:9/canary@{IMAGE}", key=Ed25519PrivateKey.generate().public_key())
