"""Findings of every gate in one shape, the waivers that excuse some, and the reports that show both.

A gate is one check that can fail. It returns one `Scan`: its targets, program, database and findings. From one
`Report` come SARIF 2.1.0 (for code scanning), JSON (for machines) and HTML (for people).

Exit codes of a stage: 0 clean or not configured, 1 findings, 2 not assessed.
"""

import functools
import hashlib
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import msgspec
from rich.console import Console
from rich.markup import escape

from tooling import baseline, page
from tooling.baseline import RENEW, Baseline
from tooling.project import REPORTS, ROOT, ToolingError, service

WAIVERS = ROOT / "waivers.toml"
WAIVABLE = {
    "actionlint",
    "bandit",
    "compatibility",
    "eslint",
    "gitleaks",
    "hadolint",
    "pip-audit",
    "ruff",
    "safety",
    "schemathesis",
    "shellcheck",
    "spectral",
    "trivy-config",
    "third-party",
    "trivy-image",
    "wapiti",
    "zizmor",
}
"""The scanners, which may be wrong, and whose findings may wait; and `compatibility`, as clients may agree to a change.
All others enforce rules of this repository: a failing test or a wrong type is mended, never waived."""
LONGEST_WAIVER = timedelta(days=90)
WARNING_AHEAD = timedelta(days=14)
CLEAN, FINDINGS, NOT_ASSESSED = 0, 1, 2


class Severity(IntEnum):
    """How bad it is, in the order of CVSS's qualitative ratings."""

    NOTE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @classmethod
    def named(cls, word: str) -> Self:
        """Read a tool's word for a severity, in any case; raise KeyError for one that no tool is known to use."""
        return cls[ALIASES.get(word.upper(), word.upper())]


ALIASES = {
    "ERROR": "HIGH",
    "WARNING": "MEDIUM",
    "MODERATE": "MEDIUM",
    "INFO": "LOW",
    "INFORMATIONAL": "LOW",
    "STYLE": "LOW",
    "UNDEFINED": "MEDIUM",
    "UNKNOWN": "MEDIUM",
    "UNSPECIFIED": "MEDIUM",
    "NONE": "NOTE",
}


class Kind(StrEnum):
    """Why a finding is excused."""

    FALSE_POSITIVE = "false positive"
    ACCEPTED_RISK = "accepted risk"


class Waiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An excuse for the findings that its fingerprints name, and for no other.

    A fingerprint holds on to the code: the waiver ends when that changes. An accepted risk also has an owner and a last
    day.
    """

    kind: Kind
    tool: str
    rule: str
    place: str
    reason: str
    fingerprints: tuple[str, ...]
    owner: str = ""
    expires: date | None = None

    def __post_init__(self) -> None:
        if not all(text.strip() for text in (self.tool, self.rule, self.place, self.reason)):
            raise ValueError("`tool`, `rule`, `place` and `reason` must not be empty")
        if self.tool not in WAIVABLE:
            raise ValueError(f"findings of `{self.tool}` cannot be waived: mend what it reports")
        if not self.fingerprints:
            raise ValueError("`fingerprints` must name each finding that is excused")
        if self.kind is Kind.FALSE_POSITIVE and self.expires:
            raise ValueError("a false positive has no `expires`: it ends when the code changes")
        if self.kind is Kind.ACCEPTED_RISK and not (self.owner.strip() and self.expires):
            raise ValueError("an accepted risk has an `owner` and `expires`")

    def covers(self, finding: "Finding") -> bool:
        """Return whether this waiver is about that finding, whether in force or not."""
        same = (self.tool, self.rule, self.place) == (finding.tool, finding.rule, finding.path)
        return same and finding.fingerprint in self.fingerprints

    def unmatched(self, findings: Iterable["Finding"]) -> bool:
        """Return whether it, or one of its fingerprints, matches none of the findings."""
        matched = [finding.fingerprint for finding in findings if self.covers(finding)]
        return not set(self.fingerprints) <= set(matched)

    def in_force(self, today: date) -> bool:
        """Return whether it excuses anything today; a waiver that ends more than 90 days ahead does not."""
        return self.expires is None or today <= self.expires <= today + LONGEST_WAIVER

    @property
    def subject(self) -> str:
        """What it is about, in one line."""
        return f"{self.rule} in {self.place} ({', '.join(self.fingerprints)})"

    @property
    def until(self) -> str:
        """When it ends, for a table."""
        return str(self.expires or "the code changes")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One defect.

    `path` is a file of the repository, a request (`GET /tasks`) or a package. `subject` stays the same when lines move
    (the line's text, a package with its version) and goes into the fingerprint. `blocks` is false for what is only
    worth knowing. `fingerprint` and `waiver` are set by `Report.of`.
    """

    tool: str
    rule: str
    severity: Severity
    message: str
    path: str
    line: int | None = None
    subject: str = ""
    blocks: bool = True
    help: str = ""
    fingerprint: str = ""
    waiver: Waiver | None = None

    @property
    def place(self) -> str:
        """Where it is, as `path:line`."""
        return f"{self.path}:{self.line}" if self.line else self.path

    @property
    def fails(self) -> bool:
        """Return whether the stage fails for it."""
        return self.blocks and self.waiver is None


class Database(msgspec.Struct, frozen=True):
    """A scanner's database, and when it was made. A fixture proves the gate, and nothing about the real state."""

    name: str
    updated: datetime
    fixture: bool = False

    @property
    def age(self) -> timedelta:
        """How long ago it was written."""
        return datetime.now(UTC) - self.updated


class Verdict(StrEnum):
    """The verdict of a gate or of a stage, the worst first."""

    FINDINGS = "findings"
    NOT_ASSESSED = "not assessed"
    NOT_CONFIGURED = "not configured"
    CLEAN = "clean"


class NotAssessed(ToolingError):
    """The gate broke, or looked at nothing: an error everywhere."""


class Unreachable(NotAssessed):
    """The gate's service cannot be reached: an error in CI, a warning on a laptop; never clean."""


class NotConfigured(NotAssessed):
    """A key or an address that the gate needs is not set: an error only where `REQUIRED_GATES` names the gate."""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What one gate did. `targets` names what it looked at; a scan of nothing is "not assessed"."""

    tool: str
    version: str
    targets: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    database: Database | None = None
    seconds: float = 0.0
    problem: str = ""
    unreachable: bool = False
    unconfigured: bool = False

    @property
    def verdict(self) -> Verdict:
        """Findings before "not assessed": a defect that was seen is certain."""
        if any(finding.fails for finding in self.findings):
            return Verdict.FINDINGS
        return self.gap if self.problem else Verdict.CLEAN

    @property
    def gap(self) -> Verdict:
        """The verdict on what the gate did not look at."""
        return Verdict.NOT_CONFIGURED if self.unconfigured else Verdict.NOT_ASSESSED


Gate = Callable[[], Scan]


def run_gates(gates: dict[str, Gate], *, parallel: int = 2, quiet: bool = False) -> list[Scan]:
    """Run gates, showing each as it ends. One that raises becomes a scan with a problem, and the others go on."""
    console = Console(highlight=False, soft_wrap=True, quiet=quiet)

    def run(name: str, gate: Gate) -> Scan:
        started = time.monotonic()
        try:
            scan = gate()
            if not scan.targets and not scan.problem:
                scan = msgspec.structs.replace(scan, problem=f"{name} looked at nothing")
        except Exception as error:  # noqa: BLE001 - whatever breaks a gate is a verdict about that gate
            problem = str(error) if isinstance(error, NotAssessed) else f"{type(error).__name__}: {error}"
            scan = Scan(
                tool=name,
                version="",
                problem=problem or type(error).__name__,
                unreachable=isinstance(error, Unreachable),
                unconfigured=isinstance(error, NotConfigured),
            )
        scan = msgspec.structs.replace(scan, seconds=time.monotonic() - started)
        if scan.problem:  # of several scans in one
            scan = msgspec.structs.replace(scan, tool=name)
        detail = scan.problem or f"{len(scan.findings)} findings, {len(scan.targets)} targets"
        console.print(f"  {name}: {escape(detail)} ({page.duration(scan.seconds)})")
        return scan

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return list(pool.map(run, gates, gates.values()))


class Named(Protocol):
    """What one scan of several looks at: a service, an image."""

    @property
    def name(self) -> str:
        """Its name, for messages."""


NamedT = TypeVar("NamedT", bound=Named)


def for_each(scanned: Sequence[NamedT], scan: Callable[[NamedT], Scan]) -> Gate:
    """Return a gate that scans each of several and reports one scan, also where some break it."""

    def gate() -> Scan:
        gates: dict[str, Gate] = {one.name: functools.partial(scan, one) for one in scanned}
        scans = run_gates(gates, quiet=True)
        broken = {name: one for name, one in zip(gates, scans, strict=True) if one.problem}
        return Scan(
            tool=scans[0].tool,
            version=next((one.version for one in scans if one.version), ""),
            targets=tuple(target for one in scans for target in one.targets),
            findings=tuple(finding for one in scans for finding in one.findings),
            database=next((one.database for one in scans if one.database), None),
            problem="; ".join(f"{name}: {one.problem}" for name, one in broken.items()),
            unreachable=bool(broken) and all(one.unreachable for one in broken.values()),
            unconfigured=bool(broken) and all(one.unconfigured for one in broken.values()),
        )

    return gate


def read_waivers(path: Path = WAIVERS) -> list[Waiver]:
    """Read the waivers' file; raise `NotAssessed` naming the mistake where it cannot be read."""
    try:
        entries = tomllib.loads(path.read_text())
        return msgspec.convert(entries.get("waiver", []), list[Waiver])
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise NotAssessed(f"{path.name}: {error}") from error


def check_waivers(path: Path = WAIVERS, today: date | None = None) -> Scan:
    """Check the last days of accepted risks: none is over, none is more than 90 days ahead; warn 14 days before one."""
    today = today or datetime.now(UTC).date()
    findings = []
    for waiver in read_waivers(path):
        if waiver.expires is None or today + WARNING_AHEAD < waiver.expires <= today + LONGEST_WAIVER:
            continue
        if waiver.expires < today:
            rule, message = "expired-waiver", f"expired on {waiver.expires}: fix the finding, or renew the waiver"
        elif waiver.expires <= today + WARNING_AHEAD:
            rule, message = "ending-waiver", f"expires on {waiver.expires}: fix the finding, or renew the waiver"
        else:
            rule, message = "long-waiver", f"expires on {waiver.expires}, more than {LONGEST_WAIVER.days} days ahead"
        message = f"{waiver.tool}: {waiver.subject} {message} (owner: {waiver.owner})"
        findings.append(
            Finding(
                tool="waivers",
                rule=rule,
                severity=Severity.MEDIUM if rule == "ending-waiver" else Severity.HIGH,
                message=message,
                path=path.name,
                subject=waiver.subject,
                blocks=rule != "ending-waiver",
            )
        )
    return Scan(tool="waivers", version="1", targets=(path.name,), findings=tuple(findings))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one stage: its scans, with waivers applied. Make it with `Report.of`."""

    stage: str
    written: datetime
    revision: str
    scans: tuple[Scan, ...]
    waivers: tuple[Waiver, ...]
    strict: bool
    required: tuple[str, ...] = ()
    """Gates that must be configured: `REQUIRED_GATES` names them."""

    @classmethod
    def of(
        cls, stage: str, scans: Iterable[Scan], waivers: Sequence[Waiver] = (), *, strict: bool | None = None
    ) -> Self:
        """Return the report, with fingerprints, the waivers in force, and a note for each waiver that matches nothing.

        With `strict` (by default where the environment variable CI is true) an unreachable service fails the stage.
        """
        today = datetime.now(UTC).date()
        in_force = [waiver for waiver in waivers if waiver.in_force(today)]
        judged = []
        for scan in scans:
            findings = [
                msgspec.structs.replace(finding, waiver=next((w for w in in_force if w.covers(finding)), None))
                for finding in with_fingerprints(scan.findings)
            ]
            if not scan.problem:
                findings += [
                    unused(waiver) for waiver in waivers if waiver.tool == scan.tool and waiver.unmatched(findings)
                ]
            findings.sort(key=lambda finding: (not finding.fails, -finding.severity, finding.path, finding.line or 0))
            judged.append(msgspec.structs.replace(scan, findings=tuple(findings)))
        if strict is None:
            strict = os.environ.get("CI", "").lower() in {"1", "true"}
        return cls(
            stage=stage,
            written=datetime.now(UTC),
            revision=revision(),
            scans=tuple(judged),
            waivers=tuple(waivers),
            strict=strict,
            required=tuple(os.environ.get("REQUIRED_GATES", "").split()),
        )

    def breaks(self, scan: Scan) -> bool:
        """Return whether a scan did not assess what it had to, and that is an error in this run."""
        if scan.unconfigured:
            return scan.tool in self.required
        return bool(scan.problem) and not (scan.unreachable and not self.strict)

    def tolerance(self, scan: Scan) -> str:
        """Return why a scan's problem does not fail the stage; empty where it does, or where there is none."""
        if not scan.problem or self.breaks(scan):
            return ""
        return "REQUIRED_GATES does not name it" if scan.unconfigured else "a warning here, an error in CI"

    @property
    def gaps(self) -> list[Scan]:
        """The gates without a result: not configured, or not assessed."""
        return [scan for scan in self.scans if scan.problem]

    @property
    def warnings(self) -> list[Finding]:
        """Waivers that end within 14 days."""
        return [finding for finding in self.findings if finding.rule == "ending-waiver"]

    @property
    def findings(self) -> list[Finding]:
        """All findings, waived and merely noted ones too."""
        return [finding for scan in self.scans for finding in scan.findings]

    @property
    def verdict(self) -> Verdict:
        """The worst of the gates' verdicts; a report without any gate is "not assessed"."""
        verdicts = {scan.verdict for scan in self.scans} or {Verdict.NOT_ASSESSED}
        return next(verdict for verdict in Verdict if verdict in verdicts)

    @property
    def exit_code(self) -> int:
        """0 clean or not configured, 1 findings, 2 not assessed; 0 where a laptop could not reach a service."""
        if self.verdict is Verdict.FINDINGS:
            return FINDINGS
        return NOT_ASSESSED if not self.scans or any(map(self.breaks, self.scans)) else CLEAN

    @property
    def fixtures(self) -> list[str]:
        """The databases that are fixtures."""
        return sorted({scan.database.name for scan in self.scans if scan.database and scan.database.fixture})

    def write(self, folder: Path) -> None:
        """Write report.sarif, report.json and report.html into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"verdict": self.verdict, "exit_code": self.exit_code, **msgspec.to_builtins(self)}
        for scan, decoded in zip(self.scans, content["scans"], strict=True):
            decoded["verdict"] = scan.verdict
        (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)))
        (folder / "report.sarif").write_bytes(msgspec.json.format(msgspec.json.encode(self.sarif())))
        (folder / "report.html").write_text(page.render("report.html", report=self, now=datetime.now(UTC)))

    def sarif(self) -> dict[str, Any]:
        """Return the report as a SARIF 2.1.0 log, one run a gate."""
        return {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [sarif_run(self.stage, scan) for scan in self.scans],
        }

    def print(self) -> None:
        """Print the verdict on the terminal, and each finding that fails the stage."""
        console = Console(highlight=False, soft_wrap=True)
        if self.fixtures:
            names = escape(", ".join(self.fixtures))
            console.print(f"[yellow]fixture[/]: {names}: proves the gate, proves nothing about the real state")
        for scan in self.scans:
            if scan.problem:
                excuse = f" ({self.tolerance(scan)})" if self.tolerance(scan) else ""
                console.print(f"[yellow]{scan.gap}[/] {scan.tool}: {escape(scan.problem)}{excuse}")
            for finding in scan.findings:
                if finding.fails:
                    line = f"{finding.tool} {finding.rule} {finding.place}: {finding.message} ({finding.fingerprint})"
                    console.print(f"[red]{finding.severity.name.lower()}[/] {escape(line)}")
        for finding in self.warnings:
            console.print(f"[yellow]warning[/] {escape(finding.message)}")
        colour = {Verdict.CLEAN: "green", Verdict.FINDINGS: "red"}.get(self.verdict, "yellow")
        waived = sum(finding.waiver is not None for finding in self.findings)
        noted = sum(not finding.fails for finding in self.findings) - waived
        console.print(
            f"{self.stage}: [{colour}]{self.verdict}[/], {len(self.scans)} gates, "
            f"{sum(finding.fails for finding in self.findings)} findings, {waived} waived, {noted} noted"
        )


def read_report(path: Path) -> Report:
    """Read a report.json; raise `NotAssessed` where it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise NotAssessed(f"{path}: {error}") from error


def with_fingerprints(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with fingerprints that outlive moved lines; equal ones in one place get a number."""
    seen: Counter[str] = Counter()
    numbered = []
    for finding in findings:
        parts = (finding.tool, finding.rule, finding.path, finding.subject)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        seen[digest] += 1
        number = "" if seen[digest] == 1 else f":{seen[digest]}"
        numbered.append(msgspec.structs.replace(finding, fingerprint=digest + number))
    return numbered


def unused(waiver: Waiver) -> Finding:
    """Return a note about a waiver that matches nothing: worth deleting, no reason to fail."""
    return Finding(
        tool=waiver.tool,
        rule="unused-waiver",
        severity=Severity.NOTE,
        message=f"the waiver for {waiver.subject} matches no finding: the code has changed, or it can be deleted",
        path=WAIVERS.name,
        blocks=False,
    )


LEVELS = {
    Severity.NOTE: "note",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
# GitHub code scanning sorts by the property `security-severity`, a CVSS score.
SCORES = {
    Severity.NOTE: "0.0",
    Severity.LOW: "3.0",
    Severity.MEDIUM: "5.5",
    Severity.HIGH: "8.0",
    Severity.CRITICAL: "9.5",
}


def sarif_run(stage: str, scan: Scan) -> dict[str, Any]:
    """Return one gate's run of a SARIF log, without waived findings: code scanning ignores suppressions."""
    rules: dict[str, dict[str, Any]] = {}
    findings = [finding for finding in scan.findings if finding.waiver is None]
    for finding in findings:
        about = f"{scan.tool} {finding.rule}"
        rules.setdefault(
            finding.rule,
            {
                "id": finding.rule,
                "shortDescription": {"text": about},
                "fullDescription": {"text": finding.message},
                "help": {"text": finding.help or about},
                "properties": {"security-severity": SCORES[finding.severity], "tags": ["security"]},
            }
            | ({"helpUri": finding.help} if finding.help else {}),
        )
    invocation: dict[str, Any] = {"executionSuccessful": not scan.problem}
    if scan.problem:
        invocation["toolExecutionNotifications"] = [{"level": "error", "message": {"text": scan.problem}}]
    driver = {"name": scan.tool, "rules": list(rules.values())} | ({"version": scan.version} if scan.version else {})
    return {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"{stage}/{scan.tool}/"},
        "invocations": [invocation],
        "results": [sarif_result(finding) for finding in findings],
        "properties": {"targets": scan.targets, "database": msgspec.to_builtins(scan.database)},
    }


def sarif_result(finding: Finding) -> dict[str, Any]:
    """Return one finding as a SARIF result."""
    is_file = (ROOT / finding.path).is_file()
    uri = finding.path if is_file else f"{service().path}/pyproject.toml"  # code scanning shows only what has a file
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": finding.line or 1}},
    }
    if not is_file:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.path}]
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": LEVELS[finding.severity],
        "message": {"text": finding.message if is_file else f"{finding.path}: {finding.message}"},
        "locations": [location],
        "partialFingerprints": {"gate/v1": finding.fingerprint},
        "properties": {"blocks": finding.blocks},
    }
    return result


@functools.cache
def revision() -> str:
    """Return the commit that is checked out, with `+` where the working tree differs; empty outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def looked_at(scan: Scan) -> int:
    """Return how much a gate looked at: its targets, of which `283 source files` are as many."""
    return sum(int(target.split()[0]) if target.split()[0].isdigit() else 1 for target in scan.targets)


def test_file(classname: str) -> str:
    """Return the file of a test, whose JUnit report names its module and, where it has one, its class."""
    return "/".join(part for part in classname.split(".") if not part.startswith("Test")) + ".py"


def tests_of(scans: Iterable[Scan]) -> Counter[str]:
    """Return how many tests of each file ran, or were skipped as the baseline allows."""
    ran = [test_file(target.partition("::")[0]) for scan in scans for target in scan.targets if "::" in target]
    skipped = [one.path for scan in scans for one in scan.findings if one.rule == "skipped-test" and not one.blocks]
    return Counter([*ran, *skipped])


def held(stage: str, scans: Sequence[Scan], committed: Baseline) -> Scan:
    """Hold a whole stage against the baseline: every gate of it ran, and none looked at less; tests are all there."""
    by_name = {scan.tool: scan for scan in scans}
    gates = {name.partition("/")[2]: least for name, least in committed.gates.items() if name.startswith(f"{stage}/")}
    shortfalls = []
    for name, least in gates.items():
        if name not in by_name:
            shortfalls.append(("missing-gate", name, f"the gate {name} of the baseline did not run"))
        elif not by_name[name].problem and (seen := looked_at(by_name[name])) < least:
            shortfalls.append(("fewer-targets", name, f"{name} looked at {seen} targets, the baseline has {least}"))
    if stage == "test" and not any(scan.problem for scan in scans):
        counted = tests_of(scans)
        shortfalls += [
            ("fewer-tests", path, f"{counted[path]} tests, the baseline has {least}")
            for path, least in committed.tests.items()
            if counted[path] < least
        ]
    findings = [
        Finding(
            tool="baseline", rule=rule, severity=Severity.HIGH, message=f"{message}: {RENEW}", path=path, subject=rule
        )
        for rule, path, message in shortfalls
    ]
    findings += [
        Finding(
            tool="baseline",
            rule="new-gate",
            severity=Severity.NOTE,
            message=f"the baseline does not have the gate {name} yet: run `./dev baseline`",
            path=name,
            blocks=False,
        )
        for name in by_name.keys() - gates.keys()
    ]
    return Scan(tool="baseline", version="1", targets=tuple(gates) or (stage,), findings=tuple(findings))


def run_stage(
    stage: str,
    gates: dict[str, Gate],
    then: dict[str, Gate] | None = None,
    *,
    parallel: int = 2,
    whole: bool = True,
) -> int:
    """Run a stage's gates, then those of `then`; write reports/`stage`/ and return the exit code.

    A whole stage, with all of its gates on all that they look at, is held against the baseline.
    """
    try:
        waivers = read_waivers()
        committed = baseline.read() if whole else Baseline()
    except ToolingError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return NOT_ASSESSED
    scans = run_gates(gates, parallel=parallel) + run_gates(then or {}, parallel=parallel)
    if whole:
        named = [
            msgspec.structs.replace(scan, tool=name) for name, scan in zip([*gates, *(then or {})], scans, strict=True)
        ]
        scans.append(held(stage, named, committed))
    report = Report.of(stage, scans, waivers)
    report.write(REPORTS / stage)
    report.print()
    print(f"report: {(REPORTS / stage / 'report.html').relative_to(ROOT)}")
    return report.exit_code
