"""SQL of a service's store: written out, never put together from what a request brings.

Ruff's S608 and Bandit's B608 know SQL by its words in one f-string. A statement of fragments has no such line, so the
rule is about where text becomes SQL: the argument is a literal, or made of constants of the module alone.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from tooling.findings import Finding, Scan, Severity

BECOMES_SQL = {
    "DDL",
    "TextClause",
    "exec_driver_sql",
    "executescript",
    "literal_column",
    "op",
    "prefix_with",
    "suffix_with",
    "text",
}
"""The functions of SQLAlchemy and the drivers that take SQL as text."""
EXECUTES = {"command", "execute", "executemany", "scalar", "scalars"}
"""The functions that take a statement, and some of them SQL as text; they may pass their own argument on."""


def constants(tree: ast.Module) -> set[str]:
    """Return the names that hold a constant: of the module, imported in capitals, or a loop's variable over some."""
    assigned = [
        (target.id, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    changed = {ast.unparse(node.target) for node in ast.walk(tree) if isinstance(node, ast.AugAssign)}
    imports = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    known = {name for name in imports if name.lstrip("_").isupper()}
    for _ in assigned:
        known |= {name for name, value in assigned if constant(value, known)} - changed
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For) and constant(node.iter, known)]
    return known | {node.target.id for node in loops if isinstance(node.target, ast.Name)} - changed


def constant(node: ast.expr, known: set[str]) -> bool:
    """Return whether an expression is made of literals, numbers and known constants alone."""
    match node:
        case ast.Constant() | ast.Call(func=ast.Name(id="int")):  # whatever that is made of, it is a number
            return True
        case ast.Name():
            return node.id in known
        case ast.Attribute():
            return node.attr.isupper()  # of another module
        case ast.Call(func=ast.Name(id="str" | "max" | "min"), args=parts):
            pass
        case ast.JoinedStr(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts):
            pass
        case ast.FormattedValue(value=part) | ast.Subscript(value=part):
            parts = [part]
        case ast.BinOp(left=left, right=right):
            parts = [left, right]
        case _:
            return False
    return all(constant(part, known) for part in parts)


def textual(node: ast.expr, assembled: set[str]) -> bool:
    """Return whether a text is put together: an f-string, `+`, `%`, `format`, `join`, `replace`, or such a variable."""
    if isinstance(node, ast.BinOp):
        return textual(node.left, assembled) or textual(node.right, assembled)
    if isinstance(node, ast.Name):
        return node.id in assembled
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"format", "join", "replace"}
    return isinstance(node, ast.JoinedStr)


def suspicious(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield each call that makes SQL of a text that is not constant."""
    known = constants(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    passed_on = {
        id(node)
        for function in functions
        if function.name in EXECUTES
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id in {one.arg for one in function.args.args}
    }
    assembled: set[str] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign | ast.AugAssign)
            and textual(node.value, set())
            and not constant(node.value, known)
        ):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assembled |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [one for one in node.args if not constant(one, known) and id(one) not in passed_on]
        if (name in BECOMES_SQL and texts) or (name in EXECUTES and any(textual(one, assembled) for one in texts)):
            yield node


def scan(root: Path, files: Sequence[str]) -> Scan:
    """Return a finding for each text that becomes SQL and is not constant."""
    findings = [
        Finding(
            tool="sql",
            rule="assembled-sql",
            severity=Severity.HIGH,
            message="SQL from a text that is not constant: bind values as parameters, take columns from the schema",
            path=path,
            line=call.lineno,
            subject=ast.unparse(call),
        )
        for path in files
        for call in suspicious(ast.parse((root / path).read_text(), path))
    ]
    return Scan(tool="sql", version="1", targets=tuple(files), findings=tuple(findings))
