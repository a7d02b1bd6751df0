"""Which image may be deployed: one whose scan and origin verify, by digest."""

from collections.abc import Callable

from tooling.findings import NotAssessed, Report, Verdict, read_report, run_stage
from tooling.images import build, provenance, scan
from tooling.images.provenance import Untrusted
from tooling.project import REPORTS, Service
from tooling.tools import call

REPORT = REPORTS / "build" / "report.json"


def pushed(reference: str) -> str:
    """Return `reference` if its signed provenance attests a clean image. Raises `Untrusted` otherwise."""
    try:
        provenance.verify(reference)
    except (Untrusted, NotAssessed) as error:
        raise Untrusted(f"{reference} must not be deployed: {error}") from error
    return reference


def built_here(service: Service, log: Callable[[str], None], *, accept_unassessed: bool) -> str:
    """Build and scan a service's image; return a name that holds its digest. Raises `Untrusted` unless it is clean.

    `accept_unassessed` accepts an image that could not be assessed because there is no vulnerability database, but
    never one with findings.
    """
    try:
        name = build.build(service)
        identity = scan.identity(name)
        if not _scanned(identity):
            run_stage("build", scan.gates([service]), whole=False)
        log(judged(read_report(REPORT), identity, accept_unassessed=accept_unassessed))
        tagged = f"{service.name}:{identity.removeprefix('sha256:')[:12]}"
        call("docker", "tag", name, tagged)
    except (build.ImageError, NotAssessed) as error:
        raise Untrusted(f"the image cannot be deployed: {error}") from error
    return tagged


def _scanned(identity: str) -> bool:
    try:
        return _subject(read_report(REPORT)) == identity
    except NotAssessed:
        return False


def _subject(report: Report) -> str:
    return next((target for scan in report.scans if scan.tool == "trivy-image" for target in scan.targets[:1]), "")


def judged(report: Report, identity: str, *, accept_unassessed: bool) -> str:
    """Return the scan's verdict on the image with this identity, as a sentence. Raises `Untrusted` if it forbids it."""
    verdict = report.verdict
    if verdict is Verdict.NOT_ASSESSED and accept_unassessed:
        problems = "; ".join(scan.problem.partition(" (")[0] for scan in report.scans if scan.problem)
        return f"WARNING: {identity} is NOT ASSESSED ({problems}), and deployed because of --accept-unassessed"
    if verdict is not Verdict.CLEAN:
        remedy = "; provide the database, or pass --accept-unassessed" if verdict is Verdict.NOT_ASSESSED else ""
        raise Untrusted(f"the image's scan: {verdict} (reports/build/report.html){remedy}")
    if _subject(report) != identity:
        raise Untrusted("the scan's report is about another image")
    return f"{identity} is scanned and clean"
