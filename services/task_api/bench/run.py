"""What the service costs: `nox -s bench` runs all measures, `nox -s bench -- cpu rivals` those named.

Writes reports/bench.json and reports/bench.html. Exit status: 0 when every measure keeps its bound, 1 when one misses
it, 2 when a measure could not be taken. No bound is of wall time: each is of CPU time of the server's processes, and
ratios come from interleaved rounds on the same machine.
"""

import argparse
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import psycopg
from psycopg import sql

from tooling.page import render
from tooling.postgres import postgres
from tooling.project import CACHE, REPORTS
from tooling.service import ServiceError, command_line, environment, free_port, listening
from tooling.tools import MissingTool, last_words

from .load import (
    MIX,
    TIMEOUT,
    Client,
    Server,
    UnexpectedResponseError,
    cost,
    cpu_seconds,
    fill,
    mixed,
    processes,
    repeated,
)
from .rivals.equal import NotEqualError, check, check_limit

K = TypeVar("K")
HERE = Path(__file__).parent

OF_FASTAPI, OF_FLASK = 0.5, 1.0
OF_RIVAL = 2.5
"""What is reached. The rivals are on another server: docs/scale.md has what gunicorn's alone costs."""
PAGE, FILTERED = 1.1, 2.0
GROWTH = 1.05
START_SECONDS = 1.5

ROUNDS, REQUESTS = 15, 1200
RIVAL_ROUNDS = 9
FLOOR_REQUESTS = 4800  # the system counts CPU time by 10 ms
PAGE_ROUNDS, PAGE_REQUESTS = 7, 400
FEW, MANY = 1_000, 1_000_000
LONG, SAMPLE, SETTLED = 100_000, 5_000, 20_000
STARTS = 5
SCALE_ROUNDS, SCALE_REQUESTS = 7, 600
OUTBOX_ROUNDS, OUTBOX_REQUESTS = 15, 600
OF_WRITE = 1.15
OF_SERVICE, WRITTEN, KEPT = 0.8, 3.0, 2.0
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass
class Measure:
    """One figure with its upper bound and its samples. One without a bound is stated alone."""

    name: str
    value: float
    bound: float | None
    unit: str
    samples: list[float]
    detail: str
    kept: bool = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.bound is None or self.value <= self.bound

    @classmethod
    def median(
        cls, name: str, samples: list[float], bound: float | None, *, unit: str = TIMES, detail: str = ""
    ) -> "Measure":
        """Return the measure whose value is the median of its samples."""
        return cls(name, statistics.median(samples), bound, unit, samples, detail)


def progress(text: str) -> None:
    """Print a line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


@contextmanager
def service(folder: Path, **settings: str) -> Iterator[Server]:
    """Run the service with every feature and one worker, and log in. Its log lines go to a file."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    folder.mkdir(exist_ok=True)
    everything = {
        "DB_PATH": str(folder / "tasks.db"),
        "AUTH": "on",
        "JWT_KEYS": f"bench:{secrets.token_urlsafe(32)}",
        "ACCESS_TOKEN_SECONDS": "86400",
        "RATE_LIMIT": "100000000/minute",
        "WORKERS": "1",
        "PORT": str(port),
    }
    log = folder / "log"
    with listening(command_line("serve"), {**everything, **settings}, ready=f"{url}/readyz", log=log) as process:
        account = {"email": "bench@example.com", "password": secrets.token_urlsafe(16)}
        httpx.post(f"{url}/auth/register", json=account, timeout=TIMEOUT).raise_for_status()
        tokens = httpx.post(f"{url}/auth/login", json=account, timeout=TIMEOUT).raise_for_status().json()
        yield Server("task-api", url, process.pid, {"Authorization": f"Bearer {tokens['access_token']}"})


@contextmanager
def peer(name: str, command: Sequence[str], folder: Path) -> Iterator[Server]:
    """Run one of the plain services in this folder."""
    folder.mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"DB_PATH": str(folder / "tasks.db"), "PYTHONPATH": str(HERE)}
    full = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    with listening(full, settings, ready=f"{url}/health", log=folder / "log") as process:
        yield Server(name, url, process.pid)


FASTAPI = ("uvicorn", "--port={port}", "fastapi_orm:app")
GTHREAD = ("gunicorn", "--bind=127.0.0.1:{port}", "--worker-class=gthread", "--threads=4")
FLASK = (*GTHREAD, "bare_flask:app")


def in_turns(
    servers: Sequence[Server], rounds: int, requests: int, mix: Mapping[str, int] = MIX
) -> dict[str, list[float]]:
    """Return each server's CPU milliseconds a request, round by round; each round begins with another server."""
    for server in servers:
        mixed(server, requests, -1, mix)  # warms the caches
    spent: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(rounds):
        first = number % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            spent[server.name].append(cost(mixed, server, requests, number, mix) / requests * 1000)
        progress(f"round {number + 1}/{rounds}: " + ", ".join(f"{name} {ms[-1]:.3f} ms" for name, ms in spent.items()))
    return spent


def ratios(spent: Mapping[K, list[float]], ours: K, other: K) -> list[float]:
    """Return each round's cost of `ours` to that of the other."""
    return [a / b for a, b in zip(spent[ours], spent[other], strict=True)]


def described(spent: Mapping[str, list[float]]) -> str:
    """Return each server's median cost, with the lowest and the highest."""
    return "; ".join(
        f"{name} {statistics.median(ms):.3f} ms CPU a request ({min(ms):.3f} to {max(ms):.3f})"
        for name, ms in spent.items()
    )


def held_against(other: str, name: str, spent: Mapping[str, list[float]], bound: float | None) -> Measure:
    """Return the measure of the service's cost to another's."""
    return Measure.median(name, ratios(spent, "task-api", other), bound, detail=described(spent))


def measure_cpu(folder: Path) -> list[Measure]:
    """Compare the CPU time of a request, reads and writes mixed, with that of the two plain services."""
    with ExitStack() as stack:
        ours = stack.enter_context(service(folder / "ours"))
        fastapi = stack.enter_context(peer("FastAPI, SQLAlchemy ORM, uvicorn", FASTAPI, folder / "fastapi"))
        flask = stack.enter_context(peer("Flask, sqlite3, gunicorn", FLASK, folder / "flask"))
        servers = [ours, fastapi, flask]
        for server in servers:
            fill(server)
        spent = in_turns(servers, ROUNDS, REQUESTS)
    return [
        held_against(other.name, f"CPU a request, held against {other.name}", spent, bound)
        for other, bound in ((fastapi, OF_FASTAPI), (flask, OF_FLASK))
    ]


GRANIAN = ("granian", "--interface=asgi", "--loop=uvloop", "--no-ws", "--log-level=warning", "--workers=1")
FRAMEWORKS = {"Litestar": "litestar_app", "BlackSheep": "blacksheep_app", "FastAPI": "fastapi_app"}
FLOOR = "Go"
RIVALS = (*FRAMEWORKS, FLOOR)


GO_NEEDS = {"go": "Go is missing: https://go.dev/doc/install", "cc": "a C compiler is missing: install gcc or clang"}
"""What builds the rival in Go. Its SQLite is the one in C: with the translation to Go it takes 1.4 times the CPU."""

FETCHING_GO = 21
"""Go 1.21 is the first that fetches the Go which go.mod names."""


def go_program() -> Path:
    """Build the rival in Go and return its program. Raises `MissingTool`, and `ServiceError` where the build fails."""
    for name, remedy in GO_NEEDS.items():
        if shutil.which(name) is None:
            raise MissingTool(f"the rival in Go cannot be built: {remedy}")
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    if (minor := re.match(r"go1\.([0-9]{1,3})", version)) and int(minor[1]) < FETCHING_GO:
        raise MissingTool(f"the rival in Go cannot be built: Go 1.{FETCHING_GO} is missing: https://go.dev/doc/install")
    program = CACHE / "bench" / "go-rival"
    options = ("-trimpath", "-buildvcs=false", "-tags=sqlite_fts5")  # the triggers of `tasks` keep an index of FTS5
    done = subprocess.run(
        ["go", "build", *options, "-o", program, "."],
        cwd=HERE / "rivals" / "go",
        env={**os.environ, "CGO_ENABLED": "1", "CC": "cc"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"the rival in Go cannot be built: {last_words(done)}")
    return program


@contextmanager
def rival(name: str, folder: Path, **settings: str) -> Iterator[Server]:
    """Run a rival, frameworks on granian, with the database, the account and the session that the service made."""
    keys = f"bench:{secrets.token_urlsafe(32)}"
    with service(folder, JWT_KEYS=keys) as ours:
        headers = ours.headers
    url = f"http://127.0.0.1:{(port := free_port())}"
    every = {"DB_PATH": str(folder / "tasks.db"), "JWT_KEYS": keys, "RATE_LIMIT": "100000000/minute", **settings}
    if name == FLOOR:
        command = [str(go_program())]
        every |= {"PORT": str(port), "QUERIES": str(HERE / "rivals" / "queries.json")}
    else:
        command = [sys.executable, "-m", *GRANIAN, f"--port={port}", f"{__package__}.rivals.{FRAMEWORKS[name]}:app"]
    with listening(command, every, ready=f"{url}/health", log=folder / "log") as process:
        yield Server(name, url, process.pid, headers)


def competitor(name: str, folder: Path, **settings: str) -> AbstractContextManager[Server]:
    """Return the rival of that name, or the service for any other."""
    return rival(name, folder, **settings) if name in RIVALS else service(folder, **settings)


def check_equal(name: str, folder: Path) -> None:
    """Raise `NotEqualError` where a competitor does less than the others."""
    folder.mkdir(exist_ok=True)
    try:
        with competitor(name, folder / "whole") as server:
            check(server.url, server.headers, folder / "whole" / "log")
        with competitor(name, folder / "limited", RATE_LIMIT="16/minute") as server:
            check_limit(server.url, server.headers)
    except NotEqualError as error:
        raise NotEqualError(f"{name}: {error}") from error


def measure_rivals(folder: Path) -> list[Measure]:
    """Compare the CPU time of a request with that of the fastest frameworks, and of Go, at equal features."""
    competitors = ("task-api", *RIVALS)
    with ExitStack() as stack:
        for name in competitors:
            check_equal(name, folder / f"{name} checked")
            progress(f"{name} has every compared feature")
        servers = [stack.enter_context(competitor(name, folder / name)) for name in competitors]
        for server in servers:
            fill(server)
        spent = in_turns(servers, RIVAL_ROUNDS, REQUESTS)
    return [
        held_against(name, f"CPU a request at equal features, held against {name} on {server}", spent, bound)
        for names, server, bound in ((FRAMEWORKS, "granian", OF_RIVAL), ((FLOOR,), "net/http", None))
        for name in names
    ]


CONSTANT = {
    "Flask on gthread, constant body": (*GTHREAD, "constant:flask_app"),
    "no framework on gthread, constant body": (*GTHREAD, "constant:application"),
}


def measure_floors(folder: Path) -> list[Measure]:
    """Compare the CPU time of reading a task with that of rivals, and of a constant body on the service's server."""
    with ExitStack() as stack:
        servers = [stack.enter_context(competitor(name, folder / name)) for name in ("task-api", *RIVALS)]
        for server in servers:
            fill(server)
        for name, command in CONSTANT.items():
            constant = stack.enter_context(peer(name, command, folder / name))
            servers.append(replace(constant, owned=servers[0].owned))
        spent = in_turns(servers, RIVAL_ROUNDS, FLOOR_REQUESTS, {"get": 1})
    return [
        held_against(name, f"CPU of reading a task, held against {name}", spent, None) for name in (*RIVALS, *CONSTANT)
    ]


RARE = 50
"""Tasks that are in progress, and as many with the word "zebra": as many among a thousand as among a million."""


def import_tasks(folder: Path, rows: int) -> None:
    """Import tasks of account 1 into the service's database in `folder`."""
    file = folder / "tasks.jsonl"
    with file.open("w") as output:
        output.writelines(f"{json.dumps(line)}\n" for line in lines(rows))
    settings = environment({"DB_PATH": str(folder / "tasks.db")})
    done = subprocess.run(command_line("import", str(file)), env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"task-api import ended with status {done.returncode}: {done.stderr[-1000:]}")


def lines(rows: int) -> Iterator[dict[str, Any]]:
    """Yield tasks in the format of `task-api import`, with due dates, words and states spread evenly."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    words = ("invoice", "report", "backup", "garden", "ticket", "letter", "review", "budget", "meeting", "release")
    for number in range(rows):
        rare = number % (rows // RARE) == 0
        moment = (start + timedelta(seconds=number)).isoformat()
        yield {
            "type": "task",
            "id": number + 1,
            "owner_id": 1,
            "title": f"{words[number % 10]} {number}{' zebra' if rare else ''}",
            "description": "The figures of the week, with a picture.",
            "status": "in_progress" if rare else ("pending", "completed")[number % 2],
            "priority": number % 3,
            "due_at": (start + timedelta(minutes=number * 7919 % rows)).isoformat() if number % 4 else None,
            "created_at": moment,
            "updated_at": moment,
            "version": 1,
        }
    yield {"type": "end", "accounts": 0, "tasks": rows}


def middle(server: Server, rows: int) -> str:
    """Follow the cursors to the middle of all tasks and return that page's path."""
    path = "/tasks?limit=200"
    with Client(server) as client:
        for _ in range(rows // 2 // 200):
            _, link = client.request("GET", path)
            (path,) = re.findall(r'<([^<>]*)>; rel="next"', link or "")
    return re.sub(r"limit=\d+", "limit=20", path)


PAGES = {
    "first page": ("/tasks?limit=20", PAGE),
    "page in the middle, by cursor": ("", PAGE),
    "last first (sort=-id)": ("/tasks?limit=20&sort=-id", PAGE),
    "status=pending": ("/tasks?limit=20&status=pending", FILTERED),
    "status=in_progress (50 tasks)": ("/tasks?limit=20&status=in_progress", FILTERED),
    "priority=high, status=completed": ("/tasks?limit=20&priority=high&status=completed", FILTERED),
    "due_after, sort=due_at": ("/tasks?limit=20&due_after=2026-01-01T05:00:00Z&sort=due_at", FILTERED),
    "due_before, due_after": (
        "/tasks?limit=20&due_after=2026-01-01T05:00:00Z&due_before=2026-01-01T06:00:00Z&sort=due_at",
        FILTERED,
    ),
    "sort=-updated_at": ("/tasks?limit=20&sort=-updated_at", FILTERED),
    "q=zebra (50 tasks)": ("/tasks?limit=20&q=zebra", FILTERED),
    "q=report (one in ten)": ("/tasks?limit=20&q=report", FILTERED),
    "q=report, status=completed": ("/tasks?limit=20&q=report&status=completed", FILTERED),
}
"""Name of the page: its path, and the bound of its cost among a million rows to that among a thousand."""


def measure_pages(folder: Path) -> list[Measure]:
    """Compare the CPU time of a page of 20 tasks among 1,000,000 rows with that among 1,000."""
    with ExitStack() as stack:
        servers = {rows: stack.enter_context(service(folder / str(rows))) for rows in (FEW, MANY)}
        paths = {}
        for rows, server in servers.items():
            progress(f"filling a database with {rows:,} tasks")
            import_tasks(folder / str(rows), rows)
            paths[rows] = middle(server, rows)
        measures = []
        for name, (path, bound) in PAGES.items():
            spent: dict[int, list[float]] = {FEW: [], MANY: []}
            for number, rows in itertools.product(range(PAGE_ROUNDS + 1), (FEW, MANY)):
                seconds = cost(repeated, servers[rows], PAGE_REQUESTS, path or paths[rows])
                if number:  # the first round warms the caches
                    spent[rows].append(seconds / PAGE_REQUESTS * 1000)
            few, many = (statistics.median(spent[rows]) for rows in (FEW, MANY))
            detail = f"{many:.3f} ms CPU among {MANY:,} tasks, {few:.3f} ms among {FEW:,}"
            measures.append(Measure.median(f"Page of 20: {name}", ratios(spent, MANY, FEW), bound, detail=detail))
            progress(f"{name}: {detail}")
    return measures


def measure_memory(folder: Path) -> list[Measure]:
    """Measure the unshared memory of a worker over 100,000 mixed requests."""
    with service(folder / "ours") as server:
        fill(server)
        workers = [process.pid for process in processes(server.pid)[1:]]
        held = []
        for number in range(LONG // SAMPLE):
            mixed(server, SAMPLE, number)
            held.append(sum(psutil.Process(pid).memory_full_info().uss for pid in workers) / 2**20)
            progress(f"{(number + 1) * SAMPLE:,} requests: {held[-1]:.1f} MiB")
        if [process.pid for process in processes(server.pid)[1:]] != workers:
            raise ServiceError("a worker was replaced during the measure, so the figures are of two workers")
    settled = held[SETTLED // SAMPLE - 1]
    detail = f"{settled:.1f} MiB after {SETTLED:,} requests, {held[-1]:.1f} MiB after {LONG:,} (the worker's own pages)"
    return [Measure("Memory of a worker over 100,000 requests", held[-1] / settled, GROWTH, TIMES, held, detail)]


def measure_start(folder: Path) -> list[Measure]:
    """Measure the CPU time from the start to the first 200, by default settings, with a new database."""
    spent = []
    for number in range(STARTS):
        url = f"http://127.0.0.1:{(port := free_port())}"
        settings = {"DB_PATH": str(folder / f"{number}.db"), "PORT": str(port)}
        with listening(command_line("serve"), settings, ready=f"{url}/readyz", log=folder / "log") as process:
            spent.append(cpu_seconds(process.pid))
        progress(f"start {number + 1}/{STARTS}: {spent[-1]:.2f} s of CPU")
    return [
        Measure.median(
            "Start to the first 200", spent, START_SECONDS, unit="s", detail="two workers, database made and migrated"
        )
    ]


def measure_scale(folder: Path) -> list[Measure]:
    """Measure what each kind of request costs PostgreSQL, held against the service, and what it writes to disk.

    docs/scale.md derives from these figures what one database carries.
    """
    with on_postgresql(folder / "ours") as (server, connection):

        def number(query: str) -> float:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return float(row[0])

        database = server.database
        assert database is not None
        fill(server)
        measures = []
        for kind in MIX:
            spent: dict[int, list[float]] = {server.pid: [], database: []}
            written, size = [], number("SELECT pg_database_size(current_database())")
            for round_ in range(SCALE_ROUNDS + 1):
                before = {pid: cpu_seconds(pid) for pid in spent}
                position = number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
                mixed(server, SCALE_REQUESTS, round_, {kind: 1})
                if round_:  # the first round warms the caches
                    for pid, samples in spent.items():
                        samples.append((cpu_seconds(pid) - before[pid]) / SCALE_REQUESTS * 1000)
                    end = number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
                    written.append((end - position) / SCALE_REQUESTS / 1024)
            ours, theirs = (statistics.median(samples) for samples in spent.values())
            detail = f"{ours:.3f} ms CPU in the service, {theirs:.3f} ms in PostgreSQL"
            name, costs = f"CPU of PostgreSQL, held against the service: {kind}", ratios(spent, database, server.pid)
            measures.append(Measure.median(name, costs, OF_SERVICE, detail=detail))
            if kind in WRITES:
                measures.append(Measure.median(f"Write-ahead log: {kind}", written, WRITTEN, unit="KiB"))
            if kind == "create":
                grown = number("SELECT pg_database_size(current_database())") - size
                each = grown / SCALE_REQUESTS / (SCALE_ROUNDS + 1) / 1024
                measures.append(Measure("Disk: create", each, KEPT, "KiB", [each], "the task, its indexes, its change"))
            progress(f"{kind}: {detail}")
    return measures


WRITES = {"create", "update", "delete"}

OUTBOX = re.compile(r"task_(changes|reminders)_\w+")
"""The triggers of `tasks` that record a change, for clients, webhooks and reminders."""

RECORDED = {"with its change": True, "without": False}


def measure_outbox(folder: Path) -> list[Measure]:
    """Compare the CPU time of a write with that of one that records no change, the database's included."""
    measures = []
    for database, kind in itertools.product((sqlite, postgresql), ("create", "rename")):
        name = f"A write with its change, {database.__name__}: {kind}"
        with ExitStack() as stack:
            servers = [
                replace(stack.enter_context(database(folder / f"{name} {label}", recorded=recorded)), name=label)
                for label, recorded in RECORDED.items()
            ]
            spent = in_turns(servers, OUTBOX_ROUNDS, OUTBOX_REQUESTS, {kind: 1})
        ours, plain = (statistics.median(samples) for samples in spent.values())
        detail = f"{ours:.3f} ms CPU of service and database, {plain:.3f} ms where no change is recorded"
        measures.append(Measure.median(name, ratios(spent, *RECORDED), OF_WRITE, detail=detail))
        progress(f"{name}: {detail}")
    return measures


@contextmanager
def sqlite(folder: Path, *, recorded: bool) -> Iterator[Server]:
    """Run the service on SQLite, with some tasks. `recorded`: changes are recorded."""
    with service(folder) as server:
        with closing(sqlite3.connect(folder / "tasks.db")) as connection:
            query = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'tasks'"
            for (name,) in connection.execute(query).fetchall():
                if not recorded and OUTBOX.fullmatch(name):
                    connection.execute(f'DROP TRIGGER "{name}"')
        fill(server)
        yield server


@contextmanager
def postgresql(folder: Path, *, recorded: bool) -> Iterator[Server]:
    """Run the service on PostgreSQL, with some tasks. `recorded`: changes are recorded."""
    with on_postgresql(folder) as (server, connection):
        query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'tasks'::regclass AND NOT tgisinternal"
        for (name,) in connection.execute(query).fetchall():
            if not recorded and OUTBOX.fullmatch(name):
                connection.execute(sql.SQL("DROP TRIGGER {} ON tasks").format(sql.Identifier(name)))
        fill(server)
        yield server


@contextmanager
def on_postgresql(folder: Path) -> Iterator[tuple[Server, psycopg.Connection]]:
    """Run the service on a database server of its own; yield it with a connection to its database."""
    with postgres() as database, psycopg.connect(database, autocommit=True) as connection:
        subprocess.run(command_line("migrate"), env=environment({"DATABASE_URL": database}), check=True)
        row = connection.execute("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::integer").fetchone()
        assert row is not None
        with service(folder, DATABASE_URL=database, DB_PATH="") as server:
            server.database = int(row[0])
            yield server, connection


MEASURES = {
    "cpu": measure_cpu,
    "rivals": measure_rivals,
    "floors": measure_floors,
    "pages": measure_pages,
    "memory": measure_memory,
    "start": measure_start,
    "scale": measure_scale,
    "outbox": measure_outbox,
}


def write(measures: list[Measure], seconds: float) -> None:
    """Write reports/bench.json and reports/bench.html."""
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in (
                "blacksheep",
                "fastapi",
                "flask",
                "granian",
                "gunicorn",
                "litestar",
                "sqlalchemy",
                "task-api",
                "uvicorn",
            )
        },
    }
    REPORTS.mkdir(exist_ok=True)
    document = {**facts, "measures": [asdict(measure) for measure in measures]}
    (REPORTS / "bench.json").write_text(json.dumps(document, indent=1))
    (REPORTS / "bench.html").write_text(render(str(HERE / "bench.html"), measures=measures, **facts))


def main(arguments: Sequence[str]) -> int:
    """Take the measures and write the report."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Measure what the service costs.")
    parser.add_argument("measures", nargs="*", metavar="|".join(MEASURES), default=[], help="all by default")
    names = parser.parse_args(arguments).measures or list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        parser.error(f"unknown measure: {', '.join(sorted(unknown))}; the measures are {', '.join(MEASURES)}")
    began = time.monotonic()
    measures = []
    try:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                measures += MEASURES[name](Path(folder))
    except (ServiceError, MissingTool, UnexpectedResponseError, NotEqualError, httpx.HTTPError) as error:
        print(f"bench: a measure could not be taken: {error}", file=sys.stderr)
        return 2
    write(measures, time.monotonic() - began)
    for measure in measures:
        low, high = min(measure.samples), max(measure.samples)
        bound = "" if measure.bound is None else f" <= {measure.bound}"
        figure = f"{measure.value:7.3f} {measure.unit}{bound} ({low:.3f} to {high:.3f})"
        print("ok    " if measure.kept else "MISSED", figure, "", measure.name)
    print("written: reports/bench.html, reports/bench.json")
    return 0 if all(measure.kept for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
