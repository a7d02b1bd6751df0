"""Keep the OpenAPI documents of this checkout as the last release's: `python -m tooling.dast.openapi [SERVICE ...]`.

Exit codes: 0 written, 1 a change that breaks clients needs a new major version or a waiver, 2 not assessed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tooling.dast.compatibility import Document, compare, released
from tooling.dast.target import attacked
from tooling.findings import CLEAN, NOT_ASSESSED, Report, read_waivers
from tooling.project import ROOT, Service, ToolingError, service, services
from tooling.tools import call, in_git

COMMIT = "x-commit"
"""The document's extension that names the commit of which it is; empty for files that no commit had."""


def keep(one: Service, document: Document, commit: str) -> Report:
    """Write a document as the last release's, unless the report of its changes has a finding that fails."""
    scans = [compare(released(one), document)] if one.released.exists() else []
    judged = Report.of("openapi", scans, read_waivers())
    if not scans or judged.exit_code == CLEAN:
        one.released.write_text(json.dumps({**document, COMMIT: commit}, indent=1, ensure_ascii=False) + "\n")
    return judged


def commit_of(one: Service) -> str:
    """Return the commit whose files the service is made of; empty where it is made of other files."""
    if not in_git(ROOT) or call("git", "status", "--porcelain", "--", one.path, "packages", cwd=ROOT):
        return ""
    return call("git", "rev-parse", "HEAD", cwd=ROOT).strip()


def main(arguments: Sequence[str]) -> int:
    """Keep the documents of the named services, by default of all."""
    parser = argparse.ArgumentParser(prog="./dev openapi", description="Keep this checkout's OpenAPI documents.")
    parser.add_argument("service", nargs="*", help="the names; by default all")
    names = parser.parse_args(arguments).service
    codes = []
    try:
        for one in [service(name) for name in names] or services():
            with TemporaryDirectory(prefix="openapi-") as folder, attacked(one, Path(folder), embedded=True) as target:
                judged = keep(one, target.document, commit_of(one))
            place = f"{one.path}/{one.released.name}"
            if judged.scans:
                judged.print()
            codes.append(judged.exit_code if judged.scans else CLEAN)
            print(f"{place}: {'unchanged' if codes[-1] else 'version ' + target.document['info']['version']}")
    except ToolingError as error:
        print(f"openapi: {error}", file=sys.stderr)
        return NOT_ASSESSED
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
