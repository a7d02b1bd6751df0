"""The package imports no service, no tool, and no module above its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import service_kit

PACKAGE = Path(service_kit.__file__).parent
BELOW = {
    "config": set(),
    "telemetry": set(),
    "service": {"config", "telemetry"},
    "listener": set(),
    "cli": {"config", "listener", "telemetry"},
    "http": {"config", "telemetry", "service"},
}
WITHOUT_FLASK = {"config", "telemetry", "service", "cli"}
OTHERS = {"task_api", "tooling", "loadtests", "monitoring", "e2e", "sqlalchemy"}


def imports(file: Path, *, lazy: bool) -> Iterator[str]:
    """The modules that a file imports; with `lazy` also those inside functions."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", BELOW)
def test_a_module_imports_only_those_below_it(module: str) -> None:
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else list((PACKAGE / module).glob("*.py"))
    assert files
    for file in files:
        for name in imports(file, lazy=True):
            first, _, rest = name.partition(".")
            if first == "service_kit":
                assert rest.partition(".")[0] in BELOW[module] | {module}, f"{file} imports {name}"
            assert first != "flask" or module not in WITHOUT_FLASK, f"{file} imports {name}"


def test_no_service_and_no_tool_is_imported() -> None:
    for file in PACKAGE.rglob("*.py"):
        for name in imports(file, lazy=False):
            assert name.partition(".")[0] not in OTHERS, f"{file} imports {name}"


def test_no_service_is_named() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not {"task_api", "task-api"} & set(re.split(r"[^\w-]", file.read_text())), file
