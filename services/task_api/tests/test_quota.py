from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import String, Text, cast, delete, func, insert, select

from task_api.store import usage
from task_api.store.usage import Usage
from task_api.tasks.quota import Quota
from task_core.database import Database
from task_core.reminder import Reminder
from task_core.schema import Labels, Reminders, account_usage, accounts, tasks

from .conftest import KEY, Client, Lend, log_in

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def limited(lend: Lend) -> Callable[..., tuple[Client, dict[str, str]]]:
    """A client of a service with these quotas, and the headers of an account."""

    def limit(**quotas: int) -> tuple[Client, dict[str, str]]:
        client = lend(auth="on", jwt_keys=(KEY,), **{"quota_tasks": 0, "quota_bytes": 0, **quotas})
        return client, log_in(client)

    return limit


def create(client: Client, headers: dict[str, str], **task: Any) -> Any:
    return client.post("/tasks", json={"title": "t", **task}, headers=headers)


def test_an_account_keeps_as_many_tasks_as_it_may_and_no_more(limited: Any) -> None:
    client, headers = limited(quota_tasks=2)
    assert [create(client, headers).status_code for _ in range(3)] == [201, 201, 403]
    refused = create(client, headers)
    assert refused.json["type"].endswith("quota-exceeded")
    assert "may keep 2 tasks" in refused.json["detail"]
    assert len(client.get("/tasks", headers=headers).json) == 2
    assert create(client, log_in(client, "bob@example.org")).status_code == 201
    client.delete(f"/tasks/{client.get('/tasks', headers=headers).json[0]['id']}", headers=headers)
    assert create(client, headers).status_code == 201


def test_bytes_are_counted_in_utf_8_and_changes_count(limited: Any) -> None:
    client, headers = limited(quota_bytes=10)
    created = create(client, headers, title="\u00e9\u00e9", description="123456")
    assert created.status_code == 201
    location = created.headers["Location"]
    assert client.put(location, json={"title": "\u00e9\u00e9a"}, headers=headers).status_code == 403
    assert client.put(location, json={"description": ""}, headers=headers).status_code == 200
    assert client.put(location, json={"title": "0123456789"}, headers=headers).status_code == 200
    assert create(client, headers).status_code == 403


def test_labels_count_for_the_quota_and_none_counts_nothing(limited: Any) -> None:
    client, headers = limited(quota_bytes=10)
    assert create(client, headers, title="123", labels=["\u00e9", "a"]).status_code == 403
    created = create(client, headers, title="12", labels=["\u00e9", "a"])
    assert created.status_code == 201
    assert create(client, headers).status_code == 403
    assert client.put(created.headers["Location"], json={"labels": []}, headers=headers).status_code == 200
    assert create(client, headers, title="12345678").status_code == 201


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ({"project": "\u00e9t\u00e9"}, 5),
        ({"recurrence": "FREQ=DAILY", "due_at": "2030-01-01T00:00:00Z"}, 10),
        ({"recurrence": "FREQ=DAILY", "time_zone": "Asia/Tokyo", "due_at": "2030-01-01T00:00:00Z"}, 20),
        ({"reminders": [{"before": "PT1M"}], "due_at": "2030-01-01T00:00:00Z"}, 2),  # [60]
    ],
)
def test_every_text_counts_for_the_quota(limited: Any, texts: dict[str, Any], size: int) -> None:
    client, headers = limited(quota_bytes=size)
    refused = create(client, headers, **texts)
    assert (refused.status_code, refused.json["type"]) == (403, "/problems#quota-exceeded")
    assert f"{size} bytes of text, and would have {size + 1}" in refused.json["detail"]
    client, headers = limited(quota_bytes=size + 1)
    created = create(client, headers, **texts)
    assert created.status_code == 201
    nothing: dict[str, Any] = {"project": None, "recurrence": None, "time_zone": None, "reminders": []}
    assert create(client, headers).status_code == 403
    assert client.put(created.headers["Location"], json=nothing, headers=headers).status_code == 200
    assert create(client, headers, title="t" * size).status_code == 201


def test_every_text_of_a_task_is_counted_or_is_one_of_few_words() -> None:
    texts = {column.name for column in tasks.c if isinstance(column.type, String | Labels | Reminders)}
    assert texts - set(usage.TEXTS) == {"status"}
    assert set(usage.TEXTS) <= texts


def test_a_bulk_request_that_ends_beyond_the_quota_does_nothing(limited: Any) -> None:
    client, headers = limited(quota_tasks=2)
    new = {"op": "create", "task": {"title": "t"}}

    def bulk(*operations: dict[str, Any]) -> int:
        status: int = client.post("/tasks/bulk", json={"operations": operations}, headers=headers).status_code
        return status

    assert bulk(new, new, new) == 403
    assert client.get("/tasks", headers=headers).json == []
    assert bulk(new, new) == 200
    ids = [task["id"] for task in client.get("/tasks", headers=headers).json]
    assert bulk({"op": "delete", "id": ids[0]}, new) == 200


def test_an_account_beyond_a_quota_that_was_lowered_may_still_shrink(lend: Lend) -> None:
    guarded = {"auth": "on", "jwt_keys": (KEY,)}
    client = lend(**guarded)
    headers = log_in(client)
    ids = [create(client, headers, description="long").json["id"] for _ in range(3)]
    client = lend(**guarded, quota_tasks=1, quota_bytes=1)
    assert client.put(f"/tasks/{ids[0]}", json={"description": "l"}, headers=headers).status_code == 200
    assert client.put(f"/tasks/{ids[0]}", json={"status": "completed"}, headers=headers).status_code == 200
    assert client.put(f"/tasks/{ids[0]}", json={"description": "lo"}, headers=headers).status_code == 403
    assert client.delete(f"/tasks/{ids[0]}", headers=headers).status_code == 200


def test_requests_at_once_do_not_go_beyond_the_quota_together(limited: Any) -> None:
    client, headers = limited(quota_tasks=5)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: create(client.application.test_client(), headers).status_code, range(24)))
    assert sorted(statuses) == [201] * 5 + [403] * 19


def test_without_accounts_there_is_no_quota(lend: Lend) -> None:
    client = lend(quota_tasks=1)
    assert {client.post("/tasks", json={"title": "t"}).status_code for _ in range(2)} == {201}


def test_no_quota_costs_no_statement() -> None:
    with Quota().held(None, 0):  # type: ignore[arg-type]
        pass


TEXTS = ("title", "description", "project", "recurrence", "time_zone")
AT = Reminder(at=MOMENT)
WORDS = st.text("a\u00e9\U0001f600", min_size=1, max_size=5)
CHANGE = st.one_of(
    st.tuples(st.sampled_from(TEXTS), WORDS),
    st.tuples(st.sampled_from(TEXTS[2:]), st.none()),
    st.tuples(st.just("labels"), st.lists(WORDS, max_size=2)),
    st.tuples(st.just("reminders"), st.lists(st.just(AT), max_size=2)),
)
STEP = st.tuples(st.sampled_from("iuds"), st.integers(0, 3), WORDS, CHANGE)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=12))
def test_whatever_is_written_the_usage_is_what_is_there(database: Database, steps: list[Any]) -> None:
    now = {"created_at": MOMENT, "updated_at": MOMENT}
    with database.write() as connection:
        connection.execute(delete(tasks))
        connection.execute(delete(accounts).where(accounts.c.id > 0))
        for owner in range(1, 4):
            connection.execute(insert(accounts), {"id": owner, "email": f"{owner}@example.org", "created_at": MOMENT})
        for kind, owner, words, (column, value) in steps:
            mine = tasks.c.owner_id == owner
            match kind:
                case "i":
                    new = dict.fromkeys(TEXTS, words) | {"labels": [words], "reminders": [AT], **now}
                    rows = [{**new, "owner_id": o} for o in (owner, 0)]
                    connection.execute(insert(tasks), rows)
                case "u":
                    connection.execute(tasks.update().where(mine).values({column: value}))
                case "d":
                    connection.execute(delete(tasks).where(mine))
                case _:
                    connection.execute(tasks.update().where(mine).values(owner_id=0))
        for owner in range(4):
            kept = select(*(cast(tasks.c[name], Text) for name in (*TEXTS, "labels", "reminders")))
            texts = connection.execute(kept.where(tasks.c.owner_id == owner)).all()
            sizes = [len("".join(text or "" for text in row).encode()) - 2 * len("[]") for row in texts]
            assert usage.of(connection, owner) == Usage(len(sizes), sum(sizes))
        connection.execute(delete(tasks))
        connection.execute(delete(accounts).where(accounts.c.id > 0))
        counted = select(func.count()).select_from(account_usage).where(account_usage.c.owner_id > 0)
        assert connection.scalar(counted) == 0
