"""Planted defects for the build stage."""

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from tooling.canaries import canary, trivy_database
from tooling.canaries.fixtures import plant
from tooling.findings import Scan
from tooling.images import scan
from tooling.tools import call, require

DEBIAN = "debian 13"
CURRENT = "Package: base-files\nStatus: install ok installed\nVersion: 13.8\nArchitecture: amd64\n"


@contextmanager
def planted_image(python: dict[str, str], debian: dict[str, str]) -> Iterator[str]:
    """Make an image that holds nothing but the records of these packages, and remove it afterwards."""
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
        "etc/debian_version": "13.8\n",
        "var/lib/dpkg/status.d/base-files": CURRENT,
    }
    for name, version in debian.items():
        files[f"var/lib/dpkg/status.d/{name}"] = CURRENT.replace("base-files", name).replace("13.8", version)
    for name, version in python.items():
        files[f"app/lib/{name}-{version}.dist-info/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content.encode()))
    name = f"canary-{uuid4().hex[:12]}"
    subprocess.run([require("docker"), "import", "-", name], input=archive.getvalue(), check=True, capture_output=True)
    try:
        yield name
    finally:
        call("docker", "image", "rm", name)


def scanned_with(folder: Path, python: dict[str, str], debian: dict[str, str], tree: trivy_database.Tree) -> Scan:
    """Scan a planted image with a planted database."""
    trivy_database.write(folder, tree)
    with planted_image(python, debian) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "a Python package with a known vulnerability", rule="CVE-2018-1000656", path="flask")
def vulnerable_python(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "0.12"}, {}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "a system package with a known vulnerability", rule="CVE-2023-5363", path="openssl")
def vulnerable_system(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "3.1.3"}, {"openssl": "3.0.9-1"}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "an empty database", problem="knows nothing about Python and debian 13")
def empty_database(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "0.12"}, {}, {"data-source": {}, "vulnerability": {}})


@canary("build/trivy-image", "a database without the image's distribution", problem="knows nothing about debian 13")
def other_distribution(folder: Path) -> Scan:
    return scanned_with(folder, {"flask": "3.1.3"}, {"openssl": "3.0.9-1"}, trivy_database.advisories("debian 11"))


@canary("build/trivy-image", "a database that is too old", problem="older than 72 hours")
def old_database(folder: Path) -> Scan:
    trivy_database.write(folder, trivy_database.advisories(DEBIAN), age=timedelta(hours=73))
    with planted_image({"flask": "0.12"}, {}) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "no database at all", problem="there is no vulnerability database")
def no_database(folder: Path) -> Scan:
    with planted_image({"flask": "0.12"}, {}) as name:
        return scan.trivy_image(name, folder, refresh=False)


@canary("build/trivy-image", "an image that lists no packages", problem="saw no packages")
def bare_image(folder: Path) -> Scan:
    return scanned_with(folder, {}, {}, trivy_database.advisories(DEBIAN))


@canary("build/trivy-image", "an image that is not there", problem="trivy ended with code 1")
def missing_image(folder: Path) -> Scan:
    trivy_database.write(folder, trivy_database.advisories(DEBIAN))
    return scan.trivy_image("127.0.0.1:9/canary", folder, refresh=False)


@canary("build/sbom", "an image that hides a locked package from scanners", rule="unseen-package", path="gunicorn")
def hidden_package(folder: Path) -> Scan:
    lock = folder / plant(folder, "requirements.txt", "flask==3.1.3\ngunicorn==23.0.0\n")
    with planted_image({"flask": "3.1.3"}, {}) as name:
        return scan.sbom(name, lock, folder / "sbom.cdx.json")


@canary("build/size", "an image that is too large", rule="too-large", path="image")
def large_image(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    with planted_image({"flask": "3.1.3"}, {}) as name:
        return scan.size(name, most=0.0001)


@canary("build/size", "an image that is not there", problem="No such image")
def no_image(folder: Path) -> Scan:  # noqa: ARG001
    return scan.size("127.0.0.1:9/canary")
