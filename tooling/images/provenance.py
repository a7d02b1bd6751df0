"""Where an image comes from and how its scan went: signed, kept beside it, verified before a deployment.

It is an in-toto statement with SLSA's provenance (v1), in a DSSE envelope signed with Ed25519, an OCI artifact tagged
`sha256-DIGEST.att` in the image's own repository. `python -m tooling.images.provenance REPOSITORY@sha256:DIGEST`
verifies one; `--make-key` makes this machine's key. CI signs with the secret PROVENANCE_KEY; who deploys sets
PROVENANCE_PUBLIC_KEY, and PROVENANCE_BUILDER to accept images of one builder alone: how its id begins.

Exit codes: 0 trusted, 1 not to be trusted, 2 could not assess.
"""

import argparse
import base64
import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import oras.provider
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from requests import RequestException

from tooling.findings import Finding, Gate, NotAssessed, Report, Scan, Severity, Unreachable, Verdict
from tooling.project import ROOT

KEY = ROOT / ".secrets" / "provenance.pem"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MANIFEST = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:task-api:build:nox-session"


class Untrusted(Exception):
    """The image must not be deployed; the message says why."""


def make_key(path: Path = KEY) -> Ed25519PrivateKey:
    """Make this machine's signing key, readable by its owner alone; raise FileExistsError rather than replace one."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(pem)
    return key


def signing_key() -> Ed25519PrivateKey:
    """Give the key that signs: PROVENANCE_KEY (PEM), or this machine's; raise `NotAssessed` without one."""
    pem = os.environ.get("PROVENANCE_KEY", "").encode() or (KEY.read_bytes() if KEY.exists() else b"")
    if not pem:
        raise NotAssessed("no key signs: set PROVENANCE_KEY or run python -m tooling.images.provenance --make-key")
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise NotAssessed("PROVENANCE_KEY is not an Ed25519 key")
    return key


def trusted_key() -> Ed25519PublicKey:
    """Give the key to trust: PROVENANCE_PUBLIC_KEY (PEM), else this machine's; raise `NotAssessed` without one."""
    pem = os.environ.get("PROVENANCE_PUBLIC_KEY", "").encode()
    if not pem:
        try:
            return signing_key().public_key()
        except NotAssessed:
            raise NotAssessed("no key to trust: set PROVENANCE_PUBLIC_KEY to the public key of who builds") from None
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise NotAssessed("PROVENANCE_PUBLIC_KEY is not an Ed25519 key")
    return key


def statement(
    repository: str, digest: str, report: Report, materials: list[dict[str, Any]], sbom: Path
) -> dict[str, Any]:
    """Say of the image with this digest: who built it from what, and how its scan went."""
    environment = os.environ
    here = f"{environment.get('GITHUB_SERVER_URL')}/{environment.get('GITHUB_REPOSITORY')}"
    in_ci = "GITHUB_RUN_ID" in environment
    builder = f"{environment.get('GITHUB_SERVER_URL')}/{environment.get('GITHUB_WORKFLOW_REF')}"
    gates = [
        {
            "name": scan.tool,
            "verdict": scan.verdict,
            "version": scan.version,
            "fixture": bool(scan.database and scan.database.fixture),
            "database": scan.database and scan.database.updated.isoformat(),
        }
        for scan in report.scans
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": repository, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"session": "build", "revision": report.revision},
                "internalParameters": {},
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": builder if in_ci else "urn:task-api:builder:local"},
                "metadata": {
                    "invocationId": f"{here}/actions/runs/{environment.get('GITHUB_RUN_ID')}" if in_ci else "local",
                    "finishedOn": datetime.now(UTC).isoformat(timespec="seconds"),
                },
                "byproducts": [
                    {"name": "scan", "annotations": {"verdict": report.verdict, "gates": gates}},
                    {"name": sbom.name, "digest": {"sha256": hashlib.sha256(sbom.read_bytes()).hexdigest()}},
                ],
            },
        },
    }


def encoding(payload: bytes) -> bytes:
    """Give what is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """Name a key: the SHA-256 of its DER form."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def sign(said: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Put a statement into a signed DSSE envelope."""
    payload = json.dumps(said, sort_keys=True).encode()
    signature = base64.b64encode(key.sign(encoding(payload))).decode()
    signatures = [{"keyid": key_id(key.public_key()), "sig": signature}]
    return {"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(payload).decode(), "signatures": signatures}


def opened(envelope: dict[str, Any], key: Ed25519PublicKey) -> dict[str, Any]:
    """Give the statement of an envelope that KEY has signed; raise `Untrusted` for any other."""
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        for signature in envelope["signatures"]:
            try:
                key.verify(base64.b64decode(signature["sig"], validate=True), encoding(payload))
            except InvalidSignature:
                continue
            said: dict[str, Any] = json.loads(payload)
            return said
    except (KeyError, TypeError, ValueError) as error:
        raise Untrusted(f"the provenance is not a DSSE envelope: {error!r}") from error
    raise Untrusted(f"the provenance is not signed by the trusted key {key_id(key)[:12]}")


def registry(repository: str) -> oras.provider.Registry:
    """Give a client for the repository's registry: plain HTTP on the loopback interface, HTTPS anywhere else.

    Raises `Unreachable` at once where nothing answers; the client itself would try for minutes.
    """
    host = repository.partition("/")[0]
    client = oras.provider.Registry(insecure=host.partition(":")[0] in {"127.0.0.1", "localhost"})
    try:
        client.session.get(f"{client.prefix}://{host}/v2/", timeout=10)
    except RequestException as error:
        raise Unreachable(f"the registry {host} does not answer: {error}") from error
    return client


def tag(digest: str) -> str:
    """Name the artifact that speaks of a digest."""
    return digest.replace(":", "-") + ".att"


def attach(repository: str, digest: str, envelope: dict[str, Any]) -> None:
    """Put the envelope beside the image. Raises `Unreachable` where the registry does not take it."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "provenance.json")
        path.write_text(json.dumps(envelope))
        target = f"{repository}:{tag(digest)}"
        try:
            registry(repository).push(target, files=[f"{path}:{MEDIA_TYPE}"], disable_path_validation=True, quiet=True)
        except (ValueError, RequestException) as error:
            raise Unreachable(f"the registry did not take the provenance: {error}") from error


def fetch(repository: str, digest: str) -> dict[str, Any] | None:
    """Get the envelope that lies beside an image; None where there is none. Raises `Unreachable`."""
    client = registry(repository)
    container = client.get_container(f"{repository}:{tag(digest)}")
    client.auth.load_configs(container)
    try:
        there = client.do_request(f"{client.prefix}://{container.manifest_url()}", headers=MANIFEST)
        if there.status_code == 404:  # noqa: PLR2004 - not found
            return None
        there.raise_for_status()
        layer = next(layer for layer in there.json()["layers"] if layer["mediaType"] == MEDIA_TYPE)
        content = client.get_blob(container, layer["digest"]).content
    except (KeyError, StopIteration, ValueError, RequestException) as error:
        raise Unreachable(f"the registry does not give the provenance: {error!r}") from error
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != layer["digest"]:
        raise Unreachable("the registry gave another provenance than its manifest names")
    envelope: dict[str, Any] = json.loads(content)
    return envelope


def objections(said: dict[str, Any], digest: str, revision: str | None, builder: str = "") -> list[tuple[str, str]]:
    """List what speaks against deploying DIGEST by a statement whose signature is good: rule and message.

    It has to be of REVISION where one is given, and of a builder whose id begins with BUILDER.
    """
    try:
        subjects = [subject["digest"]["sha256"] for subject in said["subject"]]
        built = said["predicate"]["buildDefinition"]["externalParameters"]["revision"]
        builder_id = said["predicate"]["runDetails"]["builder"]["id"]
        products = {product["name"]: product for product in said["predicate"]["runDetails"]["byproducts"]}
        scan = products["scan"]["annotations"]
        fixtures = [gate["name"] for gate in scan["gates"] if gate["fixture"]]
        verdict, kind = scan["verdict"], said["predicateType"]
    except (KeyError, TypeError) as error:
        return [("malformed", f"the provenance lacks {error}")]
    found = []
    if kind != PREDICATE_TYPE:
        found.append(("malformed", f"it is a {kind}, not a {PREDICATE_TYPE}"))
    if digest.removeprefix("sha256:") not in subjects:
        found.append(("other-image", "the provenance speaks of another image"))
    if revision and built != revision:
        found.append(("other-revision", f"the image was built from {built}, not from {revision}"))
    if not builder_id.startswith(builder):
        found.append(("other-builder", f"the image was built by {builder_id}, not by {builder}"))
    if built.endswith("+"):
        found.append(("uncommitted", f"the image was built from {built}: with changes that no commit holds"))
    if verdict != Verdict.CLEAN:
        found.append(("not-clean", f"the image's scan said: {verdict}"))
    if fixtures:
        found.append(("fixture", f"the image's scan compared with a fixture ({', '.join(fixtures)})"))
    return found


def check(reference: str, *, revision: str | None = None, key: Ed25519PublicKey | None = None) -> Scan:
    """Check the provenance of REPOSITORY@sha256:DIGEST (and that it is of REVISION); every objection is a finding."""
    repository, _, digest = reference.partition("@")
    if len(digest) != len("sha256:") + 64 or not digest.startswith("sha256:"):
        raise NotAssessed(f"{reference} names no digest: give REPOSITORY@sha256:DIGEST, a tag can move")
    key = key or trusted_key()
    envelope = fetch(repository, digest)
    if envelope is None:
        found = [("no-provenance", "the registry has no provenance for this image")]
    else:
        try:
            found = objections(opened(envelope, key), digest, revision, os.environ.get("PROVENANCE_BUILDER", ""))
        except Untrusted as error:
            found = [("bad-signature", str(error))]
    findings = tuple(
        Finding(tool="provenance", rule=rule, severity=Severity.CRITICAL, message=message, path=reference)
        for rule, message in found
    )
    return Scan(tool="provenance", version="1", targets=(reference,), findings=findings)


def verify(reference: str, *, revision: str | None = None) -> None:
    """Return where REPOSITORY@sha256:DIGEST may be deployed; raise `Untrusted` or `NotAssessed` saying why not."""
    if findings := check(reference, revision=revision).findings:
        raise Untrusted("; ".join(finding.message for finding in findings))


def main(arguments: list[str] | None = None) -> int:
    """Verify one image, or make this machine's key."""
    parser = argparse.ArgumentParser(prog="python -m tooling.images.provenance", description=__doc__)
    parser.add_argument("reference", nargs="?", help="REPOSITORY@sha256:DIGEST")
    parser.add_argument("--revision", help="the commit it must be built from, as `git rev-parse --short=12` gives it")
    parser.add_argument("--make-key", action="store_true", help="make this machine's signing key")
    options = parser.parse_args(arguments)
    if options.make_key == bool(options.reference):
        parser.error("give an image, or --make-key")
    try:
        if options.make_key:
            public = make_key().public_key()
            form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            print(f"{KEY.relative_to(ROOT)} signs; PROVENANCE_PUBLIC_KEY is\n{public.public_bytes(*form).decode()}")
            return 0
        verify(options.reference, revision=options.revision)
    except (Untrusted, FileExistsError) as error:
        print(f"provenance: {error}", file=sys.stderr)
        return 1
    except NotAssessed as error:
        print(f"provenance: not assessed: {error}", file=sys.stderr)
        return 2
    print(f"provenance: {options.reference} may be deployed")
    return 0


# It runs before a deployment, not on this checkout: the canaries alone see it here.
GATES: dict[str, Gate] = {"provenance": lambda: check(os.environ["IMAGE"])}

if __name__ == "__main__":
    sys.exit(main())
