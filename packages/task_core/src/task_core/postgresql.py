"""Connections to PostgreSQL: limits on both sides, the options of the URL, and poolers such as PgBouncer."""

import select
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from threading import BoundedSemaphore, Event, Lock
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError

from task_core.config import Settings
from task_core.errors import Unanswered, Unusable, down
from task_core.prepared import command

RETRY_SECONDS = 2.0
"""How long no request is sent to a database that did not answer."""

CONNECT_SECONDS = 3
"""How long a request waits for a free place in the pool, and how long for the server to accept a connection."""


AGAIN_SECONDS = 0.2
"""How long a request that waits for a database leaves it alone before it tries again."""

LISTEN_SECONDS = 0.5
"""How soon who listens for notifications ends, once it is to."""

WARNING = "01000"
"""The SQLSTATE of a warning that has none of its own."""

T = TypeVar("T")


class Limits(NamedTuple):
    """How long statements may take: by the server's settings, and on this side, should the server itself hang."""

    server: dict[str, str]
    answer_seconds: float | None


REQUEST = Limits(
    {"statement_timeout": "5s", "lock_timeout": "4s", "idle_in_transaction_session_timeout": "30s"}, answer_seconds=6
)
"""For requests. One that waits for a thread first, behind others that wait for the database, ends within 15 seconds."""

COMMAND = Limits(
    {"statement_timeout": "0", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "0"}, answer_seconds=None
)
"""For an operator's commands, which may read or write all there is."""

MIGRATION = Limits({**COMMAND.server, "lock_timeout": "0"}, answer_seconds=None)
"""For migrations, which limit their waits for locks by themselves."""


class Breaker:
    """Fails what needs the database at once, after it has left somebody without an answer (a circuit breaker).

    Else every request would wait for itself, and those behind it for a thread. One at a time tries again.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = False
        self._next_try = 0.0

    def check(self) -> None:
        """Raise Unanswered unless the database answers, or it is time for another try."""
        if self._open:
            with self._lock:
                if self._open and monotonic() < self._next_try:
                    raise Unanswered("the database did not answer a moment ago")
                self._next_try = monotonic() + RETRY_SECONDS

    def unanswered(self) -> None:
        """Note that the database did not answer."""
        with self._lock:
            self._open, self._next_try = True, monotonic() + RETRY_SECONDS

    def answered(self) -> None:
        """Note that the database answers."""
        if self._open:
            self._open = False


class Bridge:
    """Waits for a database that changes hands: it refuses connections, or ends those there are, until another serves.

    A database that leaves requests without an answer is not waited for: `Breaker` is for that.
    """

    def __init__(self, seconds: float, threads: int) -> None:
        """Wait for at most `seconds`, in all threads but one: probes and other requests need it."""
        self._seconds = seconds
        self._places = BoundedSemaphore(threads - 1) if threads > 1 else None

    def cross(self, connect: Callable[[], T]) -> T:
        """Return what `connect` returns, tried again while the database is down. Raises the last error."""
        try:
            return connect()
        except DBAPIError as error:
            if not (down(error) and self._places and self._places.acquire(blocking=False)):
                raise
        deadline = monotonic() + self._seconds
        try:
            while True:
                try:
                    return connect()
                except DBAPIError as error:
                    if not down(error) or monotonic() + AGAIN_SECONDS > deadline:
                        raise
                sleep(AGAIN_SECONDS)
        finally:
            self._places.release()


class PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed when the server leaves a statement unanswered for `answer_seconds`.

    The server's own `statement_timeout` is no help when the server is stopped, nor is TCP: its kernel still answers.
    """

    answer_seconds: float | None = None
    breaker = Breaker()
    pooled = False
    """Whether a pooler assigns each transaction to any of its server connections (PgBouncer's transaction mode)."""
    begin = "BEGIN"
    notices: set[str | None]
    """The SQLSTATEs of the notices and warnings that the server has sent."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Return the result of `gen`. Raises OperationalError when the server does not answer in time."""
        limit = self.answer_seconds if timeout is None else timeout
        try:
            result = super().wait(gen, interval, limit)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - psycopg leaves its conversion to the caller
            if timeout is not None:
                raise
            self.breaker.unanswered()
            self.pgconn.finish()  # what the server may still send must not be taken for the next answer
            raise psycopg.OperationalError(f"the database did not answer within {limit:g} seconds") from None
        self.breaker.answered()
        return result


def driver(connection: Connection) -> PatientConnection:
    """The connection of psycopg beneath one of SQLAlchemy."""
    driver_connection: Any = connection.connection.driver_connection
    assert isinstance(driver_connection, PatientConnection)
    return driver_connection


def commit(connection: Connection) -> None:
    """Commit the transaction. Raises Unusable where that succeeds on this server alone.

    A wait for a standby that is cancelled ends with a warning and success, and the next primary may lack the commit
    (PostgreSQL, 26.2.8.3): no response may report that it is safe.
    """
    notices = driver(connection).notices
    notices.clear()
    command(connection, "COMMIT")
    if WARNING in notices:
        raise Unusable(
            "a commit is on the primary alone, because its wait for a standby was cancelled (pg_cancel_backend): leave"
            " sessions that wait for SyncRep alone, and bring a standby back"
        )


def engine(settings: Settings, limits: Limits, breaker: Breaker) -> Engine:
    """Return an engine for the database of DATABASE_URL; its connections report to `breaker` whether it answers.

    The URL's parameters override these defaults, and its `options` are added to the ones with the limits.
    """
    url = make_url(settings.database_url).set(drivername="postgresql+psycopg")
    if settings.application_name and "application_name" not in url.query:
        url = url.update_query_dict({"application_name": settings.application_name})
    wanted = url.query.get("options", "")
    their_options = wanted if isinstance(wanted, str) else " ".join(wanted)
    made = create_engine(
        url.difference_update_query(["options"]),
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        connect_args=_defaults(url),
        pool_size=settings.db_pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
    )

    @event.listens_for(made, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> PatientConnection:
        try:
            connection = _connect(limits, their_options, partial(PatientConnection.connect, *arguments, **parameters))
        except psycopg.errors.ConnectionTimeout:
            breaker.unanswered()
            raise
        connection.breaker = breaker
        connection.notices = notices = set()
        connection.add_notice_handler(lambda notice: notices.add(notice.sqlstate))
        return connection

    @event.listens_for(made, "checkout")
    def renew(connection: PatientConnection, _record: Any, _proxy: Any) -> None:
        """Have the pool connect anew where the server has ended the connection: an idle server sends nothing else."""
        if connection.closed or _has_input(connection):
            raise DisconnectionError("the server has ended the connection")

    return made


def _defaults(url: URL) -> dict[str, Any]:
    defaults = {
        "autocommit": True,
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": 10_000,  # milliseconds; a server that has vanished is not waited for
        "keepalives_idle": 10,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }
    return {name: value for name, value in defaults.items() if name not in url.query}


def notifications(engine: Engine, ended: Event) -> Iterator[None]:
    """Yield once the channel `task_changes` is listened to, and at each notification, until `ended` is set.

    It has a connection of its own. A pooler that assigns transactions to connections loses notifications. Raises
    psycopg's errors.
    """
    arguments, parameters = engine.dialect.create_connect_args(engine.url)
    with psycopg.connect(*arguments, **{**parameters, **_defaults(engine.url)}) as connection:
        connection.execute("LISTEN task_changes")
        yield
        while not ended.is_set():
            for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                yield


def _has_input(connection: PatientConnection) -> bool:
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _connect(limits: Limits, their_options: str, connect: Callable[..., PatientConnection]) -> PatientConnection:
    ours = " ".join(f"-c {name}={value}" for name, value in {**limits.server, "timezone": "UTC"}.items())
    try:
        connection = connect(options=f"{ours} {their_options}")
    except psycopg.OperationalError as error:
        if "unsupported startup parameter" not in str(error):  # PgBouncer's words
            raise
        connection = connect(options=their_options)
    connection.answer_seconds = limits.answer_seconds or CONNECT_SECONDS * 4
    try:
        _recognise_pooler(connection, limits, their_options)
    except BaseException:
        connection.close()
        raise
    connection.answer_seconds = limits.answer_seconds
    return connection


def _recognise_pooler(connection: PatientConnection, limits: Limits, their_options: str) -> None:
    """Set the connection up for a pooler where there is one: it invents the process id that clients see.

    Settings of a session are then nobody's: each transaction sets its own, statements are not prepared, and options
    that the pooler has dropped are refused. Only `timezone` is one that poolers keep for each client.
    """
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
    if process == connection.info.backend_pid:
        return
    connection.pooled = True
    connection.prepare_threshold = None
    connection.execute("SET timezone TO 'UTC'")
    local = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in limits.server.items())
    connection.begin = f"BEGIN; {local}"
    for name, value in _assignments(their_options).items():
        (current,) = connection.execute("SELECT current_setting(%s, true)", (name,)).fetchone() or (None,)
        if current != value:
            raise psycopg.OperationalError(
                f"the pooler in front of PostgreSQL drops the option {name} of DATABASE_URL: set it in the database"
                f" (ALTER ROLE ... SET {name} = ...), or connect to PostgreSQL itself"
            )


def _assignments(options: str) -> dict[str, str]:
    """The settings in PostgreSQL's connection parameter `options`: `-c name=value`, `-cname=value`, `--name=value`."""
    words = iter(shlex.split(options))
    settings = {}
    for word in words:
        pair = next(words, "") if word == "-c" else word.removeprefix("--").removeprefix("-c")
        name, _, value = pair.partition("=")
        settings[name] = value
    return settings
