"""The last release on this checkout's schema: `python -m tooling.previous_version` writes reports/previous_version/.

A rolling update has both versions on one database. So the last release's code runs its own tests, and then those of
this checkout, on the schema that this checkout's migrations make. A test that fails there, and passes on the last
release's own schema, is a finding. Both run with the libraries of this checkout's lock.

The last release is that of the newest tag `v*` before this commit; until there is one, the commit before the newest
migration. Exit codes: 0 clean, 1 findings, 2 not assessed.
"""

import functools
import importlib.metadata
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import defusedxml.ElementTree
import msgspec

from tooling.check import run_tests
from tooling.findings import Finding, Gate, NotAssessed, Scan, Severity, for_each, run_stage, test_file
from tooling.project import CACHE, ROOT, Service, services
from tooling.tools import call, checkout, in_git, run

CHECKOUTS = CACHE / "previous_version"
PLUGIN = "newer_schema"
"""The module in a service's tests by which older tests migrate their databases."""

REMEDY = (
    "Expand first: add what is new beside the old, nullable or with a default, and take the old away in a later"
    " release, when no version uses it"
)


def last_release(root: Path) -> str:
    """Return the commit, or the tag, of the last release. Raises `NotAssessed` with the remedy where none is known."""
    if not in_git(root):
        raise NotAssessed("this is no Git repository, so no earlier version is known: clone it instead")
    if call("git", "rev-parse", "--is-shallow-repository", cwd=root).strip() == "true":
        raise NotAssessed(
            "this clone is shallow, so earlier versions are not in it: run `git fetch --unshallow --tags`"
        )
    tag = run(
        "git", "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^", cwd=root, expect=(0, 128)
    ).stdout.strip()
    if tag:
        return tag
    migrations = ":(glob)services/*/src/**/migrations/versions/*.py"
    parents = call("git", "log", "-1", "--diff-filter=A", "--format=%P", "--", migrations, cwd=root).split()
    if not parents:
        raise NotAssessed("no commit comes before a migration, so there is no earlier version")
    return parents[0]


def sources(root: Path) -> str:
    """Return the folders of a checkout's code as PYTHONPATH has them."""
    return os.pathsep.join(
        str(folder) for folder in sorted([*root.glob("services/*/src"), *root.glob("packages/*/src")])
    )


def failed(junit: Path) -> dict[tuple[str, str], str]:
    """Return the tests that a JUnit report calls failed, by file and name, each with its error's first line."""
    errors = {}
    for case in defusedxml.ElementTree.parse(junit).iter("testcase"):
        for trouble in (*case.iter("failure"), *case.iter("error")):
            name = test_file(case.get("classname") or ""), case.get("name") or ""
            errors[name] = (trouble.get("message") or "failed").splitlines()[0]
    return errors


def on_newer_schema(
    service: Service, older: Path, newer: Path, *arguments: str, tool: str = "older-tests", most_broken: float = 0.1
) -> Scan:
    """Run an older checkout's tests of a service on the schema of a newer checkout; a finding for each file that fails.

    Those that fail run again, and then on the schema of their own: what fails by chance, or there too, proves nothing.
    Raises `NotAssessed` where more than `most_broken` of all tests fail on their own schema.
    """
    tests = newer / service.path / "tests"
    if not (tests / f"{PLUGIN}.py").exists():
        raise NotAssessed(f"{service.path}/tests/{PLUGIN}.py is missing, by which older tests migrate their databases")
    output = older / "reports"
    plugin = {"PYTHONPATH": os.pathsep.join([sources(older), str(tests)]), "NEWER_SOURCES": sources(newer)}
    chosen = (f"{service.path}/tests", "-q", "--continue-on-collection-errors", *arguments)
    ran = run_tests(older, *chosen, "-p", PLUGIN, tool=tool, output=output, environment=plugin).targets
    errors = failed(output / f"{tool}.xml")
    again = ("--last-failed", "--last-failed-no-failures=none")
    if errors:
        run_tests(older, *chosen, *again, "-p", PLUGIN, tool=f"{tool}-again", output=output, environment=plugin)
        errors = failed(output / f"{tool}-again.xml")
    if errors:
        own = {"PYTHONPATH": sources(older)}
        run_tests(older, *chosen, *again, tool=f"{tool}-own", output=output, environment=own)
        broken = failed(output / f"{tool}-own.xml")
        if len(broken) > most_broken * len(ran):
            raise NotAssessed(f"{len(broken)} of {len(ran)} tests fail on their own schema too: see {output}")
        errors = {name: error for name, error in errors.items() if name not in broken}
    by_file: dict[str, list[str]] = defaultdict(list)
    for (path, name), error in sorted(errors.items()):
        by_file[path].append(f"{name}: {error}")
    findings = [
        Finding(
            tool=tool,
            rule="fails-on-newer-schema",
            severity=Severity.HIGH,
            message=f"{len(those)} tests pass on their own schema and fail on this one, such as {those[0]}. {REMEDY}",
            path=path,
            subject="; ".join(those),
        )
        for path, those in by_file.items()
    ]
    version = importlib.metadata.version("pytest")
    return Scan(tool=tool, version=version, targets=ran, findings=tuple(findings))


def with_tests_of(newer: Path, older: Path, service: Service, folder: Path) -> Path:
    """Write an older checkout into a folder, with the service's tests, not their fixtures, of a newer one."""
    shutil.copytree(older, folder, ignore=shutil.ignore_patterns(".pytest_cache", "__pycache__"))
    tests = folder / service.path / "tests"
    for file in tests.glob("test_*.py"):
        file.unlink()
    for file in (newer / service.path / "tests").glob("test_*.py"):
        shutil.copy(file, tests)
    return folder


@functools.cache
def older() -> Path:
    """Return a checkout of the last release. Raises `NotAssessed` as `last_release` does."""
    commit = last_release(ROOT)
    print(f"previous_version: the last release is {commit}", flush=True)
    shutil.rmtree(CHECKOUTS, ignore_errors=True)
    CHECKOUTS.mkdir(parents=True)
    return checkout(ROOT, commit, CHECKOUTS / "older")


def older_tests(service: Service) -> Scan:
    """Run the last release's tests of a service on this checkout's schema."""
    return dated(on_newer_schema(service, older(), ROOT, "-n", "auto"))


def newer_tests(service: Service) -> Scan:
    """Run this checkout's tests of a service with the last release's code; what is new of them fails on any schema."""
    mixed = with_tests_of(ROOT, older(), service, CHECKOUTS / service.package)
    return dated(on_newer_schema(service, mixed, ROOT, "-n", "auto", tool="newer-tests", most_broken=1))


def dated(scan: Scan) -> Scan:
    """Return a scan that names the last release."""
    return msgspec.structs.replace(scan, version=f"{scan.version}, last release {last_release(ROOT)[:12]}")


MIGRATED = [one for one in services() if one.migrations]
GATES: dict[str, Gate] = {
    "older-tests": for_each(MIGRATED, older_tests),
    "newer-tests": for_each(MIGRATED, newer_tests),
}

if __name__ == "__main__":
    sys.exit(run_stage("previous_version", GATES, parallel=1, whole=False))
