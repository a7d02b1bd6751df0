"""Excuses and gates' settings, held against `baseline.toml`: a new one is a finding, whatever gate it silences."""

import ast
import hashlib
import itertools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from tooling import baseline
from tooling.baseline import Baseline, Counts
from tooling.findings import Finding, NotAssessed, Scan, Severity
from tooling.tools import call, committable

KINDS = {
    "noqa": r"#\s*(?:ruff:\s*|flake8:\s*)?noqa\b",
    "type: ignore": r"#\s*(?:type|pyright|mypy):\s*(?:ignore|disable)",
    "no cover": r"#\s*pragma:\s*no\s*(?:cover|branch)\b",
    "nosec": r"#\s*nosec\b",
    "unformatted": r"#\s*(?:fmt:\s*(?:off|skip)|yapf:\s*disable)",
    "shellcheck": r"#\s*shellcheck\s+disable",
    "zizmor": r"#\s*zizmor:\s*ignore",
    "eslint": r"eslint-(?:disable|env)\b",
    "hadolint": r"#\s*hadolint\s+ignore",
    "gitleaks": r"gitleaks:allow",
    "trivy": r"trivy:ignore",
    "skip": r"(?:\bpytest|\bmark|\bunittest|\bself)\.(?:skip|skipif|skipIf|skipUnless|skipTest|xfail|importorskip)\b",
    "deselected": r"\bmark\.(?:docker|index|load|prometheus)\b"
    r"|pytest_(?:ignore_collect|collection_modifyitems|deselected)|collect_ignore",
    "outcome": r"\bpytest_(?:runtest|report|pyfunc|exception|sessionfinish)\w*",
    "warnings": r"\b(?:filterwarnings|simplefilter)\(\s*[\"']ignore[\"']\s*\)",
    "few examples": r"\bmax_examples\s*=\s*\d\b|\bphases=[\[(](?![^\])]*generate)",
}
"""What a line can be excused with, by the field's name for it."""
LINE = re.compile("|".join(f"(?P<k{number}>{pattern})" for number, pattern in enumerate(KINDS.values())))
READ = {".py", ".pyi", ".js", ".cjs", ".mjs", ".yml", ".yaml", ".toml", ".sh", ".cfg", ".ini", ""}

GATES = (
    "tooling/check.py",
    "tooling/findings.py",
    "tooling/locks.py",
    "tooling/notify.py",
    "tooling/patterns.py",
    "tooling/sast.py",
    "tooling/sql.py",
    "tooling/dast/*.py",
    "tooling/images/*.py",
)
"""The gates' own code, whose settings are held as those in files are."""

TABLES = ("ruff", "mypy", "pytest", "coverage", "importlinter", "bandit", "uv")
"""The tables `tool.NAME` of a pyproject.toml that configure a gate."""
SETTINGS = {
    ".bandit",
    ".coveragerc",
    ".gitattributes",
    ".gitignore",
    ".gitleaks.toml",
    ".gitleaksignore",
    ".hadolint.yaml",
    ".hadolint.yml",
    ".importlinter",
    ".mypy.ini",
    ".npmrc",
    ".pytest.ini",
    ".ruff.toml",
    ".safety-policy.yml",
    ".shellcheckrc",
    ".spectral.yaml",
    ".trivyignore",
    ".trivyignore.yaml",
    "actionlint.yaml",
    "actionlint.yml",
    "bandit.yaml",
    "eslint.config.cjs",
    "gitleaks.toml",
    "mypy.ini",
    "openapi-rules.yaml",
    "pip.conf",
    "pytest.ini",
    "released-openapi.json",
    "ruff.toml",
    "schemathesis.toml",
    "setup.cfg",
    "sitecustomize.py",
    "tox.ini",
    "trivy.yaml",
    "usercustomize.py",
    "uv.toml",
    "zizmor.yaml",
    "zizmor.yml",
}
"""The files, wherever they lie, that configure a gate or what it looks at."""


def excuses_in(path: str, text: str) -> Iterator[tuple[str, int]]:
    """Yield each excuse of a file: its kind and its line."""
    names = list(KINDS)
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((names[int(str(match.lastgroup)[1:])], number) for match in LINE.finditer(line))
    if is_test(path):
        yield from (("no assertion", line) for line in unasserted(text, path))


def is_test(path: str) -> bool:
    """Return whether pytest collects the file."""
    return PurePath(path).match("test_*.py")


def unasserted(text: str, path: str) -> Iterator[int]:
    """Yield the line of each test that asserts nothing: neither itself nor by a function of its file.

    What pytest's `raises` and `warns`, an expectation (`expect…`, `assert…`, `check…`) or a mock's assertion does is an
    assertion; one of a constant is none.
    """
    functions = [
        node for node in ast.walk(ast.parse(text, path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    asserting = {function.name for function in functions if asserts(function, set())}
    while more := {one.name for one in functions if asserts(one, asserting)} - asserting:
        asserting |= more
    for function in functions:
        if function.name.startswith("test_") and not asserts(function, asserting):
            yield function.lineno


EXPECTS = re.compile(r"(?:assert|expect|check|verify|raises|warns|fail)(?:_|s?$|[A-Z])")


def asserts(function: ast.FunctionDef | ast.AsyncFunctionDef, helpers: set[str]) -> bool:
    """Return whether a function asserts something, or calls one of the `helpers` that do."""
    for node in effective(function):
        if isinstance(node, ast.Assert) and not holds_always(node.test):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in helpers or EXPECTS.match(name):
                return True
    return False


def holds_always(test: ast.expr) -> bool:
    """Return whether an assertion of this cannot depend on the code: it names nothing, or ends in `or True`."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(isinstance(one, ast.Constant) and one.value for one in test.values)
    return not any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(test))


def effective(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes within, without those whose assertions are caught and so fail nothing."""
    yield node
    caught = node.body if isinstance(node, ast.With | ast.Try) and catches(node) else []
    for child in ast.iter_child_nodes(node):
        if child not in caught:
            yield from effective(child)


def catches(node: ast.With | ast.Try) -> bool:
    """Return whether an AssertionError in the body ends there: by `suppress`, or by an `except` that does not raise."""
    if isinstance(node, ast.With):
        calls = [one.context_expr for one in node.items if isinstance(one.context_expr, ast.Call)]
        return any(ast.unparse(one.func).endswith("suppress") and names_assertion(*one.args) for one in calls)
    silent = [one for one in node.handlers if not any(isinstance(part, ast.Raise) for part in ast.walk(one))]
    return any(one.type is None or names_assertion(one.type) for one in silent)


def names_assertion(*errors: ast.expr) -> bool:
    """Return whether one of the errors includes an AssertionError."""
    named = {one.id for error in errors for one in ast.walk(error) if isinstance(one, ast.Name)}
    return bool(named & {"AssertionError", "Exception", "BaseException"})


def excused(root: Path, files: Iterable[str]) -> dict[str, list[tuple[str, int]]]:
    """Return the excuses of each file that has some."""
    by_file = {
        name: list(excuses_in(name, (root / name).read_text(errors="replace")))
        for name in files
        if PurePath(name).suffix in READ
    }
    return {name: excuses for name, excuses in by_file.items() if excuses}


def digest(value: Any) -> str:
    """Return what changes when a setting does, and not when its file is laid out anew."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def configuration(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Return the digest of each table and file that configures a gate."""
    digests = {name: digest((root / name).read_text()) for name in files if PurePath(name).name in SETTINGS}
    for place in (name for name in files if PurePath(name).name == "pyproject.toml"):  # Ruff reads the nearest
        tool = tomllib.loads((root / place).read_text()).get("tool", {})
        digests |= {f"{place} [tool.{name}]": digest(tool[name]) for name in TABLES if name in tool}
    for place in (name for name in files if any(PurePath(name).match(gate) for gate in GATES)):
        if settings := settings_in((root / place).read_text(), place):
            digests[f"{place} [settings]"] = digest(settings)
    return digests


def settings_in(text: str, path: str) -> list[str]:
    """Return the settings in a gate's code as they are written: constants, what blocks, and options of programs."""
    settings: list[ast.AST] = []
    for node in ast.walk(ast.parse(text, path)):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if name.isupper():
                settings.append(node)
            case ast.keyword(arg="blocks", value=value):
                settings.append(value)
            case ast.Constant(value=str(option)) if option.startswith("-"):
                settings.append(node)
    return [" ".join((ast.get_source_segment(text, node) or "").split()) for node in settings]


def measured(root: Path) -> Baseline:
    """Return the figures that a checkout shows by itself: its excuses and its gates' settings."""
    files = committable(root)
    counts: dict[str, Counts] = {
        name: dict(Counter(kind for kind, _ in excuses)) for name, excuses in excused(root, files).items()
    }
    return Baseline(excuses=counts, configuration=configuration(root, files))


def scan(root: Path, committed: Baseline) -> Scan:
    """Return a finding for each excuse and setting that the baseline lacks, and each figure lowered with no reason."""
    files = committable(root)
    findings = []
    for path, excuses in excused(root, files).items():
        allowed = committed.excuses.get(path, {})
        counts = Counter(kind for kind, _ in excuses)
        for kind, count in counts.items():
            if count > allowed.get(kind, 0):
                lines = [line for one, line in excuses if one == kind]
                message = (
                    f"{count} excuses of the kind `{kind}`, the baseline has {allowed.get(kind, 0)}: {baseline.RENEW}"
                )
                findings.append(finding("new-excuse", message, path, lines[-1], kind))
    for place in committed.changed(configuration(root, files)):
        message = f"{place} is not as in the baseline, and configures a gate: {baseline.RENEW}"
        findings.append(finding("changed-configuration", message, place.partition(" ")[0], None, place))
    findings += [finding("weaker-baseline", line, baseline.BASELINE.name, None, line) for line in unexplained(root)]
    return Scan(tool="excuses", version="1", targets=(f"all of {len(files)} files",), findings=tuple(findings))


def finding(rule: str, message: str, path: str, line: int | None, subject: str) -> Finding:
    """Return a finding of this gate."""
    return Finding(
        tool="excuses", rule=rule, severity=Severity.MEDIUM, message=message, path=path, line=line, subject=subject
    )


def unexplained(root: Path) -> Iterator[str]:
    """Yield each change of the baseline, committed or not, that weakens a figure and has no reason of its own."""
    name = baseline.BASELINE.name
    if not (root / name).exists():
        raise NotAssessed(f"there is no {name}: {baseline.RENEW}")
    commits = (
        call("git", "log", "--first-parent", "--format=%H", "--", name, cwd=root).split()
        if (root / ".git").exists()
        else []
    )
    versions = [("this checkout", (root / name).read_text())]
    versions += [(f"commit {one[:12]}", call("git", "show", f"{one}:{name}", cwd=root)) for one in commits]
    for (place, newer), (_, older) in itertools.pairwise(versions):
        before, after = baseline.parse(older), baseline.parse(newer)
        weaker = before.weakened(after)
        if weaker and (not after.because.strip() or after.because == before.because):
            yield f"{place} weakens the baseline without a reason ({'; '.join(weaker[:5])}): {baseline.RENEW}"
