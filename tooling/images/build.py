"""The image of each service, built one way for a laptop, CI, Compose and the cluster.

`python -m tooling.images.build [SERVICE ...]` builds them, by default all, tags them from Git, shows where each
megabyte goes, and prints their names on the last lines. Exit codes: 0 built, 2 not built. `tooling.images.scan` checks
the size.
"""

import argparse
import collections
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from tooling.page import render
from tooling.project import REPORTS, ROOT, Service, ToolingError, service, services
from tooling.tools import require

MEGABYTE = 1_000_000
MOST_MEGABYTES = 100.0


class ImageError(ToolingError):
    """The image could not be built or inspected; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """The checkout that an image is built from."""

    version: str
    revision: str
    moment: int
    """Seconds since 1970 of the commit: every date inside the image (SOURCE_DATE_EPOCH)."""

    @classmethod
    def of_checkout(cls) -> "Source":
        """Read it from Git. Raises `ImageError` in a downloaded archive, which names no commit."""
        return cls(
            version=_run("git", "describe", "--tags", "--always", "--abbrev=12", "--dirty"),
            revision=_run("git", "rev-parse", "HEAD"),
            moment=int(_run("git", "show", "--no-patch", "--format=%ct", "HEAD")),
        )

    @property
    def created(self) -> str:
        """The commit's moment, as RFC 3339 writes it."""
        return datetime.fromtimestamp(self.moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Part:
    """Some of the image's files, and the bytes they take."""

    name: str
    kind: str
    size: int


def build(service: Service, *, fresh: bool = False, tags: Iterable[str] = ("latest",)) -> str:
    """Build a service's image from this checkout and return its name, `SERVICE:VERSION`; it gets the `tags` too.

    `fresh` uses no cache. Two builds of one commit have the same digest. Raises `ImageError`, or `MissingTool` without
    Docker.
    """
    source = Source.of_checkout()
    image = f"{service.name}:{source.version}"
    arguments = {
        "SOURCE_DATE_EPOCH": source.moment,
        "VERSION": source.version,
        "REVISION": source.revision,
        "CREATED": source.created,
    }
    for base in bases(service):
        _pull(base)
    command = ["buildx", "build", f"--file={service.dockerfile}", f"--tag={image}", "--provenance=false", "--load"]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    if subprocess.run([require("docker"), *command, *["--no-cache"] * fresh, "."], cwd=ROOT, check=False).returncode:
        raise ImageError(f"docker could not build {service.dockerfile.relative_to(ROOT)}: see above")
    _set_dates(image, source.created)
    for tag in tags:
        _run("docker", "tag", image, f"{service.name}:{tag}")
    return image


def bases(service: Service) -> list[str]:
    """Return the images that the service's Dockerfile starts from."""
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", service.dockerfile.read_text(), re.MULTILINE)
    return [image for image, _ in stages if image not in {name for _, name in stages}]


def _pull(base: str) -> None:
    """Have a base image in the engine: a build alone leaves none there whose digest the provenance could name."""
    try:
        inspect(base)
    except ImageError:
        _run("docker", "pull", base)


def _set_dates(image: str, created: str) -> None:
    """Set the dates in the image's configuration where the engine takes them from the clock, as before Docker 23."""
    before = inspect(image)
    if before["Created"] == created:
        return
    with tempfile.TemporaryDirectory() as folder:
        saved, dated = Path(folder, "saved.tar"), Path(folder, "dated.tar")
        _run("docker", "save", "--output", str(saved), image)
        with tarfile.open(saved) as old, tarfile.open(dated, "w") as new:
            manifest = json.load(_member(old, "manifest.json"))
            config = json.load(_member(old, manifest[0]["Config"]))
            config["created"] = created
            for step in config["history"]:
                step["created"] = created
            document = json.dumps(config, sort_keys=True).encode()
            manifest[0]["Config"] = f"{hashlib.sha256(document).hexdigest()}.json"
            for layer in manifest[0]["Layers"]:
                new.addfile(old.getmember(layer), _member(old, layer))
            for name, content in ((manifest[0]["Config"], document), ("manifest.json", json.dumps(manifest).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))
        _run("docker", "load", "--input", str(dated))
    if inspect(image)["Id"] != before["Id"]:
        subprocess.run([require("docker"), "image", "rm", before["Id"]], capture_output=True, check=False)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = archive.extractfile(name)
    if stream is None:
        raise ImageError(f"the saved image has no {name}")
    return stream


def inspect(image: str) -> dict[str, Any]:
    """Return what the engine knows of an image. Raises `ImageError` where it is not there."""
    facts: dict[str, Any] = json.loads(_run("docker", "image", "inspect", image))[0]
    return facts


def parts(image: str) -> list[Part]:
    """Measure every part of the image, the largest first: each library, the bytecode, the service, the base image.

    Their sum is the image's size: what the engine reports as its size depends on the image store, and counts the
    compressed layers too in Docker's containerd store (https://github.com/moby/moby/issues/53398).
    """
    container = _run("docker", "create", image, "never-run")  # an image without a command needs one
    try:
        with (
            subprocess.Popen([require("docker"), "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as tree,
        ):
            return measure((PurePosixPath(entry.name), entry.size) for entry in tree if entry.isfile())
    finally:
        _run("docker", "rm", container)


def measure(files: Iterable[tuple[PurePosixPath, int]]) -> list[Part]:
    """Return the sizes of `files`, added up by what they belong to, the largest first."""
    sizes: collections.Counter[tuple[str, str]] = collections.Counter()
    for path, size in files:
        match path.parts:
            case ("app", "bytecode", "app", *_):
                key = ("bytecode of the service and its libraries", "bytecode")
            case ("app", "bytecode", *_):
                key = ("bytecode of the standard library", "bytecode")
            case ("app", "lib", name, *_) if name.endswith(".dist-info"):
                key = ("each distribution's metadata", "library")
            case ("app", "lib", name, *_):
                key = (name.partition(".cpython-")[0].removesuffix(".py"), "library")
            case ("app", name, *_):
                key = (name, "service")
            case _:
                key = ("Python and the system", "base image")
        sizes[key] += size
    return [Part(name, kind, size) for (name, kind), size in sizes.most_common()]


def write_report(service: Service, image: str, parts: list[Part]) -> None:
    """Write the image's size and parts to reports/build/ as JSON and a page, and print the larger parts."""
    size = sum(part.size for part in parts) / MEGABYTE
    data = {
        "image": image,
        "id": inspect(image)["Id"],
        "bytes": sum(part.size for part in parts),
        "most_bytes": int(MOST_MEGABYTES * MEGABYTE),
        "parts": [asdict(part) for part in parts],
    }
    folder = REPORTS / "build"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{service.name}-size.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / f"{service.name}-size.html").write_text(render("image.html", **data))
    table = Table("part", "of", "MB", title=f"{image}: {size:.1f} MB, of {MOST_MEGABYTES:.0f} at most")
    table.columns[2].justify = "right"
    shown = [part for part in parts if part.size >= 0.3 * MEGABYTE]
    for part in shown:
        table.add_row(part.name, part.kind, f"{part.size / MEGABYTE:.1f}")
    rest = parts[len(shown) :]
    table.add_row(f"{len(rest)} smaller ones", "", f"{sum(part.size for part in rest) / MEGABYTE:.1f}")
    Console().print(table)


def _run(name: str, *arguments: str) -> str:
    command = [str(require(name)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        remedy = ". An image names its commit: clone the repository" if name == "git" else ""
        raise ImageError(f"`{name} {' '.join(arguments)}` failed: {done.stderr.strip()}{remedy}")
    return done.stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Build and measure the images of the services, and report their sizes."""
    parser = argparse.ArgumentParser(prog="python -m tooling.images.build", description=__doc__)
    parser.add_argument(
        "--fresh", action="store_true", help="build every step again, as a machine without a cache does"
    )
    parser.add_argument("services", metavar="SERVICE", nargs="*", help="by default every service")
    options = parser.parse_args(arguments)
    images = []
    try:
        for one in [service(name) for name in options.services] or services():
            images.append(build(one, fresh=options.fresh))
            write_report(one, images[-1], parts(images[-1]))
    except ToolingError as error:
        print(f"image: {error}", file=sys.stderr)
        return 2
    print(*images, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
