"""The contracts in pyproject.toml hold what the package may import; nothing in it names a service either."""

import re
from pathlib import Path

import service_kit


def test_no_service_is_named() -> None:
    for file in Path(service_kit.__file__).parent.rglob("*.py"):
        assert not {"task_api", "task-api"} & set(re.split(r"[^\w-]", file.read_text())), file
