import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from service_kit.http.messages import respond
from service_kit.http.requests import EXTENSION
from task_api.store import idempotency as store
from task_api.tasks import service
from task_core.database import Database
from task_core.schema import deleted_tasks, idempotency_keys

from .conftest import Client, log_in


def post(
    client: Client, key: str, title: str = "a", path: str = "/tasks", **headers: str
) -> tuple[int, bytes, str | None]:
    body = {"title": title} if path == "/tasks" else {"operations": [{"op": "create", "task": {"title": title}}]}
    answer = client.post(path, json=body, headers={"Idempotency-Key": key, **headers})
    return answer.status_code, answer.data, answer.headers.get("Location")


def age(database: Database, by: timedelta) -> None:
    with database.write() as connection:
        connection.execute(update(idempotency_keys).values(claimed_at=datetime.now(UTC) - by))


@pytest.mark.parametrize("path", ["/tasks", "/tasks/bulk"])
def test_the_same_request_again_gets_the_same_answer_and_is_done_once(client: Client, path: str) -> None:
    first = post(client, "k", path=path)
    assert first[0] in {200, 201}
    assert post(client, "k", path=path) == first
    assert len(client.get("/tasks").json) == 1


def test_a_replayed_answer_is_marked_as_replayed(client: Client) -> None:
    first, again = (client.post("/tasks", json={"title": "a"}, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["ETag"] == first.headers["ETag"]


def test_the_key_with_another_body_or_path_is_422(client: Client) -> None:
    post(client, "k")
    assert post(client, "k", "b")[0] == 422
    assert post(client, "k", path="/tasks/bulk")[0] == 422
    assert len(client.get("/tasks").json) == 1


def test_a_key_is_of_one_account(guarded: Client) -> None:
    ada, bob = log_in(guarded, "ada@example.org"), log_in(guarded, "bob@example.org")
    first, other = post(guarded, "k", "a", **ada), post(guarded, "k", "b", **bob)
    assert (first[0], other[0]) == (201, 201)
    assert post(guarded, "k", "a", **ada) == first
    assert post(guarded, "k", "b", **bob) == other


def test_a_request_that_was_refused_leaves_its_key_free(client: Client) -> None:
    operations = [{"op": "delete", "id": 5}]
    refused = client.post("/tasks/bulk", json={"operations": operations}, headers={"Idempotency-Key": "k"})
    assert refused.status_code == 404
    assert post(client, "k")[0] == 201


def test_a_key_that_cannot_be_released_is_logged_with_its_cause_and_the_first_error_is_the_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the release fails")

    logged: list[tuple[str, BaseException | None]] = []

    def warning(event: str, *, exc_info: bool) -> None:
        logged.append((event, sys.exc_info()[1] if exc_info else None))

    monkeypatch.setattr(store, "release", broken)
    monkeypatch.setattr("task_api.http.idempotency.log", SimpleNamespace(warning=warning))
    operations = [{"op": "delete", "id": 1}]
    assert (
        client.post("/tasks/bulk", json={"operations": operations}, headers={"Idempotency-Key": "k"}).status_code == 404
    )
    ((event, cause),) = logged
    assert event == "an idempotency key could not be released"
    assert isinstance(cause, RuntimeError)


@pytest.mark.parametrize("key", ["", "x" * 256, "sp\tace", "ü"])
def test_a_key_that_cannot_be_one_is_400(client: Client, key: str) -> None:
    assert post(client, key)[0] == 400


def test_the_longest_key_has_255_characters(client: Client) -> None:
    assert [post(client, "k" * length)[0] for length in (255, 256)] == [201, 400]


@pytest.mark.parametrize(
    ("result", "lasts"), [(None, timedelta(seconds=60)), (b"kept", timedelta(hours=24))], ids=["claim", "result"]
)
def test_a_key_is_held_to_the_end_of_its_time(database: Database, result: bytes | None, lasts: timedelta) -> None:
    began = datetime.now(UTC)
    with database.write() as connection:
        assert store.claim(connection, 0, "k", b"digest", "first", began) is None
        if result:
            assert store.keep(connection, 0, "k", "first", result)
        holder = store.claim(connection, 0, "k", b"digest", "second", began + lasts)
        assert holder
        assert holder.claim == "first"
        assert store.claim(connection, 0, "k", b"digest", "third", began + lasts + timedelta(microseconds=1)) is None


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_who_waits_for_a_key_does_not_keep_its_holder_from_going_on(database: Database) -> None:
    now = datetime.now(UTC)
    with database.write() as connection:
        store.claim(connection, 0, "k", b"digest", "holder", now)
    with database.write() as waits:
        assert store.claim(waits, 0, "k", b"digest", "second", now)
        with database.write() as holder:
            holder.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            assert store.keep(holder, 0, "k", "holder", b"result")


def test_while_the_first_is_in_flight_the_second_is_409(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = threading.Event(), threading.Event()
    create = service.create

    def slow(*arguments: object) -> object:
        began.set()
        may_end.wait(10)
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "create", slow)
    # the claim is in a transaction of its own, so that it shows before the work ends; SQLite has one writer at a time,
    # so there the second is answered once the first has ended, with the first's answer
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(post, client.application.test_client(), "k")
        assert began.wait(10)
        second = clients.submit(post, client.application.test_client(), "k")
        if client.application.extensions[EXTENSION].database.dialect == "postgresql":
            assert second.result(10)[0] == 409
        may_end.set()
        assert first.result(10)[0] == 201
        assert second.result(10)[0] in {201, 409}
    assert len(client.get("/tasks").json) == 1


def test_a_claim_whose_worker_died_lapses_after_a_minute(client: Client, database: Database) -> None:
    with database.write() as connection:
        store.claim(connection, 0, "k", b"other", "dead", datetime.now(UTC))
    assert post(client, "k")[0] == 422
    age(database, store.CLAIM_LASTS + timedelta(seconds=1))
    assert post(client, "k")[0] == 201


def test_a_worker_whose_claim_lapsed_meanwhile_does_not_do_the_work_too(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = service.create

    def overtaken(connection: object, *arguments: object) -> object:
        connection.execute(update(idempotency_keys).values(claim="another"))  # type: ignore[attr-defined]
        return create(connection, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "create", overtaken)
    assert post(client, "k")[0] == 409
    assert client.get("/tasks").json == []


def test_an_answer_is_kept_for_a_day_and_not_longer(client: Client, database: Database) -> None:
    first = post(client, "k")
    age(database, timedelta(hours=23, minutes=59))
    assert post(client, "k") == first
    age(database, timedelta(hours=24, seconds=1))
    assert post(client, "k", "b")[0] == 201


def test_many_at_once_with_one_key_do_it_once(client: Client) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: post(client.application.test_client(), "k"), range(24)))
    assert {status for status, _, _ in answers} <= {201, 409, 503}  # 503: on a busy machine a wait runs out
    assert len({body for status, body, _ in answers if status == 201}) == 1
    assert len(client.get("/tasks").json) == 1


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("kl"), st.sampled_from("ab")), max_size=8))
def test_any_sequence_does_each_first_request_of_a_key_once(client: Client, requests: list[tuple[str, str]]) -> None:
    run = uuid4()
    before = len(client.get("/tasks?limit=200").json)
    first: dict[str, tuple[str, tuple[int, bytes, str | None]]] = {}
    for key, title in requests:
        answer = post(client, f"{key}{run}", title)
        if key not in first:
            assert answer[0] == 201
            first[key] = (title, answer)
        elif first[key][0] == title:
            assert answer == first[key][1]
        else:
            assert answer[0] == 422
    assert len(client.get("/tasks?limit=200").json) == before + len(first)


def test_what_is_kept_are_references_and_not_the_response(client: Client, database: Database) -> None:
    long = {"title": "a", "description": "d" * 10_000}
    client.post("/tasks", json=long, headers={"Idempotency-Key": "one"})
    operations = [{"op": "create", "task": long}] * 10
    client.post("/tasks/bulk", json={"operations": operations}, headers={"Idempotency-Key": "many"})
    with database.read() as connection:
        sizes = {row.key: len(row.response) for row in connection.execute(select(idempotency_keys))}
    assert sizes["one"] < 20
    assert sizes["many"] < 150


def test_a_replayed_answer_shows_the_tasks_as_they_are_now(client: Client, database: Database) -> None:
    def bulk() -> Any:
        operations = [{"op": "create", "task": {"title": title}} for title in ("kept", "deleted")]
        return client.post("/tasks/bulk", json={"operations": operations}, headers={"Idempotency-Key": "k"}).json

    kept, gone = (result["id"] for result in bulk()["results"])
    client.put(f"/tasks/{kept}", json={"title": "changed"})
    client.delete(f"/tasks/{gone}")
    again = bulk()["results"]
    assert [(result["op"], result["id"]) for result in again] == [("create", kept), ("create", gone)]
    assert again[0]["task"]["title"] == "changed"
    assert again[1]["task"] is None
    assert [result["version"] for result in again] == [2, 2]
    with database.write() as connection:
        connection.execute(delete(deleted_tasks))
    assert [result["version"] for result in bulk()["results"]] == [2, None]


def test_a_replayed_creation_of_a_task_that_was_deleted_is_410(client: Client) -> None:
    first = client.post("/tasks", json={"title": "a"}, headers={"Idempotency-Key": "k"})
    client.put(first.headers["Location"], json={"title": "changed"})
    again = client.post("/tasks", json={"title": "a"}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json["title"]) == (201, "changed")
    assert again.headers["ETag"] != first.headers["ETag"]
    client.delete(first.headers["Location"])
    assert client.post("/tasks", json={"title": "a"}, headers={"Idempotency-Key": "k"}).status_code == 410
    assert client.get("/tasks").json == []


def claim_in_another_process(database: Database, key: str) -> None:
    """Claim a key under the name that a child process has."""
    name = subprocess.run(
        [sys.executable, "-c", "from task_api.store.idempotency import claim_name; print(claim_name())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    digest = sha256(b"\0".join((b"POST", b"/tasks?", b'{"title": "a"}'))).digest()
    with database.write() as connection:
        store.claim(connection, 0, key, digest, name, datetime.now(UTC))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not list its processes")
def test_a_claim_of_a_process_that_died_on_this_machine_is_void_at_once(client: Client, database: Database) -> None:
    claim_in_another_process(database, "k")
    assert post(client, "k")[0] == 201


def test_a_claim_of_a_process_that_lives_or_ran_elsewhere_is_respected(client: Client, database: Database) -> None:
    for key, name in (("alive", store.claim_name()), ("elsewhere", "01234567-1-1-" + "0" * 19)):
        assert len(name) == store.NAME_LENGTH
        digest = sha256(b"\0".join((b"POST", b"/tasks?", b'{"title": "a"}'))).digest()
        with database.write() as connection:
            store.claim(connection, 0, key, digest, name, datetime.now(UTC))
        assert post(client, key)[0] == 409


def test_where_processes_cannot_be_looked_up_a_claim_has_a_random_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "PROC", tmp_path)
    store._place.cache_clear()
    names = {store.claim_name() for _ in range(10)}
    store._place.cache_clear()
    assert {len(name) for name in names} == {store.NAME_LENGTH}
    assert len(names) == 10
    assert not any(store._died(name) for name in names)


@pytest.mark.parametrize("path", ["/tasks", "/tasks/bulk"])
def test_the_response_is_made_when_the_transaction_is_over(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    open_transactions: list[bool] = []
    monkeypatch.setattr(
        "task_api.http.tasks.respond",
        lambda *arguments: open_transactions.append(database.engine.pool.checkedout() > 0) or respond(*arguments),  # type: ignore[attr-defined, func-returns-value]
    )
    assert post(client, "k", path=path)[0] in {200, 201}
    assert open_transactions == [False]
