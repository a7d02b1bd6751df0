"""The process that forks for each run of some tests, in a project of one module."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tooling.fork_server import ForkServer, fork_server
from tooling.mutation import replaced
from tooling.project import ROOT

PLENTY = 600
SETTINGS = "[pytest]\naddopts = -p no:anyio -p no:locust -p no:schemathesis -p no:xdist\n"  # slow to load
Start = Callable[..., ForkServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process for the files of a project, `test_rules.py` among them, with libraries beside the project."""
    folder, libraries = tmp_path / "project", tmp_path / "libraries"
    with ExitStack() as stack:

        def started(files: Mapping[str, str], **library: str) -> ForkServer:
            written = {folder / name: code for name, code in {"pytest.ini": SETTINGS, **files}.items()}
            written |= {libraries / f"{name}.py": code for name, code in library.items()}
            for path, code in written.items():
                path.parent.mkdir(exist_ok=True)
                path.write_text(code)
            places = os.pathsep.join(map(str, (folder, libraries, ROOT)))
            return stack.enter_context(fork_server(folder, ("test_rules.py",), places))

        yield started


def has_ended(process: int) -> bool:
    """Return whether a process ends; one that no parent waits for stays as a zombie."""
    for _ in range(1000):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


RULE = "def test_rule():\n    import rules\n    assert rules.LIMIT == 2\n"


def test_each_run_is_of_the_code_of_its_time(start: Start) -> None:
    server = start({"rules.py": "LIMIT = 2\n", "test_rules.py": RULE})
    verdicts = [server.passes(PLENTY)]
    for code in ("LIMIT = 3\n", "LIMIT = 2\n", "LIMIT = 4\n"):
        with replaced(server.folder / "rules.py", code):
            verdicts.append(server.passes(PLENTY))
    assert [*verdicts, server.passes(PLENTY)] == [True, False, True, False, True]


def test_code_that_cannot_be_imported_fails_and_the_next_run_is_not_touched_by_it(start: Start) -> None:
    server = start({"rules.py": "LIMIT = 2\n", "test_rules.py": "import rules\n\ndef test_nothing():\n    pass\n"})
    for code in ("raise SystemExit(0)", "raise RuntimeError", "import os\nos._exit(3)\n"):
        with replaced(server.folder / "rules.py", code):
            assert not server.passes(PLENTY)
    assert server.passes(PLENTY)


HANGS = """
import os, pathlib, subprocess, sys, time

def test_for_ever():
    sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
    children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
    started = pathlib.Path("started")
    started.with_suffix(".part").write_text(" ".join(str(one) for one in [os.getpid(), *(one.pid for one in children)]))
    started.with_suffix(".part").rename(started)
    time.sleep(3600)
"""


def test_a_run_that_does_not_end_fails_and_is_ended_with_all_that_it_started(start: Start) -> None:
    server = start({"test_rules.py": HANGS})
    seconds = 1
    while not (server.folder / "started").exists():
        assert not server.passes(seconds)
        seconds *= 2
    assert all(has_ended(int(one)) for one in (server.folder / "started").read_text().split())


LEAVES = """
import pathlib, subprocess, sys

def test_that_leaves_a_process():
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    pathlib.Path("left").write_text(str(left.pid))
    left.returncode = 0  # no warning about it
"""


def test_what_a_run_leaves_behind_ends_with_it(start: Start) -> None:
    server = start({"test_rules.py": LEAVES})
    assert server.passes(PLENTY)
    assert has_ended(int((server.folder / "left").read_text()))


def test_a_run_with_a_thread_that_does_not_end_does_not_pass(start: Start) -> None:
    thread = "import threading\n\ndef test_thread():\n    threading.Thread(target=threading.Event().wait).start()\n"
    assert not start({"test_rules.py": thread}).passes(5)


def test_a_library_is_imported_once_for_all_runs(start: Start) -> None:
    once = "import os, library\n\ndef test_library():\n    assert library.IMPORTED_BY == os.getppid()\n"
    server = start({"test_rules.py": once}, library="import os\n\nIMPORTED_BY = os.getpid()\n")
    assert server.passes(PLENTY)


THREAD = """
import queue, threading

_questions, _replies = queue.SimpleQueue(), queue.SimpleQueue()
threading.Thread(target=lambda: [_replies.put(_questions.get() + 1) for _ in range(9)], daemon=True).start()

def more(number):
    _questions.put(number)
    return _replies.get()
"""
FORK = """
import os

def fork():
    raise OSError

os.fork = fork

def more(number):
    return number + 1
"""
OWN = "import rules\n\ndef more(number):\n    return number + rules.STEP\n"
EXIT = """
import sys

if "test_rules" not in sys.modules:
    raise SystemExit(0)

def more(number):
    return number + 1
"""


@pytest.mark.parametrize("library", [THREAD, FORK, OWN, EXIT], ids=["thread", "fork", "own code", "exit"])
def test_a_library_that_a_fork_must_not_share_is_imported_by_each_run(start: Start, library: str) -> None:
    adds = "import more, library\n\ndef test_more():\n    assert more.more(1) == 2\n    assert library.KEPT\n"
    server = start({"rules.py": "STEP = 1\n", "test_rules.py": adds}, more=library, library="KEPT = True\n")
    assert [server.passes(PLENTY) for _ in range(2)] == [True, True]
    with replaced(server.folder / "rules.py", "STEP = 2\n"):
        assert server.passes(PLENTY) is (library != OWN)


def test_a_library_sees_the_environment_that_the_tests_make_before_they_import_it(start: Start) -> None:
    files = {
        "conftest.py": "import os\n\nos.environ['MADE_BY_CONFTEST'] = '1'\n",
        "test_rules.py": "import library\n\ndef test_library():\n    assert library.MADE == '1'\n",
    }
    assert start(files, library="import os\n\nMADE = os.environ.get('MADE_BY_CONFTEST')\n").passes(PLENTY)


def test_options_for_pytest_in_the_environment_are_not_for_these_tests(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    assert start({"test_rules.py": "def test_nothing():\n    pass\n"}).passes(PLENTY)


SERVER = """
import subprocess, sys

import psycopg

from tooling.postgres import postgres

def test_server_and_subprocess():
    with postgres() as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    code = "import sys; print(len(sys.stdin.read()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"0\\n"
"""


def test_tests_can_run_a_database_and_other_processes_and_have_no_input(start: Start) -> None:
    server = start({"test_rules.py": SERVER})
    assert [server.passes(PLENTY), server.passes(PLENTY)] == [True, True]


def test_a_process_that_has_ended_is_an_error_and_no_verdict(start: Start) -> None:
    server = start({"test_rules.py": "import os\n\ndef test_parent():\n    os.kill(os.getppid(), 9)\n"})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the fork server has ended with status -9"):
            server.passes(PLENTY)
