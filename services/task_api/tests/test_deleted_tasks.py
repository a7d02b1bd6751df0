from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from task_api.store import deleted_tasks as store
from task_api.store.clearing import clear
from task_api.tasks.model import CHANGEABLE, LARGEST_ID
from task_core.database import Database
from task_core.schema import deleted_tasks, task_changes, tasks

from .conftest import KEY, PASSWORD, Client, Lend, log_in
from .test_changes import DAY, age

FULL = {
    "title": "t\u00eftle",
    "description": "of it\n",
    "status": "in_progress",
    "priority": "high",
    "due_at": "2030-01-02T03:04:05.000006Z",
    "project": "Q\u00fcarterly",
    "labels": ['a"b', "\u00fcber"],
    "recurrence": "FREQ=DAILY;COUNT=3",
    "time_zone": "Europe/Berlin",
    "reminders": [{"at": "2030-01-02T00:00:00Z"}, {"before": "PT1H30M"}],
}


def test_the_samples_have_every_field_that_a_client_may_set() -> None:
    assert set(FULL) == set(CHANGEABLE)


def test_the_history_names_every_field_that_a_client_may_set(client: Client) -> None:
    task = client.post("/tasks", json={"title": "t"}).json["id"]
    for name, value in FULL.items():
        assert client.put(f"/tasks/{task}", json={name: value}).status_code == 200
    history = client.get(f"/tasks/{task}/history").json
    assert [one["fields"] for one in reversed(history)] == [[], *([name] for name in FULL)]


def deleted(client: Client, **options: Any) -> dict[str, Any]:
    """Create a task and delete it; return what it was."""
    task: dict[str, Any] = client.post("/tasks", json=FULL, **options).json
    answer = client.delete(f"/tasks/{task['id']}", **options)
    assert (answer.status_code, answer.json) == (200, {"id": task["id"], "message": "task deleted"})
    return task


def test_a_deleted_task_is_nowhere_until_it_is_restored_as_it_was(client: Client) -> None:
    task = deleted(client)
    assert client.get(f"/tasks/{task['id']}").status_code == 404
    assert client.put(f"/tasks/{task['id']}", json={}).status_code == 404
    assert client.delete(f"/tasks/{task['id']}").status_code == 404
    assert client.get("/tasks").json == client.get("/tasks?q=title").json == []
    answer = client.post(f"/tasks/{task['id']}/restore")
    assert answer.status_code == 200
    assert answer.json == {**task, "updated_at": answer.json["updated_at"]}
    assert answer.json["updated_at"] > task["updated_at"]
    assert client.get("/tasks").json == client.get("/tasks?q=t\u00eftle").json == [answer.json]


def test_the_task_of_the_largest_id_is_one_like_any_other(client: Client, database: Database) -> None:
    client.post("/tasks", json={"title": "t"})
    with database.write() as connection:
        connection.execute(update(tasks).values(id=LARGEST_ID))
    one = f"/tasks/{LARGEST_ID}"
    assert client.get(one).json["id"] == LARGEST_ID
    assert client.delete(one).status_code == 200
    assert client.get(f"{one}/history").status_code == 200
    assert client.post(f"{one}/restore").status_code == 200
    assert client.get(one).status_code == 200


def test_no_version_is_used_twice(client: Client) -> None:
    task = deleted(client)
    restored = client.post(f"/tasks/{task['id']}/restore")
    assert restored.headers["ETag"] == '"3"'
    changed = client.put(f"/tasks/{task['id']}", json={"title": "u"}, headers={"If-Match": '"1"'})
    assert changed.status_code == 412


def test_restoring_again_changes_nothing(client: Client) -> None:
    task = deleted(client)
    first, second = (client.post(f"/tasks/{task['id']}/restore") for _ in range(2))
    assert (first.json, first.headers["ETag"]) == (second.json, second.headers["ETag"])
    never = client.post("/tasks", json=FULL).json
    assert client.post(f"/tasks/{never['id']}/restore").json == never


@pytest.mark.parametrize("headers", [{"If-Match": '"1"'}, {"If-None-Match": '"2"'}])
def test_it_is_not_restored_where_it_has_another_version_than_the_client_expects(
    client: Client, headers: dict[str, str]
) -> None:
    path = f"/tasks/{deleted(client)['id']}"
    answer = client.post(f"{path}/restore", headers=headers)
    assert (answer.status_code, answer.json["type"]) == (412, "/problems#version-conflict")
    assert client.get(path).status_code == 404
    assert client.post(f"{path}/restore", headers={"If-Match": "2"}).status_code == 400
    restored = client.post(f"{path}/restore", headers={"If-Match": '"2"'})
    assert (restored.status_code, restored.headers["ETag"]) == (200, '"3"')
    again = client.post(f"{path}/restore", headers={"If-Match": '"2"'})
    assert again.status_code == 412
    assert client.post(f"{path}/restore", headers={"If-Match": '"3"'}).json == restored.json


def test_restored_by_many_at_once_it_is_restored_once(client: Client) -> None:
    task = deleted(client)
    with ThreadPoolExecutor(6) as pool:
        restore = client.application.test_client().post
        answers = list(pool.map(lambda _: restore(f"/tasks/{task['id']}/restore"), range(6)))
    assert {(answer.status_code, answer.headers["ETag"]) for answer in answers} == {(200, '"3"')}


@pytest.mark.parametrize("task_id", [99, 2**53, 2**70])
def test_what_never_was_cannot_be_restored(client: Client, task_id: int) -> None:
    assert client.post(f"/tasks/{task_id}/restore").status_code == 404
    assert client.get(f"/tasks/{task_id}/history").status_code == 404


def test_only_who_may_delete_a_task_may_restore_it(guarded: Client) -> None:
    ada, bob = {"headers": log_in(guarded)}, {"headers": log_in(guarded, "bob@example.org")}
    task = deleted(guarded, **ada)
    assert guarded.post(f"/tasks/{task['id']}/restore", **bob).status_code == 404
    assert guarded.get(f"/tasks/{task['id']}/history", **bob).status_code == 404
    assert guarded.post(f"/tasks/{task['id']}/restore", **ada).status_code == 200


def test_after_30_days_a_deleted_task_is_gone_for_good(client: Client, database: Database) -> None:
    task = deleted(client)
    age(database, store.KEPT - timedelta(minutes=1))
    clear(database)
    assert len(client.get(f"/tasks/{task['id']}/history").json) == 2
    age(database, timedelta(minutes=2))
    assert client.post(f"/tasks/{task['id']}/restore").status_code == 404  # before the clearing, too
    assert {backlog.table: backlog.deleted for backlog in clear(database)}["deleted_tasks"] == 1
    with database.read() as connection:
        assert connection.execute(select(deleted_tasks)).all() == []
        assert connection.scalar(select(func.count()).select_from(task_changes)) == 2
    assert client.get(f"/tasks/{task['id']}/history").status_code == 404
    age(database, 32 * DAY)
    clear(database)
    with database.read() as connection:
        assert connection.execute(select(task_changes)).all() == []


def test_a_task_that_was_restored_is_not_cleared(client: Client, database: Database) -> None:
    task = deleted(client)
    client.post(f"/tasks/{task['id']}/restore")
    age(database, 100 * DAY)
    clear(database)
    assert len(client.get(f"/tasks/{task['id']}/history").json) == 3
    assert client.get(f"/tasks/{task['id']}").status_code == 200


def test_with_its_account_a_deleted_task_goes_at_once(
    guarded: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_api.store.accounts.PIECE", 2)
    headers = log_in(guarded)
    for _ in range(3):
        deleted(guarded, headers=headers)
        guarded.post("/tasks", json=FULL, headers=headers)
    assert guarded.post("/auth/me/delete", json={"password": PASSWORD}, headers=headers).status_code == 204
    with database.read() as connection:
        assert connection.execute(select(deleted_tasks)).all() == connection.execute(select(tasks)).all() == []
        assert set(connection.scalars(select(task_changes.c.gone_at.is_(None)))) == {False}


def test_deleted_tasks_do_not_count_for_the_quota_and_restored_ones_do(lend: Lend) -> None:
    client = lend(auth="on", jwt_keys=(KEY,), quota_tasks=1)
    headers = {"headers": log_in(client)}
    task = deleted(client, **headers)
    kept = client.post("/tasks", json=FULL, **headers).json
    answer = client.post(f"/tasks/{task['id']}/restore", **headers)
    assert (answer.status_code, answer.json["type"]) == (403, "/problems#quota-exceeded")
    client.delete(f"/tasks/{kept['id']}", **headers)
    assert client.post(f"/tasks/{task['id']}/restore", **headers).status_code == 200
