"""`./dev` makes its environment on machines of every kind, or reports in one line why it cannot."""

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tooling.project import ROOT


class Pip:
    """Records pip's calls in place of running it; fails with `errors` when there are any."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.settings: dict[str, str] = {}
        self.errors = ""

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.settings = options["env"]
        return subprocess.CompletedProcess(command, bool(self.errors), stderr=self.errors)


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = spec_from_loader("dev", loader)
    assert spec
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    (tmp_path / "dev.txt").write_text("a==1")
    replaced: dict[str, Path] = {"ROOT": tmp_path, "ENVIRONMENT": tmp_path / ".venv"}
    replaced |= {"LOCK": tmp_path / "dev.txt", "STAMP": tmp_path / ".venv" / "installed.sha256"}
    for name, path in replaced.items():
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(module.venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))
    return module


@pytest.fixture
def pip(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(dev.subprocess, "run", pip)
    return pip


def test_an_environment_is_made_once(dev: ModuleType, pip: Pip) -> None:
    dev.prepare()
    assert pip.commands[0][-3:] == ["--require-hashes", "-r", str(dev.LOCK)]
    made = len(pip.commands)
    dev.prepare()
    assert len(pip.commands) == made


def test_a_changed_lock_renews_the_environment_and_keeps_those_of_the_sessions(
    dev: ModuleType, pip: Pip, tmp_path: Path
) -> None:
    dev.prepare()
    (tmp_path / ".nox").mkdir()
    made = len(pip.commands)
    dev.LOCK.write_text("a==2")
    dev.prepare()
    assert len(pip.commands) == 2 * made
    assert (tmp_path / ".nox").exists()


@pytest.mark.parametrize("change", ["moved checkout", "upgraded Python"])
def test_programs_that_name_a_lost_path_are_made_anew(
    change: str, dev: ModuleType, pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.prepare()
    (tmp_path / ".nox").mkdir()
    made = len(pip.commands)
    if change == "moved checkout":
        monkeypatch.setattr(dev, "ROOT", dev.ROOT.parent)
        (tmp_path / ".nox").rename(tmp_path.parent / ".nox")
    else:
        monkeypatch.setattr(sys, "version", "3.12.0")
    dev.prepare()
    assert len(pip.commands) == 2 * made
    assert not (dev.ROOT / ".nox").exists()


def test_settings_of_pip_do_not_lead_packages_elsewhere(
    dev: ModuleType, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PIP_USER": "1", "PIP_TARGET": "/elsewhere", "PIP_RETRIES": "1"}.items():
        monkeypatch.setenv(name, value)
    dev.prepare()
    assert "--no-user" in pip.commands[0]
    assert not pip.settings.keys() & {"PIP_USER", "PIP_TARGET"}
    assert pip.settings["PIP_RETRIES"] == "1"


def test_a_failure_of_pip_is_one_line_with_a_remedy(dev: ModuleType, pip: Pip) -> None:
    pip.errors = "WARNING: Retrying\nERROR: Could not find a version of a\nERROR: No matching distribution for a\n"
    with pytest.raises(SystemExit) as ended:
        dev.prepare()
    message = str(ended.value)
    assert message.startswith("dev: pip cannot install the tools: Could not find a version of a. Check the network")
    assert "\n" not in message
    assert not dev.STAMP.exists()


def test_a_checkout_that_cannot_be_written_is_one_line(
    dev: ModuleType, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(dev.venv, "create", refuse)
    with pytest.raises(SystemExit, match=r"dev: cannot make .*: Permission denied\. The checkout must be writable\.$"):
        dev.prepare()
    assert not pip.commands


@pytest.mark.usefixtures("pip")
def test_a_home_that_cannot_be_written_is_not_used(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "GOPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dev.os, "execv", lambda *_: None)
    (tmp_path / "noxfile.py").touch()
    dev.main(["serve"])
    assert dev.os.environ.pop("XDG_CACHE_HOME") == str(tmp_path / ".cache")
    assert dev.os.environ.pop("GOPATH") == str(tmp_path / ".cache" / "go")
