"""A process that has imported pytest and the libraries of some tests, and forks for each run of them.

A run costs what the tests cost: the libraries are there. The process imports nothing of the folder that it runs in, so
each run imports the code as it is by then. What a run has started ends with it.

`fork_server` starts the process, which executes this file and imports nothing else of this repository.
"""

import gc
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import cast
from unittest import mock

import psutil
import pytest

OPTIONS = (
    *("-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # plugins are imported before pytest can rewrite them
)
IMPORT_SECONDS = 60
FORK = os.fork


class ForkServer:
    """The process, as its parent sees it. Make it with `fork_server`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Talk to a process that executes this file in a folder."""
        self._process = process
        self.folder = folder

    def passes(self, seconds: float) -> bool:
        """Return whether the tests pass on the folder's code. Those that do not end in `seconds` fail.

        Raises `RuntimeError` where the process has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the process needs pipes")
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{seconds}\n".encode())
        status = self._process.stdout.readline()
        if not status:
            raise RuntimeError(f"the fork server has ended with status {self._process.wait()}")
        return int(status) == 0


@contextmanager
def fork_server(folder: Path, tests: Sequence[str], path: str) -> Iterator[ForkServer]:
    """Run a process for the tests (pytest's arguments) of a folder, whose code is found by `path` (a PYTHONPATH).

    Options for pytest in this process's environment are not for these tests.
    """
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    settings |= {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # else NumPy starts threads at its import
    with subprocess.Popen(
        [sys.executable, "-P", __file__, *tests],
        cwd=folder,
        env=settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    ) as process:
        try:
            yield ForkServer(process, folder)
        finally:
            end(process.pid)


def end(session: int) -> None:
    """Kill the process that began a session, the session, and what it has started in sessions of their own."""
    started = []
    with suppress(psutil.NoSuchProcess):
        started = [one := psutil.Process(session), *one.children(recursive=True)]
    for one in started:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def serve(tests: Sequence[str]) -> None:
    """Run the tests once for each line of standard input, the most seconds of that run; write pytest's exit status."""
    requests, results = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    preload(tests)
    gc.collect()
    gc.freeze()
    for seconds in requests:
        print(in_fork(float(seconds), pytest.main, [*OPTIONS, *tests]), file=results, flush=True)


def in_fork(seconds: float, function: Callable[..., int], *arguments: object) -> int:
    """Call a function in a fork of this process; return its result, or the negative signal that ended it.

    After `seconds` it is killed.
    """
    process = multiprocessing.get_context("fork").Process(target=_in_session, args=(function, *arguments))
    process.start()
    try:
        process.join(seconds)
    finally:
        end(cast("int", process.pid))  # it has started
    process.join()
    return process.exitcode if process.exitcode is not None else -signal.SIGKILL


def _in_session(function: Callable[..., int], *arguments: object) -> None:
    os.setsid()
    sys.exit(int(function(*arguments)))


def preload(tests: Sequence[str]) -> None:
    """Import what the tests import from outside this folder, with the environment that their conftest.py makes.

    What cannot be forked safely is left out, and imported by each run.
    """
    with NamedTemporaryFile("r") as file:
        in_fork(IMPORT_SECONDS, collect, tests, file.name)
        collected = json.loads(file.read() or '{"modules": [], "environment": {}}')
    packages: dict[str, list[str]] = {}
    for name in collected["modules"]:
        packages.setdefault(name.partition(".")[0], []).append(name)
    with mock.patch.dict(os.environ, collected["environment"]):
        import_forkable(list(packages.values()))


def collect(tests: Sequence[str], file: str) -> int:
    """Collect the tests; write the modules from outside this folder, and the environment variables that this sets."""
    before = dict(os.environ)
    status = pytest.main([*OPTIONS, "--collect-only", *tests])
    modules = [name for name, module in sys.modules.items() if is_file(name, module) and not of_folder(module)]
    environment = {name: value for name, value in os.environ.items() if before.get(name) != value}
    Path(file).write_text(json.dumps({"modules": modules, "environment": environment}))
    return int(status)


def is_file(name: str, module: ModuleType) -> bool:
    """Return whether a module has a file and is imported by its name."""
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.has_location and spec.name == name


def of_folder(module: ModuleType) -> bool:
    """Return whether a module is code of the working directory, which each run imports anew."""
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(Path.cwd())


def import_forkable(packages: Sequence[Sequence[str]]) -> None:
    """Import the modules of those packages after whose import this process can still be forked safely."""
    if in_fork(IMPORT_SECONDS, breaks_forks, packages) == 0:
        import_all(packages)
    elif len(packages) > 1:
        half = len(packages) // 2
        import_forkable(packages[:half])
        import_forkable(packages[half:])


def breaks_forks(packages: Sequence[Sequence[str]]) -> int:
    """Import the modules of packages; return 1 where that starts threads, replaces `os.fork` or imports the folder."""
    import_all(packages)
    alone = psutil.Process().num_threads() == 1 and os.fork is FORK
    return int(not alone or any(of_folder(module) for module in list(sys.modules.values())))


def import_all(packages: Sequence[Sequence[str]]) -> None:
    """Import the modules of packages, but for those that raise: not each can be imported first, or by itself."""
    for name in (name for names in packages for name in names):
        with suppress(BaseException):
            importlib.import_module(name)


if __name__ == "__main__":
    serve(sys.argv[1:])
