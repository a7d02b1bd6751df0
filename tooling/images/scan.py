"""The images: their sizes, inventories and known vulnerabilities.

`python -m tooling.images.scan` writes reports/build/. The gates read what an image holds, not what it was
built from. Nothing is pushed before they are clean (`push`).
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tooling import tools
from tooling.findings import Database, Finding, Gate, NotAssessed, Scan, Severity, Unreachable, for_each, run_stage
from tooling.images import build
from tooling.project import CACHE, REPORTS, Service, services
from tooling.tools import call, report

DATABASES = CACHE / "trivy"
FRESH = timedelta(hours=24)  # Trivy's makers write it anew every six hours
RUNTIME = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux", "os_name": "posix"}


def identity(reference: str) -> str:
    """Return the image's id, its configuration's digest, as `sha256:...`. Raises `NotAssessed` without the image."""
    return call("docker", "image", "inspect", "--format={{.Id}}", reference).strip()


def size(reference: str, most: float = build.MOST_MEGABYTES) -> Scan:
    """Hold the image's unpacked files to `most` megabytes. Raises `NotAssessed` where there is no such image."""
    identity(reference)
    megabytes = sum(part.size for part in build.parts(reference)) / build.MEGABYTE
    findings = []
    if megabytes > most:
        message = f"{megabytes:.1f} MB are more than the {most:.0f} MB it may have: reports/build/ lists its parts"
        findings.append(Finding(tool="size", rule="too-large", severity=Severity.MEDIUM, message=message, path="image"))
    return Scan(tool="size", version=tools.version("docker"), targets=(reference,), findings=tuple(findings))


def locked(lock: Path) -> set[str]:
    """Name the packages that a lock installs in the image (Linux, its Python)."""
    lines = re.findall(r"^[A-Za-z0-9][^\\\n]*", lock.read_text(), re.MULTILINE)
    requirements = [Requirement(line.strip()) for line in lines]
    return {canonicalize_name(one.name) for one in requirements if not one.marker or one.marker.evaluate(RUNTIME)}


def bill_of(service: Service) -> Path:
    """Return where the SBOM of a service's image is written."""
    return REPORTS / "build" / f"{service.name}.cdx.json"


def sbom(reference: str, lock: Path, output: Path) -> Scan:
    """Write the image's SBOM (CycloneDX) with syft. A locked package that it lacks is one that no scanner would see."""
    output.parent.mkdir(parents=True, exist_ok=True)
    call(
        "syft",
        "scan",
        f"docker:{reference}",
        "--quiet",
        f"--output=cyclonedx-json={output}",
        SYFT_CHECK_FOR_APP_UPDATE="false",
        SYFT_FILE_METADATA_SELECTION="none",  # digests of files, which CycloneDX has no place for
    )
    components = [c for c in json.loads(output.read_text()).get("components", []) if c.get("purl")]
    python = {canonicalize_name(c["name"]) for c in components if c["purl"].startswith("pkg:pypi/")}
    findings = [
        Finding(
            tool="sbom",
            rule="unseen-package",
            severity=Severity.HIGH,
            message=f"{name} is locked, yet nothing in the image declares it: its vulnerabilities would go unseen",
            path=name,
        )
        for name in sorted(locked(lock) - python)
    ]
    if not components:
        raise NotAssessed(f"syft reports no package in {reference}")
    targets = (reference, *sorted(f"{c['name']} {c.get('version', '')}" for c in components))
    return Scan(tool="sbom", version=tools.described("syft"), targets=targets, findings=tuple(findings))


def database(cache: Path, oldest: timedelta, *, refresh: bool = True) -> Database:
    """Return Trivy's vulnerability database, renewed where it is more than a day old and `refresh` allows.

    Raises `Unreachable` where there is none to be had, or none younger than `oldest`: Trivy would report nothing.
    """
    local, problem = read_database(cache), ""
    if refresh and (local is None or (local.age > FRESH and not local.fixture)):
        try:
            call("trivy", "image", "--download-db-only", "--quiet", "--cache-dir", cache)
        except NotAssessed as error:
            problem = f" ({error})"
        local = read_database(cache)
    if local is None:
        raise Unreachable(f"there is no vulnerability database{problem}")
    if local.age > oldest:
        hours = oldest.total_seconds() / 3600
        raise Unreachable(
            f"the vulnerability database is of {local.updated:%Y-%m-%d}, older than {hours:.0f} hours{problem}"
        )
    return local


def read_database(cache: Path) -> Database | None:
    """Return the name and date of Trivy's database from its metadata; None where there is none."""
    try:
        metadata = json.loads((cache / "db" / "metadata.json").read_text())
    except FileNotFoundError:
        return None
    fixture = metadata.get("Fixture", "")
    return Database(fixture or "Trivy DB", datetime.fromisoformat(metadata["UpdatedAt"]), fixture=bool(fixture))


def trivy(cache: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run a vulnerability scan with the database as it is, and return Trivy's JSON report."""
    same = ("--quiet", "--scanners=vuln", "--skip-db-update", "--offline-scan", "--list-all-pkgs", "--exit-code=0")
    output: dict[str, Any] = report(
        "trivy", *arguments, *same, "--format=json", f"--ignorefile={os.devnull}", "--cache-dir", cache
    )
    return output


KNOWN_BAD = {
    "Python": {"name": "flask", "version": "0.12", "purl": "pkg:pypi/flask@0.12"},
    "Go": {
        "name": "github.com/gin-gonic/gin",
        "version": "v1.3.0",
        "purl": "pkg:golang/github.com/gin-gonic/gin@v1.3.0",
    },
}
"""By ecosystem, a package with known vulnerabilities. Trivy's database knows them all, if it knows the ecosystem."""

LANGUAGES = {"python-pkg": "Python", "gobinary": "Go"}
PACKAGES = {"debian": "deb", "alpine": "apk"}
"""The distributions' types of package, as a package URL has them."""


def distribution(system: dict[str, Any]) -> str:
    """Return an image's distribution as Trivy's database names it: "debian 13", "alpine 3.22"."""
    family, name = str(system.get("Family")), str(system.get("Name"))
    parts = 2 if family == "alpine" else 1
    return f"{family} {'.'.join(name.split('.')[:parts])}"


def ecosystems(output: dict[str, Any]) -> list[str]:
    """Return where the packages that Trivy saw come from: a distribution, and languages."""
    results = [result for result in output.get("Results", []) if result.get("Packages")]
    names = {LANGUAGES[result["Type"]] for result in results if result["Type"] in LANGUAGES}
    if any(result["Class"] == "os-pkgs" for result in results):
        names.add(distribution(output.get("Metadata", {}).get("OS", {})))
    return sorted(names)


def probe(cache: Path, of: Sequence[str]) -> list[str]:
    """Name the ecosystems of which the database knows nothing: it holds no advisory for a package that has many.

    Trivy calls such a database clean.
    """
    known_bad = {name: KNOWN_BAD.get(name) or _openssl(name) for name in of}
    unknown = []
    with TemporaryDirectory() as folder:
        for ecosystem, package in known_bad.items():
            component = {"type": "library", "bom-ref": "planted", **package}
            name, _, version = ecosystem.partition(" ")
            system = {"type": "operating-system", "name": name, "version": version, "bom-ref": "system"}
            components = [system, component] if version else [component]
            bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
            path = Path(folder, "probe.cdx.json")
            path.write_text(json.dumps(bom))
            if not any(result.get("Vulnerabilities") for result in trivy(cache, "sbom", path).get("Results", [])):
                unknown.append(ecosystem)
    return unknown


def _openssl(distribution: str) -> dict[str, str]:
    name, _, version = distribution.partition(" ")
    kind = PACKAGES.get(name, "generic")
    purl = f"pkg:{kind}/{name}/openssl@1.0.0-1?distro={name}-{version}"
    return {"name": "openssl", "version": "1.0.0-1", "purl": purl}


def trivy_image(
    reference: str,
    cache: Path = DATABASES,
    *,
    refresh: bool = True,
    classes: Sequence[str] = ("os-pkgs", "lang-pkgs"),
) -> Scan:
    """Look for known vulnerabilities in the image. HIGH and CRITICAL with a fix fail the stage, the rest is noted.

    Raises `NotAssessed` where Trivy sees no package of one of `classes`, or none at all.
    """
    oldest = timedelta(hours=float(os.environ.get("VULNERABILITY_DB_MAX_AGE_HOURS", "72")))
    compared = database(cache, oldest, refresh=refresh)
    output = trivy(cache, "image", reference)
    results = output.get("Results", [])
    packages = [f"{p['Name']} {p['Version']}" for result in results for p in result.get("Packages", [])]
    for kind in classes:
        if not any(result.get("Packages") for result in results if result["Class"] == kind):
            raise NotAssessed(f"trivy saw no packages of the class {kind} in {reference}")
    if not packages:
        raise NotAssessed(f"trivy saw no packages in {reference}")
    if unknown := probe(cache, ecosystems(output)):
        raise NotAssessed(
            f"{compared.name} knows nothing about {' and '.join(unknown)}: a clean result would mean nothing"
        )
    findings = []
    for result in results:
        for known in result.get("Vulnerabilities", []):
            severity, fix = Severity.named(known["Severity"]), known.get("FixedVersion", "")
            package = f"{known['PkgName']} {known['InstalledVersion']}"
            remedy = f"fixed in {fix}" if fix else "no fix yet"
            findings.append(
                Finding(
                    tool="trivy-image",
                    rule=known["VulnerabilityID"],
                    severity=severity,
                    message=f"{package}: {known.get('Title', 'no title')} ({remedy})",
                    path=known["PkgName"],
                    subject=package,
                    blocks=severity >= Severity.HIGH and bool(fix),
                    help=known.get("PrimaryURL", ""),
                )
            )
    targets = (identity(reference), *sorted(packages))
    version = tools.described("trivy")
    return Scan(tool="trivy-image", version=version, targets=targets, findings=tuple(findings), database=compared)


def gates(of: Sequence[Service]) -> dict[str, Gate]:
    """Return the stage's gates, each for the newest image of every service in `of`."""
    return {
        "sbom": for_each(of, lambda service: sbom(service.name, service.lock, bill_of(service))),
        "trivy-image": for_each(of, lambda service: trivy_image(service.name)),
        "size": for_each(of, lambda service: size(service.name)),
    }


GATES = gates(services())

if __name__ == "__main__":
    sys.exit(run_stage("build", GATES))
