"""Faults planted in the page, each of which the tests have to find: `nox -s browser` runs them after the tests.

Exit status: 0 when each is reported by the test that names it, 1 otherwise.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tooling.project import ROOT, service

TESTS = ROOT / "services" / service().package / "browser" / "tests"
SOURCE = ROOT / "services" / service().package / "src" / service().package
FAILED = 1
"""pytest's exit status where a test failed."""


@dataclass(frozen=True)
class Canary:
    """A fault in one of the page's files, the test that finds it, and what that test then reports."""

    name: str
    file: str
    right: str
    wrong: str
    test: str
    report: str


CANARIES = (
    Canary(
        "a page that loses an offline edit",
        "storage.js",
        'const NAME = "board";',
        "const NAME = `board ${Math.random()}`;",
        "test_together.py::test_edits_without_a_connection_survive_the_tab_and_are_sent_once[sqlite]",
        "Made offline",
    ),
    Canary(
        "a response that is lost, and the request sent again under another key",
        "outbox.js",
        "key: entry.key }",
        "key: uuid() }",
        "test_together.py::test_a_response_that_is_lost_is_asked_for_again_and_nothing_is_done_twice[sqlite]",
        "Only once",
    ),
    Canary(
        "a contrast fault in the dark",
        "style.css",
        "--soft: #aab3c0;",
        "--soft: #4d5560;",
        "test_accessibility.py::test_no_state_of_the_board_breaks_a_rule[dark-desktop]",
        "color-contrast",
    ),
)


def reported(canary: Canary) -> str:
    """Return what is wrong with how the tests take the fault; nothing where they find it."""
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        copy = Path(folder, SOURCE.name)
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "board" / canary.file
        text = file.read_text()
        if text.count(canary.right) != 1:
            return f"{canary.file} does not have {canary.right!r} once: the fault cannot be planted"
        file.write_text(text.replace(canary.right, canary.wrong))
        name, _, test = canary.test.partition("::")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "browser", f"{TESTS / name}::{test}"]
        environment = {**os.environ, "SERVICE_SOURCE": folder, "EXPECT_SECONDS": "8"}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode != FAILED or canary.report not in ran.stdout:
        return f"the test ended with status {ran.returncode}:\n{ran.stdout[-2000:]}"
    return ""


def main() -> int:
    """Plant each fault; print whether a test reports it."""
    missed = 0
    for canary in CANARIES:
        fault = reported(canary)
        missed += bool(fault)
        print(f"{'NOT FOUND' if fault else 'found'}: {canary.name}{f': {fault}' if fault else ''}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
