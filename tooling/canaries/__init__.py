"""Canaries: for every gate a planted defect, and the exact finding that the gate must report.

A canary is a function that plants its defect in an empty folder and runs the real gate on it:

    @canary("sast/bandit", "a shell that takes any string", rule="B602", path="planted.py")
    def shell(folder: Path) -> Scan: ...

For a gate that must report "not assessed", its message must contain `problem`.
"""

import functools
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.markup import escape

from tooling import baseline, page
from tooling.baseline import RENEW, Baseline
from tooling.findings import Finding, Gate, Report, Scan, Verdict, run_gates
from tooling.project import REPORTS, ROOT, STAGES, services


class Canary(msgspec.Struct, frozen=True):
    """A planted defect, and the report that its gate must make."""

    gate: str
    defect: str
    plant: Callable[[Path], Scan]
    rule: str = ""
    path: str = ""
    problem: str = ""

    @property
    def expected(self) -> str:
        """The expected report in one line."""
        return f"{self.rule} at {self.path}" if self.rule else f"not assessed: {self.problem}"

    def matches(self, finding: Finding) -> bool:
        """Return whether it is the expected finding, and one that fails the stage."""
        return finding.fails and (finding.rule, finding.path) == (self.rule, self.path)


class Proof(msgspec.Struct, frozen=True):
    """The report of a gate on its canary."""

    canary: Canary
    scan: Scan
    report: Report

    @property
    def red(self) -> bool:
        """Return whether the gate went red for the right reason."""
        if self.canary.rule:
            return self.report.exit_code == 1 and any(map(self.canary.matches, self.report.findings))
        return self.report.exit_code == 2 and self.canary.problem in self.scan.problem  # noqa: PLR2004 - could not assess

    @property
    def reported(self) -> str:
        """The report in one line: the expected finding, or everything reported where that is missing."""
        found = self.report.findings
        shown = [finding for finding in found if self.canary.matches(finding)][:1] or found
        text = "; ".join(f"{finding.rule} at {finding.place}: {finding.message}" for finding in shown)
        return " | ".join(filter(None, [text, self.scan.problem])) or Verdict.CLEAN


CANARIES: list[Canary] = []


def canary(
    gate: str, defect: str, *, rule: str = "", path: str = "", problem: str = ""
) -> Callable[[Callable[[Path], Scan]], Callable[[Path], Scan]]:
    """Register a canary of the gate "STAGE/NAME": it expects `rule` at `path`, or "not assessed" for `problem`."""
    if bool(rule and path) == bool(problem):
        raise ValueError(f"{gate}: expect a rule at a path, or a problem")

    def register(plant: Callable[[Path], Scan]) -> Callable[[Path], Scan]:
        CANARIES.append(Canary(gate, defect, plant, rule, path, problem))
        return plant

    return register


def prove(wanted: Canary) -> Proof:
    """Plant the defect in a folder of its own, run the gate on it, and return the proof.

    The gate is judged as in CI and as one that must be configured.
    """
    with TemporaryDirectory(prefix="canary-") as folder:
        (scan,) = run_gates({wanted.gate: functools.partial(wanted.plant, Path(folder))}, quiet=True)
    stage = wanted.gate.partition("/")[0]
    report = Report.of(stage, [scan], strict=True)
    return Proof(wanted, scan, msgspec.structs.replace(report, required=(scan.tool,)))


def gates(stages: Iterable[str] = STAGES) -> dict[str, Gate]:
    """Return every gate of the stages, as "STAGE/NAME"; of a session that is no stage, those of its module."""
    return {
        f"{stage}/{name}": gate
        for stage in stages
        for module in (STAGES[stage].modules if stage in STAGES else (f"tooling.{stage}",))
        for name, gate in importlib.import_module(module).GATES.items()
    }


def load(stages: Iterable[str]) -> None:
    """Import the canaries of the stages: those of the tools, and those of every service."""
    for stage in stages:
        for place in ("tooling", *(one.path for one in services())):
            if (ROOT / place / "canaries" / f"{stage}.py").exists():
                importlib.import_module(f"{place.replace('/', '.')}.canaries.{stage}")


def gone(planted: Sequence[Canary], stages: Iterable[str], committed: Baseline) -> list[str]:
    """Return each gate of the baseline that has fewer canaries than there, as one line."""
    counts = Counter(one.gate for one in planted)
    return [
        f"{gate} has {counts[gate]} canaries, the baseline has {least}: {RENEW}"
        for gate, least in committed.canaries.items()
        if gate.partition("/")[0] in stages and counts[gate] < least
    ]


def main(stages: list[str]) -> int:
    """Prove every canary (of `stages`, by default all), and exit with 0 when all went red.

    A gate without one, or with fewer than in the baseline, is 1 as well.
    """
    wanted = stages or list(STAGES)
    load(wanted)
    without = sorted(set(gates(wanted)) - {one.gate for one in CANARIES})
    planted = [one for one in CANARIES if one.gate.partition("/")[0] in wanted]
    missing = gone(planted, wanted, baseline.read())
    console, started, proofs = Console(highlight=False, soft_wrap=True), time.monotonic(), []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for proof in pool.map(prove, planted):
            word = "[green]red, as it must be[/]" if proof.red else "[red]NOT CAUGHT[/]"
            console.print(
                f"{word} {proof.canary.gate}: {escape(proof.canary.defect)} ({escape(proof.canary.expected)})"
            )
            if not proof.red:
                console.print(f"    it reported: {escape(proof.reported)}")
            proofs.append(proof)
    for gate in without:
        console.print(f"[red]NO CANARY[/] {gate}: a gate that was never seen red may be one that cannot be")
    for line in missing:
        console.print(f"[red]FEWER CANARIES[/] {escape(line)}")
    caught = sum(proof.red for proof in proofs)
    folder = REPORTS / "canaries"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(
        page.render("canaries.html", proofs=proofs, without=without, caught=caught, now=datetime.now(UTC))
    )
    rows = [
        {
            "gate": p.canary.gate,
            "defect": p.canary.defect,
            "expected": p.canary.expected,
            "reported": p.reported,
            "red": p.red,
        }
        for p in proofs
    ]
    content = {
        "caught": caught,
        "planted": len(proofs),
        "gates_without_canary": without,
        "gone": missing,
        "canaries": rows,
    }
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    console.print(f"canaries: {caught} of {len(proofs)} red, {page.duration(time.monotonic() - started)}")
    return 0 if caught == len(proofs) and not without and not missing else 1
