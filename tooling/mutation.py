"""Mutants of the core, each a defect of one operator or value, and how many of them no test fails for.

`python -m tooling.mutation recurrence hpa` judges these areas, without a name all. An area is red where more than
`MOST_SURVIVORS` of its mutants survive its tests. Cosmic Ray makes the mutants, and all survivors are in
reports/mutation/. Exit codes: 0 clean, 1 findings, 2 not assessed.
"""

import ast
import difflib
import functools
import importlib.metadata
import itertools
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.number_replacer import NumberReplacer

from gate_canaries.canaries import copy
from tooling.findings import NOT_ASSESSED, Finding, Gate, NotAssessed, Scan, Severity, run_stage
from tooling.fork_server import ForkServer, fork_server
from tooling.previous_version import sources
from tooling.project import ROOT, distributions

MOST_SURVIVORS = 0.05
"""The part of an area's mutants that may survive: some change nothing that can be observed."""

OPPOSITES = re.compile(
    r"""core/(
    ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)
    | ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_FloorDiv|Div_Mul|FloorDiv_Mul|Mod_Mul|LShift_RShift|BitAnd_Sub)
    | ReplaceUnaryOperator_(USub_UAdd|Delete_Not)
    | AddNot | ReplaceTrueWithFalse | ReplaceFalseWithTrue | ReplaceAndWithOr | ReplaceOrWithAnd
    | ReplaceBreakWithContinue | ReplaceContinueWithBreak | ZeroIterationForLoop | NumberReplacer
    )""",
    re.VERBOSE,
)
"""Cosmic Ray's operators that make a plausible mistake. The others make mutants that any test of the line fails for."""


@dataclass(frozen=True)
class Area:
    """A part of the core: its modules, and pytest's arguments for the tests that must fail for their mutants."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


def areas(root: Path) -> dict[str, Area]:
    """Read the areas by name, as each pyproject.toml of the repository has them: `[tool.mutation.NAME]`."""
    read = {}
    for folder in (root, *distributions(root)):
        document = tomllib.loads((folder / "pyproject.toml").read_text())
        for name, area in document.get("tool", {}).get("mutation", {}).items():
            modules, tests = (
                [os.path.relpath(folder / file, root) for file in area[kind]] for kind in ("modules", "tests")
            )
            chosen = ("-k", area["choose"]) if "choose" in area else ()
            read[name] = Area(tuple(modules), (*tests, *chosen))
    return read


AREAS = areas(ROOT)


@dataclass(frozen=True)
class Mutant:
    """One defect: the module, its line, the line before and after, and the whole module with the defect."""

    module: str
    line: int
    change: str
    code: str


def mutants(root: Path, module: str) -> list[Mutant]:
    """Return the mutants of a module in its order.

    Those that Python parses to the same, or not at all, are left out, and those of `declarations`. A number becomes one
    more, never one less.
    """
    source = (root / module).read_text()
    declared = list(declarations(ast.parse(source)))
    nodes = list(ast_nodes(get_ast(source)))
    seen = {ast.dump(ast.parse(source))}
    made = []
    for operator in (plugins.get_operator(name)() for name in plugins.operator_names() if OPPOSITES.fullmatch(name)):
        places = [
            (start, index) for node in nodes for index, (start, _) in enumerate(operator.mutation_positions(node))
        ]
        for occurrence, (start, index) in enumerate(places):
            if any(first <= start < last for first, last in declared) or (
                index and isinstance(operator, NumberReplacer)
            ):
                continue
            code = mutate_code(source, operator, occurrence)
            try:
                tree = ast.dump(ast.parse(code))
            except SyntaxError:
                continue
            if tree not in seen:
                seen.add(tree)
                made.append(_mutant(module, source, code))
    return sorted(made, key=lambda one: one.line)


def declarations(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where constants, decorators, options of classes, fields and default values begin and end.

    They are decisions, which tests could only repeat.
    """
    declared: list[ast.stmt | ast.expr | ast.keyword] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            declared += node.decorator_list
        if isinstance(node, ast.ClassDef):
            declared += node.keywords
        if isinstance(node, ast.Module | ast.ClassDef):
            declared += [one for one in node.body if isinstance(one, ast.Assign | ast.AnnAssign)]
        if isinstance(node, ast.arguments):
            declared += filter(None, [*node.defaults, *node.kw_defaults])
    for one in declared:
        yield (one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0)


def _mutant(module: str, source: str, code: str) -> Mutant:
    before, after = source.splitlines(), code.splitlines()
    changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, start, end, new_start, new_end = next(one for one in changes if one[0] != "equal")
    lines = ["\n".join(before[start:end]).strip(), "\n".join(after[new_start:new_end]).strip()]
    return Mutant(module, start + 1, " -> ".join(lines), code)


_moments = itertools.count(1)


@contextmanager
def replaced(file: Path, code: str) -> Iterator[None]:
    """Have other code in a file for a while."""
    before = file.read_text()
    _write(file, code)
    try:
        yield
    finally:
        _write(file, before)


def _write(file: Path, code: str) -> None:
    """Write code at a second of its own: Python recognizes old byte code by the second and the size of its source."""
    file.write_text(code)
    moment = next(_moments)
    os.utime(file, (moment, moment))


def survivors(area: Area, root: Path, made: Sequence[Mutant], workers: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant, and whether the area's tests pass on it.

    Raises `NotAssessed` where the tests fail without any defect, or do not run the code that has it.
    """
    with TemporaryDirectory(prefix="mutation-") as scratch, ExitStack() as stack:
        servers: SimpleQueue[ForkServer] = SimpleQueue()
        for number in range(workers):
            folder = Path(scratch) / str(number)
            copy(root, folder)
            path = os.pathsep.join([str(folder), sources(folder)])
            servers.put(first := stack.enter_context(fork_server(folder, area.tests, path)))
        for _ in range(2):  # the first run waits for the libraries, and compiles the code
            started = time.monotonic()
            if not first.passes(600):
                raise NotAssessed(f"the tests fail without any defect: run `pytest {' '.join(area.tests)}`")
            seconds = 60 + 5 * (time.monotonic() - started)
        for module in area.modules:
            with replaced(first.folder / module, "raise RuntimeError"):
                if first.passes(seconds):
                    raise NotAssessed(f"{' '.join(area.tests)} passes without {module}: name tests that import it")

        def judge(mutant: Mutant) -> tuple[Mutant, bool]:
            server = servers.get()
            try:
                with replaced(server.folder / mutant.module, mutant.code):
                    return mutant, server.passes(seconds)
            finally:
                servers.put(server)

        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(judge, made)


def assess(name: str, area: Area, root: Path = ROOT, workers: int = os.cpu_count() or 1) -> Scan:
    """Judge the mutants of an area: a note for each survivor, a finding where they are too many."""
    made = [mutant for module in area.modules for mutant in mutants(root, module)]
    alive = []
    for number, (mutant, survived) in enumerate(survivors(area, root, made, workers), 1):
        if survived:
            alive.append(mutant)
            print(f"{name}: survives: {mutant.module}:{mutant.line}: {mutant.change}", flush=True)
        if number % 25 == 0:
            print(f"{name}: {number} of {len(made)} mutants, {len(alive)} survive", flush=True)
    findings = [
        Finding(
            tool=name,
            rule="survivor",
            severity=Severity.LOW,
            message=mutant.change,
            path=mutant.module,
            line=mutant.line,
            subject=mutant.change,
            blocks=False,
        )
        for mutant in alive
    ]
    if len(alive) > MOST_SURVIVORS * len(made):
        message = (
            f"{len(alive)} of {len(made)} mutants survive, {MOST_SURVIVORS:.0%} may: write tests that fail for them"
        )
        findings.append(Finding(tool=name, rule="weak-tests", severity=Severity.HIGH, message=message, path=name))
    version = importlib.metadata.version("cosmic-ray")
    return Scan(tool=name, version=version, targets=(f"{len(made)} mutants",), findings=tuple(findings))


GATES: dict[str, Gate] = {name: functools.partial(assess, name, area) for name, area in AREAS.items()}


def main(names: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    if unknown := sorted(set(names) - AREAS.keys()):
        print(f"mutation: there is no area {', '.join(unknown)}: the areas are {', '.join(AREAS)}", file=sys.stderr)
        return NOT_ASSESSED
    return run_stage("mutation", {name: GATES[name] for name in names or AREAS}, parallel=1, whole=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
