"""All accounts and tasks as JSON lines, out and in again, with nothing lost: ids, owners, times, versions, hashes.

The last line counts the others, so that a file that was cut off is told from a whole one.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from task_api.accounts.model import Email, Role
from task_api.accounts.passwords import check_cost
from task_api.store import accounts as account_store
from task_api.store import tasks as task_store
from task_api.store.database import Database
from task_api.store.schema import LOCAL_ACCOUNT, accounts, tasks
from task_api.tasks.model import Description, Id, Moment, Status, Title, trimmed, utc

BATCH = 500
SNAPSHOT = {"sqlite": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}


LARGEST_IMPORTED_ID = 2**52
"""New ids follow the largest one: as many are left, below the 2^53 that every JSON parser reads exactly."""

LARGEST_IMPORTED_VERSION = 2**30
"""Half of what the column holds: each change counts one up."""

ImportedId = Annotated[int, Meta(ge=0, le=LARGEST_IMPORTED_ID)]


class AccountLine(msgspec.Struct, tag="account", tag_field="type", forbid_unknown_fields=True):
    """An account as it is kept."""

    id: ImportedId
    email: str
    password_hash: Annotated[str, Meta(pattern=r"^\$argon2id\$[!-~]+$")] | None
    role: Role
    created_at: Moment
    disabled_at: Moment | None = None
    totp_secret: Annotated[str, Meta(pattern=r"^[A-Z2-7]{16,64}$")] | None = None
    totp_step: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class TaskLine(msgspec.Struct, tag="task", tag_field="type", forbid_unknown_fields=True):
    """A task as it is kept."""

    id: ImportedId
    title: Title
    description: Description
    status: Status
    created_at: Moment
    updated_at: Moment
    owner_id: Id
    priority: Literal[0, 1, 2]
    due_at: Moment | None
    version: Annotated[int, Meta(ge=1, le=LARGEST_IMPORTED_VERSION)]


class EndLine(msgspec.Struct, tag="end", tag_field="type", forbid_unknown_fields=True):
    """How many lines of each kind came before."""

    accounts: int
    tasks: int


class TransferError(Exception):
    """The file cannot be imported; nothing of it was."""


def export(database: Database) -> Iterator[bytes]:
    """Lines of JSON, all of one moment, however long it takes. Raises SchemaBehind."""
    database.check()
    encode = msgspec.json.Encoder().encode
    with database.read() as connection:
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

    Other writers wait until it is done. Raises SchemaBehind, and TransferError, naming the line, for one that cannot be
    read or that the service could not have written, an id or address that is taken by another, and a file that was cut
    off.
    """
    database.check()
    decode = msgspec.json.Decoder(AccountLine | TaskLine | EndLine).decode
    seen = EndLine(0, 0)
    waiting: dict[int, dict[str, Any]] = {}
    number, end = 0, None
    try:
        with database.write() as connection:
            _hold(connection)
            for number, line in enumerate(lines, 1):
                if end is not None:
                    raise TransferError(f"line {number}: there is something behind the end")
                try:
                    record = decode(line)
                    values = _values(record)
                except (ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
                    raise TransferError(f"line {number}: {error}") from error
                if isinstance(record, EndLine):
                    end = record
                    continue
                if isinstance(record, AccountLine):
                    seen.accounts += 1
                    _account(connection, values, number)
                else:
                    seen.tasks += 1
                    waiting[number] = values
                    if len(waiting) == BATCH:
                        _tasks(connection, waiting)
                        waiting = {}
                progress(number)
            _tasks(connection, waiting)
            if end != seen:
                told = (
                    f"it tells of {end.accounts} accounts and {end.tasks} tasks" if end else "its last line is missing"
                )
                raise TransferError(
                    f"the file was cut off behind line {number}: {told};"
                    f" {seen.accounts} accounts and {seen.tasks} tasks were read"
                )
            _advance_identities(connection)
    except DBAPIError as error:
        raise TransferError(f"line {number} or some before: {error.orig}") from error
    return seen


def _hold(connection: Connection) -> None:
    """Let others write when we are done, lest one takes an id that a line will have; on SQLite they wait anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE accounts, tasks IN SHARE ROW EXCLUSIVE MODE"))


def _values(record: AccountLine | TaskLine | EndLine) -> dict[str, Any]:
    """The columns of a line. Raises ValueError for what the types do not tell."""
    if isinstance(record, AccountLine) and record.id != LOCAL_ACCOUNT:
        msgspec.convert(record.email, Email)
        if record.email != record.email.lower():
            raise ValueError("an address is kept in small letters")
    if isinstance(record, AccountLine) and record.password_hash:
        check_cost(record.password_hash)
    if isinstance(record, TaskLine) and record.title != trimmed(record.title):
        raise ValueError("a title has no space around it")
    values = msgspec.structs.asdict(record)
    return {name: utc(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _account(connection: Connection, values: dict[str, Any], number: int) -> None:
    same = (accounts.c.id == values["id"]) | (accounts.c.email == values["email"])
    found = [dict(row) for row in connection.execute(select(accounts).where(same)).mappings()]
    if not found:
        connection.execute(insert(accounts), values)
    elif values["id"] != LOCAL_ACCOUNT and found != [values]:
        raise TransferError(
            f"line {number}: account {values['id']} or its address is taken by another: import into an empty database"
        )


def _tasks(connection: Connection, waiting: dict[int, dict[str, Any]]) -> None:
    """Insert tasks, each under the number of its line."""
    ids, owners = ({task[name] for task in waiting.values()} for name in ("id", "owner_id"))
    held = {row["id"]: dict(row) for row in connection.execute(select(tasks).where(tasks.c.id.in_(ids))).mappings()}
    known = set(connection.scalars(select(accounts.c.id).where(accounts.c.id.in_(owners))))
    new = []
    for number, task in waiting.items():
        if task["owner_id"] not in known:
            raise TransferError(f"line {number}: its owner, account {task['owner_id']}, was on no line before")
        if task["id"] not in held:
            held[task["id"]] = task
            new.append(task)
        elif held[task["id"]] != task:
            raise TransferError(f"line {number}: task {task['id']} is another here: import into an empty database")
    if new:
        task_store.restore(connection, new)


def _advance_identities(connection: Connection) -> None:
    """Let new ids follow the imported ones, and never one that was given before; SQLite does so by itself."""
    if connection.dialect.name == "postgresql":
        for table in (accounts, tasks):
            advance = text(
                "SELECT setval(sequence::regclass, :last) FROM pg_get_serial_sequence(:table, 'id') AS sequence"
                " WHERE :last > coalesce(pg_sequence_last_value(sequence::regclass), 0)"
            )
            last = connection.scalar(select(func.max(table.c.id)))
            connection.execute(advance, {"table": table.name, "last": last})
