"""Run a service for a stage that attacks, loads or measures it, and stop it afterwards."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tooling.project import Service, ToolingError, migrating
from tooling.project import service as default_service

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR")
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx' clients that speak no TLS: each would else read all certificates, which takes longer than its requests."""
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class ServiceError(ToolingError):
    """The service did not start, or did not end as it should; the message holds the end of its log."""


def free_port() -> int:
    """Return a TCP port that nothing listens on now, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program under test: `settings`, and none of the caller's variables that could be one.

    Otherwise the stage would attack the database of a DATABASE_URL that was left in a shell.
    """
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("COVERAGE_")}
    return {**kept, **settings}


@contextmanager
def listening(
    command: Sequence[str | Path], settings: Mapping[str, str], *, ready: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends, which begins once the URL `ready` responds with 200. Output goes to `log`.

    Raises `ServiceError` when it ends early, is not ready in time, or does not end after SIGTERM.
    """

    def fail(what: str) -> ServiceError:
        return ServiceError(
            f"{' '.join(map(str, command))} {what}. The end of its log:\n{log.read_text(errors='replace')[-4000:]}"
        )

    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment(settings), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(verify=NO_AUTHORITIES) as client:
            while not answers(ready, client.get):
                if process.poll() is not None:
                    raise fail(f"ended with status {process.returncode} before it was ready")
                if time.monotonic() > deadline:
                    raise fail(f"was not ready after {START_SECONDS:.0f} s ({ready} never answered 200)")
                time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise fail(f"still ran {STOP_SECONDS:.0f} s after SIGTERM") from error
        if status not in (0, -signal.SIGTERM):  # some servers drain and then end by the signal itself
            raise fail(f"ended with status {status} after SIGTERM")
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str, get: Callable[..., httpx.Response] = httpx.get) -> bool:
    """Return whether `url` responds with 200 now. For frequent calls pass a client's `get`: a new client is slow."""
    try:
        return get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def command_line(*arguments: str, service: Service | None = None) -> list[str]:
    """Return a service's command line in this interpreter's environment; by default the default service's."""
    return [sys.executable, "-m", (service or default_service()).package, *arguments]


@contextmanager
def running(
    env: Mapping[str, str],
    *,
    workers: int = 2,
    log: Path | None = None,
    service: Service | None = None,
    program: Sequence[str] = (),
) -> Iterator[str]:
    """Serve a service on a free loopback port until the block ends; yield its base URL, without a slash at the end.

    `env` holds its settings. Without DB_PATH or DATABASE_URL it has a new SQLite database; a PostgreSQL database is
    migrated first. Its log goes to `log`. `program` replaces the service's command.
    Raises `ServiceError` as `listening` does.
    """
    service = service or default_service()
    program = program or command_line(service=service)
    with tempfile.TemporaryDirectory(prefix=f"{service.name}-") as folder:
        port = free_port()
        settings = {
            "DB_PATH": f"{folder}/tasks.db",
            "WORKERS": str(workers),
            **env,
            "HOST": "127.0.0.1",
            "PORT": str(port),
        }
        if "DATABASE_URL" in settings:
            del settings["DB_PATH"]
            owner = migrating(service)
            migrate = [*(program if owner == service else command_line(service=owner)), "migrate"]
            migrated = subprocess.run(migrate, env=environment(settings), capture_output=True, text=True, check=False)
            if migrated.returncode:
                raise ServiceError(
                    f"{owner.name} migrate ended with status {migrated.returncode}:\n{migrated.stderr[-4000:]}"
                )
        url = f"http://127.0.0.1:{port}"
        with listening([*program, "serve"], settings, ready=f"{url}/readyz", log=log or Path(folder, "log")):
            yield url
