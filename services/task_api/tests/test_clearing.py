import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, event, func, insert, select, update
from sqlalchemy.exc import OperationalError

from task_api import telemetry
from task_api.config import Settings
from task_api.store import clearing, pruning
from task_api.store.clearing import EXPIRING, Backlog, Clearer, clear
from task_core import rates
from task_core.database import Database
from task_core.schema import LOCAL_ACCOUNT, idempotency_keys, metadata, refresh_tokens, sessions

from .conftest import Client, log_in

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


KEPT = {
    "idempotency_keys": DAY,
    "rate_windows": DAY,
    "refresh_tokens": timedelta(),
    "sessions": timedelta(),
    "mail_tokens": timedelta(),
    "personal_tokens": 30 * DAY,
    "audit_log": 365 * DAY,
    "deleted_tasks": 30 * DAY,
    "task_changes": 31 * DAY,
}
"""How long rows are kept that have ended, as documentation promises it: less loses what people rely on."""


def test_rows_are_kept_as_long_as_is_promised() -> None:
    assert {each.table.name: each.kept for each in EXPIRING} == KEPT


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
        (
            metadata.tables["deleted_tasks"],
            {
                "id": int(ago.total_seconds()) + 10**9,
                "title": "t",
                "description": "",
                "status": "pending",
                "created_at": at,
                "updated_at": at,
                "owner_id": LOCAL_ACCOUNT,
                "priority": 1,
                "version": 2,
                "deleted_at": at,
            },
        ),
        (
            metadata.tables["task_changes"],
            {
                "task_id": -1,
                "owner_id": LOCAL_ACCOUNT,
                "version": 1,
                "kind": "deleted",
                "changed_at": at,
                "actor_id": LOCAL_ACCOUNT,
                "fields": "",
                "mark": 1,
                "gone_at": at,
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
def test_a_transaction_deletes_no_more_rows_whatever_plan_postgresql_chooses(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subquery may be evaluated anew for each row, and then skips those that it has locked itself."""
    monkeypatch.setattr(clearing, "PIECE", 2)
    fill(database, *(366 * DAY + number * MINUTE for number in range(5)))
    most = dict.fromkeys(count(database), 0)

    def nested_loops(connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("DELETE"):
            for choice in ("hashjoin", "mergejoin", "hashagg", "material", "sort"):
                connection.exec_driver_sql(f"SET LOCAL enable_{choice} = off")

    def keep_most(_connection: Any, cursor: Any, statement: str, *_more: Any) -> None:
        for name in most:
            if f"DELETE FROM {name} " in statement:
                most[name] = max(most[name], cursor.rowcount)

    event.listen(database.engine, "before_cursor_execute", nested_loops)
    event.listen(database.engine, "after_cursor_execute", keep_most)
    try:
        clear(database)
    finally:
        event.remove(database.engine, "before_cursor_execute", nested_loops)
        event.remove(database.engine, "after_cursor_execute", keep_most)
    assert most == dict.fromkeys(most, 2)


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

    clearer = Clearer(database, pruning.Most(), report)
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


def tombstones(database: Database, owner_id: int) -> list[int]:
    kept = metadata.tables["deleted_tasks"].c
    with database.read() as connection:
        return list(connection.scalars(select(kept.id).where(kept.owner_id == owner_id).order_by(kept.id)))


def delete_tasks(client: Client, headers: dict[str, str], number: int, **task: Any) -> list[int]:
    """Create and delete tasks; return their ids."""
    ids = [client.post("/tasks", json={"title": "t", **task}, headers=headers).json["id"] for _ in range(number)]
    for task_id in ids:
        assert client.delete(f"/tasks/{task_id}", headers=headers).status_code == 200
    return ids


def test_an_account_keeps_the_newest_deleted_tasks_and_others_keep_theirs(
    guarded: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PIECE", 2)
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    pruner = pruning.Pruner(database, pruning.Most(tasks=3))
    pruner.prune()
    of_bob = delete_tasks(guarded, bob, 2)
    of_ada = delete_tasks(guarded, ada, 8)
    pauses: list[float] = []
    assert pruner.prune(pauses.append)["deleted_tasks"] == 5
    assert len(pauses) >= 3
    assert tombstones(database, 1) == of_ada[-3:]
    assert tombstones(database, 2) == of_bob
    assert guarded.post(f"/tasks/{of_ada[0]}/restore", headers=ada).status_code == 404
    assert guarded.post(f"/tasks/{of_ada[-1]}/restore", headers=ada).status_code == 200
    assert pruner.prune()["deleted_tasks"] == 0


def test_an_account_keeps_as_many_bytes_of_deleted_tasks_as_it_may(guarded: Client, database: Database) -> None:
    ids = delete_tasks(guarded, log_in(guarded), 5, title="ä" * 10)
    pruning.Pruner(database, pruning.Most(bytes=50)).prune()
    assert tombstones(database, 1) == ids[-2:]


def test_every_text_of_a_deleted_task_counts(guarded: Client, database: Database) -> None:
    texts = {"project": "p" * 9, "labels": ["l" * 7], "reminders": [{"before": "PT1M"}]}
    texts |= {"recurrence": "FREQ=DAILY", "time_zone": "Asia/Tokyo", "due_at": "2030-01-01T00:00:00Z"}
    ids = delete_tasks(guarded, log_in(guarded), 5, **texts)
    size = 1 + 9 + len('"lllllll"') + 2 + 10 + 10
    pruning.Pruner(database, pruning.Most(bytes=3 * size)).prune()
    assert tombstones(database, 1) == ids[-3:]
    pruning.Pruner(database, pruning.Most(bytes=3 * size - 1)).prune()
    assert tombstones(database, 1) == ids[-2:]


def test_who_reads_on_behind_pruned_changes_begins_anew_and_nobody_else(guarded: Client, database: Database) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")

    def read(who: dict[str, str], **query: str) -> Any:
        return guarded.get("/tasks/changes", query_string=query, headers=who)

    guarded.post("/tasks", json={"title": "kept"}, headers=ada)
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    before, of_bob = (read(who, since=read(who).json["next"]).json["next"] for who in (ada, bob))
    delete_tasks(guarded, ada, 10)
    assert pruning.Pruner(database, pruning.Most(tasks=2)).prune()["task_changes"] == 1 + 2 * 10 - 6
    assert read(ada, since=before).status_code == 410
    assert read(bob, since=of_bob).status_code == 200
    anew = read(ada).json
    assert [change["task"]["title"] for change in anew["changes"]] == ["kept"]
    going_on = read(ada, since=anew["next"])
    assert (going_on.status_code, going_on.json["changes"]) == (200, [])


def test_a_feed_begins_where_the_last_change_was_cleared(client: Client, database: Database) -> None:
    client.post("/tasks", json={"title": "kept"})
    delete_tasks(client, {}, 1)
    with database.write() as connection:
        for table, column in (("deleted_tasks", "deleted_at"), ("task_changes", "gone_at")):
            connection.execute(update(metadata.tables[table]).values({column: datetime.now(UTC) - 100 * DAY}))
            clear_one = by_name(table)
            connection.execute(delete(clear_one.table).where(clear_one.column < datetime.now(UTC) - 90 * DAY))
    began = client.get("/tasks/changes").json
    for _ in range(3):
        answer = client.get("/tasks/changes", query_string={"since": began["next"]})
        assert answer.status_code == 200, answer.text
        began = answer.json
