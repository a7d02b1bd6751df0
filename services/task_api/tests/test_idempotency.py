import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from service_kit.http.requests import EXTENSION
from task_api.store import idempotency as store
from task_api.store.database import Database
from task_api.store.schema import idempotency_keys
from task_api.tasks import service

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


def test_a_replayed_answer_says_so(client: Client) -> None:
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
    assert post(guarded, "k", "a", **ada)[0] == 201
    assert post(guarded, "k", "b", **bob)[0] == 201


def test_a_request_that_was_refused_leaves_its_key_free(client: Client) -> None:
    operations = [{"op": "delete", "id": 5}]
    refused = client.post("/tasks/bulk", json={"operations": operations}, headers={"Idempotency-Key": "k"})
    assert refused.status_code == 404
    assert post(client, "k")[0] == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "sp\tace", "ü"])
def test_a_key_that_cannot_be_one_is_400(client: Client, key: str) -> None:
    assert post(client, key)[0] == 400


def test_while_the_first_is_in_flight_the_second_is_409(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = threading.Event(), threading.Event()
    create = service.create

    def slow(*arguments: object) -> object:
        began.set()
        may_end.wait(10)
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "create", slow)
    # the claim is in a transaction of its own, so that it shows before the work ends; SQLite has one writer at a time,
    # so there the second is told once the first has ended, and then it is the first's answer
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
    assert {status for status, _, _ in answers} <= {201, 409}
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
