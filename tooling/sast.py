"""Static analysis: `python -m tooling.sast` runs every gate of the stage over this repository and writes reports/sast/.

Each gate reads its tool's report, never its exit code alone, and makes sure that something was looked at. A
comment such as `nosec` or `noqa` hides no finding: waivers.toml is the one place for excuses.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tooling import baseline, excuses, locks, patterns, sql, tools
from tooling.findings import (
    Finding,
    Gate,
    NotAssessed,
    NotConfigured,
    Scan,
    Severity,
    Unreachable,
    check_waivers,
    run_stage,
)
from tooling.project import ROOT, services, shared_by
from tooling.tools import call, in_git, report, tracked

NOTED = {"S101", "S105", "S106", "S107", "S110", "S112", "S311", "S606"}  # ruff rates nothing; Bandit rates these low
REGISTRIES = {f"KSV-{number}" for number in ("0032", "0033", "0034", "0035", "0125")}
OSV = "https://api.osv.dev/v1/query"
GITLEAKS_LOG = "--log-opts=--all --text --remerge-diff"
"""Every commit, whatever attributes call binary, and of a merge what neither parent has."""
ESLINT_RULES = Path(__file__).with_name("eslint.config.cjs")
GITLEAKS_RULES = Path(__file__).with_name("gitleaks.toml")


def line_of(root: Path, path: str, line: int | None) -> str:
    """Return a line's text without its indentation: what a fingerprint holds on to."""
    try:
        return (root / path).read_text(errors="replace").splitlines()[(line or 0) - 1].strip() if line else ""
    except (OSError, IndexError):
        return ""


def relative(path: str, root: Path) -> str:
    """Write a path as the repository sees it."""
    return str(Path(path).relative_to(root)) if Path(path).is_absolute() else str(Path(path))


def bandit(root: Path, files: Sequence[str]) -> Scan:
    """Look for insecure Python with Bandit; low severities are noted, calling programs at all is left out."""
    if not files:
        return Scan(tool="bandit", version=tools.version("bandit"))
    arguments = ("--quiet", "--ignore-nosec", "--format=json", "--skip=B404,B603,B607", *files)
    output = report("bandit", *arguments, expect=(0, 1), cwd=root)
    if output["errors"]:
        unread = "; ".join(f"{error['filename']}: {error['reason']}" for error in output["errors"])
        raise NotAssessed(f"bandit could not read {unread}")
    read = {relative(name, root) for name in output["metrics"] if name != "_totals"}
    if missing := sorted(set(files) - read):
        raise NotAssessed(f"bandit passed over {', '.join(missing)}")
    findings = []
    for result in output["results"]:
        severity = Severity.named(result["issue_severity"])
        path = relative(result["filename"], root)
        findings.append(
            Finding(
                tool="bandit",
                rule=result["test_id"],
                severity=severity,
                message=result["issue_text"],
                path=path,
                line=result["line_number"],
                subject=line_of(root, path, result["line_number"]),
                blocks=severity >= Severity.MEDIUM,
                help=result["more_info"],
            )
        )
    return Scan(tool="bandit", version=tools.version("bandit"), targets=tuple(files), findings=tuple(findings))


def ruff(root: Path, files: Sequence[str]) -> Scan:
    """Look for insecure Python with ruff's S rules; what Bandit rates low is noted, calling programs left out."""
    if not files:
        return Scan(tool="ruff", version=tools.version("ruff"))
    arguments = (
        "check",
        "--select=S",
        "--ignore=S603,S607",
        "--ignore-noqa",
        "--output-format=json",
        "--isolated",
        *files,
    )
    findings = []
    for result in report("ruff", *arguments, expect=(0, 1), cwd=root):
        path, line = relative(result["filename"], root), result["location"]["row"]
        findings.append(
            Finding(
                tool="ruff",
                rule=result["code"] or "invalid-syntax",
                severity=Severity.MEDIUM,
                message=result["message"],
                path=path,
                line=line,
                subject=line_of(root, path, line),
                blocks=result["code"] not in NOTED,
                help=result["url"] or "",
            )
        )
    return Scan(tool="ruff", version=tools.version("ruff"), targets=tuple(files), findings=tuple(findings))


def gitleaks(root: Path) -> Scan:
    """Look for secrets in every commit, also in what later commits deleted."""
    if not in_git(root):
        raise NotAssessed("this is no Git repository, so there is no history to look at: clone it instead")
    if call("git", "rev-parse", "--is-shallow-repository", cwd=root).strip() == "true":
        raise NotAssessed("this clone is shallow, so most of the history would go unseen: fetch all of it")
    commits = int(call("git", "rev-list", "--all", "--count", cwd=root))
    if not commits:
        return Scan(tool="gitleaks", version=tools.described("gitleaks"))
    arguments = ("git", "--redact", "--no-banner", "--exit-code=7", "--ignore-gitleaks-allow", GITLEAKS_LOG)
    ignored = (
        f"--config={GITLEAKS_RULES}",
        f"--gitleaks-ignore-path={os.devnull}",
        "--report-format=json",
        "--report-path=-",
        ".",
    )
    findings = [
        Finding(
            tool="gitleaks",
            rule=result["RuleID"],
            severity=Severity.HIGH,
            message=f"{result['Description']} (commit {result['Commit'][:12]}; revoke it, deleting it is not enough)",
            path=result["File"],
            line=result["StartLine"],
            subject=result["Match"],  # the redacted line, not the commit: a copy of the repository has other commits
        )
        for result in report("gitleaks", *arguments, *ignored, expect=(0, 7), cwd=root)
    ]
    targets = (f"all of {commits} commits",)
    return Scan(tool="gitleaks", version=tools.described("gitleaks"), targets=targets, findings=tuple(findings))


def requirements(path: Path) -> dict[str, str]:
    """Read the pinned packages of a lock: name to version."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", path.read_text(), re.MULTILINE))


def pip_audit(root: Path, locks: Sequence[str], service: str = OSV) -> Scan:
    """Return each locked package's known vulnerabilities in the OSV database at `service`; each fails the stage."""
    findings, targets = [], []
    for lock in locks:
        pinned = requirements(root / lock)
        arguments = ("--vulnerability-service=osv", "--osv-url", service, "--strict", "--no-deps", "--disable-pip")
        shape = ("--format=json", "--desc=off", "--aliases=on", "--progress-spinner=off", "-r", lock)
        try:
            output = report("pip-audit", *arguments, *shape, expect=(0, 1), cwd=root)
        except NotAssessed as error:
            raise Unreachable(f"the advisories at {service} cannot be read ({error})") from error
        audited = {dependency["name"]: dependency for dependency in output["dependencies"]}
        skipped = sorted(name for name, dependency in audited.items() if "skip_reason" in dependency)
        if skipped:
            raise NotAssessed(f"pip-audit skipped {', '.join(skipped)}")
        targets += [f"{lock}: {name} {dependency['version']}" for name, dependency in audited.items()]
        if not audited and pinned:
            raise NotAssessed(f"pip-audit looked at none of the {len(pinned)} packages in {lock}")
        for name, dependency in audited.items():
            for known in dependency["vulns"]:
                fix = f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "no fixed version"
                identity = next((alias for alias in known["aliases"] if alias.startswith("CVE-")), known["id"])
                findings.append(
                    Finding(
                        tool="pip-audit",
                        rule=identity,
                        severity=Severity.HIGH,
                        message=f"{name} {dependency['version']} has a known vulnerability ({known['id']}; {fix})",
                        path=lock,
                        subject=f"{name} {dependency['version']}",
                        help=f"https://osv.dev/vulnerability/{known['id']}",
                    )
                )
    return Scan(tool="pip-audit", version=tools.version("pip-audit"), targets=tuple(targets), findings=tuple(findings))


def safety(root: Path, locks: Sequence[str], key: str = "", **settings: str) -> Scan:
    """Compare the locks with Safety's database; `settings`, its environment variables, can name other servers.

    It gets a home of its own, so that neither a login nor an old database of this machine decides.
    """
    if not key:
        raise NotConfigured("it has no key: set `SAFETY_API_KEY` (https://platform.safetycli.com)")
    findings, targets = [], []
    with TemporaryDirectory() as folder:
        project = Path(folder, "project").resolve()
        for lock in locks:
            copy = project / lock
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / lock, copy)
        written = Path(folder, "report.json")
        own = {"HOME": folder, "SAFETY_API_KEY": key, **settings}
        try:
            call("safety", "--stage", "cicd", "scan", "--save-as", "json", written, expect=(0, 64), cwd=project, **own)
            output = json.loads(written.read_text())
        except (NotAssessed, OSError, json.JSONDecodeError) as error:
            raise Unreachable(f"Safety's service cannot be reached ({error})") from error
    for file in (file for project in output["scan_results"]["projects"] for file in project["files"]):
        lock = relative(file["location"], project)
        specifications = [one for dependency in file["results"]["dependencies"] for one in dependency["specifications"]]
        targets += [f"{lock}: {specification['raw']}" for specification in specifications]
        findings += [
            Finding(
                tool="safety",
                rule=known["id"],
                severity=Severity.HIGH,
                message=f"{specification['raw']} has a known vulnerability ({known['vulnerable_spec']})",
                path=lock,
                subject=specification["raw"],
                help=f"https://data.safetycli.com/v/{known['id'].removeprefix('pyup.io-')}/",
            )
            for specification in specifications
            for known in specification["vulnerabilities"]["known_vulnerabilities"]
        ]
    return Scan(tool="safety", version=tools.version("safety"), targets=tuple(targets), findings=tuple(findings))


def hadolint(root: Path, files: Sequence[str]) -> Scan:
    """Look at Dockerfiles with hadolint; its errors and warnings fail the stage, the rest is noted."""
    findings = []
    for file in files:
        arguments = ("--no-fail", "--disable-ignore-pragma", f"--config={os.devnull}", "--format=json", file)
        for result in report("hadolint", *arguments, cwd=root):
            severity = Severity.named(result["level"])
            findings.append(
                Finding(
                    tool="hadolint",
                    rule=result["code"],
                    severity=severity,
                    message=result["message"],
                    path=file,
                    line=result["line"],
                    subject=line_of(root, file, result["line"]),
                    blocks=severity >= Severity.MEDIUM,
                )
            )
    return Scan(tool="hadolint", version=tools.described("hadolint"), targets=tuple(files), findings=tuple(findings))


def deployed(root: Path, overlay: str, folder: Path) -> Path:
    """Write the kustomization of a deployment, with images named by their version, and return its folder."""
    kustomization = folder / "deployed" / overlay / "kustomization.yaml"
    kustomization.parent.mkdir(parents=True)
    resource = os.path.relpath(root.resolve() / overlay, kustomization.parent.resolve())
    images = ", ".join(f"{{name: {one.name}, newTag: deployed}}" for one in services())
    kustomization.write_text(f"resources: [{resource}]\nimages: [{images}]\n")
    return kustomization.parent


def trivy_config(root: Path, dockerfiles: Sequence[str], overlays: Sequence[str]) -> Scan:
    """Look for misconfiguration with Trivy: in Dockerfiles, and in overlays as kustomize renders them for a cluster.

    What several overlays have in common is checked once, as the first one's. Trivy cannot know which registries are
    trusted: the base's admission policy does.
    """
    findings: list[Finding] = []
    seen: set[str] = set()
    with TemporaryDirectory() as folder:
        for file in dockerfiles:
            copy = Path(folder, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, copy)
        for overlay in overlays:
            rendered = Path(folder, f"{overlay}.yaml")
            rendered.parent.mkdir(parents=True, exist_ok=True)
            documents = call("kubectl", "kustomize", deployed(root, overlay, Path(folder)), cwd=root).split("\n---\n")
            rendered.write_text("\n---\n".join(document for document in documents if document not in seen))
            seen.update(documents)
        arguments: tuple[str, ...] = (
            "config",
            "--quiet",
            "--skip-check-update",
            "--misconfig-scanners=dockerfile,kubernetes",  # each compiles all checks anew
            "--format=json",
            "--exit-code=0",
            f"--ignorefile={os.devnull}",
        )
        output = report("trivy", *arguments, "--cache-dir", ROOT / ".cache" / "trivy", ".", cwd=Path(folder))
        results = {result["Target"]: result for result in output.get("Results", []) if "MisconfSummary" in result}
    wanted = {file: file for file in dockerfiles} | {f"{overlay}.yaml": overlay for overlay in overlays}
    if missing := sorted(set(wanted) - set(results)):
        raise NotAssessed(f"trivy passed over {', '.join(missing)}")
    for target, path in wanted.items():
        for result in results[target].get("Misconfigurations", []):
            severity = Severity.named(result["Severity"])
            rule = (result.get("AVDID") or result["ID"]).removeprefix("AVD-")  # as newer versions of Trivy write it
            findings.append(
                Finding(
                    tool="trivy-config",
                    rule=rule,
                    severity=severity,
                    message=result["Message"],
                    path=path,
                    line=result["CauseMetadata"].get("StartLine") if path == target else None,
                    subject=result["Message"],
                    blocks=severity >= Severity.MEDIUM and rule not in REGISTRIES,
                    help=result.get("PrimaryURL", ""),
                )
            )
    return Scan(
        tool="trivy-config", version=tools.described("trivy"), targets=tuple(wanted.values()), findings=tuple(findings)
    )


def actionlint(root: Path, files: Sequence[str]) -> Scan:
    """Check workflows with actionlint, their shell lines with shellcheck; every line of its output fails the stage."""
    if not files:
        return Scan(tool="actionlint", version=tools.described("actionlint"))
    arguments: tuple[str | Path, ...] = (
        "-no-color",
        "-format",
        "{{json .}}",
        "-shellcheck",
        tools.require("shellcheck"),
        "-pyflakes=",
        *files,
    )
    findings = [
        Finding(
            tool="actionlint",
            rule=result["kind"],
            severity=Severity.MEDIUM,
            message=result["message"],
            path=result["filepath"],
            line=result["line"],
            subject=line_of(root, result["filepath"], result["line"]),
        )
        for result in report("actionlint", *arguments, expect=(0, 1), cwd=root)
    ]
    return Scan(
        tool="actionlint", version=tools.described("actionlint"), targets=tuple(files), findings=tuple(findings)
    )


def scripts(root: Path) -> list[str]:
    """Return the shell scripts of the repository, which name their shell in the first line."""
    return [name for name in tracked(root, "*") if SHELL.match((root / name).read_bytes())]


def shellcheck(root: Path, files: Sequence[str]) -> Scan:
    """Check shell scripts with shellcheck; matters of style are noted. Its comments in a script hide nothing."""
    findings = []
    with TemporaryDirectory() as folder:
        for file in files:
            copy = Path(folder, "script")
            copy.write_text(re.sub(r"#\s*shellcheck\b", "# (shellcheck)", (root / file).read_text()))
            for result in report("shellcheck", "--norc", "--format=json1", copy, expect=(0, 1))["comments"]:
                severity = Severity.named(result["level"])
                findings.append(
                    Finding(
                        tool="shellcheck",
                        rule=f"SC{result['code']}",
                        severity=severity,
                        message=result["message"],
                        path=file,
                        line=result["line"],
                        subject=line_of(root, file, result["line"]),
                        blocks=result["level"] != "style",
                        help=f"https://www.shellcheck.net/wiki/SC{result['code']}",
                    )
                )
    return Scan(tool="shellcheck", version=tools.version("shellcheck"), targets=tuple(files), findings=tuple(findings))


def eslint(root: Path, files: Sequence[str]) -> Scan:
    """Check JavaScript with ESLint, which lists what it passed over as a warning; comments excuse nothing."""
    tools.require("node")
    program = patterns.PACKAGES / "eslint" / "bin" / "eslint.js"
    version = json.loads(program.parents[1].joinpath("package.json").read_text())["version"]
    if not files:
        return Scan(tool="eslint", version=version)
    options = ("--no-inline-config", "--no-ignore", f"--config={ESLINT_RULES}", "--format=json")
    files_of = report("node", program, *options, *files, expect=(0, 1), cwd=root, NODE_PATH=str(patterns.PACKAGES))
    findings = [
        Finding(
            tool="eslint",
            rule=result["ruleId"] or "unread",
            severity=Severity.MEDIUM,
            message=result["message"],
            path=relative(file["filePath"], root),
            line=result.get("line"),
            subject=line_of(root, relative(file["filePath"], root), result.get("line")),
            help=f"https://eslint.org/docs/latest/rules/{result['ruleId']}" if result["ruleId"] else "",
        )
        for file in files_of
        for result in file["messages"]
    ]
    return Scan(tool="eslint", version=version, targets=tuple(files), findings=tuple(findings))


def zizmor(root: Path, files: Sequence[str]) -> Scan:
    """Look for insecure workflows with zizmor; medium severities and above fail the stage."""
    if not files:
        return Scan(tool="zizmor", version=tools.version("zizmor"))
    arguments = ("--offline", "--no-progress", "--no-config", "--no-exit-codes", "--format=json", *files)
    findings = []
    for result in report("zizmor", *arguments, cwd=root):
        severity = Severity.named(result["determinations"]["severity"])
        spot = next(location for location in result["locations"] if location["symbolic"]["kind"] == "Primary")
        path = relative(spot["symbolic"]["key"]["Local"]["verbatim_path"], root)
        line = spot["concrete"]["location"]["start_point"]["row"] + 1
        findings.append(
            Finding(
                tool="zizmor",
                rule=result["ident"],
                severity=severity,
                message=f"{result['desc']}: {spot['symbolic']['annotation']}",
                path=path,
                line=line,
                subject=line_of(root, path, line),
                blocks=severity >= Severity.MEDIUM,
                help=result["url"],
            )
        )
    return Scan(tool="zizmor", version=tools.version("zizmor"), targets=tuple(files), findings=tuple(findings))


PYTHON = ("*.py", "dev")
JAVASCRIPT = ("*.js", "*.cjs", "*.mjs")
SHELL = re.compile(rb"#!\s*(?:/\S+)?/(?:env\s+)?(?:ba|da|k)?sh\b")
SERVED = [f"{folder.relative_to(ROOT)}/*.py" for one in services() for folder in (one.folder, *shared_by(one.folder))]
"""What meets a stranger's input."""
STORES = (
    "services/*/src/*.py",
    "packages/*/src/*.py",
)  # what makes SQL from a request; migrations get nothing from one
DOCKERFILES = ("*Dockerfile", "*.Dockerfile")
WORKFLOWS = (".github/workflows/*.yml", ".github/workflows/*.yaml")
ACTIONS = (*WORKFLOWS, ".github/actions/*/action.yml", ".github/actions/*/action.yaml", ".github/dependabot.yml")
LOCKS = tuple(f"{one.path}/requirements.txt" for one in services())


def overlays() -> list[str]:
    """Return every overlay of every service, as Git writes it."""
    return [str(folder.relative_to(ROOT)) for one in services() for folder in one.overlays]


# The slow ones first: the stage takes as long as its longest queue.
GATES: dict[str, Gate] = {
    "trivy-config": lambda: trivy_config(ROOT, tracked(ROOT, *DOCKERFILES), overlays()),
    "pip-audit": lambda: pip_audit(ROOT, LOCKS),
    "safety": lambda: safety(ROOT, LOCKS, os.environ.get("SAFETY_API_KEY", "")),
    "recheck": lambda: patterns.linear(ROOT, tracked(ROOT, *SERVED)),
    "bandit": lambda: bandit(ROOT, tracked(ROOT, *PYTHON)),
    "gitleaks": lambda: gitleaks(ROOT),
    "ruff": lambda: ruff(ROOT, tracked(ROOT, *PYTHON)),
    "hadolint": lambda: hadolint(ROOT, tracked(ROOT, *DOCKERFILES)),
    "actionlint": lambda: actionlint(ROOT, tracked(ROOT, *WORKFLOWS)),
    "shellcheck": lambda: shellcheck(ROOT, scripts(ROOT)),
    "eslint": lambda: eslint(ROOT, tracked(ROOT, *JAVASCRIPT)),
    "zizmor": lambda: zizmor(ROOT, tracked(ROOT, *ACTIONS)),
    "sql": lambda: sql.scan(ROOT, [name for name in tracked(ROOT, *STORES) if "migrations" not in Path(name).parts]),
    "locks": lambda: locks.scan(ROOT, tracked(ROOT, *DOCKERFILES)),
    "excuses": lambda: excuses.scan(ROOT, baseline.read()),
    "waivers": check_waivers,
}

if __name__ == "__main__":
    sys.exit(run_stage("sast", GATES))
