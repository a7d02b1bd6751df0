"""`task-api`: the service's command line. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from service_kit.cli import CommandLine
from task_api import __version__
from task_api.config import Settings

if TYPE_CHECKING:
    from flask import Flask

    from task_core.database import Database


@contextmanager
def _database() -> Iterator["Database"]:
    """Yield the database, with limits for a command. Ends the program with one line where the database fails."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from task_core.database import Database, SchemaBehind, TableInUse, Unusable  # noqa: PLC0415
    from task_core.postgresql import COMMAND  # noqa: PLC0415

    settings = main.settings()
    try:
        database = Database(settings, COMMAND)
    except OSError as error:
        main.fail(f"DB_PATH: {error}")
    try:
        yield database
    except (SchemaBehind, TableInUse, Unusable) as error:
        main.fail(error)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        main.fail(reason if settings.postgresql else f"DB_PATH {settings.db_path}: {reason}")
    finally:
        database.engine.dispose()


def _serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM. SQLite is migrated first; PostgreSQL has `task-api migrate`."""
    from service_kit.server import serve  # noqa: PLC0415
    from task_api.http.app import create_app  # noqa: PLC0415
    from task_api.http.context import Services  # noqa: PLC0415
    from task_core.database import Database  # noqa: PLC0415

    if not settings.postgresql:
        _prepare_sqlite()
    database = Database(settings)
    _report(database)
    services = Services(settings, database)
    serve(services, lambda: create_app(services), listener)


def _prepare_sqlite() -> None:
    from service_kit.telemetry.logs import log  # noqa: PLC0415
    from task_core.database import SchemaBehind  # noqa: PLC0415

    with _database() as database:
        try:
            database.check()
        except SchemaBehind:
            from task_api.store.migrations import migrate  # noqa: PLC0415 - slow to load, and seldom needed

            before, after = migrate(database)
            log.info("migrated", before=before, after=after)


def _report(database: "Database") -> None:
    """Log what requests will meet. The service starts all the same: a database may come later than its service."""
    from service_kit.telemetry.logs import log  # noqa: PLC0415
    from task_core.database import UNAVAILABLE, SchemaBehind  # noqa: PLC0415

    try:
        database.check()
        for note in database.notes:
            log.warning(note)
    except (*UNAVAILABLE, SchemaBehind) as error:
        log.warning("not ready", reason=str(getattr(error, "orig", None) or error))
    database.engine.dispose()  # each worker makes connections of its own


def _application(settings: Settings) -> "Flask":
    from task_api.http.app import create_app  # noqa: PLC0415
    from task_api.http.context import Services  # noqa: PLC0415
    from task_core.database import Database  # noqa: PLC0415

    return create_app(Services(settings, Database(settings)))


MOST_FAULTS = 100
"""How many faults of a calendar are printed."""

main = CommandLine("task-api", __version__, Settings, _serve, "A task service over HTTP.", application=_application)


@main.command()
@click.option("--wait", type=click.FloatRange(0, 600), default=0, help="Seconds to wait for the database server.")
def migrate(wait: float) -> None:
    """Bring the database to the newest schema."""
    from task_api.store import migrations  # noqa: PLC0415
    from task_core.database import await_database  # noqa: PLC0415

    with _database() as database:
        await_database(database, wait)
        before, after = migrations.migrate(database)
    if migrations.is_newer(before):
        click.echo(f"the schema is at {before}, of a newer version, and stays there")
    else:
        click.echo(f"the schema was at {before or 'nothing'} and is at {after}")


@main.command("encrypt-secrets")
def encrypt_secrets() -> None:
    """Encrypt the secrets in the database with the first of ENCRYPTION_KEYS, and read all back with that key alone.

    The keys after it may go then.
    """
    from task_api.store import accounts  # noqa: PLC0415
    from task_core import encryption, webhooks  # noqa: PLC0415

    keyring = encryption.Keyring(main.settings().encryption_keys)
    columns = (accounts.SECOND_FACTORS, webhooks.SECRETS)
    try:
        kid = keyring.first
        with _database() as database:
            database.check()
            encrypted = [column.encrypt(database.write, keyring) for column in columns]
            database.settle()
            confirmed = [column.confirm(database.read, keyring) for column in columns]
    except (encryption.Undecryptable, ValueError) as error:
        main.fail(error)
    for column, changed, read in zip(columns, encrypted, confirmed, strict=True):
        click.echo(f"{column.kind}: {changed} secrets were encrypted; {read} were read back with the key {kid} alone")


@contextmanager
def _administered() -> Iterator["Database"]:
    """Open the database for an act on accounts; what is refused ends the command with 1."""
    from task_api.accounts.model import AccountNotFound, EmailTaken, NotAllowed  # noqa: PLC0415

    try:
        with _database() as database:
            database.check()
            yield database
    except (msgspec.ValidationError, ValueError, AccountNotFound, EmailTaken, NotAllowed) as error:
        main.fail(error)


@main.command("create-admin")
@click.argument("email")
@click.password_option(envvar="ADMIN_PASSWORD", help="Prompted for unless given; safer by ADMIN_PASSWORD.")
def create_admin(email: str, password: str) -> None:
    """Create an account that sees the tasks of all."""
    from task_api.accounts.administration import OPERATOR  # noqa: PLC0415
    from task_api.accounts.model import Registration  # noqa: PLC0415
    from task_api.accounts.service import register  # noqa: PLC0415
    from task_api.store import audit  # noqa: PLC0415

    with _administered() as database:
        registration = msgspec.convert({"email": email, "password": password}, Registration)
        account = register(database, registration, "admin")
        with database.write() as connection:
            audit.record(connection, OPERATOR, "administrator created", account.id, account.email)
        click.echo(f"account {account.id}, {account.email}, is an administrator")


@main.group()
def accounts() -> None:
    """List accounts, and change them; each change is in the audit log."""


@accounts.command("list")
def list_accounts() -> None:
    """Print every account: id, role, state, address."""
    from task_api.accounts import administration  # noqa: PLC0415

    with _administered() as database:
        for account in administration.every(database):
            state = "disabled" if account.disabled else "enabled"
            click.echo(
                f"{account.id:>8}  {account.role:<5}  {state:<8}  {account.created_at:%Y-%m-%d}  {account.email}"
            )


def _change(email: str, **changes: Any) -> None:
    from task_api.accounts import administration  # noqa: PLC0415
    from task_api.accounts.model import AccountChanges  # noqa: PLC0415

    with _administered() as database:
        account = administration.find(database, email)
        changed = administration.change(database, administration.OPERATOR, account.id, AccountChanges(**changes))
        click.echo(f"account {changed.id}, {changed.email}: {changed.role}{', disabled' if changed.disabled else ''}")


@accounts.command()
@click.argument("email")
def disable(email: str) -> None:
    """Refuse an account's logins, end its sessions and personal tokens, switch its webhooks off; its tasks stay."""
    _change(email, disabled=True)


@accounts.command()
@click.argument("email")
def enable(email: str) -> None:
    """Accept a disabled account's logins again."""
    _change(email, disabled=False)


@accounts.command()
@click.argument("email")
def promote(email: str) -> None:
    """Make an account an administrator."""
    _change(email, role="admin")


@accounts.command()
@click.argument("email")
def demote(email: str) -> None:
    """Make an administrator a user."""
    _change(email, role="user")


@accounts.command("set-password")
@click.argument("email")
@click.password_option(envvar="NEW_PASSWORD", help="Prompted for unless given; safer by NEW_PASSWORD.")
def set_password(email: str, password: str) -> None:
    """Replace an account's password; its sessions and personal tokens end, and its webhooks are switched off."""
    from task_api.accounts import administration, passwords  # noqa: PLC0415
    from task_api.accounts.model import Registration  # noqa: PLC0415

    with _administered() as database:
        account = administration.find(database, email)
        new = msgspec.convert({"email": account.email, "password": password}, Registration).password
        ended = administration.replace_password(database, administration.OPERATOR, account.id, passwords.digest(new))
        click.echo(f"account {account.id}, {account.email}, has the new password; {ended}")


@accounts.command("disable-second-factor")
@click.argument("email")
def disable_second_factor(email: str) -> None:
    """Let an account log in with its password alone, when its authenticator and recovery codes are lost."""
    from task_api.accounts import administration  # noqa: PLC0415
    from task_api.accounts.second_factor import turn_off  # noqa: PLC0415

    with _administered() as database:
        account = administration.find(database, email)
        turn_off(database, administration.OPERATOR, account.id)
        click.echo(f"account {account.id}, {account.email}, logs in with its password alone")


@main.command("audit")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Entries at most.")
def audit_command(limit: int) -> None:
    """Print what was done to accounts, as JSON lines, the newest first."""
    from task_api.accounts import administration  # noqa: PLC0415

    with _administered() as database:
        for entry in administration.entries(database, None, limit):
            click.echo(msgspec.json.encode(entry))


@main.command("export")
@click.argument("file", default="-")
@click.option("--calendar", "email", help="Write this account's tasks alone, as an iCalendar file (local: AUTH=off).")
def export_command(file: str, email: str | None) -> None:
    """Write all accounts and tasks as JSON lines, to standard output by default; a file is its owner's alone."""
    from task_api.tasks import calendar  # noqa: PLC0415
    from task_api.transfer import export  # noqa: PLC0415

    try:
        with _administered() if email else _database() as database:
            lines = calendar.write(database, _owner(database, email)) if email else export(database)
            with _output(file) as output:
                output.writelines(lines)
    except OSError as error:
        main.fail(f"export: {error}")


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """Yield the file, or standard output for `-`, which is flushed while its errors can still be reported."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with open(file, "wb", opener=_private) as output:
        yield output


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)  # it may have been there before
    return descriptor


def _owner(database: "Database", email: str) -> int:
    """Return the account of an address, or that without one of AUTH=off. Raises AccountNotFound."""
    from task_api.accounts import administration  # noqa: PLC0415
    from task_core.schema import LOCAL_ACCOUNT  # noqa: PLC0415

    return LOCAL_ACCOUNT if email == "local" else administration.find(database, email).id


@main.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--calendar", "email", help="Read an iCalendar file's to-dos as this account's tasks (local: AUTH=off).")
@click.option(
    "--time-zone", help="Of the calendar's times that have none, such as Europe/Berlin; else its own, or UTC."
)
def import_command(file: BinaryIO, email: str | None, time_zone: str | None) -> None:
    """Read what `export` wrote, or what another program did as a calendar; all of it, or nothing."""
    if email:
        _import_calendar(file, email, time_zone)
    else:
        _import_lines(file)


def _import_calendar(file: BinaryIO, email: str, time_zone: str | None) -> None:
    from task_api.tasks import calendar_import, recurrence  # noqa: PLC0415

    with _administered() as database:
        owner = _owner(database, email)
        recurrence.zone(time_zone)
        try:
            to_dos = calendar_import.read(file.read(calendar_import.MOST_BYTES + 1), time_zone)
        except calendar_import.CalendarFaults as error:
            for fault in error.faults[:MOST_FAULTS]:
                click.echo(fault, err=True)
            main.fail(f"import: {len(error.faults)} faults: nothing was imported")
        with database.write() as connection:
            calendar_import.create(connection, owner, to_dos)
    left_out = ", ".join(f"{number} {name}" for name, number in sorted(to_dos.left_out.items())) or "nothing"
    click.echo(f"{len(to_dos.tasks)} tasks were imported; left out: {left_out}", err=True)


def _import_lines(file: BinaryIO) -> None:
    from task_api.transfer import TransferError, import_lines  # noqa: PLC0415

    def progress(lines: int) -> None:
        if lines % 10_000 == 0:
            click.echo(f"{lines} lines", err=True)

    try:
        with _database() as database:
            seen = import_lines(database, file, progress, main.settings().encryption_keys)
    except TransferError as error:
        main.fail(error)
    else:
        click.echo(f"{seen.accounts} accounts and {seen.tasks} tasks are here", err=True)
