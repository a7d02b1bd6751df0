"""Locks, held against what they are made from: every group has one, and every package in it is pinned and hashed."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tooling.findings import Finding, Scan, Severity
from tooling.project import distributions

INTEGRITY = re.compile(r"sha512-[A-Za-z0-9+/]{86}==")
"""What npm holds a package to (Subresource Integrity)."""
REGISTRY = "https://registry.npmjs.org/"

HASH = re.compile(r"\s--hash=sha256:([0-9a-f]{64})(?!\S)")
RENEW = "run `./dev lock`"
Pins = dict[tuple[str, str], frozenset[str]]
"""Hashes by name and version."""


def entries(text: str) -> Iterator[tuple[int, str]]:
    """Yield each entry of a lock with its line, continuation lines joined, comments left out."""
    start = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        start = start if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            yield start, " ".join(parts)
            parts = []


def finding(rule: str, message: str, path: str, line: int | None, subject: str) -> Finding:
    """Return a finding of this gate."""
    return Finding(
        tool="locks", rule=rule, severity=Severity.HIGH, message=message, path=path, line=line, subject=subject
    )


def pinned(entry: str) -> Requirement | None:
    """Return the package that an entry pins to one version, with hashes; None for any other entry."""
    try:
        requirement = Requirement(HASH.sub("", entry))
    except InvalidRequirement:
        return None
    exact = [one.operator for one in requirement.specifier] == ["=="] and "*" not in str(requirement.specifier)
    return requirement if exact and not requirement.url and HASH.search(entry) else None


def read(root: Path, lock: str) -> tuple[Pins, list[Finding]]:
    """Return the pins of a lock, and a finding for each entry that is not pinned and hashed."""
    pins: Pins = {}
    findings = []
    for line, entry in entries((root / lock).read_text()):
        requirement = pinned(entry)
        if requirement is None:
            message = f"`{entry[:80]}` is not pinned with a hash: {RENEW}"
            findings.append(finding("unhashed", message, lock, line, entry[:80]))
        else:
            version = str(requirement.specifier).removeprefix("==")
            pins[canonicalize_name(requirement.name), version] = frozenset(HASH.findall(entry))
    return pins, findings


def wanted(groups: dict[str, list[Any]], name: str) -> Iterator[Requirement]:
    """Yield the requirements of a dependency group and of those that it includes."""
    for entry in groups[name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from wanted(groups, entry["include-group"])


def of_others(needs: Iterable[Requirement], projects: dict[str, list[Requirement]]) -> Iterator[Requirement]:
    """Yield the requirements, and instead of a distribution of this repository those that it has itself."""
    for need in needs:
        own = projects.get(canonicalize_name(need.name))
        yield from [need] if own is None else of_others(own, projects)


def scan(root: Path, dockerfiles: Sequence[str]) -> Scan:
    """Compare every lock with its pyproject.toml and with the other locks, and look at what images install from."""
    groups: dict[str, list[Any]] = tomllib.loads((root / "pyproject.toml").read_text()).get("dependency-groups", {})
    projects: dict[str, list[Requirement]] = {}
    sources = {f"requirements/{name}.txt": list(wanted(groups, name)) for name in groups}
    for folder in distributions(root):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        needs = projects[canonicalize_name(project["name"])] = list(map(Requirement, project.get("dependencies", [])))
        if folder.parent.name == "services":
            sources[f"{folder.relative_to(root)}/requirements.txt"] = needs
    findings: list[Finding] = []
    locks: dict[str, Pins] = {}
    for lock, needs in sources.items():
        if not (root / lock).exists():
            findings.append(finding("no-lock", f"there is no lock for its dependencies: {RENEW}", lock, None, lock))
            continue
        locks[lock], bad = read(root, lock)
        findings += bad
        findings += [
            finding("unlocked", f"{need} is not in the lock: {RENEW}", lock, None, str(need))
            for need in dict.fromkeys(of_others(needs, projects))
            if not locked(need, locks[lock])
        ]
    known = {path for folder in ("requirements", "services/*") for path in root.glob(f"{folder}/*.txt")}
    findings += [
        finding("orphan", "no dependency group is locked by it", name, None, name)
        for name in sorted(str(path.relative_to(root)) for path in known)
        if name not in sources
    ]
    findings += list(differing(locks))
    scripts = [str(path.relative_to(root)) for path in sorted(root.glob("requirements/*/package-lock.json"))]
    findings += [one for lock in scripts for one in of_npm(root, lock)]
    findings += [one for file in dockerfiles for one in installs(root, file)]
    return Scan(tool="locks", version="1", targets=(*sources, *scripts, *dockerfiles), findings=tuple(findings))


def of_npm(root: Path, lock: str) -> Iterator[Finding]:
    """Yield each package of npm's lock without a hash or with an address, and each dependency that is not locked."""
    packages: dict[str, Any] = json.loads((root / lock).read_text())["packages"]
    wanted = json.loads((root / lock).with_name("package.json").read_text()).get("dependencies", {})
    for name, version in wanted.items():
        if packages.get(f"node_modules/{name}", {}).get("version") != version:
            yield finding("unlocked", f"{name} {version} is not in the lock: {RENEW}", lock, None, name)
    for place, package in packages.items():
        if place and not INTEGRITY.fullmatch(package.get("integrity", "")):
            yield finding("unhashed", f"`{place}` is not pinned with a hash: {RENEW}", lock, None, place)
        if place and package.keys() & {"resolved", "link"}:
            yield finding(
                "unhashed", f"`{place}` comes from another place than the registry: {RENEW}", lock, None, place
            )


def locked(need: Requirement, pins: Pins) -> bool:
    """Return whether a lock has the package, in a version that the requirement takes."""
    name = canonicalize_name(need.name)
    return any(package == name and need.specifier.contains(version, prereleases=True) for package, version in pins)


def differing(locks: dict[str, Pins]) -> Iterator[Finding]:
    """Yield each package that has fewer hashes in one lock than the same version has in another."""
    every: dict[tuple[str, str], set[str]] = {}
    for pins in locks.values():
        for package, hashes in pins.items():
            every.setdefault(package, set()).update(hashes)
    for lock, pins in locks.items():
        for package, hashes in pins.items():
            if missing := len(every[package] - hashes):
                name = "==".join(package)
                message = f"{name} lacks {missing} hashes of another lock: {RENEW}"
                yield finding("missing-hash", message, lock, None, name)


def installs(root: Path, dockerfile: str) -> Iterator[Finding]:
    """Yield each command of a Dockerfile that installs Python packages without hashes, from outside the build."""
    text = re.sub(r"\\\n", " ", (root / dockerfile).read_text())
    for command in re.split(r"&&|;|\n|\|", text):
        install = re.search(r"\b(?:pip3?|uv|pipx|poetry|easy_install)\b.*\b(?:install|sync|add)\b.*", command)
        if install and not command.lstrip().startswith("#"):
            options = set(install[0].split())
            if "--require-hashes" not in options and not {"--no-index", "--no-deps"} <= options:
                message = f"`{install[0].strip()[:80]}` takes packages without `--require-hashes`"
                yield finding("unhashed-install", message, dockerfile, None, install[0].strip())
