"""The regular expressions of Python files, each shown to take linear time on any input.

Python's `re` backtracks: `^a*a*$` takes quadratic time and `^(a*)*$` exponential time to refuse a text. recheck
(https://makenowjust-labs.github.io/recheck/) decides that from the pattern alone. It reads JavaScript's syntax.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tooling import tools
from tooling.findings import Finding, NotAssessed, Scan, Severity

TAKES_PATTERN = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}
FLAGS = {"I": "i", "IGNORECASE": "i", "M": "m", "MULTILINE": "m", "S": "s", "DOTALL": "s", "A": "", "ASCII": ""}
PACKAGES = tools.HOME / "node" / "node_modules"
CHECKER = Path(__file__).with_name("recheck.cjs")


@dataclass(frozen=True)
class Pattern:
    """A regular expression in JavaScript's syntax, and the line where Python has it."""

    path: str
    line: int
    source: str
    flags: str = ""


def patterns(root: Path, path: str) -> list[Pattern]:
    """Return each pattern of a file: arguments of `re`'s functions, and values that are named `pattern`.

    A value that is the source of a compiled pattern, `NAME.pattern`, is analysed where it is compiled.

    Raises NotAssessed for one that is not written out, or has a flag that JavaScript lacks.
    """
    tree = ast.parse((root / path).read_text(), path)
    return list(_patterns(tree, path))


def _patterns(tree: ast.Module, path: str) -> Iterator[Pattern]:
    methods = _methods(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("re"), attr=function), args=[pattern, *more]) if (
                function in TAKES_PATTERN
            ):
                flags = [*more, *(keyword.value for keyword in node.keywords if keyword.arg == "flags")]
                anchored = _anchored(_text(pattern, path), methods.get(node, {function}))
                yield Pattern(path, node.lineno, anchored, _flags(flags, path))
            case ast.keyword(arg="pattern", value=ast.Attribute(attr="pattern")):
                pass
            case ast.keyword(arg="pattern", value=pattern):
                yield Pattern(path, pattern.lineno, _translated(_text(pattern, path)))
            case ast.Dict():
                for key, pattern in zip(node.keys, node.values, strict=True):
                    compiled = isinstance(pattern, ast.Attribute) and pattern.attr == "pattern"
                    if isinstance(key, ast.Constant) and key.value == "pattern" and not compiled:
                        yield Pattern(path, pattern.lineno, _translated(_text(pattern, path)))


def _methods(tree: ast.Module) -> dict[ast.expr, set[str]]:
    """Return by which methods each compiled pattern of the file's constants is applied in that file."""
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    applied: dict[ast.expr, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in constants:
            applied.setdefault(constants[node.value.id], set()).add(node.attr)
    return applied


def _text(pattern: ast.expr, path: str) -> str:
    match pattern:
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=bytes(text)):
            return text.decode("latin-1")
    raise NotAssessed(f"{path}:{pattern.lineno} has a pattern that is not written out: write it as one literal")


def _flags(nodes: Sequence[ast.expr], path: str) -> str:
    names = [
        node.attr
        for argument in nodes
        for node in ast.walk(argument)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re"
    ]
    if unknown := [name for name in names if name not in FLAGS]:
        raise NotAssessed(f"{path}:{nodes[0].lineno} has the flag re.{unknown[0]}, which JavaScript lacks")
    return "".join(sorted({FLAGS[name] for name in names}))


def _anchored(text: str, methods: set[str]) -> str:
    source = _translated(text)
    if methods <= {"match", "fullmatch"}:
        source = f"^(?:{source})"
    return f"{source}$" if methods == {"fullmatch"} else source


def _translated(text: str) -> str:
    for python, javascript in (
        (r"\(\?P<", "(?<"),
        (r"\(\?P=(\w+)\)", r"\\k<\1>"),
        (r"\\A", "^"),
        (r"\\Z|\$\(\?!\\n\)", "$"),
    ):
        text = re.sub(python, javascript, text)
    return text


def linear(root: Path, files: Sequence[str]) -> Scan:
    """Check each pattern of the files; one that can take more than linear time fails the stage."""
    sources = [pattern for file in files for pattern in patterns(root, file)]
    question = json.dumps([{"source": pattern.source, "flags": pattern.flags} for pattern in sources])
    response = tools.report("node", CHECKER, question, NODE_PATH=str(PACKAGES))
    findings = []
    for pattern, verdict in zip(sources, response["verdicts"], strict=True):
        if verdict["status"] == "unknown":
            raise NotAssessed(f"recheck cannot judge {pattern.path}:{pattern.line}: {verdict['error']['kind']}")
        if verdict["status"] == "vulnerable":
            complexity = verdict["complexity"]
            attack = verdict["attack"]["pattern"]
            findings.append(
                Finding(
                    tool="recheck",
                    rule=complexity["type"],
                    severity=Severity.HIGH,
                    message=f"the pattern takes {complexity['summary']} time on {attack}",
                    path=pattern.path,
                    line=pattern.line,
                    subject=pattern.source,
                    help="https://makenowjust-labs.github.io/recheck/docs/intro/redos/",
                )
            )
    targets = tuple(f"{pattern.path}:{pattern.line}" for pattern in sources)
    return Scan(tool="recheck", version=response["version"], targets=targets, findings=tuple(findings))
