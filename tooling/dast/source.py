"""What a service's source mentions, documented or not: headers, query parameters, paths, environment variables."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER = re.compile(r"[A-Z][A-Za-z0-9]*(?:-[A-Z0-9][A-Za-z0-9]*)+")
"""A string that is written as headers are, wherever it stands."""
TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
WSGI = "HTTP_"
PATH = re.compile(r"(?:/[A-Za-z][A-Za-z0-9_.-]*)+")
"""A string that is written as a URL's path is."""

HEADERS, PARAMETERS, ENVIRONMENT = {"headers"}, {"args"}, {"environ", "environment"}
PROCESS = {"os.environ", "os"}
"""Of the first is `get`, of the second `getenv`; WSGI calls a mapping of its own `environ` too."""


@dataclass
class Names:
    """What requests may hold that the source looks for."""

    headers: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    """Of the environment."""


def names(sources: Iterable[Path]) -> Names:
    """Return the names that the Python files in `sources`, files or folders, mention."""
    collected = Names()
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            for node in ast.walk(ast.parse(file.read_text())):
                _collect(node, collected)
    return collected


def _collect(node: ast.AST, collected: Names) -> None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if HEADER.fullmatch(node.value):
            collected.headers.add(node.value)
        elif PATH.fullmatch(node.value):
            collected.paths.add(node.value)
    for mapping, key in _looked_up(node):
        if mapping in HEADERS:
            collected.headers.add(key)
        elif mapping in PARAMETERS:
            collected.parameters.add(key)
        elif mapping in ENVIRONMENT and key.startswith(WSGI):
            collected.headers.add(key.removeprefix(WSGI).replace("_", "-").title())
        elif mapping in PROCESS and key.isupper():
            collected.variables.add(key)


def _looked_up(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (name of the mapping, key) where a node looks up a constant: by a call, an index or `in`."""
    match node:
        case (
            ast.Call(func=ast.Attribute(value=mapping), args=[ast.Constant(value=str(key)), *_])
            | ast.Subscript(value=mapping, slice=ast.Constant(value=str(key)))
            | ast.Compare(left=ast.Constant(value=str(key)), ops=[ast.In() | ast.NotIn()], comparators=[mapping])
        ) if TOKEN.fullmatch(key):
            name = ast.unparse(mapping)
            yield name if name in PROCESS else name.rpartition(".")[2], key
