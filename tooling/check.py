"""Style, types and tests: `python -m tooling.check` runs every gate of the stage and writes reports/test/.

`python -m tooling.check format lint types` runs those gates alone.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import msgspec

from tooling import baseline, tools
from tooling.findings import Finding, Gate, NotAssessed, Scan, Severity, run_stage, test_file
from tooling.project import REPORTS, ROOT, distributions
from tooling.tools import report, run


def formatting(root: Path) -> Scan:
    """Check that every Python file is as ruff formats it."""
    done = run("ruff", "format", "--check", "--output-format=concise", ".", expect=(0, 1), cwd=root)
    findings = [
        Finding(
            tool="format",
            rule="unformatted",
            severity=Severity.LOW,
            message="ruff would format it otherwise: run `ruff format`",
            path=path,
        )
        for path in re.findall(r"^(.+?):\d+:\d+: unformatted: ", done.stdout, re.MULTILINE)
    ]
    if bool(done.returncode) != bool(findings):
        raise NotAssessed(f"ruff broke: {tools.last_words(done)}")
    return Scan(tool="format", version=tools.version("ruff"), targets=files(root), findings=tuple(findings))


def files(root: Path) -> tuple[str, ...]:
    """List the Python files that ruff looks at."""
    shown = run("ruff", "check", "--show-files", ".", cwd=root).stdout
    return tuple(sorted(str(Path(line).relative_to(root)) for line in shown.splitlines()))


def lint(root: Path) -> Scan:
    """Check style with ruff, by the rules in pyproject.toml."""
    findings = [
        Finding(
            tool="lint",
            rule=result["code"] or "invalid-syntax",
            severity=Severity.LOW,
            message=result["message"],
            path=str(Path(result["filename"]).relative_to(root)),
            line=result["location"]["row"],
            help=result["url"] or "",
        )
        for result in report("ruff", "check", "--output-format=json", ".", expect=(0, 1), cwd=root)
    ]
    return Scan(tool="lint", version=tools.version("ruff"), targets=files(root), findings=tuple(findings))


def types(root: Path) -> Scan:
    """Check types with mypy --strict, by the settings in pyproject.toml."""
    sources = os.pathsep.join(str(one / "src") for one in distributions(root))
    # as text: in JSON, mypy does not report how many files it checked
    plain = ("--no-pretty", "--no-color-output", "--hide-error-context", "--show-error-codes")
    done = run("mypy", *plain, expect=(0, 1), cwd=root, MYPYPATH=sources)
    findings = [
        Finding(
            tool="types",
            rule=code or "error",
            severity=Severity.LOW,
            message=message,
            path=path,
            line=int(line),
        )
        for path, line, message, code in re.findall(
            r"^(.+?):(\d+): error: (.*?)(?:  \[([\w-]+)\])?$", done.stdout, re.MULTILINE
        )
    ]
    checked = re.search(r"(?:no issues found in|checked) (\d+ source files?)", done.stdout)
    if not checked or bool(done.returncode) != bool(findings):
        raise NotAssessed(f"mypy broke: {tools.last_words(done)}")
    return Scan(tool="types", version=tools.version("mypy"), targets=(checked.group(1),), findings=tuple(findings))


CONTRACT = re.compile(r"^(.+) (KEPT|BROKEN)(?: \(.*\))?$", re.MULTILINE)
CHAIN = re.compile(r"^(.+) is not allowed to import (.+):\n\n-\s+(.+?) -> (\S+) \(l\.(\d+)", re.MULTILINE)


def imports(root: Path) -> Scan:
    """Check with import-linter which module may import which: by the contracts in pyproject.toml and each service's."""
    configurations = [root / "pyproject.toml", *(one / "pyproject.toml" for one in distributions(root))]
    files = [str(file.relative_to(root)) for file in configurations if "[tool.importlinter]" in file.read_text()]
    findings, targets = [], []
    for file in files:
        done = run("lint-imports", "--no-cache", "--no-logo", file, expect=(0, 1), cwd=root, COLUMNS="1000")
        kept = dict(CONTRACT.findall(done.stdout))
        targets += [f"{file}: {contract}" for contract in kept]
        broken = [
            Finding(
                tool="imports",
                rule="forbidden-import",
                severity=Severity.LOW,
                message=f"{importer} must not import {imported}: line {line} imports {through}",
                path=module,
                subject=f"{importer} {imported}",
            )
            for importer, imported, module, through, line in CHAIN.findall(done.stdout)
        ]
        if not kept or bool(done.returncode) != bool(broken):
            raise NotAssessed(f"import-linter broke on {file}: {tools.last_words(done)}")
        findings += broken
    version = importlib.metadata.version("import-linter")
    return Scan(tool="imports", version=version, targets=tuple(targets), findings=tuple(findings))


def run_tests(
    root: Path,
    *arguments: str,
    tool: str = "tests",
    output: Path = REPORTS / "test",
    skips: Mapping[str, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Scan:
    """Run tests by the settings in pyproject.toml, all of them or as pytest's arguments choose.

    A skipped test is a finding, but for as many of a function's cases as `skips` allows. `environment` holds further
    variables.
    """
    output.mkdir(parents=True, exist_ok=True)
    junit = output / f"{tool}.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"--junitxml={junit}", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in {"PYTEST_ADDOPTS", "PYTEST_PLUGINS"}}
    done = subprocess.run(command, cwd=root, env={**own, **(environment or {})}, check=False)
    if not junit.exists():
        raise NotAssessed(f"pytest ended with code {done.returncode} and wrote no report")
    cases = list(defusedxml.ElementTree.parse(junit).iter("testcase"))
    findings = tuple(failure for case in cases if (failure := failed(case, tool)))
    if done.returncode and not findings:
        raise NotAssessed(f"pytest ended with code {done.returncode}, and no failed test explains it")
    ran = [case for case in cases if case.find("skipped") is None]
    targets = tuple(f"{case.get('classname')}::{case.get('name')}" for case in ran)
    findings += tuple(skipped(cases, tool, skips or {}))
    return Scan(tool=tool, version=importlib.metadata.version("pytest"), targets=targets, findings=findings)


def skipped(cases: Iterable[Element], tool: str, allowed: Mapping[str, int]) -> Iterator[Finding]:
    """Yield each skipped test of a JUnit report; one that the baseline allows is noted."""
    seen: Counter[str] = Counter()
    for case in cases:
        reason = case.find("skipped")
        if reason is None:
            continue
        path = test_file(case.get("classname") or "")
        name = f"{path}::{(case.get('name') or '').partition('[')[0]}"
        seen[name] += 1
        yield Finding(
            tool=tool,
            rule="skipped-test",
            severity=Severity.MEDIUM,
            message=f"{case.get('name')} is skipped, {allowed.get(name, 0)} may be: {reason.get('message')}",
            path=path,
            subject=name,
            blocks=seen[name] > allowed.get(name, 0),
        )


def run_measured_tests(
    root: Path,
    *arguments: str,
    tool: str = "tests",
    output: Path = REPORTS / "test",
    packages: Sequence[str] = (),
    skips: Mapping[str, int] | None = None,
) -> Scan:
    """Run tests as `run_tests` does, and measure branch coverage of `packages` (default: as in pyproject.toml).

    A coverage below the `fail_under` of pyproject.toml is a finding too.
    """
    measured = output / "coverage.json"
    measured.unlink(missing_ok=True)
    watched = [f"--cov={package}" for package in packages] or ["--cov"]
    measure = (*watched, "--cov-report=", f"--cov-report=json:{measured}", "--cov-fail-under=0")
    scan = run_tests(root, *measure, *arguments, tool=tool, output=output, skips=skips)
    if scan.findings and not measured.exists():
        return scan
    return msgspec.structs.replace(scan, findings=(*scan.findings, *coverage(root, measured, tool)))


def failed(case: Element, tool: str) -> Finding | None:
    """Read a failed test from a JUnit report; None for one that passed or was skipped."""
    trouble = case.find("failure") if case.find("failure") is not None else case.find("error")
    if trouble is None:
        return None
    path = test_file(case.get("classname") or "")
    message = f"{case.get('name')}: {(trouble.get('message') or 'failed').splitlines()[0]}"
    return Finding(tool=tool, rule="failed-test", severity=Severity.HIGH, message=message, path=path, subject=message)


def coverage(root: Path, measured: Path, tool: str) -> list[Finding]:
    """Return a finding where the measured coverage is below the `fail_under` of pyproject.toml."""
    if not measured.exists():
        raise NotAssessed("the coverage was not measured")
    required = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["coverage"]["report"]["fail_under"]
    totals = json.loads(measured.read_text())
    percent = totals["totals"]["percent_covered"]
    if percent >= required:
        return []
    lacking = sorted(totals["files"].items(), key=lambda item: -item[1]["summary"]["missing_lines"])[:3]
    worst = ", ".join(f"{name} lacks {file['summary']['missing_lines']} lines" for name, file in lacking)
    message = f"{percent:.1f} % of lines and branches are covered, {required} % are required: {worst}"
    return [Finding(tool=tool, rule="coverage", severity=Severity.MEDIUM, message=message, path="pyproject.toml")]


SERVICE_TESTS = [str(tests.relative_to(ROOT)) for one in distributions() if (tests := one / "tests").is_dir()]
PACKAGES = [init.parent.name for one in distributions() for init in one.glob("src/*/__init__.py")]

# coverage slows all that it watches by a half and more: it watches the services, by the services' own tests
GATES: dict[str, Gate] = {
    "service-tests": lambda: run_measured_tests(
        ROOT, *SERVICE_TESTS, "-n", "auto", "-q", tool="service-tests", packages=PACKAGES, skips=baseline.read().skips
    ),
    "road-tests": lambda: run_tests(
        ROOT, *(f"--ignore={path}" for path in SERVICE_TESTS), "-q", tool="road-tests", skips=baseline.read().skips
    ),
    "types": lambda: types(ROOT),
    "lint": lambda: lint(ROOT),
    "format": lambda: formatting(ROOT),
    "imports": lambda: imports(ROOT),
}

if __name__ == "__main__":
    chosen = sys.argv[1:]
    sys.exit(run_stage("test", {name: GATES[name] for name in chosen or GATES}, whole=not chosen))
