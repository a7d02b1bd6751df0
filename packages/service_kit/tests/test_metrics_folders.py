"""Folders of metrics that nobody has named: each goes with its service, however that ends."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service_kit.telemetry import folders

PROGRAM = textwrap.dedent("""
    import os, sys, time
    from service_kit.telemetry import metrics
    if "prepare" in sys.argv:
        metrics.prepare_folder()
    worker = os.fork() if "fork" in sys.argv else None
    if worker != 0:
        print(os.environ["PROMETHEUS_MULTIPROC_DIR"], worker, flush=True)
    sys.stdin.read()
""")
"""What a service does with its folder, until its standard input ends."""

Start = Callable[..., tuple[subprocess.Popen[str], Path, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process, and return it with its folder and the id of its worker."""
    environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    started: list[subprocess.Popen[str]] = []

    def run(*words: str, **more: str) -> tuple[subprocess.Popen[str], Path, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"TMPDIR": str(tmp_path)} | more,
        )
        started.append(process)
        assert process.stdout
        folder, worker = process.stdout.readline().split()
        return process, Path(folder), worker

    yield run
    for process in started:
        process.kill()
        process.communicate()


def killed(start: Start) -> Path:
    """Return the folder of a process that was killed."""
    process, folder, _ = start("prepare")
    process.kill()
    process.wait()
    assert folder.is_dir()
    return folder


def test_a_service_that_starts_removes_what_killed_ones_left(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        killed(start)
    _, folder, _ = start("prepare")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_living_process_keeps_its_folder_before_it_serves_too(start: Start) -> None:
    living = [start("prepare")[1], start()[1]]
    start("prepare")
    assert all(folder.is_dir() for folder in living)


def test_workers_whose_parent_was_killed_keep_their_folder_until_they_end(start: Start) -> None:
    parent, folder, worker = start("prepare", "fork")
    parent.kill()
    parent.wait()
    start("prepare")
    assert folder.is_dir()
    os.kill(int(worker), signal.SIGKILL)
    assert parent.stdout
    parent.stdout.read()  # ends with the worker
    start("prepare")
    assert not folder.exists()


def test_a_service_that_another_program_starts_has_a_folder_of_its_own(start: Start) -> None:
    _, folder, _ = start()
    process, own, _ = start("prepare", PROMETHEUS_MULTIPROC_DIR=str(folder))
    assert own != folder
    process.communicate("")
    assert (process.returncode, folder.is_dir()) == (0, True)


def test_a_process_that_ends_by_itself_leaves_nothing(start: Start, tmp_path: Path) -> None:
    process, _, _ = start()
    process.communicate("")
    assert (process.returncode, list(tmp_path.iterdir())) == (0, [])


def test_neither_files_nor_links_nor_folders_of_other_users_are_removed(start: Start, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "service-metrics-held-file").touch()
    (tmp_path / "service-metrics-held-link").symlink_to(elsewhere)
    expected = {"elsewhere", "service-metrics-held-file", "service-metrics-held-link"}
    if os.geteuid() == 0:
        (tmp_path / "service-metrics-held-other").mkdir()
        os.chown(tmp_path / "service-metrics-held-other", 65534, 65534)
        expected.add("service-metrics-held-other")
    _, folder, _ = start("prepare")
    assert {one.name for one in tmp_path.iterdir()} == expected | {folder.name}


def test_the_folder_of_an_older_version_that_starts_stays(start: Start, tmp_path: Path) -> None:
    older = tmp_path / "service-metrics-ab_cd123"
    older.mkdir()
    start("prepare")
    assert older.is_dir()


def test_services_that_start_at_once_all_have_a_folder_and_nothing_else_is_left(start: Start, tmp_path: Path) -> None:
    killed(start)
    folders = [start("prepare")[1] for _ in range(4)]
    assert len(set(folders)) == 4
    assert set(tmp_path.iterdir()) == set(folders)


def test_a_folder_that_was_taken_while_it_was_made_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Path] = []

    def make(prefix: str) -> str:
        folder = tmp_path / f"{prefix}{len(made)}"
        folder.mkdir()
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
        elif len(made) == 2:
            locks.append(folders.hold(folder))
        return str(folder)

    locks: list[int | None] = []
    monkeypatch.setattr(tempfile, "mkdtemp", make)
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    assert folders.fresh() == str(made[2])
