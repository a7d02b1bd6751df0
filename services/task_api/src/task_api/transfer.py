"""All accounts and tasks as JSON lines, out and in again, with nothing lost: ids, owners, times, versions, hashes.

The last line counts the others, so that a file that was cut off is told from a whole one.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from task_api.store import accounts as account_store
from task_api.store import tasks as task_store
from task_api.store.database import Database
from task_api.store.schema import accounts, tasks

BATCH = 500
SNAPSHOT = {"sqlite": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}


class AccountLine(msgspec.Struct, tag="account", tag_field="type", forbid_unknown_fields=True):
    """An account as it is kept."""

    id: int
    email: str
    password_hash: str | None
    role: str
    created_at: datetime


class TaskLine(msgspec.Struct, tag="task", tag_field="type", forbid_unknown_fields=True):
    """A task as it is kept."""

    id: int
    title: str
    description: str
    status: str
    created_at: datetime
    updated_at: datetime
    owner_id: int
    priority: int
    due_at: datetime | None
    version: int


class EndLine(msgspec.Struct, tag="end", tag_field="type", forbid_unknown_fields=True):
    """How many lines of each kind came before."""

    accounts: int
    tasks: int


class TransferError(Exception):
    """The file cannot be imported; nothing of it was."""


def export(database: Database) -> Iterator[bytes]:
    """Lines of JSON, all of one moment, however long it takes."""
    encode = msgspec.json.Encoder().encode
    with database.engine.connect() as connection:
        connection.exec_driver_sql(SNAPSHOT[database.dialect])
        counts = {"accounts": 0, "tasks": 0}
        for row in account_store.every(connection):
            counts["accounts"] += 1
            yield encode(AccountLine(**row)) + b"\n"
        for row in task_store.every(connection):
            counts["tasks"] += 1
            yield encode(TaskLine(**row)) + b"\n"
        yield encode(EndLine(**counts)) + b"\n"


def import_lines(
    database: Database, lines: Iterable[bytes], progress: Callable[[int], None] = lambda _: None
) -> EndLine:
    """Take in what `export` gave, in one transaction; what is there already, just so, is passed over.

    Raises TransferError, naming the line, for one that cannot be read, an id or address that is taken by another, and a
    file that was cut off.
    """
    decode = msgspec.json.Decoder(AccountLine | TaskLine | EndLine).decode
    seen = EndLine(0, 0)
    waiting: list[dict[str, Any]] = []
    number, end = 0, None
    with database.write() as connection:
        for number, line in enumerate(lines, 1):
            if end is not None:
                raise TransferError(f"line {number}: there is something behind the end")
            try:
                record = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TransferError(f"line {number}: {error}") from error
            if isinstance(record, EndLine):
                end = record
                continue
            if isinstance(record, AccountLine):
                seen.accounts += 1
                _account(connection, record, number)
            else:
                seen.tasks += 1
                waiting.append(_aware(record))
                if len(waiting) == BATCH:
                    _tasks(connection, waiting, number)
                    waiting = []
            progress(number)
        _tasks(connection, waiting, number)
        if end != seen:
            told = f"it tells of {end.accounts} accounts and {end.tasks} tasks" if end else "its last line is missing"
            raise TransferError(
                f"the file was cut off: {told}; {seen.accounts} accounts and {seen.tasks} tasks were read"
            )
        _restart_identities(connection)
    return seen


def _aware(record: AccountLine | TaskLine) -> dict[str, Any]:
    values = msgspec.structs.asdict(record)
    return {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in values.items()}


def _account(connection: Connection, record: AccountLine, number: int) -> None:
    held = connection.execute(
        select(accounts).where((accounts.c.id == record.id) | (accounts.c.email == record.email))
    ).mappings()
    found = [dict(row) for row in held]
    if not found:
        connection.execute(insert(accounts), _aware(record))
    elif record.id != 0 and found != [_aware(record)]:
        raise TransferError(
            f"line {number}: account {record.id} or its address is taken by another: import into an empty database"
        )


def _tasks(connection: Connection, waiting: list[dict[str, Any]], number: int) -> None:
    if not waiting:
        return
    ids = [task["id"] for task in waiting]
    held = {row["id"]: dict(row) for row in connection.execute(select(tasks).where(tasks.c.id.in_(ids))).mappings()}
    for task in waiting:
        if task["id"] in held and held[task["id"]] != task:
            raise TransferError(
                f"line {number} or before: task {task['id']} is another here: import into an empty database"
            )
    new = [task for task in waiting if task["id"] not in held]
    try:
        if new:
            task_store.restore(connection, new)
    except IntegrityError as error:
        raise TransferError(f"line {number} or before: {error.orig}") from error


def _restart_identities(connection: Connection) -> None:
    """Let new ids follow the imported ones."""
    if connection.dialect.name == "postgresql":
        for table in (accounts, tasks):
            last = connection.scalar(select(func.max(table.c.id))) or 0
            sequence = text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last, :used)")
            connection.execute(sequence, {"table": table.name, "last": max(last, 1), "used": last > 0})
