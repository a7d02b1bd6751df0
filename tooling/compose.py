"""All services on one machine: the stack of compose.yaml started, stopped, backed up and restored.

With another project name (COMPOSE_PROJECT_NAME) and other ports (PROMETHEUS_PORT, …; 0 takes a free one) a second stack
runs beside the first.
"""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

from tooling import secret_files
from tooling.images import build
from tooling.project import ROOT, ToolingError, service, services
from tooling.tools import require

BACKUPS = ROOT / "backups"
SERVICE = service()
"""The service whose database is backed up and restored."""
USER, DATABASE = SERVICE.package, SERVICE.database
USERS = [one.name for one in services() if one.database == DATABASE]
"""The services that connect to it: a restore stops them, and starts them again."""

START_SECONDS = 300
LOGS = f"`docker compose logs migrate {SERVICE.name}`"
FILES = [ROOT / "compose.yaml", *(file for one in services() if (file := one.folder / "compose.yaml").exists())]
"""The stack, and what each further service lays on it."""

PAGES = {  # service: its port, and what a person finds there
    **{one.name: (5000, "the service; its documentation is /docs") for one in services()},
    "prometheus": (9090, "metrics and alerts"),
    "alertmanager": (9093, "alerts on their way; `docker compose logs alert-receiver` shows what arrived"),
    "grafana": (3000, "dashboards; user admin, password in .secrets/grafana.env"),
    "jaeger": (16686, "traces"),
}


class ComposeError(ToolingError):
    """A command of Docker Compose failed; the message has what to check."""


def up(*, grafana: bool = True, traces: bool = False) -> dict[str, str]:
    """Make the secrets, build the image, start everything, wait until all is healthy, and return each page's address.

    Docker shows the progress. Raises `ComposeError`, `tooling.images.build.ImageError` or `tooling.tools.MissingTool`.
    """
    secret_files.ensure()
    for one in services():
        build.build(one)
    make_mounts_readable()
    profiles = [f"--profile={name}" for name, wanted in (("grafana", grafana), ("traces", traces)) if wanted]
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://jaeger:4318"} if traces else {}
    wait = ["--detach", "--wait", f"--wait-timeout={START_SECONDS}", "--remove-orphans"]
    if _run(*profiles, "up", *wait, settings=settings):
        raise ComposeError(
            "not everything is running; Docker's output is above.\n"
            f"  a port is taken: choose another, e.g. `{USER.upper()}_PORT=5001 ./dev up`\n"
            "  Grafana's image cannot be had: `./dev up --no-grafana`\n"
            "  a container fails: `docker compose ps --all` and `docker compose logs NAME`"
        )
    served = addresses()
    show(served, left_out=[] if grafana else ["grafana"])
    return served


def make_mounts_readable() -> None:
    """Let the containers' users read the mounted files of this checkout: under umask 077 Git makes them 0600."""
    stack = json.loads(_output("--profile=*", "config", "--format=json") or "{}")
    mounts = [mount for service in stack.get("services", {}).values() for mount in service.get("volumes", [])]
    for source in {Path(mount["source"]) for mount in mounts if mount["type"] == "bind"}:
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def down(*, volumes: bool = False) -> None:
    """Stop and remove the containers, with `volumes` the data too. Raises `ComposeError`."""
    if _run("--profile=*", "down", "--remove-orphans", *["--volumes"] * volumes):
        raise ComposeError("docker could not stop it: see above")


def addresses() -> dict[str, str]:
    """Return the address of each page that is served now, by the name of its container's service."""
    served = {}
    for name, (port, _) in PAGES.items():
        published = _output("--profile=*", "port", name, str(port))
        if published:
            served[name] = f"http://{published}"
    return served


def show(served: dict[str, str], left_out: list[str]) -> None:
    """Print the addresses, and the pages that were left out on request."""
    table = Table("", "address", "what is there")
    for name, address in served.items():
        table.add_row(name, address, PAGES[name][1])
    for name in left_out:
        table.add_row(name, "not started (--no-grafana)", PAGES[name][1])
    Console(width=120).print(table)


def backup(file: Path | None = None) -> Path:
    """Write the database into `file`, by default backups/DATABASE-TIME.dump, while the service runs; return the file.

    The format is pg_dump's custom one. The file is complete or not there at all. Raises `ComposeError`.
    """
    file = file or BACKUPS / f"{DATABASE}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    with part.open("wb") as target:
        failed = _run(*_in_postgres("pg_dump"), "--format=custom", DATABASE, target=target)
    if failed or not _tables(part):
        part.unlink()
        raise ComposeError("no backup was written: see above; is it running (`./dev up`)?")
    part.replace(file)
    print(f"{file}: {file.stat().st_size} bytes, the data of {_tables(file)} tables")
    return file


def restore(file: Path) -> None:
    """Replace the present database by that of a backup, and start the service on it.

    The backup is read whole, into a database beside the present one, before anything is changed; the present one is
    kept as `<database>_replaced` until the next restore. Sessions that are open in it, such as a person's psql, are
    ended. A backup of an older schema is migrated. Raises `ComposeError`, whose message names the database that is in
    use now; the service is started in any case.
    """
    if not file.is_file() or not _tables(file):
        raise ComposeError(f"{file} is not a backup that `./dev backup` wrote, or PostgreSQL does not run (`./dev up`)")
    _sql(f"DROP DATABASE IF EXISTS {DATABASE}_restored WITH (FORCE)", f"CREATE DATABASE {DATABASE}_restored")
    with file.open("rb") as source:
        options = ["--exit-on-error", "--single-transaction", "--no-owner", f"--dbname={DATABASE}_restored"]
        if _run(*_in_postgres("pg_restore"), *options, source=source):
            raise ComposeError(f"{file} could not be restored: see above; the present database is untouched")
    _sql(f"DROP DATABASE IF EXISTS {DATABASE}_replaced WITH (FORCE)")
    try:
        if _run("stop", *USERS):
            raise ComposeError("the service could not be stopped: see above")
        _sql(
            "BEGIN",
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{DATABASE}'",
            f"ALTER DATABASE {DATABASE} RENAME TO {DATABASE}_replaced",
            f"ALTER DATABASE {DATABASE}_restored RENAME TO {DATABASE}",
            "COMMIT",
        )
    except ComposeError as error:
        runs = "runs on it again" if _start() else f"does not start on it: {LOGS}"
        raise ComposeError(f"{error}\nnot restored: the present database is untouched; the service {runs}") from error
    if not _start():
        raise ComposeError(
            f"restored, but the service does not start on it: {LOGS}; the previous database is {DATABASE}_replaced"
        )
    print(f"restored from {file}; the previous database is {DATABASE}_replaced")


def _start() -> bool:
    """Start what uses the database, the migration first, and return whether it is healthy."""
    return not _run("up", "--no-recreate", "--detach", "--wait", f"--wait-timeout={START_SECONDS}", *USERS)


def _in_postgres(program: str) -> list[str]:
    return ["exec", "--no-TTY", "postgres", program, f"--username={USER}"]


def _tables(file: Path) -> int:
    """Count the tables whose data a backup holds; 0 for what is no backup."""
    with file.open("rb") as source:
        listing = _output("exec", "--no-TTY", "postgres", "pg_restore", "--list", source=source)
    return listing.count(" TABLE DATA ")


def _sql(*statements: str) -> None:
    commands = [f"--command={statement}" for statement in ("SET client_min_messages = warning", *statements)]
    options = ["--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", "--dbname=postgres"]
    if _run(*_in_postgres("psql"), *options, *commands):
        raise ComposeError(f"PostgreSQL refused: {'; '.join(statements)}")


def _run(
    *arguments: str,
    settings: dict[str, str] | None = None,
    source: IO[bytes] | None = None,
    target: IO[bytes] | None = None,
) -> int:
    """Return Compose's exit code; its output is shown."""
    command = [str(require("docker")), "compose", *arguments]
    environment = {**_environment(), **(settings or {})}
    stdin = source or subprocess.DEVNULL
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=stdin, stdout=target, check=False).returncode


def _environment() -> dict[str, str]:
    return {**os.environ, "COMPOSE_FILE": os.pathsep.join(map(str, FILES))}


def _output(*arguments: str, source: IO[bytes] | None = None) -> str:
    """Return what Compose prints; nothing where it fails."""
    command = [str(require("docker")), "compose", *arguments]
    stdin = source or subprocess.DEVNULL
    done = subprocess.run(command, cwd=ROOT, env=_environment(), stdin=stdin, capture_output=True, check=False)
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()
