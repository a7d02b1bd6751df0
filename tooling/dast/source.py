"""The names of headers and query parameters that a service's source mentions, whether they are documented or not."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER = re.compile(r"[A-Z][A-Za-z0-9]*(?:-[A-Z0-9][A-Za-z0-9]*)+")
"""A string that is written as headers are, wherever it stands."""
TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
WSGI = "HTTP_"
HEADERS, PARAMETERS, ENVIRONMENT = {"headers"}, {"args"}, {"environ", "environment"}


@dataclass
class Names:
    """What requests may hold that the source looks for."""

    headers: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)


def names(sources: Iterable[Path]) -> Names:
    """Return the names that the Python files in `sources`, files or folders, mention."""
    found = Names()
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            for node in ast.walk(ast.parse(file.read_text())):
                _collect(node, found)
    return found


def _collect(node: ast.AST, found: Names) -> None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and HEADER.fullmatch(node.value):
        found.headers.add(node.value)
    for mapping, key in _looked_up(node):
        if mapping in HEADERS:
            found.headers.add(key)
        elif mapping in PARAMETERS:
            found.parameters.add(key)
        elif mapping in ENVIRONMENT and key.startswith(WSGI):
            found.headers.add(key.removeprefix(WSGI).replace("_", "-").title())


def _looked_up(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (name of the mapping, key) where a node looks up a constant: by a call, an index or `in`."""
    match node:
        case (
            ast.Call(func=ast.Attribute(value=mapping), args=[ast.Constant(value=str(key)), *_])
            | ast.Subscript(value=mapping, slice=ast.Constant(value=str(key)))
            | ast.Compare(left=ast.Constant(value=str(key)), ops=[ast.In() | ast.NotIn()], comparators=[mapping])
        ) if TOKEN.fullmatch(key):
            yield getattr(mapping, "attr", getattr(mapping, "id", "")), key
