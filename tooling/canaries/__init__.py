"""The pipeline's canaries: for every gate a planted defect, and the exact finding that the gate must report.

What a canary is, and when its gate is red, is `gate_canaries`. Here it is a function that plants its defect in an empty
folder and runs the real gate on it:

    @canary("sast/bandit", "a shell that takes any string", rule="B602", path="planted.py")
    def shell(folder: Path) -> Scan: ...

For a gate that must report "not assessed", its message must contain `problem`.
"""

import functools
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gate_canaries import Canary, Finding, Outcome, Result, prove_all
from tooling import baseline, page
from tooling.baseline import RENEW, Baseline
from tooling.findings import FINDINGS, Gate, Report, Scan, run_gates
from tooling.project import REPORTS, ROOT, STAGES, services

CANARIES: list[Canary] = []


def canary(
    gate: str, defect: str, *, rule: str = "", path: str = "", problem: str = ""
) -> Callable[[Callable[[Path], Scan]], Callable[[Path], Scan]]:
    """Register a canary of the gate "STAGE/NAME": it expects `rule` at `path`, or "not assessed" for `problem`."""

    def register(plant: Callable[[Path], Scan]) -> Callable[[Path], Scan]:
        CANARIES.append(Canary(gate, defect, functools.partial(judged, gate, plant), rule, path, problem))
        return plant

    return register


def judged(gate: str, plant: Callable[[Path], Scan], folder: Path) -> Outcome:
    """Run a gate of the pipeline, and return its report, judged as in CI and as a gate that must be configured."""
    (scan,) = run_gates({gate: functools.partial(plant, folder)}, quiet=True)
    report = Report.of(gate.partition("/")[0], [scan], strict=True)
    report = msgspec.structs.replace(report, required=(scan.tool,))
    return Outcome(
        tuple(
            Finding(one.rule, one.path, one.message, one.line, one.fails and report.exit_code == FINDINGS)
            for one in report.findings
        ),
        scan.problem if report.breaks(scan) else "",
        "; ".join(f"fixture: {name}" for name in report.fixtures),
    )


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
    started, proofs = time.monotonic(), []
    for proof in prove_all(planted):
        print(proof.text, flush=True)
        proofs.append(proof)
    result = Result(proofs, without, missing)
    print(f"{result.text}, {page.duration(time.monotonic() - started)}")
    folder = REPORTS / "canaries"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(page.render("canaries.html", result=result, now=datetime.now(UTC)))
    (folder / "report.json").write_text(result.json())
    return result.exit_code
