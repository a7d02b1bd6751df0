"""Releases and issues on GitHub, by its program `gh`: `python -m tooling.github release` or `… proofs`.

`release` writes reports/release/notes.md, the changelog's part for the version; on a tag (`GITHUB_REF_TYPE`) it makes
the release, with the SBOMs and the provenance. The version is that of every service, of the OpenAPI document that each
keeps, and the tag's. `proofs` opens one
issue when the nightly proofs fail (`RESULT`), comments on it while it is open, and closes it when they pass again.

Exit codes: 0 done, 1 the version, the tag and the changelog disagree, 2 `gh` failed.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tooling.findings import NotAssessed
from tooling.project import REPORTS, ROOT, Service, services
from tooling.tools import call

TITLE = "The nightly proofs fail"


class Disagreement(Exception):
    """The version is not the same everywhere; the message lists where it differs."""


def version() -> str:
    """Return the version that every service has. Raises `Disagreement`."""
    versions = {
        one.path: str(tomllib.loads((one.folder / "pyproject.toml").read_text())["project"]["version"])
        for one in services()
    }
    if len(set(versions.values())) != 1:
        raise Disagreement(f"the services have several versions: {versions}")
    return versions.popitem()[1]


def notes(version: str, changelog: str) -> str:
    """Return the changelog's part for a version: the heading's date and its text. Raises `Disagreement` without one."""
    part = re.search(rf"^## {re.escape(version)} - (.+)\n((?:(?!^## ).*\n)*)", changelog, re.MULTILINE)
    if part is None:
        raise Disagreement(f"CHANGELOG.md has no part `## {version} - DATE`")
    return f"Released: {part[1]}\n\n{part[2].strip()}\n"


def release(folder: Path = REPORTS / "release") -> None:
    """Write the notes of the version; on a tag, make the release. Raises `Disagreement` or `NotAssessed`."""
    number = version()
    text = notes(number, (ROOT / "CHANGELOG.md").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.md").write_text(text)
    print(f"notes of {number}: {(folder / 'notes.md').relative_to(ROOT)}")
    if os.environ.get("GITHUB_REF_TYPE") != "tag":
        print("this is no tag: no release is made")
        return
    tag = os.environ["GITHUB_REF_NAME"]
    if tag != f"v{number}":
        raise Disagreement(f"the tag is {tag}, the services have the version {number}")
    if text.startswith("Released: unreleased"):
        raise Disagreement(f"CHANGELOG.md calls {number} unreleased: write the date instead")
    for one in services():
        if (kept := version_kept(one)) != number:
            raise Disagreement(f"{one.path}/{one.released.name} is of {kept}: run `./dev openapi` before the tag")
    call(
        "gh",
        "release",
        "create",
        tag,
        "--verify-tag",
        f"--title={tag}",
        f"--notes-file={folder / 'notes.md'}",
        *files(),
    )


def version_kept(one: Service) -> str:
    """Return the version whose OpenAPI document is kept as the last release's."""
    return str(json.loads(one.released.read_text())["info"]["version"]) if one.released.exists() else "no version"


def files(reports: Path = REPORTS) -> list[str]:
    """Return what is attached to a release: each processor's SBOMs, and the provenance."""
    bills = [f"{path}#{path.parent.name}-{path.name}" for path in reports.glob("build*/*.cdx.json")]
    return sorted([*bills, *map(str, reports.glob("publish/*.sigstore.json"))])


def proofs(result: str, run: str) -> None:
    """Open the issue of failing proofs, comment on the open one, or close it. Raises `NotAssessed`."""
    search = ("--state=open", f"--search={TITLE} in:title", "--json=number,title")
    listed = json.loads(call("gh", "issue", "list", *search))
    known = [str(one["number"]) for one in listed if one["title"] == TITLE]
    if result == "success":
        for number in known:
            call("gh", "issue", "close", number, f"--comment=They pass again: {run}")
    elif known:
        call("gh", "issue", "comment", known[0], f"--body=They still fail: {run}")
    else:
        call(
            "gh", "issue", "create", f"--title={TITLE}", f"--body=The run names the proofs, each with its report: {run}"
        )


def main(arguments: Sequence[str]) -> int:
    """Run the named task."""
    run = "/".join(os.environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"))
    try:
        if arguments == ["proofs"]:
            proofs(os.environ.get("RESULT", ""), f"{run}/actions/runs/{os.environ.get('GITHUB_RUN_ID', '')}")
        else:
            release()
    except Disagreement as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except NotAssessed as error:
        print(f"github: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
