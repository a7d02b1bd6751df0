"""What the Python rivals share: queries, and an ASGI layer for accounts, rate limit, metrics and log lines.

SQLite is called on the event loop: that is the least CPU time a request, and a slow disk stalls all requests.
"""

import json
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt
import msgspec
from prometheus_client import Counter, Histogram, generate_latest

from task_api.tasks.model import CHANGEABLE, LARGEST_PAGE, PRIORITIES, Task

SQL: dict[str, str] = json.loads((Path(__file__).parent / "queries.json").read_text())
JSON = "application/json"
QUOTA_TASKS, QUOTA_BYTES = 100_000, 1 << 30
SESSION_SECONDS = 1.0
KEYS = dict(key.split(":", 1) for key in os.environ["JWT_KEYS"].split(","))
LIMIT = int(os.environ["RATE_LIMIT"].partition("/")[0])
WINDOW = 60

encode = msgspec.json.Encoder().encode
requests = Counter("api_requests_total", "Requests answered.", ("endpoint", "method", "status"))
duration = Histogram("api_request_duration_seconds", "Time to answer a request.", ("endpoint", "method"))
database = sqlite3.connect(
    os.environ["DB_PATH"], isolation_level=None, check_same_thread=False, cached_statements=512, timeout=10
)
for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
    database.execute(f"PRAGMA {pragma}")


class Problem(Exception):
    """A request that is refused with this status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(error: Problem) -> bytes:
    """Return the problem document of a refusal (RFC 9457)."""
    return encode({"title": HTTPStatus(error.status).phrase, "status": error.status, "detail": str(error)})


def kept(moment: datetime | None) -> str | None:
    """Return an instant in the database's format."""
    return moment.astimezone(UTC).isoformat(" ", "microseconds") if moment else None


def task_of(row: tuple[Any, ...]) -> Task:
    """Return the task of a row."""
    read = datetime.fromisoformat
    identity, title, description, status, priority, due_at, project, *others, created_at, updated_at, _ = row
    labels, rule, zone, reminders = others
    due_at, labels, reminders = due_at and read(due_at), msgspec.json.decode(labels), msgspec.json.decode(reminders)
    recurring = labels, rule, zone, reminders
    times = read(created_at), read(updated_at)
    return Task(identity, title, description, status, PRIORITIES[priority], due_at, project, *recurring, *times)


@contextmanager
def written() -> Iterator[None]:
    """Commit the block, or roll it back when it raises."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def used(owner: int) -> tuple[int, int]:
    """Return the tasks and bytes that an account keeps."""
    return database.execute(SQL["usage"], {"owner": owner}).fetchone() or (0, 0)


@contextmanager
def within_quota(owner: int) -> Iterator[None]:
    """Run the block in a write transaction. Raises `Problem` 403 if the account grows beyond its quota."""
    before = used(owner)
    yield
    after = used(owner)
    if (after[0] > QUOTA_TASKS and after[0] > before[0]) or (after[1] > QUOTA_BYTES and after[1] > before[1]):
        raise Problem(403, "quota exceeded")


def row_of(owner: int, task_id: int) -> tuple[Any, ...]:
    """Return the row of a task. Raises `Problem` 404 where the account has no such task."""
    row: tuple[Any, ...] | None = database.execute(SQL["get"], {"task_id": task_id, "owner": owner}).fetchone()
    if row is None:
        raise Problem(404, "no such task")
    return row


def get(owner: int, task_id: int) -> bytes:
    """Return a task in JSON."""
    return encode(task_of(row_of(owner, task_id)))


def page(owner: int, limit: int, status: str | None) -> bytes:
    """Return the first tasks of an account in JSON."""
    values = {"owner": owner, "limit": limit + 1, "status": status}
    rows = database.execute(SQL["list_status" if status else "list"], values).fetchall()
    return encode([task_of(row) for row in rows[:limit]])


def create(owner: int, new: Any) -> tuple[int, bytes]:
    """Insert a task and return its id and its JSON."""
    now = datetime.now(UTC)
    values = {name: getattr(new, name) for name in CHANGEABLE}
    row = {
        **values,
        "priority": PRIORITIES.index(new.priority),
        "due_at": kept(new.due_at),
        "labels": encode(new.labels).decode(),
        "reminders": encode(new.reminders).decode(),
        "created_at": kept(now),
        "updated_at": kept(now),
        "owner_id": owner,
        "version": 1,
    }
    with written(), within_quota(owner):
        task_id = database.execute(SQL["insert"], row).fetchone()[0]
    return task_id, encode(Task(id=task_id, **values, created_at=now, updated_at=now))


def change(owner: int, task_id: int, fields: Mapping[str, Any]) -> bytes:
    """Set the fields that differ and return the task in JSON."""
    with written():
        row = row_of(owner, task_id)
        held = task_of(row)
        changed = {name: value for name, value in fields.items() if getattr(held, name) != value}
        if not changed:
            return encode(held)
        now = max(datetime.now(UTC), held.updated_at)
        values = {**changed, "updated_at": kept(now), "version": row[13] + 1}
        if "priority" in changed:
            values["priority"] = PRIORITIES.index(changed["priority"])
        if "due_at" in changed:
            values["due_at"] = kept(changed["due_at"])
        for name in {"labels", "reminders"} & changed.keys():
            values[name] = encode(changed[name]).decode()
        columns = ", ".join(f"{name} = :{name}" for name in values)
        with within_quota(owner):
            database.execute(SQL["update"].replace("$columns", columns), {**values, "task_id": task_id})
    return encode(msgspec.structs.replace(held, **changed, updated_at=now))


def delete(owner: int, task_id: int) -> bytes:
    """Delete a task and return the result in JSON."""
    with written():
        row_of(owner, task_id)
        database.execute(SQL["delete"], {"task_id": task_id})
    return encode({"id": task_id, "message": "task deleted"})


def checked_limit(limit: int) -> int:
    """Return the size of a page. Raises `Problem` 400 for one out of range."""
    if not 1 <= limit <= LARGEST_PAGE:
        raise Problem(400, "limit: 1 to 200")
    return limit


@lru_cache(4096)
def _claims(token: str) -> tuple[str, float]:
    key = KEYS[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["HS256"], issuer="task-api", options={"verify_exp": False})
    return claims["sid"], claims["exp"]


_known: dict[str, tuple[int, float]] = {}


def account(authorization: str) -> int | None:
    """Return the account of a bearer token, None where the token is not valid."""
    try:
        session_id, expires_at = _claims(authorization.removeprefix("Bearer "))
    except (jwt.PyJWTError, KeyError):
        return None
    if expires_at <= time.time():
        return None
    now = time.monotonic()
    known = _known.get(session_id)
    if known is None or known[1] <= now:
        row = database.execute(SQL["session"], {"session_id": session_id}).fetchone()
        if row is None:
            return None
        known = _known[session_id] = (row[0], now + SESSION_SECONDS)
    return known[0]


_windows: dict[str, tuple[int, int]] = {}


def hit(client: str) -> tuple[int, int]:
    """Count a request of a client; return the number left (negative beyond the limit) and the seconds to the reset."""
    now = time.time()
    ends_at = (int(now) // WINDOW + 1) * WINDOW
    ended, count = _windows.get(client, (0, 0))
    count = count + 1 if ended == ends_at else 1
    _windows[client] = (ends_at, count)
    return LIMIT - count, max(1, int(ends_at - now))


Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
_series: dict[tuple[str, str, int], tuple[Any, Any]] = {}


def finish(method: str, path: str, status: int, seconds: float, who: int | None, request_id: str) -> None:
    """Count and log an answered request."""
    route = "/tasks/<int:task_id>" if path.startswith("/tasks/") else path if path == "/tasks" else "unmatched"
    key = (route, method, status)
    series = _series.get(key)
    if series is None:
        series = _series[key] = (requests.labels(route, method, str(status)), duration.labels(route, method))
    series[0].inc()
    series[1].observe(seconds)
    line = {
        "time": datetime.now(UTC).isoformat(),
        "level": "info",
        "message": "request",
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 3),
        "account": who,
        "request_id": request_id,
    }
    sys.stdout.buffer.write(encode(line) + b"\n")
    sys.stdout.buffer.flush()


def around(app: App) -> App:
    """Return the application within accounts, rate limit, metrics and log; it finds the account in its scope."""

    async def layer(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        path = scope["path"]
        if path == "/metrics":
            return await answer(send, 200, generate_latest(), [(b"content-type", b"text/plain; version=0.0.4")])
        if path == "/health":
            return await answer(send, 200, b"{}", [(b"content-type", b"application/json")])
        began, request_id, status = time.perf_counter(), secrets.token_hex(16), 500
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        who = scope["account"] = account(header.decode("latin-1")) if header else None
        left, reset = hit(f"account:{who}" if who else scope["client"][0])
        extra = [
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (LIMIT, WINDOW)),
            (b"ratelimit", b'"default";r=%d;t=%d' % (max(left, 0), reset)),
            (b"x-request-id", request_id.encode()),
        ]

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        kind = (b"content-type", b"application/problem+json")
        if left < 0:
            refusal = problem(Problem(429, "too many requests"))
            await answer(counted, 429, refusal, [kind, (b"retry-after", b"%d" % reset)])
        elif who is None:
            refusal = problem(Problem(401, "a valid token is needed"))
            await answer(counted, 401, refusal, [kind, (b"www-authenticate", b"Bearer")])
        else:
            await app(scope, receive, counted)
        finish(scope["method"], path, status, time.perf_counter() - began, who, request_id)
        return None

    return layer


async def answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
