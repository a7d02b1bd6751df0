"""Push the scanned image by digest, with tags from Git and its provenance beside it: `python -m tooling.images.push`.

IMAGE_REPOSITORY names where to, e.g. ghcr.io/owner/task-api; without it nothing is pushed. `docker login` comes first.
Nothing is pushed that reports/build/ does not call clean, for this very image and this very commit.
Exit codes: 0 pushed or nowhere to push to, 1 not fit to be pushed, 2 could not be pushed.
"""

import json
import os
import re
import sys
from typing import Any

from tooling.findings import Finding, Gate, NotAssessed, Report, Scan, Severity, Verdict, read_report, revision
from tooling.images import build, provenance, scan
from tooling.project import REPORTS
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


def materials() -> list[dict[str, Any]]:
    """Name what the image was made from: the commit, the base images and the lock."""
    source = build.Source.of_checkout()
    origin = os.environ.get("GITHUB_REPOSITORY")
    uri = f"git+{os.environ.get('GITHUB_SERVER_URL')}/{origin}" if origin else "git+local"
    found: list[dict[str, Any]] = [{"uri": uri, "digest": {"gitCommit": source.revision}}]
    for base in build.bases():
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
    """Push, attach the provenance, verify what lies in the registry, and name the image by digest."""
    repository = os.environ.get("IMAGE_REPOSITORY", "").lower()  # registries take no capitals, GitHub names have them
    if not repository:
        print("push: IMAGE_REPOSITORY is not set, so the image stays here")
        return 0
    try:
        report = read_report(REPORTS / "build" / "report.json")
        if objections := fit(report, scan.identity(build.NAME), revision()).findings:
            raise provenance.Untrusted("; ".join(finding.message for finding in objections))
        key = provenance.signing_key()
        source, made_of = build.Source.of_checkout(), materials()
        commit, *releases = tags(source.version, source.revision)
        digest = push(repository, build.NAME, [commit])
        said = provenance.statement(repository, digest, report, made_of, scan.SBOM)
        (REPORTS / "build" / "provenance.json").write_text(json.dumps(said, indent=2))
        provenance.attach(repository, digest, provenance.sign(said, key))
        provenance.verify(f"{repository}@{digest}", revision=report.revision)
        if releases:  # people pull by these names: only what can be verified gets them
            push(repository, build.NAME, releases)
    except provenance.Untrusted as error:
        print(f"push: {error}", file=sys.stderr)
        return 1
    except (NotAssessed, build.ImageError) as error:
        print(f"push: {error}", file=sys.stderr)
        return 2
    print(f"{repository}@{digest}")
    return 0


# It runs before a push, apart from the stage's scans: its report would come after theirs.
GATES: dict[str, Gate] = {
    "push": lambda: fit(read_report(REPORTS / "build" / "report.json"), scan.identity(build.NAME), revision())
}

if __name__ == "__main__":
    sys.exit(main())
