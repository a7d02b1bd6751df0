"""Publish the scanned image by digest, with its provenance and tags from Git: `python -m tooling.images.push`.

`IMAGE_REPOSITORY` names where to for the default service, e.g. ghcr.io/owner/name; other services' images lie beside
it, under their own names. `docker login` comes first. Nothing is pushed without a key that signs, and nothing that
reports/build/ does not call clean, for this very image and this very commit. Images of several processors
(reports/build-arm64/ beside reports/build/) become one index.

`--archive` keeps what CI's job `publish` needs of the job `build`: the images and what they were made from.
Exit codes: 0 published or not configured, 1 not fit to be published, 2 could not be published.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tooling.findings import (
    Finding,
    Gate,
    NotAssessed,
    NotConfigured,
    Report,
    Scan,
    Severity,
    Verdict,
    for_each,
    read_report,
    revision,
    run_stage,
)
from tooling.images import build, provenance, scan
from tooling.project import REPORTS, ROOT, Service, ToolingError, services
from tooling.project import service as project_service
from tooling.tools import call


class Candidate(NamedTuple):
    """One processor's image in the engine, with what its build and scan left."""

    image: str
    report: Report
    materials: list[dict[str, Any]]
    sbom: Path


def tags(version: str, commit: str) -> list[str]:
    """Return an image's tags: its commit, and for a release (`v1.2.3`) also 1.2.3, 1.2 and latest."""
    names = [f"sha-{commit[:12]}"]
    if release := re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", version):
        major, minor, patch = release.groups()
        names += [f"{major}.{minor}.{patch}", f"{major}.{minor}", "latest"]
    return names


def fit(report: Report, identity: str, commit: str) -> Scan:
    """Check that the report calls this image of this commit clean; every objection is a finding."""
    scanned = next((scan for scan in report.scans if scan.tool == "trivy-image"), None)
    objections = {
        "other-image": (scanned is None or identity not in scanned.targets, "the report is about another image"),
        "other-revision": (report.revision != commit, f"the report is about {report.revision}, not {commit}"),
        "uncommitted": (commit.endswith("+"), "there are changes that no commit holds"),
        "not-clean": (report.verdict is not Verdict.CLEAN, f"the scan's verdict is: {report.verdict}"),
    }
    findings = tuple(
        Finding(tool="push", rule=rule, severity=Severity.CRITICAL, message=message, path=identity)
        for rule, (is_so, message) in objections.items()
        if is_so
    )
    return Scan(tool="push", version="1", targets=(identity,), findings=findings)


def materials(service: Service) -> list[dict[str, Any]]:
    """Return what a service's image was made from: the commit and the base images."""
    source = build.Source.of_checkout()
    origin = os.environ.get("GITHUB_REPOSITORY")
    uri = f"git+{os.environ.get('GITHUB_SERVER_URL')}/{origin}" if origin else "git+local"
    sources: list[dict[str, Any]] = [{"uri": uri, "digest": {"gitCommit": source.revision}}]
    for base in build.bases(service):
        known = build.inspect(base)
        identity = known["RepoDigests"][0].partition("@")[2] if known["RepoDigests"] else known["Id"]
        sources.append({"uri": f"docker:{base}", "digest": {"sha256": identity.removeprefix("sha256:")}})
    return sources


def archive(folder: Path) -> None:
    """Write each service's image and what it was made from into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for service in services():
        call("docker", "save", "--output", folder / f"{service.name}.tar", f"{service.name}:latest")  # not every tag
        (folder / f"{service.name}.materials.json").write_text(json.dumps(materials(service)))


def candidates(service: Service, reports: Path = REPORTS) -> list[Candidate]:
    """Return a service's images to publish: each that CI's jobs left in reports/image*/, or else the engine's own."""
    loaded = []
    for folder in sorted(reports.glob("image*")):
        name = f"{service.name}:{folder.name}"
        call("docker", "load", "--quiet", "--input", folder / f"{service.name}.tar")
        call("docker", "tag", service.name, name)
        left = reports / folder.name.replace("image", "build", 1)
        made_of = json.loads((folder / f"{service.name}.materials.json").read_text())
        bill = left / scan.bill_of(service).name
        loaded.append(Candidate(name, read_report(left / "report.json"), made_of, bill))
    report = reports / "build" / "report.json"
    return loaded or [Candidate(service.name, read_report(report), materials(service), scan.bill_of(service))]


def push(repository: str, reference: str, names: list[str]) -> str:
    """Push the image under each tag and return its digest; raise `NotAssessed` where the registry does not take it."""
    for name in names:
        call("docker", "tag", reference, f"{repository}:{name}")
        output = call("docker", "push", f"{repository}:{name}")
    digest = re.search(r"digest: (sha256:[0-9a-f]{64})", output)
    if digest is None:
        raise NotAssessed(f"docker did not report the pushed digest: {output[-200:]}")
    return digest.group(1)


def index(repository: str, tag: str, images: list[str]) -> str:
    """Push the images of several processors and one index of them under `tag`; return its digest."""
    beside = provenance.Repository(repository)
    entries = []
    for image in images:
        known = build.inspect(image)
        digest = push(repository, image, [f"{tag}-{known['Architecture']}"])
        platform = {"os": known["Os"], "architecture": known["Architecture"]}
        entries.append(beside.subject(digest) | {"platform": platform})
    manifest = {"schemaVersion": 2, "mediaType": provenance.INDEX_TYPE, "manifests": entries}
    beside.put(manifest, tag)
    return provenance.sha256(json.dumps(manifest).encode())


class Publication:
    """One run of the stage: what it published, for the gates that follow each other."""

    def __init__(self) -> None:
        """Begin with nothing published."""
        self.repository = os.environ.get("IMAGE_REPOSITORY", "").lower()  # registries take no capitals
        self.digests: dict[str, str] = {}

    def place(self, service: Service) -> str:
        """Return the repository of a service's image."""
        return self.repository if service.default else f"{self.repository.rpartition('/')[0]}/{service.name}"

    def push(self, service: Service) -> Scan:
        """Push what is fit to be, sign its provenance and put that beside it. Raises `NotConfigured`."""
        if not self.repository:
            raise NotConfigured("IMAGE_REPOSITORY is not set: the image is not pushed")
        key = provenance.signing_key()
        chosen = candidates(service)
        judged = [fit(one.report, scan.identity(one.image), revision()) for one in chosen]
        result = msgspec.structs.replace(
            judged[0],
            targets=tuple(target for scan in judged for target in scan.targets),
            findings=tuple(finding for scan in judged for finding in scan.findings),
        )
        if result.findings:
            return result
        repository, images = self.place(service), [one.image for one in chosen]
        commit, *_ = tags("", build.Source.of_checkout().revision)
        digest = push(repository, images[0], [commit]) if len(images) == 1 else index(repository, commit, images)
        for one in chosen:
            statement = provenance.statement(repository, digest, one.report, one.materials, one.sbom)
            envelope = provenance.sign(statement, key)
            provenance.attach(repository, digest, envelope)
            kept = REPORTS / "publish" / f"{one.image.replace(':', '-')}.sigstore.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(provenance.bundle(envelope)))
        self.digests[repository] = digest
        return result

    def verified(self, service: Service) -> Scan:
        """Verify what lies in the registry, as a deployment does. Raises `NotConfigured` where nothing was pushed."""
        repository = self.place(service)
        if repository not in self.digests:
            raise NotConfigured("nothing was pushed")
        return provenance.check(f"{repository}@{self.digests[repository]}", revision=revision())

    def release(self) -> None:
        """Add the tags that people pull by: only what has been verified gets them."""
        source = build.Source.of_checkout()
        for repository, digest in self.digests.items():
            for tag in tags(source.version, source.revision)[1:]:
                provenance.Repository(repository).tag(digest, tag)


def main(arguments: list[str]) -> int:
    """Publish, or keep the images for the job that does."""
    if arguments == ["--archive"]:
        archive(REPORTS / "image")
        return 0
    run = Publication()
    gates = {"push": for_each(services(), run.push)}
    code = run_stage("publish", gates, {"provenance": for_each(services(), run.verified)})
    if code == 0 and run.digests:
        try:
            run.release()
        except ToolingError as error:
            print(f"publish: {error}", file=sys.stderr)
            return 2
        for repository, digest in run.digests.items():
            print(f"{repository}@{digest}")
        if output := os.environ.get("GITHUB_OUTPUT"):
            with Path(output).open("a") as file:
                file.write(f"repository={run.repository}\ndigest={run.digests[run.repository]}\n")
                file.write(f"sbom={scan.bill_of(project_service()).relative_to(ROOT)}\n")
    return code


GATES: dict[str, Gate] = {
    "push": for_each(
        services(),
        lambda service: fit(read_report(REPORTS / "build" / "report.json"), scan.identity(service.name), revision()),
    )
}
"""What the canaries prove; the stage runs it together with the push."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
