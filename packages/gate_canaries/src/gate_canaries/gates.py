"""Gates: what looks at a folder and reports findings. A command is one by `command`, any function by its signature."""

import json
import re
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Finding:
    """One defect that a gate reports.

    `rule` is the gate's name for its kind, `path` a file relative to the folder, with slashes, or whatever else the
    gate names. `blocks` is false for what is only worth knowing.
    """

    rule: str
    path: str
    message: str = ""
    line: int | None = None
    blocks: bool = True

    @property
    def text(self) -> str:
        """The finding in one line."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{self.rule} at {place}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True)
class Outcome:
    """The report of a gate: its findings, or the `problem` for which it could not assess.

    `remark` is for people, such as that a database was planted.
    """

    findings: tuple[Finding, ...] = ()
    problem: str = ""
    remark: str = ""


Gate = Callable[[Path], Outcome]
"""Looks at a folder. What it raises becomes the `problem` of its outcome."""

Reader = Callable[[str], Iterable[Finding]]
"""Reads the standard output of a command."""


def command(*arguments: str, read: Reader, failing: Collection[int] = (1,), seconds: float = 600) -> Gate:
    """Return a gate that runs a command in the folder and reads its findings from standard output.

    The exit status 0 is clean, one of `failing` is findings. Any other one is a problem, and so are findings with the
    status 0, which fail no pipeline, and a failing status without any finding. Paths are made relative to the folder.
    """

    def gate(folder: Path) -> Outcome:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds)
        output_lines = (done.stderr or done.stdout).strip().splitlines()
        status = f"{arguments[0]} ended with status {done.returncode}"
        if done.returncode and done.returncode not in failing:
            return Outcome(problem=": ".join([status, *output_lines[-1:]]))
        findings = tuple(replace(one, path=_relative(one.path, folder)) for one in read(done.stdout))
        if done.returncode and not findings:
            return Outcome(problem=": ".join([f"{status} and no finding", *output_lines[-1:]]))
        if findings and not done.returncode:
            return Outcome(problem=f"{status} in spite of {len(findings)} findings, which fails no pipeline")
        return Outcome(findings)

    return gate


def _relative(path: str, folder: Path) -> str:
    if not path:
        return path
    inside, root = (folder / path).resolve(), folder.resolve()
    return inside.relative_to(root).as_posix() if inside.is_relative_to(root) else path


def lines(pattern: str) -> Reader:
    """Return a reader of output with a finding a line, by a regular expression.

    Its groups `rule` and `path` are needed, `line` and `message` read too. Raises ValueError where one is missing.
    """
    compiled = re.compile(pattern, re.MULTILINE)
    if missing := {"rule", "path"} - compiled.groupindex.keys():
        raise ValueError(f"{pattern!r} has no group {' and no group '.join(sorted(missing))}: write (?P<rule>...)")

    def read(output: str) -> Iterator[Finding]:
        for match in compiled.finditer(output):
            groups = match.groupdict()
            line = groups.get("line")
            yield Finding(groups["rule"], groups["path"], groups.get("message") or "", int(line) if line else None)

    return read


def sarif(output: str) -> Iterator[Finding]:
    """Read a SARIF 2.1.0 log. Suppressed results are left out; those of the levels note and none do not block."""
    for run in json.loads(output)["runs"]:
        rules = run.get("tool", {}).get("driver", {}).get("rules", [])
        for result in run.get("results") or []:
            if result.get("suppressions"):
                continue
            place = (result.get("locations") or [{}])[0].get("physicalLocation", {})
            address = urlsplit(place.get("artifactLocation", {}).get("uri", ""))
            yield Finding(
                result.get("ruleId") or rules[result["ruleIndex"]]["id"],
                unquote(address.path),
                result.get("message", {}).get("text", ""),
                place.get("region", {}).get("startLine"),
                result.get("level", "warning") in {"warning", "error"},
            )
