import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import OperationalError

from task_api import telemetry
from task_api.config import Settings
from task_api.store import clearing, rates
from task_api.store.clearing import EXPIRING, Backlog, Clearer, clear
from task_api.store.database import Database
from task_api.store.schema import LOCAL_ACCOUNT, idempotency_keys, metadata, refresh_tokens, sessions

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def rows(now: datetime, ago: timedelta) -> list[tuple[Any, dict[str, Any]]]:
    """A row for each table, whose column by which it expires is so long ago."""
    at = now - ago
    name = f"{ago.total_seconds():.0f}"
    digest = name.encode().ljust(32)
    return [
        (idempotency_keys, {"owner_id": 0, "key": name, "request_digest": digest, "claim": "c", "claimed_at": at}),
        (metadata.tables["rate_windows"], {"client": name, "ends_at": int(at.timestamp()), "used": 1}),
        (sessions, {"id": name, "account_id": LOCAL_ACCOUNT, "created_at": at, "expires_at": at}),
        (refresh_tokens, {"digest": digest, "session_id": name, "expires_at": at, "spent_at": at}),
        (metadata.tables["mail_tokens"], {"digest": digest, "purpose": "p", "email": "e", "expires_at": at}),
        (
            metadata.tables["personal_tokens"],
            {
                "account_id": LOCAL_ACCOUNT,
                "name": "n",
                "digest": digest,
                "scopes": "",
                "created_at": at,
                "expires_at": at,
            },
        ),
        (metadata.tables["audit_log"], {"at": at, "actor": "a", "action": "b", "account_id": 0, "details": ""}),
    ]


def fill(database: Database, *ages: timedelta) -> None:
    now = datetime.now(UTC)
    with database.write() as connection:
        for age in ages:
            for table, row in rows(now, age):
                connection.execute(insert(table), row)


def count(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            expiring.table.name: connection.scalar(select(func.count()).select_from(expiring.table)) or 0
            for expiring in EXPIRING
        }


@pytest.mark.parametrize("kept", sorted({expiring.kept for expiring in EXPIRING}))
def test_rows_are_deleted_when_their_time_is_over_and_not_before(database: Database, kept: timedelta) -> None:
    fill(database, kept + MINUTE, kept - MINUTE)
    clear(database)
    left = count(database)
    assert {name: left[name] for name in left if by_name(name).kept == kept} == {
        expiring.table.name: 1 for expiring in EXPIRING if expiring.kept == kept
    }


def by_name(name: str) -> clearing.Expiring:
    return next(expiring for expiring in EXPIRING if expiring.table.name == name)


def test_each_column_that_rows_expire_by_has_an_index() -> None:
    indexed = {index.columns[0] for expiring in EXPIRING for index in expiring.table.indexes}
    assert {expiring.column for expiring in EXPIRING} <= indexed


def test_many_rows_go_in_small_transactions_with_pauses_between(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearing, "PIECE", 2)
    fill(database, *(366 * DAY + number * MINUTE for number in range(5)))
    pauses: list[float] = []
    counts = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        counts.append(sum(count(database).values()))

    backlogs = clear(database, pause)
    steps = [before - after for before, after in itertools.pairwise(counts)]
    assert sum(count(database).values()) == 0
    assert {backlog.table: backlog.deleted for backlog in backlogs} == dict.fromkeys(count(database), 5)
    assert max(steps) == 2
    assert min(pauses) > 0


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_rows_that_others_hold_are_passed_over_and_reported(database: Database) -> None:
    fill(database, 3 * DAY, 4 * DAY)
    with database.write() as connection:
        held = idempotency_keys.c.key == str(4 * 86400)
        connection.execute(update(idempotency_keys).where(held).values(claim="held"))
        with ThreadPoolExecutor(1) as pool:
            backlog = pool.submit(clear, database).result(timeout=30)[0]
    assert (backlog.table, backlog.deleted) == ("idempotency_keys", 1)
    assert 3 * 86400 - 1 < backlog.seconds < 3 * 86400 + 60
    assert clear(database)[0].seconds == 0


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_sqlites_writer_is_not_taken_when_nothing_has_expired(database: Database) -> None:
    fill(database, -DAY)
    with database._writer:
        assert {backlog.seconds for backlog in clear(database)} == {0}


def test_a_round_is_published(database: Database) -> None:
    fill(database, 400 * DAY)
    before = telemetry._expired.labels("sessions")._value.get()
    telemetry.cleared([*clear(database), Backlog("tasks", 0, 7.5)])
    assert telemetry._expired.labels("sessions")._value.get() == before + 1
    assert telemetry._backlog.labels("sessions")._value.get() == 0
    assert telemetry._backlog.labels("tasks")._value.get() == 7.5


def test_the_thread_goes_on_after_a_round_that_failed(
    empty_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OperationalError("", None, Exception())])

    def next_round(*_: object) -> list[Backlog]:
        for failure in failures:
            raise failure
        return [Backlog("sessions", 1, 0)]

    monkeypatch.setattr(clearing, "clear", next_round)
    monkeypatch.setattr(clearing, "ROUND_SECONDS", 0)
    database = Database(empty_settings)
    reported = threading.Event()

    def report(backlogs: list[Backlog]) -> None:
        assert backlogs == [Backlog("sessions", 1, 0)]
        clearer.stop()
        reported.set()

    clearer = Clearer(database, report)
    clearer.start()
    assert reported.wait(10)
    database.engine.dispose()


def test_clients_that_come_back_after_days_are_counted_from_the_first_request_on(database: Database) -> None:
    clients = [f"client {number}" for number in range(60)]
    now = int(time.time())
    with database.write() as connection:
        for client in clients:
            rates.take(connection, client, now - 3 * 86400, 10, 10)

    def come_back(client: str) -> tuple[int, int]:
        with database.write() as connection:
            taken = rates.take(connection, client, now + 86400, 10, 10)
        clear(database)
        return taken

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(come_back, clients)) == {(1, 1)}
    assert count(database)["rate_windows"] == 60
