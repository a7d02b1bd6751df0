"""The programs that the pipeline calls: found or got in one way, each version pinned in one place.

`python -m tooling.tools` makes every locked environment that tools.toml names, installs the Go programs and lists all;
`python -m tooling.tools scanners` sees to that environment alone (and does nothing where it is up to date).
"""

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tooling.findings import NotAssessed
from tooling.project import CACHE, ROOT

HOME = CACHE / "tools"


class MissingTool(NotAssessed):
    """A program is not there; the message says how to get it."""


@dataclass(frozen=True)
class Tool:
    """One entry of tools.toml; see the comments there."""

    name: str
    environment: str | None = None
    program: str | None = None
    go: str | None = None
    version: str | None = None
    least: str | None = None
    below: str | None = None
    arguments: tuple[str, ...] = ("--version",)
    get: str = "run `./dev tools`"

    def path(self) -> Path | None:
        """Find it where `./dev tools` puts it, in this environment or on PATH; of a Go program the pinned version."""
        if self.environment:
            for program in (HOME / self.environment).glob(self.program or f"bin/{self.name}"):
                return program
        if self.go:
            pinned = HOME / f"{self.name}-{self.version}" / self.name
            return pinned if pinned.exists() else None
        places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        found = shutil.which(self.name, path=places) or shutil.which(self.program or self.name, path=places)
        return Path(found) if found else None


@functools.cache
def known() -> dict[str, Tool]:
    """Read tools.toml."""
    entries = tomllib.loads((Path(__file__).parent / "tools.toml").read_text())
    return {name: Tool(name, **{**entry, "arguments": tuple(entry["arguments"])}) for name, entry in entries.items()}


def require(name: str) -> Path:
    """Give the program's path, or raise `MissingTool` with a message that says how to get it, or another version."""
    path, tool = find(name), known()[name]
    if tool.least and numbers(version(name)) < numbers(tool.least):
        raise MissingTool(f"{name} is {version(name)}, older than {tool.least}: {tool.get}")
    if tool.below and numbers(version(name)) >= numbers(tool.below):
        raise MissingTool(f"{name} is {version(name)}, which is not below {tool.below}: {tool.get}")
    return path


def find(name: str) -> Path:
    """Give the program's path, however old it is; else as `require`."""
    tool = known()[name]
    path = tool.path()
    if path is None:
        raise MissingTool(f"{name} is missing: {tool.get}")
    return path


def numbers(version: str) -> list[int]:
    """Give what versions are compared by: 2.53.3 is [2, 53, 3]."""
    return [int(number) for number in re.findall(r"\d+", version)]


@functools.cache
def version(name: str) -> str:
    """Ask the program for its version, e.g. `0.59.1`. Raises `MissingTool`."""
    command = [str(find(name)), *known()[name].arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    number = re.search(r"\d+\.\d+(\.\d+)*", said.stdout + said.stderr)
    return number.group() if number else "unknown"


def run(
    name: str, *arguments: str | Path, expect: Collection[int] = (0,), cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raise `NotAssessed` for an exit code that is not expected, with its last words."""
    command = [str(require(name)), *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "GOGC": "400", **env}  # Go's scanners live too briefly to tidy up
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode not in expect:
        raise NotAssessed(f"{name} ended with code {done.returncode}: {last_words(done)}")
    return done


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Give the end of what a program said, errors first; of a traceback, the error alone."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return "; ".join(lines[-1 if any(line.startswith("Traceback") for line in lines) else -3 :])


def call(name: str, *arguments: str | Path, expect: Collection[int] = (0,), cwd: Path = ROOT, **env: str) -> str:
    """Run a program and give its standard output; raise as `run` does."""
    return run(name, *arguments, expect=expect, cwd=cwd, **env).stdout


def report(name: str, *arguments: str | Path, expect: Collection[int] = (0,), cwd: Path = ROOT, **env: str) -> Any:
    """Run a program and decode the JSON that it writes; raise as `run` does, and where there is none."""
    done = run(name, *arguments, expect=expect, cwd=cwd, **env)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise NotAssessed(f"{name} wrote no report: {last_words(done) or error}") from error


def make_environment(name: str) -> None:
    """Make the locked environment requirements/NAME.txt in .cache/tools, or renew it when the lock has changed."""
    lock = ROOT / "requirements" / f"{name}.txt"
    folder, stamp = HOME / name, HOME / f"{name}.sha256"
    locks = b"".join(file.read_bytes() for file in (lock, npm_lock(name)) if file.exists())
    wanted = hashlib.sha256(locks + sys.version.encode()).hexdigest()
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if folder.exists() and stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"making {folder.relative_to(ROOT)} from {lock.relative_to(ROOT)}", flush=True)
        stamp.unlink(missing_ok=True)
        uv = shutil.which("uv")
        if uv is None:
            raise MissingTool("uv is missing: run this through `./dev`")
        quiet = {**os.environ, "UV_LINK_MODE": "copy", "UV_NO_PROGRESS": "1"}
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True, env=quiet)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True, env=quiet)
        install_npm_packages(name, folder)
        stamp.write_text(wanted)


def npm_lock(name: str) -> Path:
    """Return where an environment's npm packages are locked; most environments have none."""
    return ROOT / "requirements" / name / "package-lock.json"


def install_npm_packages(name: str, folder: Path) -> None:
    """Install the environment's locked npm packages, if it has any, without running their scripts."""
    if not (lock := npm_lock(name)).exists():
        return
    for file in (lock, lock.with_name("package.json")):
        shutil.copy(file, folder)
    path = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")])
    quiet = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run([folder / "bin" / "npm", "ci", *quiet], check=True, cwd=folder, env={**os.environ, "PATH": path})


def install_go_program(tool: Tool) -> None:
    """Build a pinned Go program into .cache/tools unless it is there. Without Go it stays missing; the list says so."""
    if tool.path() or not (go := shutil.which("go")):
        return
    print(f"building {tool.go}@v{tool.version}", flush=True)
    environment = {**os.environ, "GOBIN": str(HOME / f"{tool.name}-{tool.version}"), "GOFLAGS": "-trimpath"}
    subprocess.run([go, "install", f"{tool.go}@v{tool.version}"], check=True, env=environment)


def main(names: list[str]) -> int:
    """Get what can be got and list every program; exit 2 when an installation failed."""
    tools = known().values()
    environments = names or sorted({tool.environment for tool in tools if tool.environment})
    try:
        for name in environments:
            make_environment(name)
        for tool in tools:
            if tool.go:
                install_go_program(tool)
    except (subprocess.CalledProcessError, MissingTool, FileNotFoundError) as error:
        print(f"tools: {error}", file=sys.stderr)
        return 2
    if not names:
        table = Table("program", "version", "where, or how to get it")
        for tool in tools:
            if path := tool.path():
                table.add_row(tool.name, version(tool.name), str(path).removeprefix(f"{ROOT}/"))
            else:
                table.add_row(tool.name, "", f"MISSING: {tool.get}")
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
