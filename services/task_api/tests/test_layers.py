import ast
from pathlib import Path

import pytest

import task_api

PACKAGE = Path(task_api.__file__).parent
MAY_IMPORT = {
    "config": set(),
    "telemetry": set(),
    "store": {"config"},
    "tasks": {"store", "config"},
    "accounts": {"store", "config"},
    "http": {"tasks", "accounts", "store", "config", "telemetry"},
}
"""Each layer and the others that it may know; `server`, `cli` and `transfer` put them together and may know all."""
NEVER = {
    "tasks": {"flask", "werkzeug", "gunicorn"},
    "accounts": {"flask", "werkzeug", "gunicorn"},
    "store": {"flask", "werkzeug", "gunicorn"},
    "telemetry": {"flask", "werkzeug", "gunicorn"},
}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_knows_only_those_below_it(layer: str) -> None:
    files = [PACKAGE / f"{layer}.py"] if (PACKAGE / f"{layer}.py").exists() else list((PACKAGE / layer).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            first, _, rest = name.partition(".")
            second = rest.partition(".")[0]
            if first == "task_api" and second != "__version__":
                assert second in MAY_IMPORT[layer] | {layer}, f"{file} imports {name}"
            assert first not in NEVER.get(layer, set()), f"{file} imports {name}"
