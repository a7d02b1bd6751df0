"""`task-api`: the service's command line. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings."""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import click
import msgspec

from service_kit import config
from task_api import __version__
from task_api.config import Settings

if TYPE_CHECKING:
    from task_api.store.database import Database


def _settings() -> Settings:
    try:
        return config.load(Settings)
    except config.ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"task-api: {problem}", err=True)
        sys.exit(2)


@contextmanager
def _database() -> Iterator["Database"]:
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from task_api.store.database import Database, SchemaBehind  # noqa: PLC0415

    settings = _settings()
    try:
        database = Database(settings)
    except OSError as error:
        _fail(f"DB_PATH: {error}")
    try:
        yield database
    except (SchemaBehind, SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or error
        _fail(reason if settings.postgresql else f"DB_PATH {settings.db_path}: {reason}")
    finally:
        database.engine.dispose()


def _fail(message: object) -> NoReturn:
    click.echo(f"task-api: {message}", err=True)
    sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="task-api")
def main() -> None:
    """A task service over HTTP. Settings come from the environment: see `task-api check-config`."""


@main.command()
def serve() -> None:
    """Serve until SIGTERM. SQLite is migrated first; PostgreSQL has `task-api migrate`."""
    settings = _settings()
    if settings.prometheus_multiproc_dir:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = settings.prometheus_multiproc_dir
    from service_kit.telemetry import logs  # noqa: PLC0415
    from task_api.store.database import SchemaBehind  # noqa: PLC0415 - after the settings are known to stand

    logs.configure(settings.log_level)
    if not settings.postgresql:
        with _database() as database:
            try:
                database.check()
            except SchemaBehind:
                from task_api.store.migrations import migrate  # noqa: PLC0415 - slow to load, and seldom needed

                before, after = migrate(database)
                logs.log.info("migrated", before=before, after=after)
    from service_kit.server import serve as run  # noqa: PLC0415
    from task_api.http.app import create_app  # noqa: PLC0415
    from task_api.http.context import Services  # noqa: PLC0415
    from task_api.store.database import Database  # noqa: PLC0415

    services = Services(settings, Database(settings))
    run(services, lambda: create_app(services))


@main.command()
@click.option("--wait", type=click.FloatRange(0, 600), default=0, help="Seconds to wait for the database server.")
def migrate(wait: float) -> None:
    """Bring the database to the newest schema."""
    from task_api.store.database import await_database  # noqa: PLC0415
    from task_api.store.migrations import migrate as run  # noqa: PLC0415

    with _database() as database:
        await_database(database, wait)
        before, after = run(database)
    click.echo(f"the schema was at {before or 'nothing'} and is at {after}")


@main.command("check-config")
def check_config() -> None:
    """Show every setting as it is now, secrets masked; exit 2 where one is wrong."""
    settings = _settings()
    rows = config.describe(settings)
    width = max(len(name) for name, _, _ in rows)
    for name, value, meaning in rows:
        click.echo(f"{name:<{width}}  {value or '(unset)':<28}  {meaning}")
    for note in settings.weaker:
        click.echo(f"note: {note}", err=True)


@main.command("create-admin")
@click.argument("email")
@click.password_option(envvar="ADMIN_PASSWORD", help="Asked for where it is not given; better by ADMIN_PASSWORD.")
def create_admin(email: str, password: str) -> None:
    """Make an account that sees the tasks of all."""
    from task_api.accounts.model import EmailTaken, Registration  # noqa: PLC0415
    from task_api.accounts.service import register  # noqa: PLC0415

    try:
        registration = msgspec.convert({"email": email, "password": password}, Registration)
        with _database() as database:
            database.check()
            account = register(database, registration, "admin")
    except (msgspec.ValidationError, EmailTaken) as error:
        _fail(error)
    else:
        click.echo(f"account {account.id}, {account.email}, is an administrator")


@main.command("export")
@click.argument("file", type=click.File("wb"), default="-")
def export_command(file: BinaryIO) -> None:
    """Write all accounts and tasks as JSON lines, to standard output by default."""
    from task_api.transfer import export  # noqa: PLC0415

    with _database() as database:
        file.writelines(export(database))


@main.command("import")
@click.argument("file", type=click.File("rb"), default="-")
def import_command(file: BinaryIO) -> None:
    """Read what `export` wrote; all of it, or nothing."""
    from task_api.transfer import TransferError, import_lines  # noqa: PLC0415

    def progress(lines: int) -> None:
        if lines % 10_000 == 0:
            click.echo(f"{lines} lines", err=True)

    try:
        with _database() as database:
            seen = import_lines(database, file, progress)
    except TransferError as error:
        _fail(error)
    else:
        click.echo(f"{seen.accounts} accounts and {seen.tasks} tasks are here", err=True)


@main.command()
@click.option("--ready", is_flag=True, help="Ask whether it is ready for requests, its database included.")
def healthcheck(ready: bool) -> None:
    """Ask the service on this machine whether it lives; exit 1 where it does not."""
    settings = _settings()
    probe = "readyz" if ready else "livez"
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{settings.port}/{probe}", timeout=3) as response:
            click.echo(response.read().decode())
    except urllib.error.HTTPError as refusal:
        with refusal:
            _fail(f"{refusal}: {refusal.read().decode()}")
    except OSError as error:
        _fail(error)
