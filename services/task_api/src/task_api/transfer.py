"""All accounts and tasks as JSON lines, out and in again, with nothing lost: ids, owners, times, versions, hashes.

The last line counts the others, so that a file that was cut off is recognised.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from tempfile import TemporaryFile
from time import monotonic, sleep
from types import SimpleNamespace
from typing import IO, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Table, delete, insert, select, text
from sqlalchemy.exc import DBAPIError

from task_api.accounts.model import Email, Role
from task_api.accounts.passwords import check_cost
from task_api.store import accounts as account_store
from task_api.store import tasks as task_store
from task_api.tasks import recurrence
from task_api.tasks.model import (
    Description,
    Id,
    Labels,
    Moment,
    Project,
    Recurrence,
    Reminders,
    Status,
    TimeZone,
    Title,
    distinct,
    trimmed,
    utc,
)
from task_core.config import SecretKey
from task_core.database import UNAVAILABLE, Database
from task_core.encryption import Keyring, Undecryptable
from task_core.schema import LOCAL_ACCOUNT, accounts, deleted_tasks, tasks

BATCH = 500
NO_KEYS = Keyring(())
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
    totp_secret: Annotated[str, Meta(pattern=r"^(?:[A-Z2-7]{32}|[A-Z2-7]{64})$")] | None = None
    totp_step: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    recovery_codes: Annotated[str, Meta(max_length=1000, pattern=r"^[0-9a-f]{64}(?: [0-9a-f]{64})*$")] | None = None
    encrypted_totp_secret: Annotated[str, Meta(max_length=500)] | None = None
    verified_at: Moment | None = None


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
    project: Project | None = None
    labels: Labels = []
    recurrence: Recurrence | None = None
    time_zone: TimeZone | None = None
    next_id: ImportedId | None = None
    reminders: Reminders = []


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
    database: Database,
    lines: Iterable[bytes],
    progress: Callable[[int], None] = lambda _: None,
    keys: Sequence[SecretKey] = (),
) -> EndLine:
    """Take in what `export` wrote; rows that are there already, just so, are passed over.

    The file is read to its end before anything is written. Then the rows are written in pieces, between which others
    write; where one fails, the pieces before are deleted again. An import whose process was killed is completed by
    another of the same file. Secrets of second factors are encrypted with the first of `keys`.

    Raises SchemaBehind, and TransferError, with the number of the line, for one that cannot be read or that the service
    could not have written, an id or address that is taken by another, a secret that cannot be decrypted, and a file
    that was cut off.
    """
    database.check()
    keyring = Keyring(keys)
    with TemporaryFile() as staged:
        count, largest = _stage(lines, staged, progress, keyring)
        staged.seek(0)
        added: list[tuple[Table, list[int]]] = []
        try:
            if largest:
                with database.write() as connection:
                    _reserve_ids(connection, largest)
            for piece in _pieces(staged):
                start = monotonic()
                with database.write() as connection:
                    new = _write(connection, piece, keyring)
                added.append(new)
                if database.dialect == "sqlite":  # whoever waits for its one writer looks again only now and then
                    sleep(monotonic() - start)
        except BaseException as error:
            _undo(database, added)
            if isinstance(error, DBAPIError):
                raise TransferError(f"the rows could not be written: {error.orig}") from error
            raise
    return count


Piece = tuple[str, list[tuple[int, dict[str, Any]]]]
"""The name of a table, and rows by the numbers of their lines."""

_piece = msgspec.msgpack.Decoder(Piece)


def _stage(
    lines: Iterable[bytes], staged: IO[bytes], progress: Callable[[int], None], keyring: Keyring
) -> tuple[EndLine, dict[str, int]]:
    """Check every line and write the rows in pieces; return how many there are, and the largest id of each table."""
    decode = msgspec.json.Decoder(AccountLine | TaskLine | EndLine).decode
    count, end, number = EndLine(0, 0), None, 0
    largest: dict[str, int] = {}
    waiting: Piece = ("accounts", [])

    def write() -> None:
        data = msgspec.msgpack.encode(waiting)
        staged.write(len(data).to_bytes(4) + data)

    for number, line in enumerate(lines, 1):
        if end is not None:
            raise TransferError(f"line {number}: there is something behind the end")
        try:
            record = decode(line)
            values = _values(record)
            if isinstance(record, AccountLine):
                _check_second_factor(keyring, record)
        except (ValueError, RecursionError, Undecryptable) as error:  # msgspec's and Unicode's errors are ValueErrors
            raise TransferError(f"line {number}: {error}") from error
        if isinstance(record, EndLine):
            end = record
            continue
        table = "accounts" if isinstance(record, AccountLine) else "tasks"
        setattr(count, table, getattr(count, table) + 1)
        largest[table] = max(largest.get(table, 0), record.id)
        if table != waiting[0] or len(waiting[1]) == BATCH:
            write()
            waiting = (table, [])
        waiting[1].append((number, values))
        progress(number)
    write()
    if end != count:
        announced = f"it announces {end.accounts} accounts and {end.tasks} tasks" if end else "its last line is missing"
        raise TransferError(
            f"the file was cut off behind line {number}: {announced};"
            f" {count.accounts} accounts and {count.tasks} tasks were read"
        )
    return count, largest


def _pieces(staged: IO[bytes]) -> Iterator[Piece]:
    while size := staged.read(4):
        yield _piece.decode(staged.read(int.from_bytes(size)))


def _write(connection: Connection, piece: Piece, keyring: Keyring) -> tuple[Table, list[int]]:
    """Write the rows of a piece that are not there yet; return their table and ids."""
    name, rows = piece
    if name == "accounts":
        return accounts, [values["id"] for number, values in rows if _account(connection, keyring, values, number)]
    for _, values in rows:
        values["reminders"] = msgspec.convert(values["reminders"], Reminders)
    return tasks, _tasks(connection, dict(rows))


def _undo(database: Database, added: list[tuple[Table, list[int]]]) -> None:
    """Delete what was added, the last piece first, so that none can be restored.

    Raises TransferError where that fails too.
    """
    try:
        for table, ids in reversed(added):
            with database.write() as connection:
                connection.execute(delete(table).where(table.c.id.in_(ids)))
                if table is tasks:
                    connection.execute(delete(deleted_tasks).where(deleted_tasks.c.id.in_(ids)))
    except UNAVAILABLE as error:
        raise TransferError(
            f"the database failed, with a part of the file in it: import the same file again to complete it ({error})"
        ) from error


def _values(record: AccountLine | TaskLine | EndLine) -> dict[str, Any]:
    """Return the columns of a line. Raises ValueError for a rule that the types do not express."""
    if isinstance(record, AccountLine) and record.id != LOCAL_ACCOUNT:
        msgspec.convert(record.email, Email)
        if record.email != record.email.lower():
            raise ValueError("an address is kept in small letters")
    if isinstance(record, AccountLine) and record.password_hash:
        check_cost(record.password_hash)
    if isinstance(record, TaskLine) and record.title != trimmed(record.title):
        raise ValueError("a title has no space around it")
    if isinstance(record, TaskLine) and record.project and record.project != record.project.strip():
        raise ValueError("a project has no space around its name")
    if isinstance(record, TaskLine) and record.labels != distinct(record.labels):
        raise ValueError("labels are sorted, each is there once, and none has space around it")
    if isinstance(record, TaskLine) and len(record.reminders) != len(set(record.reminders)):
        raise ValueError("reminders are there once each")
    if isinstance(record, TaskLine):
        recurrence.zone(record.time_zone)
        if record.recurrence is not None:
            recurrence.parse(record.recurrence)
    values = msgspec.structs.asdict(record)
    return {name: utc(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _account(connection: Connection, keyring: Keyring, values: dict[str, Any], number: int) -> bool:
    """Insert an account; return False when it is there already."""
    same = (accounts.c.id == values["id"]) | (accounts.c.email == values["email"])
    existing = [dict(row) for row in connection.execute(select(accounts).where(same)).mappings()]
    if not existing:
        secret = _second_factor(keyring, SimpleNamespace(**values))
        columns = account_store.second_factor_columns(keyring, values["id"], secret)
        connection.execute(insert(accounts), {**values, **columns})
        return True
    if values["id"] == LOCAL_ACCOUNT:
        return False
    try:
        here = [_plain(keyring, one) for one in existing]
    except Undecryptable as error:
        raise TransferError(
            f"line {number}: account {values['id']} or its address is here, with a second factor that cannot be"
            f" compared: {error}"
        ) from None
    if here != [_plain(keyring, values)]:
        raise TransferError(
            f"line {number}: account {values['id']} or its address is taken by another: import into an empty database"
        )
    return False


def _plain(keyring: Keyring, account: dict[str, Any]) -> dict[str, Any]:
    """Return an account as it compares: no two ciphertexts of a secret are equal. Raises Undecryptable."""
    secret = _second_factor(keyring, SimpleNamespace(**account))
    return {**account, **account_store.second_factor_columns(NO_KEYS, account["id"], secret)}


def _second_factor(keyring: Keyring, account: Any) -> str | None:
    """Return the secret of the account's second factor, None where it has none. Raises Undecryptable."""
    return account_store.SECOND_FACTORS.read(keyring, account) if account.totp_secret else None


def _check_second_factor(keyring: Keyring, account: AccountLine) -> None:
    """Raise ValueError for a second factor that no code can be computed of, and Undecryptable."""
    secret = _second_factor(keyring, account)
    if secret is None and account.totp_step is not None:
        raise ValueError("a second factor that is on has a secret: totp_secret")
    if secret is not None and not re.fullmatch(r"[A-Z2-7]{32}", secret):
        raise ValueError("the secret of a second factor is 32 characters of Base32")


def _tasks(connection: Connection, waiting: dict[int, dict[str, Any]]) -> list[int]:
    """Insert those of the tasks, by the numbers of their lines, that are not there already; return their ids."""
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
    return [task["id"] for task in new]


def _reserve_ids(connection: Connection, largest: dict[str, int]) -> None:
    """Let new ids follow the imported ones, also those that are assigned while the import runs."""
    for table, last in largest.items():
        if connection.dialect.name == "postgresql":
            connection.execute(_RESERVE_POSTGRESQL, {"table": table, "last": last})
        else:
            for statement in _RESERVE_SQLITE:
                connection.execute(statement, {"table": table, "last": last})


_RESERVE_POSTGRESQL = text(
    "SELECT setval(sequence::regclass, :last) FROM pg_get_serial_sequence(:table, 'id') AS sequence"
    " WHERE :last > coalesce(pg_sequence_last_value(sequence::regclass), 0)"
)
_RESERVE_SQLITE = (
    text(
        "INSERT INTO sqlite_sequence (name, seq) SELECT :table, 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :table)"
    ),
    text("UPDATE sqlite_sequence SET seq = max(seq, :last) WHERE name = :table"),
)
