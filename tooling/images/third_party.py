"""The images of others that the cluster, Compose and the proofs run: pinned to digests, and scanned like the service's.

`python -m tooling.images.third_party pin` writes the digest that the registry has for each tag behind it, and
`pin --remove` takes the digests away, for a machine on which images of the same names stand in. `scan` writes
reports/third-party/. Exit codes of `pin`: 0 pinned, 2 a registry cannot be read, and then nothing is written.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tooling.findings import NotAssessed, Scan, for_each, run_stage
from tooling.images import scan
from tooling.project import ROOT, ToolingError
from tooling.tools import call, report, tracked

IMAGE = re.compile(
    r"(?m)^ *(?:- )?image: (?P<image>[a-z0-9][\w.-]*(?::\d+)?/[\w./-]+:[\w.-]+)(?P<digest>@sha256:[0-9a-f]{64})?"
)
"""A line that names an image of another maker: those of this repository have no `/` in their names."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TOOL = "third-party"
NODE = "kindest/node"
"""The machines of the local cluster, which no deployment has: pinned, and not scanned."""


def files(root: Path = ROOT) -> list[Path]:
    """Return the files of the repository that name an image of others."""
    candidates = (root / name for name in tracked(root, "*.yaml"))
    return [path for path in candidates if IMAGE.search(path.read_text())]


def references(paths: Iterable[Path]) -> dict[str, str]:
    """Return each image with its tag, and the digest that it is pinned to: empty where it is not.

    Raises `NotAssessed` where files disagree about one image.
    """
    digests: dict[str, str] = {}
    for match in (match for path in paths for match in IMAGE.finditer(path.read_text())):
        pinned = (match["digest"] or "").removeprefix("@")
        if digests.setdefault(match["image"], pinned) != pinned:
            raise NotAssessed(f"{match['image']} is pinned to several digests: `./dev pin` sets one")
    return digests


def digest(image: str) -> str:
    """Return the digest that the image's registry has for its tag: an index's, where there is one for each platform.

    Raises `NotAssessed` where the registry cannot be read.
    """
    received = str(
        report("docker", "buildx", "imagetools", "inspect", "--format={{json .Manifest}}", image).get("digest")
    )
    if not DIGEST.fullmatch(received):
        raise NotAssessed(f"the registry has no digest for {image}: {received}")
    return received


def pin(paths: list[Path], *, remove: bool = False) -> dict[str, str]:
    """Write the present digest of each image into the files, or none; return image and digest.

    Raises `NotAssessed` where a registry cannot be read; then no file is changed.
    """
    names = {match["image"] for path in paths for match in IMAGE.finditer(path.read_text())}
    pins = {image: "" if remove else digest(image) for image in sorted(names)}

    def pinned(match: re.Match[str]) -> str:
        line = match[0].removesuffix(match["digest"] or "")
        return f"{line}@{pins[match['image']]}" if pins[match["image"]] else line

    for path in paths:
        before = path.read_text()
        if (after := IMAGE.sub(pinned, before)) != before:
            path.write_text(after)
    return pins


@dataclass(frozen=True)
class Image:
    """An image of another maker."""

    name: str
    digest: str

    def scan(self, cache: Path = scan.DATABASES, *, refresh: bool = True) -> Scan:
        """Scan it as our own images are; it is pulled where the engine lacks it.

        Raises `NotAssessed` where it can be had from nowhere.
        """
        reference = f"{self.name}@{self.digest}" if self.digest else self.name
        try:
            scan.identity(reference)
        except NotAssessed:
            call("docker", "pull", "--quiet", reference)
        image_scan = scan.trivy_image(reference, cache, refresh=refresh, classes=())
        findings = [replace(one, tool=TOOL, path=f"{self.name}: {one.path}") for one in image_scan.findings]
        return replace(image_scan, tool=TOOL, findings=tuple(findings))


def scanned(pins: dict[str, str]) -> list[Image]:
    """Return the images that a deployment or Compose runs."""
    return [Image(name, pinned) for name, pinned in pins.items() if not name.startswith(f"{NODE}:")]


def main(arguments: list[str]) -> int:
    """Pin or scan; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tooling.images.third_party")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pin").add_argument("--remove", action="store_true")
    commands.add_parser("scan")
    options = parser.parse_args(arguments)
    try:
        if options.command == "scan":
            return run_stage(TOOL, {TOOL: for_each(scanned(references(files())), Image.scan)}, whole=False)
        for image, pinned in pin(files(), remove=options.remove).items():
            print(f"{image} {pinned or 'not pinned'}")
    except ToolingError as error:
        print(f"third_party: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
