import fcntl
import multiprocessing
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from task_api.config import Rate
from task_api.http import rate_limit
from task_api.http.rate_limit import SHARE, RateLimiter, Windows
from task_api.store import shared_windows
from task_api.store.shared_windows import SLOTS_OF_A_BUCKET, SharedWindows
from task_core.database import Database
from task_core.rates import DatabaseWindows

from .conftest import KEY, Migrated, Serve, client_of, log_in

DAY = 86400


@pytest.fixture
def windows(database: Database) -> Windows:
    """What the service counts in: shared memory with SQLite, the database with PostgreSQL."""
    return DatabaseWindows(database) if database.dialect == "postgresql" else SharedWindows()


def test_a_client_may_use_the_limit_and_then_receives_429_with_retry_after(serve: Serve) -> None:
    client = serve(rate_limit=Rate(20, DAY))
    answers = [client.get("/tasks") for _ in range(21)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    assert [int(a.headers["RateLimit"].split(";")[1][2:]) for a in answers] == [*range(19, -1, -1), 0]
    assert answers[0].headers["RateLimit-Policy"] == f'"default";q=20;w={DAY}'
    assert 0 < int(answers[-1].headers["Retry-After"]) <= DAY
    assert answers[-1].content_type == "application/problem+json"


def test_health_readiness_and_metrics_are_outside_the_limit(serve: Serve) -> None:
    client = serve(rate_limit=Rate(1, DAY))
    for path in ("/health", "/livez", "/readyz", "/metrics") * 3:
        assert client.get(path).status_code == 200


def test_each_account_has_a_limit_of_its_own(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), rate_limit=Rate(5, DAY))
    ada, bob = log_in(client, "ada@example.org"), log_in(client, "bob@example.org")
    assert [client.get("/tasks", headers=ada).status_code for _ in range(6)] == [200] * 5 + [429]
    assert client.get("/tasks", headers=bob).status_code == 200


def test_guesses_of_tokens_are_limited_by_address(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), rate_limit=Rate(3, DAY))
    guesses = [client.get("/tasks", headers={"Authorization": "Bearer x"}).status_code for _ in range(4)]
    assert guesses == [401, 401, 401, 429]


@pytest.mark.parametrize("limit", [1, 7, 100, 640])
def test_workers_that_share_a_database_never_allow_more_than_the_limit(windows: Windows, limit: int) -> None:
    workers = [RateLimiter(Rate(limit, DAY), windows) for _ in range(3)]

    def use_up(worker: RateLimiter) -> int:
        return sum(worker.hit("client").allowed for _ in range(limit))

    with ThreadPoolExecutor(3) as pool:
        allowed = sum(pool.map(use_up, workers))
    assert allowed == limit


def test_a_worker_without_further_requests_keeps_a_sixteenth_at_most(windows: Windows) -> None:
    first, second = (RateLimiter(Rate(160, DAY), windows) for _ in range(2))
    first.hit("client")
    allowed = sum(second.hit("client").allowed for _ in range(200))
    assert 160 - 160 // SHARE <= allowed < 160


def test_a_new_window_is_a_new_limit(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(Rate(2, 60), windows)
    now = [1_000_000_000.0]
    monkeypatch.setattr("task_api.http.rate_limit.time.time", lambda: now[0])
    assert [limiter.hit("c").allowed for _ in range(3)] == [True, True, False]
    now[0] += 60
    assert [limiter.hit("c").allowed for _ in range(3)] == [True, True, False]


def test_a_flood_of_clients_does_not_fill_the_memory(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS_REMEMBERED", 10)
    limiter = RateLimiter(Rate(5, DAY), windows)
    for number in range(25):
        limiter.hit(f"client {number}")
    assert len(limiter._allowances) <= 10


def use_up(windows: SharedWindows, share: int, results: Any) -> None:
    results.put([windows.take(f"client {number % 3}", 2**31, 300, share)[0] for number in range(600)])


@pytest.mark.parametrize("share", [300, SHARE])
def test_workers_that_were_forked_never_take_more_than_the_limit_from_shared_memory(share: int) -> None:
    windows, fork = SharedWindows(), multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    workers = [fork.Process(target=use_up, args=(windows, share, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    taken = sum(sum(results.get()) for _ in workers)
    for worker in workers:
        worker.join()
    assert taken == 3 * 300


def die_with_the_lock(windows: SharedWindows) -> None:
    fcntl.lockf(windows._file, fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_counts_locks_nobody_out() -> None:
    windows, fork = SharedWindows(), multiprocessing.get_context("fork")
    worker = fork.Process(target=die_with_the_lock, args=(windows,))
    worker.start()
    worker.join()
    assert windows.take("client", 2**31, 10, 10) == (1, 1)


def test_a_flood_of_clients_frees_no_window_that_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_windows, "BUCKETS", 1)
    windows = SharedWindows()
    windows.take("ended", 1, 10, 1)
    assert windows.take("guesser", 2**31, 10, 1) == (10, 10)
    for number in range(10 * SLOTS_OF_A_BUCKET):
        assert windows.take(f"client {number}", 2**31, 10, 10) == (1, 1)
    assert windows.take("guesser", 2**31, 10, 1) == (0, 10)
    assert windows.take("guesser", 2**31 + 60, 10, 1) == (10, 10)


def test_while_another_process_writes_to_sqlite_reading_does_not_wait(tmp_path: Path, migrated: Migrated) -> None:
    settings = migrated("sqlite", "tests", tmp_path)
    limited = msgspec.structs.replace(settings, rate_limit=Rate(100, DAY))
    database = Database(limited)
    client = client_of(limited, database)
    with closing(sqlite3.connect(settings.db_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with database._writer:  # a write would wait for this lock forever
            assert [client.get("/tasks").status_code for _ in range(3)] == [200] * 3
    database.engine.dispose()
