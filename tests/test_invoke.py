"""Invoke's tasks: what they end with."""

import subprocess
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

import tasks


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_load_test_ends_with_its_own_exit_status(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    ran: list[list[str]] = []

    def run(command: Any, **_: object) -> subprocess.CompletedProcess[str]:
        ran.append([str(part) for part in command])
        return subprocess.CompletedProcess(command, 0 if command[0] == "nox" else status, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(Exit) as ended:
        tasks.load(Context(), shape="step", headless=True)
    assert ended.value.code == status
    assert ran[-1][1:] == ["-m", "loadtests", "--shape=step", "--headless"]


def test_where_the_environment_cannot_be_made_the_reason_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Any, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(Exit, match="no network") as ended:
        tasks.load(Context(), headless=True)
    assert ended.value.code == 2
