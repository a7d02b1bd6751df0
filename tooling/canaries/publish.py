"""Planted defects for the publish stage."""

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tooling.canaries import canary
from tooling.canaries.fixtures import oci_registry, plant
from tooling.findings import Database, Report, Scan
from tooling.images import provenance, push

IMAGE = "sha256:" + "1" * 64


def scanned(*, problem: str = "", fixture: bool = False) -> Report:
    """Return a report on IMAGE, of a commit."""
    database = Database("planted", datetime.now(UTC), fixture=fixture)
    found = Scan(tool="trivy-image", version="1", targets=(IMAGE,), database=database, problem=problem)
    report = Report.of("build", [found], strict=True)
    return msgspec.structs.replace(report, revision="abc")


@canary("publish/push", "an image that was not scanned", rule="other-image", path="sha256:" + "2" * 64)
def push_unscanned(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    return push.fit(scanned(), "sha256:" + "2" * 64, "abc")


@canary("publish/push", "an image whose scan could not assess it", rule="not-clean", path=IMAGE)
def push_not_assessed(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(scanned(problem="no database"), IMAGE, "abc")


@canary("publish/push", "a report on another commit", rule="other-revision", path=IMAGE)
def push_other_revision(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(scanned(), IMAGE, "def")


@canary("publish/push", "changes that no commit holds", rule="uncommitted", path=IMAGE)
def push_uncommitted(folder: Path) -> Scan:  # noqa: ARG001
    return push.fit(msgspec.structs.replace(scanned(), revision="abc+"), IMAGE, "abc+")


def attested(folder: Path, report: Report, *, signed_by_other: bool = False, tampered: bool = False) -> Scan:
    """Return the check of a provenance attached to IMAGE in a registry; `tampered` changes what was signed."""
    key = Ed25519PrivateKey.generate()
    bill = folder / plant(folder, "sbom.cdx.json", "{}")
    with oci_registry(IMAGE) as host:
        repository = f"{host}/canary"
        content = provenance.statement(repository, IMAGE, report, [], bill)
        envelope = provenance.sign(content, Ed25519PrivateKey.generate() if signed_by_other else key)
        if tampered:
            payload = json.dumps(content | {"changed": True}).encode()
            envelope["payload"] = base64.b64encode(payload).decode()
        provenance.attach(repository, IMAGE, envelope)
        return anonymous(provenance.check(f"{repository}@{IMAGE}", revision="abc", key=key.public_key()))


def anonymous(scan: Scan) -> Scan:
    """Leave the registry's passing port out of the findings' places, so that a canary can expect one."""
    return msgspec.structs.replace(
        scan, findings=tuple(msgspec.structs.replace(finding, path="canary") for finding in scan.findings)
    )


@canary("publish/provenance", "an image without provenance", rule="no-provenance", path="canary")
def no_provenance(folder: Path) -> Scan:  # noqa: ARG001
    with oci_registry() as host:
        key = Ed25519PrivateKey.generate().public_key()
        return anonymous(provenance.check(f"{host}/canary@{IMAGE}", key=key))


@canary("publish/provenance", "a provenance that a stranger signed", rule="bad-signature", path="canary")
def stranger(folder: Path) -> Scan:
    return attested(folder, scanned(), signed_by_other=True)


@canary("publish/provenance", "a provenance that was changed after it was signed", rule="bad-signature", path="canary")
def changed(folder: Path) -> Scan:
    return attested(folder, scanned(), tampered=True)


@canary("publish/provenance", "an image whose scan was not clean", rule="not-clean", path="canary")
def not_clean(folder: Path) -> Scan:
    return attested(folder, scanned(problem="no database"))


@canary("publish/provenance", "an image that was compared with a fixture", rule="fixture", path="canary")
def fixture(folder: Path) -> Scan:
    return attested(folder, scanned(fixture=True))


@canary("publish/provenance", "an image of another commit", rule="other-revision", path="canary")
def other_commit(folder: Path) -> Scan:
    return attested(folder, msgspec.structs.replace(scanned(), revision="def"))


@canary("publish/provenance", "an image of another builder", rule="other-builder", path="canary")
def other_builder(folder: Path) -> Scan:
    pipeline = "https://github.com/owner/repository/.github/workflows/pipeline.yml@refs/heads/main"
    with patch.dict(os.environ, PROVENANCE_BUILDERS=pipeline):
        return attested(folder, scanned())


@canary("publish/provenance", "a tag instead of a digest", problem="names no digest")
def tag_only(folder: Path) -> Scan:  # noqa: ARG001
    return provenance.check("127.0.0.1:9/canary:latest", key=Ed25519PrivateKey.generate().public_key())


@canary("publish/provenance", "a registry that is not there", problem="does not answer")
def no_registry(folder: Path) -> Scan:  # noqa: ARG001
    return provenance.check(f"127.0.0.1:9/canary@{IMAGE}", key=Ed25519PrivateKey.generate().public_key())
