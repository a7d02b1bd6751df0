"""`./dev new-service NAME`: write services/NAME from the template in templates/service, with a lock of its own.

Only files in the new service's folder are written. Exit codes: 0 done, 2 for a name that cannot be used.
"""

import argparse
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import copier
from uv import find_uv_bin

from tooling.project import ROOT, Service, ToolingError, service, services

TEMPLATE = ROOT / "templates" / "service"
LONGEST = 32
"""A Kubernetes name has at most 63 characters, and objects append to the service's."""
FIRST_PORT, FIRST_NODE_PORT = 5000, 30080


class BadNameError(ToolingError):
    """The name cannot be a service's; the message is the reason."""


def check_name(name: str, root: Path = ROOT) -> None:
    """Raise `BadNameError` unless the name can be a distribution, a Python package and a Kubernetes namespace."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise BadNameError(
            f"{name!r} cannot be a service's name: lower-case letters and digits, words joined by single hyphens,"
            f" at most {LONGEST} characters, such as `echo` or `mail-relay`"
        )
    if (root / "services" / package).exists() or name in {one.name for one in services(root)}:
        raise BadNameError(f"there is a service {name} already: services/{package}")
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise BadNameError(f"{name!r} cannot be a service's name: it is a module or a word of Python's")
    if (root / package).exists() or (root / "packages" / package).exists():
        raise BadNameError(f"{name!r} cannot be a service's name: the repository has a folder {package}")
    if name == "default" or name.startswith("kube-"):
        raise BadNameError(f"{name!r} cannot be a service's name: Kubernetes has that namespace")
    if name in _installed(root):
        raise BadNameError(f"{name!r} cannot be a service's name: a library in requirements/ has it")


def _installed(root: Path) -> set[str]:
    locks = [*root.glob("requirements/*.txt"), *root.glob("services/*/requirements.txt")]
    return {name for lock in locks for name in re.findall(r"^([a-z0-9.-]+)==", lock.read_text(), re.MULTILINE)}


def ports(known: Sequence[Service]) -> tuple[int, int]:
    """Return the first port on this machine, and the first node port, that no service has."""
    taken = {one.port for one in known}, {one.node_port for one in known}
    port, node_port = (
        next(number for number in range(first, first + 1000) if number not in numbers)
        for first, numbers in zip((FIRST_PORT, FIRST_NODE_PORT), taken, strict=True)
    )
    return port, node_port


def create(name: str, root: Path = ROOT) -> Path:
    """Write the service's folder and return it. Raises `BadNameError`, and `ToolingError` where it cannot be locked."""
    check_name(name, root)
    port, node_port = ports(services(root))
    folder = root / "services" / name.replace("-", "_")
    version = tomllib.loads((service(root=root).folder / "pyproject.toml").read_text())["project"]["version"]
    answers = {"name": name, "version": version, "port": port, "node_port": node_port}
    try:
        copier.run_copy(str(TEMPLATE), folder, data=answers, defaults=True, quiet=True, vcs_ref=None)
        _lock(folder, root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # all of it, or nothing
        raise
    services.cache_clear()
    return folder


def _lock(folder: Path, root: Path) -> None:
    """Lock the service's dependencies, at the versions that the tests run with."""
    command = [find_uv_bin(), "pip", "compile", "--universal", "--python-version=3.11", "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-header", "--quiet", "--no-emit-package=service-kit"]
    path = folder.relative_to(root)
    command += ["-c", "requirements/test.txt", f"{path}/pyproject.toml", "-o", f"{path}/requirements.txt"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolingError(f"uv could not lock {path}: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the service that the command line names."""
    parser = argparse.ArgumentParser(prog="./dev new-service", description="Write a new service from the template.")
    parser.add_argument("name", help="such as echo or mail-relay")
    name = parser.parse_args(arguments).name
    try:
        folder = create(name)
    except ToolingError as error:
        print(f"new-service: {error}", file=sys.stderr)
        return 2
    print(f"{folder.relative_to(ROOT)} is written: run `git add` on it, then `./dev test`; docs/new-service.md goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
