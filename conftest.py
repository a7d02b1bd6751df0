"""For all tests of the repository."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# each process of the test run counts for itself; prometheus-client reads this at its import
METRICS = tempfile.mkdtemp(prefix="test-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS

with suppress(ModuleNotFoundError):  # some sessions have no property-based tests
    import hypothesis

    hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
    hypothesis.settings.load_profile("untimed")


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as a terminal leaves them: a run in the background, or under nohup, starts children that ignore them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_in_new_project(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in an empty project with an environment of its own, without this repository.

    The project is the folder `tmp_path / "project"`; `python` and `pip` are its environment's.
    """
    project, environment = tmp_path / "project", tmp_path / "environment"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", *(name for name in os.environ if name.startswith("COVERAGE_"))}
    settings = {name: value for name, value in os.environ.items() if name not in hidden}
    settings |= {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=project, env=settings, capture_output=True, text=True, check=False)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse two test files that import as one module: pytest would run one of them twice and the other never."""
    for item in items:
        if isinstance(item, pytest.Function) and item.module.__file__ != str(item.path):
            raise pytest.UsageError(f"{item.path} is hidden by {item.module.__file__}: rename it")


def pytest_collection_finish() -> None:
    """Let Python's garbage collector pass over what has been imported: it stays."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_unconfigure() -> None:
    """Remove what this process counted."""
    shutil.rmtree(METRICS, ignore_errors=True)
