"""Where an image comes from and how its scan went: signed, kept beside it, verified before a deployment.

It is an in-toto statement with SLSA's provenance (v1) in a DSSE envelope, signed with Ed25519. A Sigstore bundle (v0.3)
holds the envelope; the bundle is an OCI referrer of the image, so `cosign verify-attestation --key` verifies it too.
`python -m tooling.images.provenance REPOSITORY@sha256:DIGEST` verifies one; `--make-key` makes this machine's key. CI
signs with the secret `PROVENANCE_KEY`. Who deploys sets `PROVENANCE_PUBLIC_KEY`, and `PROVENANCE_BUILDERS` to accept
images of some builders alone: patterns of builder ids, in which `*` stands for any characters.

Exit codes: 0 trusted, 1 not to be trusted, 2 not assessed.
"""

import argparse
import hashlib
import json
import os
import sys
from copy import deepcopy
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import oras.provider
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from requests import RequestException, Response
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from tooling.findings import Finding, Gate, NotAssessed, NotConfigured, Report, Scan, Severity, Unreachable, Verdict
from tooling.project import ROOT, ToolingError, repository_name

KEY = ROOT / ".secrets" / "provenance.pem"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
DOCKER_TYPES = tuple(f"application/vnd.docker.distribution.manifest.{kind}+json" for kind in ("v2", "list.v2"))
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"urn:{repository_name()}:build:nox-session"


class Untrusted(ToolingError):
    """The image must not be deployed; the message is the reason."""


def make_key(path: Path = KEY) -> Ed25519PrivateKey:
    """Make this machine's signing key, readable by its owner alone; raise FileExistsError rather than replace one."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(pem)
    return key


def signing_key() -> Ed25519PrivateKey:
    """Return the key that signs: `PROVENANCE_KEY` (PEM), or this machine's; raise `NotConfigured` without one."""
    pem = os.environ.get("PROVENANCE_KEY", "").encode() or (KEY.read_bytes() if KEY.exists() else b"")
    if not pem:
        raise NotConfigured("no key signs: set PROVENANCE_KEY or run python -m tooling.images.provenance --make-key")
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise NotAssessed("PROVENANCE_KEY is not an Ed25519 key")
    return key


def trusted_key() -> Ed25519PublicKey:
    """Return the key to trust: `PROVENANCE_PUBLIC_KEY` (PEM), or this machine's; raise `NotConfigured` without one."""
    pem = os.environ.get("PROVENANCE_PUBLIC_KEY", "").encode()
    if not pem:
        try:
            return signing_key().public_key()
        except NotAssessed:
            raise NotConfigured("no key to trust: set PROVENANCE_PUBLIC_KEY to the public key of who builds") from None
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise NotAssessed("PROVENANCE_PUBLIC_KEY is not an Ed25519 key")
    return key


def statement(
    repository: str, digest: str, report: Report, materials: list[dict[str, Any]], sbom: Path
) -> dict[str, Any]:
    """Return the statement about the image with this digest: who built it from what, and how its scan went."""
    environment = os.environ
    repository_url = f"{environment.get('GITHUB_SERVER_URL')}/{environment.get('GITHUB_REPOSITORY')}"
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
                "builder": {"id": builder if in_ci else f"urn:{repository_name()}:builder:local"},
                "metadata": {
                    "invocationId": f"{repository_url}/actions/runs/{environment.get('GITHUB_RUN_ID')}"
                    if in_ci
                    else "local",
                    "finishedOn": datetime.now(UTC).isoformat(timespec="seconds"),
                },
                "byproducts": [
                    {"name": "scan", "annotations": {"verdict": report.verdict, "gates": gates}},
                    {"name": sbom.name, "digest": {"sha256": hashlib.sha256(sbom.read_bytes()).hexdigest()}},
                ],
            },
        },
    }


def anonymous(key: Ed25519PublicKey) -> SSlibKey:
    """Return a key without an id: DSSE's ids are hints, and each tool makes up its own."""
    named = SSlibKey.from_crypto(key)
    named.keyid = ""
    return named


def key_id(key: Ed25519PublicKey) -> str:
    """Return what names a key in a message: the SHA-256 of its DER form."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def sign(content: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return a signed DSSE envelope with a statement in it."""
    envelope = Envelope(json.dumps(content, sort_keys=True).encode(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, anonymous(key.public_key())))
    signed: dict[str, Any] = envelope.to_dict()
    return signed


def opened(envelope: dict[str, Any], key: Ed25519PublicKey) -> dict[str, Any]:
    """Return the statement of an envelope that `key` has signed; raise `Untrusted` for any other."""
    try:
        read = Envelope.from_dict(deepcopy(envelope))  # it changes what it reads
        read.verify([anonymous(key)], threshold=1)
        if read.payload_type != PAYLOAD_TYPE:
            raise Untrusted(f"the provenance is signed as {read.payload_type}, not as {PAYLOAD_TYPE}")
        content: dict[str, Any] = json.loads(read.payload)
    except VerificationError as error:
        raise Untrusted(f"the provenance is not signed by the trusted key {key_id(key)[:12]}") from error
    except (FormatError, KeyError, TypeError, ValueError) as error:
        raise Untrusted(f"the provenance is not a DSSE envelope: {error!r}") from error
    return content


def bundle(envelope: dict[str, Any]) -> dict[str, Any]:
    """Return a Sigstore bundle with the envelope; the key that verifies it is known beforehand."""
    return {"mediaType": BUNDLE_TYPE, "verificationMaterial": {"publicKey": {}}, "dsseEnvelope": envelope}


def registry(repository: str) -> oras.provider.Registry:
    """Return a client for the repository's registry: plain HTTP on the loopback interface, HTTPS anywhere else.

    Raises `Unreachable` at once where nothing answers; the client itself would try for minutes.
    """
    host = repository.partition("/")[0]
    client = oras.provider.Registry(insecure=host.partition(":")[0] in {"127.0.0.1", "localhost"})
    try:
        client.session.get(f"{client.prefix}://{host}/v2/", timeout=10)
    except RequestException as error:
        raise Unreachable(f"the registry {host} does not answer: {error}") from error
    return client


class Repository:
    """An image's repository: what lies beside an image, written and read. Raises `Unreachable` where it fails."""

    def __init__(self, name: str) -> None:
        """Connect to the registry of the repository, e.g. `ghcr.io/owner/name`."""
        self.name = name
        self.client = registry(name)
        self.client.auth.load_configs(self.client.get_container(name))

    def url(self, path: str) -> str:
        """Return the address of `path` in this repository."""
        container = self.client.get_container(self.name)
        return f"{self.client.prefix}://{container.registry}/v2/{container.api_prefix}/{path}"

    def request(self, path: str, *accept: str) -> Response:
        """Return the registry's answer about `path`, such as `manifests/TAG`; a 404 is an answer too."""
        answer: Response = self.client.do_request(self.url(path), headers={"Accept": ", ".join(accept)})
        if answer.status_code != HTTPStatus.NOT_FOUND:
            answer.raise_for_status()
        return answer

    def subject(self, digest: str) -> dict[str, Any]:
        """Return the descriptor of the image with this digest."""
        answer = self.request(f"manifests/{digest}", MANIFEST_TYPE, INDEX_TYPE, *DOCKER_TYPES)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise Unreachable(f"there is no image {self.name}@{digest}")
        media_type = answer.headers["Content-Type"]
        return {"mediaType": media_type, "digest": digest, "size": len(answer.content)}

    def push(self, manifest: dict[str, Any], content: bytes, tag: str = "") -> Response:
        """Push an artifact of one layer, by its digest or under `tag`; complete its layer and configuration."""
        with TemporaryDirectory() as folder:
            for descriptor, blob in ((manifest["layers"][0], content), (manifest["config"], b"{}")):
                path = Path(folder, "blob")
                path.write_bytes(blob)
                descriptor |= {"digest": sha256(blob), "size": len(blob)}
                container = self.client.get_container(self.name)
                self.client.upload_blob(str(path), container, descriptor).raise_for_status()
        return self.put(manifest, tag)

    def put(self, manifest: dict[str, Any], tag: str = "") -> Response:
        """Push a manifest, by its digest or under `tag`."""
        content = json.dumps(manifest).encode()
        url, headers = self.url(f"manifests/{tag or sha256(content)}"), {"Content-Type": manifest["mediaType"]}
        answer: Response = self.client.do_request(url, "PUT", data=content, headers=headers)
        answer.raise_for_status()
        return answer

    def tag(self, digest: str, tag: str) -> None:
        """Add a tag to the image with this digest."""
        known = self.request(f"manifests/{digest}", MANIFEST_TYPE, INDEX_TYPE, *DOCKER_TYPES)
        headers = {"Content-Type": known.headers["Content-Type"]}
        self.client.do_request(
            self.url(f"manifests/{tag}"), "PUT", data=known.content, headers=headers
        ).raise_for_status()

    def referrers(self, digest: str) -> dict[str, Any]:
        """Return the index of what refers to the image, by the OCI distribution's API or, without it, by its tag."""
        answer = self.request(f"referrers/{digest}", INDEX_TYPE)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            answer = self.request(f"manifests/{fallback_tag(digest)}", INDEX_TYPE)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
        index: dict[str, Any] = answer.json()
        return index

    def content(self, descriptor: dict[str, Any]) -> bytes:
        """Return the one layer of an artifact, by the digests that lead to it."""
        answer = self.request(f"manifests/{descriptor['digest']}", MANIFEST_TYPE)
        (layer,) = json.loads(_checked(answer.content, descriptor["digest"]))["layers"]
        blob = self.client.get_blob(self.client.get_container(self.name), layer["digest"]).content
        return _checked(blob, layer["digest"])


def _checked(content: bytes, digest: str) -> bytes:
    if sha256(content) != digest:
        raise Unreachable("the registry returns another provenance than its index names")
    return content


def sha256(content: bytes) -> str:
    """Return the digest of some content as a registry writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fallback_tag(digest: str) -> str:
    """Return the tag of the index of referrers, where a registry has no API for them (OCI distribution 1.1)."""
    return digest.replace(":", "-")


def attach(repository: str, digest: str, envelope: dict[str, Any]) -> None:
    """Put the envelope beside the image. Raises `Unreachable` where the registry does not take it.

    It is a bundle that refers to the image, as cosign 3 looks for it, and an artifact with the tag `sha256-DIGEST.att`,
    as cosign 2 does.
    """
    try:
        beside = Repository(repository)
        described = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": PREDICATE_TYPE,
            "org.opencontainers.image.created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        referrer = _artifact(BUNDLE_TYPE, EMPTY_TYPE) | {
            "artifactType": BUNDLE_TYPE,
            "annotations": described,
            "subject": beside.subject(digest),
        }
        pushed = beside.push(referrer, json.dumps(bundle(envelope)).encode())
        if "OCI-Subject" not in pushed.headers:
            content = json.dumps(referrer).encode()
            entry = {"mediaType": MANIFEST_TYPE, "size": len(content), "artifactType": BUNDLE_TYPE}
            entry |= {"digest": sha256(content), "annotations": described}
            index = beside.referrers(digest)
            beside.put(index | {"manifests": [*index["manifests"], entry]}, fallback_tag(digest))
        old = _artifact(ENVELOPE_TYPE, "application/vnd.oci.image.config.v1+json")
        old["layers"][0]["annotations"] = {"dev.cosignproject.cosign/signature": "", "predicateType": PREDICATE_TYPE}
        beside.push(old, json.dumps(envelope).encode(), f"{fallback_tag(digest)}.att")
    except (KeyError, ValueError, RequestException) as error:
        raise Unreachable(f"the registry did not take the provenance: {error!r}") from error


def _artifact(layer: str, config: str) -> dict[str, Any]:
    content = {"config": {"mediaType": config}, "layers": [{"mediaType": layer}]}
    return {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, **content}


def fetch(repository: str, digest: str) -> list[dict[str, Any]]:
    """Return the envelopes of all bundles that refer to an image. Raises `Unreachable`."""
    try:
        beside = Repository(repository)
        entries = [one for one in beside.referrers(digest)["manifests"] if one.get("artifactType") == BUNDLE_TYPE]
        bundles = [json.loads(beside.content(one)) for one in entries]
    except (KeyError, ValueError, RequestException) as error:
        raise Unreachable(f"the registry does not return the provenance: {error!r}") from error
    return [one["dsseEnvelope"] for one in bundles if "dsseEnvelope" in one]


def objections(content: dict[str, Any], digest: str, revision: str | None, builders: str = "") -> list[tuple[str, str]]:
    """Return what in a statement with a valid signature forbids deploying `digest`: rules and messages.

    It has to be of `revision` unless that is None, and of a builder whose id matches one of the patterns `builders`.
    """
    try:
        subjects = [subject["digest"]["sha256"] for subject in content["subject"]]
        built = content["predicate"]["buildDefinition"]["externalParameters"]["revision"]
        builder_id = content["predicate"]["runDetails"]["builder"]["id"]
        products = {product["name"]: product for product in content["predicate"]["runDetails"]["byproducts"]}
        scan = products["scan"]["annotations"]
        fixtures = [gate["name"] for gate in scan["gates"] if gate["fixture"]]
        verdict, kind = scan["verdict"], content["predicateType"]
    except (KeyError, TypeError) as error:
        return [("malformed", f"the provenance lacks {error}")]
    problems = []
    if kind != PREDICATE_TYPE:
        problems.append(("malformed", f"it is a {kind}, not a {PREDICATE_TYPE}"))
    if digest.removeprefix("sha256:") not in subjects:
        problems.append(("other-image", "the provenance speaks of another image"))
    if revision and built != revision:
        problems.append(("other-revision", f"the image was built from {built}, not from {revision}"))
    if builders and not any(fnmatchcase(builder_id, pattern) for pattern in builders.split()):
        problems.append(
            ("other-builder", f"the image was built by {builder_id}, not by {' or '.join(builders.split())}")
        )
    if built.endswith("+"):
        problems.append(("uncommitted", f"the image was built from {built}: with changes that no commit holds"))
    if verdict != Verdict.CLEAN:
        problems.append(("not-clean", f"the verdict of the image's scan is: {verdict}"))
    if fixtures:
        problems.append(("fixture", f"the image's scan compared with a fixture ({', '.join(fixtures)})"))
    return problems


def check(reference: str, *, revision: str | None = None, key: Ed25519PublicKey | None = None) -> Scan:
    """Check the provenance of REPOSITORY@sha256:DIGEST (and that it is of `revision`); an objection is a finding.

    Of several envelopes one without objections is enough.
    """
    repository, _, digest = reference.partition("@")
    if len(digest) != len("sha256:") + 64 or not digest.startswith("sha256:"):
        raise NotAssessed(f"{reference} names no digest: use REPOSITORY@sha256:DIGEST, a tag can move")
    key = key or trusted_key()
    builders = os.environ.get("PROVENANCE_BUILDERS", "")
    judged = [("no-provenance", "the registry has no provenance for this image")]
    for envelope in fetch(repository, digest):
        try:
            judged = objections(opened(envelope, key), digest, revision, builders)
        except Untrusted as error:
            judged = [("bad-signature", str(error))]
        if not judged:
            break
    findings = tuple(
        Finding(tool="provenance", rule=rule, severity=Severity.CRITICAL, message=message, path=reference)
        for rule, message in judged
    )
    return Scan(tool="provenance", version="1", targets=(reference,), findings=findings)


def verify(reference: str, *, revision: str | None = None) -> None:
    """Return where REPOSITORY@sha256:DIGEST may be deployed; raise `Untrusted` or `NotAssessed` with the reason."""
    if findings := check(reference, revision=revision).findings:
        raise Untrusted("; ".join(finding.message for finding in findings))


def main(arguments: list[str] | None = None) -> int:
    """Verify one image, or make this machine's key."""
    parser = argparse.ArgumentParser(prog="python -m tooling.images.provenance", description=__doc__)
    parser.add_argument("reference", nargs="?", help="REPOSITORY@sha256:DIGEST")
    parser.add_argument("--revision", help="the commit it must be built from, as `git rev-parse --short=12` prints it")
    parser.add_argument("--make-key", action="store_true", help="make this machine's signing key")
    options = parser.parse_args(arguments)
    if options.make_key == bool(options.reference):
        parser.error("name an image, or use --make-key")
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


# It runs before a deployment, not on a checkout: in this repository the canaries alone use it.
GATES: dict[str, Gate] = {"provenance": lambda: check(os.environ["IMAGE"])}

if __name__ == "__main__":
    sys.exit(main())
