"""Only the service's own tests are measured: coverage makes every test slower by a half."""

from pathlib import Path

import pytest

MEASURED = Path(__file__).parent / "services" / "task_api" / "tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(MEASURED):
            item.add_marker("no_cover")
