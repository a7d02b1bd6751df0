"""The canaries of a project with their command line, and what they came to."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate_canaries.canaries import Canary, Proof, prove_all, report
from gate_canaries.gates import Gate, Outcome

Plant = Callable[[Path], Outcome | None]
"""Plants a defect in a folder. It may also run its gate in a way of its own, and return the report."""


@dataclass(frozen=True)
class Result:
    """What the canaries came to: the proofs, the gates `without` a canary, and what else is `lacking`, a line each."""

    proofs: Sequence[Proof]
    without: Sequence[str] = ()
    lacking: Sequence[str] = ()

    @property
    def caught(self) -> int:
        """How many canaries their gates went red for."""
        return sum(proof.red for proof in self.proofs)

    @property
    def exit_code(self) -> int:
        """0 where every gate has a canary and went red for each, 1 otherwise; nothing planted is nothing proven."""
        whole = bool(self.proofs) and self.caught == len(self.proofs)
        return 0 if whole and not self.without and not self.lacking else 1

    @property
    def text(self) -> str:
        """What is missing, a line each, and the count in the last line."""
        lines = [f"NO CANARY {gate}: a gate that was never seen red may be one that cannot be" for gate in self.without]
        lines += [f"FEWER CANARIES {line}" for line in self.lacking]
        return "\n".join([*lines, f"canaries: {self.caught} of {len(self.proofs)} red"])

    def json(self) -> str:
        """Return everything as JSON, for machines."""
        rows = [
            {
                "gate": one.canary.gate,
                "defect": one.canary.defect,
                "expected": one.canary.expected,
                "reported": one.reported,
                "red": one.red,
                "seconds": round(one.seconds, 1),
            }
            for one in self.proofs
        ]
        content: dict[str, Any] = {"caught": self.caught, "planted": len(rows), "exit_code": self.exit_code}
        content |= {"gates_without_canary": list(self.without), "gone": list(self.lacking), "canaries": rows}
        return json.dumps(content, indent=2) + "\n"


class Suite:
    """The gates of a project, by name, and their canaries.

    Each canary gets a copy of `tree`; without one, an empty folder. In a tree, a gate that makes the expected report
    before the defect is planted is not red for it.
    """

    def __init__(self, gates: Mapping[str, Gate], *, tree: Path | None = None) -> None:
        self.gates = dict(gates)
        self.canaries: list[Canary] = []
        self._tree = tree

    def canary(
        self, gate: str, defect: str, *, rule: str = "", path: str = "", problem: str = ""
    ) -> Callable[[Plant], Plant]:
        """Register the function below as what plants a defect: its gate must report `rule` at `path`, or a `problem`.

        Raises ValueError for a gate that the suite does not have, and for a canary that expects nothing.
        """
        if gate not in self.gates:
            raise ValueError(f"there is no gate {gate!r}: the gates are {', '.join(sorted(self.gates))}")

        def register(plant: Plant) -> Plant:
            def run(folder: Path) -> Outcome:
                own = plant(folder)
                return self.gates[gate](folder) if own is None else own

            self.canaries.append(Canary(gate, defect, run, rule, path, problem))
            return plant

        return register

    def run(self, gates: Iterable[str] = (), *, parallel: int = 2, show: Callable[[str], None] = print) -> Result:
        """Prove the canaries (of `gates`, by default all), showing each as it ends."""
        chosen = set(gates) or set(self.gates)
        planted = [one for one in self.canaries if one.gate in chosen]
        without = sorted(chosen - {one.gate for one in planted})
        proved = {one.gate for one in planted} if self._tree else set()
        untouched = {name: report(self.gates[name], self._tree) for name in sorted(proved)}
        proofs = []
        for proof in prove_all(planted, self._tree, untouched, parallel=parallel):
            show(proof.text)
            proofs.append(proof)
        result = Result(proofs, without)
        show(result.text)
        return result

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line (by default the program's own), and return the exit status: 0 all red, 1 otherwise."""
        parser = argparse.ArgumentParser(description="Plant a defect for every gate, and see each gate going red.")
        parser.add_argument("gates", nargs="*", metavar="GATE", help=f"one of {', '.join(sorted(self.gates))}; all")
        parser.add_argument("--parallel", type=int, default=2, metavar="N", help="canaries at a time (2)")
        parser.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON")
        options = parser.parse_args(arguments)
        if unknown := sorted(set(options.gates) - self.gates.keys()):
            parser.error(f"there is no gate {', '.join(unknown)}: the gates are {', '.join(sorted(self.gates))}")
        result = self.run(options.gates, parallel=options.parallel)
        if options.report:
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(result.json(), encoding="utf-8")
        return result.exit_code
