"""A canary is a planted defect with the report that its gate must make; a proof is the report that it made."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gate_canaries.gates import Finding, Gate, Outcome

NOT_COPIED = (".git", ".hg", ".nox", ".tox", ".venv", "__pycache__", "node_modules", "venv")
"""Folders that a copy of a tree lacks where Git does not know what belongs to it."""


@dataclass(frozen=True)
class Canary:
    """A planted defect of one gate: `run` plants it in a folder and returns what the gate reports there.

    It expects a finding of `rule` at `path`, or that the gate could not assess, for a reason that contains `problem`.
    Raises ValueError where it expects neither or both.
    """

    gate: str
    defect: str
    run: Gate
    rule: str = ""
    path: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        if bool(self.rule and self.path) == bool(self.problem):
            raise ValueError(f"{self.gate}: expect a rule at a path, or a problem")

    @property
    def expected(self) -> str:
        """The expected report in one line."""
        return f"{self.rule} at {self.path}" if self.rule else f"not assessed: {self.problem}"

    def matches(self, finding: Finding) -> bool:
        """Return whether it is the expected finding, and one that fails the gate."""
        return finding.blocks and (finding.rule, finding.path) == (self.rule, self.path)

    def met(self, outcome: Outcome) -> bool:
        """Return whether a gate's report is the expected one."""
        if self.rule:
            return any(map(self.matches, outcome.findings))
        return self.problem in outcome.problem and not any(one.blocks for one in outcome.findings)


@dataclass(frozen=True)
class Proof:
    """The report of a gate on its canary, and how many seconds it took.

    `before` is its report on the same tree without the defect, where there is a tree.
    """

    canary: Canary
    outcome: Outcome
    seconds: float
    before: Outcome | None = None

    @property
    def red(self) -> bool:
        """Return whether the gate went red for the right reason: for the defect, and not without it."""
        return self.canary.met(self.outcome) and not self._was_there

    @property
    def _was_there(self) -> bool:
        return self.before is not None and self.canary.met(self.before)

    @property
    def reported(self) -> str:
        """The report in one line: the expected finding, or everything reported where that is missing."""
        findings = self.outcome.findings
        shown = [one for one in findings if self.canary.matches(one)][:1] or findings
        text = " | ".join(filter(None, ["; ".join(one.text for one in shown), self.outcome.problem])) or "clean"
        return f"without the defect too: {text}" if self._was_there else text

    @property
    def text(self) -> str:
        """The proof for people: a line, and one more with the report where the canary was not caught."""
        canary = self.canary
        line = f"{canary.gate}: {canary.defect} ({canary.expected})"
        return f"red, as it must be {line}" if self.red else f"NOT CAUGHT {line}\n    it reported: {self.reported}"


def prove(canary: Canary, tree: Path | None = None, before: Outcome | None = None) -> Proof:
    """Plant the defect in a copy of `tree`, without one in an empty folder, and return the gate's report on it."""
    started = time.monotonic()
    outcome = report(canary.run, tree)
    return Proof(canary, outcome, time.monotonic() - started, before)


def report(gate: Gate, tree: Path | None) -> Outcome:
    """Return a gate's report on a copy of `tree`, or on an empty folder. What it raises is its problem."""
    with TemporaryDirectory(prefix="canary-") as folder:
        try:
            if tree:
                copy(tree, Path(folder))
            return gate(Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever breaks a gate is a report about that gate
            return Outcome(problem=f"{type(error).__name__}: {error}")


def prove_all(
    canaries: Iterable[Canary],
    tree: Path | None = None,
    untouched: Mapping[str, Outcome] | None = None,
    *,
    parallel: int = 2,
) -> Iterator[Proof]:
    """Yield the proof of each canary, in their order. `untouched` has each gate's report without any defect."""
    known = untouched or {}
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        yield from pool.map(lambda one: prove(one, tree, known.get(one.gate)), canaries)


def copy(tree: Path, folder: Path) -> None:
    """Copy a tree: in a Git repository the files that Git would commit, else all but environments and caches."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=tree, capture_output=True, check=False) if shutil.which("git") else None
    if listed is None or listed.returncode:
        shutil.copytree(tree, folder, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return
    for name in filter(None, listed.stdout.split(b"\0")):
        source, target = tree / os.fsdecode(name), folder / os.fsdecode(name)
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
