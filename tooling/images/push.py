"""Push the scanned image by digest, with tags from Git and its provenance beside it: `python -m tooling.images.push`.

IMAGE_REPOSITORY names where to for the default service, e.g. ghcr.io/owner/name; other services' images lie beside it,
under their own names. Without it nothing is pushed. `docker login` comes first.
Nothing is pushed that reports/build/ does not call clean, for this very image and this very commit.
Exit codes: 0 pushed or nowhere to push to, 1 not fit to be pushed, 2 could not be pushed.
"""

import json
import os
import re
import sys
from typing import Any

from tooling.findings import (
    Finding,
    Gate,
    NotAssessed,
    Report,
    Scan,
    Severity,
    Verdict,
    for_each,
    read_report,
    revision,
)
from tooling.images import build, provenance, scan
from tooling.project import REPORTS, Service, ToolingError, services
from tooling.tools import call


def tags(version: str, commit: str) -> list[str]:
    """Name the image after Git: its commit, and for a release (`v1.2.3`) also 1.2.3, 1.2 and latest."""
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
        "not-clean": (report.verdict is not Verdict.CLEAN, f"the scan said: {report.verdict}"),
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
    found: list[dict[str, Any]] = [{"uri": uri, "digest": {"gitCommit": source.revision}}]
    for base in build.bases(service):
        known = build.inspect(base)
        identity = known["RepoDigests"][0].partition("@")[2] if known["RepoDigests"] else known["Id"]
        found.append({"uri": f"docker:{base}", "digest": {"sha256": identity.removeprefix("sha256:")}})
    return found


def push(repository: str, reference: str, names: list[str]) -> str:
    """Push the image under each tag and give its digest; raise `NotAssessed` where the registry does not take it."""
    for name in names:
        call("docker", "tag", reference, f"{repository}:{name}")
        said = call("docker", "push", f"{repository}:{name}")
    digest = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
    if digest is None:
        raise NotAssessed(f"docker did not tell the pushed digest: {said[-200:]}")
    return digest.group(1)


def main() -> int:
    """Push each service's image, attach its provenance, verify what lies in the registry, print the image by digest."""
    repository = os.environ.get("IMAGE_REPOSITORY", "").lower()  # registries take no capitals, GitHub names have them
    if not repository:
        print("push: IMAGE_REPOSITORY is not set, so the image stays here")
        return 0
    try:
        for service in services():
            place = repository if service.default else f"{repository.rpartition('/')[0]}/{service.name}"
            print(f"{place}@{publish(service, place)}")
    except provenance.Untrusted as error:
        print(f"push: {error}", file=sys.stderr)
        return 1
    except ToolingError as error:
        print(f"push: {error}", file=sys.stderr)
        return 2
    return 0


def publish(service: Service, repository: str) -> str:
    """Push a service's scanned image with its provenance, and return its digest.

    Raises `Untrusted` where the report forbids it, `NotAssessed` or `ImageError` where it cannot be done.
    """
    report = read_report(REPORTS / "build" / "report.json")
    if objections := fit(report, scan.identity(service.name), revision()).findings:
        raise provenance.Untrusted("; ".join(finding.message for finding in objections))
    key = provenance.signing_key()
    source, made_of = build.Source.of_checkout(), materials(service)
    commit, *releases = tags(source.version, source.revision)
    digest = push(repository, service.name, [commit])
    statement = provenance.statement(repository, digest, report, made_of, scan.bill_of(service))
    (REPORTS / "build" / f"{service.name}.provenance.json").write_text(json.dumps(statement, indent=2))
    provenance.attach(repository, digest, provenance.sign(statement, key))
    provenance.verify(f"{repository}@{digest}", revision=report.revision)
    if releases:  # people pull by these names: only what can be verified gets them
        push(repository, service.name, releases)
    return digest


GATES: dict[str, Gate] = {
    "push": for_each(
        services(),
        lambda service: fit(read_report(REPORTS / "build" / "report.json"), scan.identity(service.name), revision()),
    )
}
"""Not run by the stage: `publish` checks this for the one image that it pushes. The canaries prove the check."""

if __name__ == "__main__":
    sys.exit(main())
