import json
import secrets
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from sqlalchemy import delete, select, update
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service_kit.http.requests import EXTENSION
from service_kit.mail import QueueFull
from service_kit.outbound import UNREACHABLE, Refused, Sender
from task_api.accounts import administration
from task_api.accounts.by_mail import ByMail
from task_api.accounts.model import AccountChanges, TokenAndPassword
from task_api.accounts.passwords import digest
from task_api.config import Settings
from task_api.store import mail_tokens
from task_api.store.migrations import migrate
from task_api.tasks import service as tasks
from task_api.tasks.model import NewTask
from task_core import delivery
from task_core.database import Database
from task_core.delivery import FIRST_DELAY, LONGEST_DELAY, Backlog, Deliverer, Patience, delay
from task_core.encryption import Keyring
from task_core.schema import accounts, task_changes, webhook_dead_letters, webhooks

from .conftest import KEY, PASSWORD, Client, Serve, log_in, log_in_confirmed

URL = "https://hooks.example.org/tasks"
NOW = timedelta()
KEYRING = Keyring((KEY,))
TOMORROW = datetime.now(UTC) + timedelta(days=1)
Verdict = int | Exception


class Receiver(Sender):
    """Takes messages in the place of the network; what it answers is asked of a function."""

    def __init__(self, answer: Callable[[dict[str, Any]], Verdict] = lambda _: 204) -> None:
        super().__init__()
        self.answer = answer
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.attempts: list[tuple[dict[str, str], bytes]] = []

    def post(self, url: str, body: bytes, headers: Any) -> int:
        self.attempts.append((dict(headers), body))
        message = json.loads(body)
        verdict = self.answer(message)
        if isinstance(verdict, Exception):
            raise verdict
        if 200 <= verdict < 300:
            self.taken.append((url, message))
        return verdict

    @property
    def kinds(self) -> list[tuple[str, int]]:
        return [(message["type"], message["data"]["id"]) for _, message in self.taken]


class Letterbox:
    """Keeps mails in the place of a server."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, str]] = []

    def send(self, to: str, subject: str, text: str) -> None:
        self.mails.append((to, subject, text))


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(webhooks="on")


def register(client: Client, url: str = URL, **options: Any) -> dict[str, Any]:
    answer = client.post("/webhooks", json={"url": url}, **options)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json
    return created


def create(client: Client, title: str = "t", **options: Any) -> int:
    task: int = client.post("/tasks", json={"title": title}, **options).json["id"]
    return task


def change_password(client: Client, headers: dict[str, str]) -> Any:
    return client.post("/auth/password", json={"password": PASSWORD, "new_password": PASSWORD}, headers=headers)


def drain(deliverer: Deliverer) -> None:
    while deliverer.deliver():
        pass


def come_due(database: Database) -> None:
    """Let the pause after a failure be over."""
    with database.write() as connection:
        connection.execute(update(webhooks).values(next_attempt_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_without_the_setting_there_are_no_webhooks(serve: Serve) -> None:
    assert serve().get("/webhooks").status_code == 404


def test_a_webhook_is_registered_shown_changed_and_deleted(client: Client) -> None:
    created = register(client)
    assert created.pop("secret").startswith("whsec_")
    assert (created["url"], created["active"], created["failures"]) == (URL, True, 0)
    one = f"/webhooks/{created['id']}"
    assert client.get(one).json == created
    assert client.get("/webhooks").json == [created]
    changed = client.patch(one, json={"url": f"{URL}/2", "active": False})
    assert (changed.json["url"], changed.json["active"]) == (f"{URL}/2", False)
    assert changed.json["disabled_reason"] == "switched off by its owner"
    assert client.patch(one, json={}).json == changed.json
    assert client.delete(one).status_code == 204
    assert client.get("/webhooks").json == []


@pytest.mark.parametrize("path", ["", "/dead-letters", "/replay", "/rotate-secret"])
def test_a_webhook_that_is_gone_or_anothers_is_not_found(serve: Serve, path: str) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada, bob = log_in(client), log_in(client, "bob@example.org")
    one = f"/webhooks/{register(client, headers=ada)['id']}{path}"
    method = "POST" if path in {"/replay", "/rotate-secret"} else "GET"
    assert client.open(one, method=method, headers=ada).status_code == 200
    refused = client.open(one, method=method, headers=bob)
    assert (refused.status_code, refused.json["type"]) == (404, "/problems#webhook-not-found")
    assert client.open(one, method=method).status_code == 401
    assert client.get("/webhooks", headers=bob).json == []
    if not path:
        assert client.delete(one, headers=bob).status_code == 404
        assert client.patch(one, json={"active": False}, headers=bob).status_code == 404


def test_an_id_that_no_database_can_keep_is_not_found(client: Client) -> None:
    one = f"/webhooks/{2**63}"
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/dead-letters"), ("POST", "/replay")):
        assert client.open(one + path, method=method).status_code == 404


@pytest.mark.parametrize("url", ["http://hooks.example.org/", "https://10.0.0.1/", "https://user@hooks.example.org/"])
def test_an_address_that_is_not_allowed_is_refused(client: Client, url: str) -> None:
    refused = client.post("/webhooks", json={"url": url})
    assert (refused.status_code, refused.json["type"]) == (422, "/problems#webhook-refused")
    one = f"/webhooks/{register(client)['id']}"
    assert client.patch(one, json={"url": url}).status_code == 422
    assert client.get(one).json["url"] == URL


def test_an_account_has_a_bounded_number_of_webhooks(serve: Serve) -> None:
    client = serve(webhooks="on", quota_webhooks=2)
    for _ in range(2):
        register(client)
    assert client.post("/webhooks", json={"url": URL}).status_code == 409


def test_changes_are_delivered_in_order_and_once_where_nothing_fails(client: Client, database: Database) -> None:
    create(client, "before")
    register(client)
    receiver = Receiver()
    deliverer = Deliverer(database, KEYRING, receiver)
    assert not deliverer.deliver()
    ids = [create(client, f"t{number}") for number in range(25)]
    client.put(f"/tasks/{ids[0]}", json={"status": "completed"})
    client.delete(f"/tasks/{ids[1]}")
    client.post(f"/tasks/{ids[1]}/restore")
    client.delete(f"/tasks/{ids[2]}")
    drain(deliverer)
    expected = [("task.created", one) for one in ids]
    expected += [
        ("task.updated", ids[0]),
        ("task.deleted", ids[1]),
        ("task.restored", ids[1]),
        ("task.deleted", ids[2]),
    ]
    assert receiver.kinds == expected
    url, message = receiver.taken[25]
    assert url == URL
    assert (message["data"]["version"], message["data"]["task"]["status"]) == (2, "completed")
    assert receiver.taken[-1][1]["data"]["task"] is None


def test_each_account_gets_its_own_changes_alone(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada, bob = log_in(client), log_in(client, "bob@example.org")
    register(client, f"{URL}/ada", headers=ada)
    register(client, f"{URL}/bob", headers=bob)
    of_ada, of_bob = create(client, headers=ada), create(client, headers=bob)
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    got = {(url, message["data"]["id"]) for url, message in receiver.taken}
    assert got == {(f"{URL}/ada", of_ada), (f"{URL}/bob", of_bob)}


def test_a_message_is_signed_with_both_secrets_for_a_day_after_a_rotation(client: Client, database: Database) -> None:
    created = register(client)
    new = client.post(f"/webhooks/{created['id']}/rotate-secret").json["secret"]
    receiver = Receiver()
    create(client)
    drain(Deliverer(database, KEYRING, receiver))
    headers, body = receiver.attempts[0]
    for secret in (created["secret"], new):
        assert Webhook(secret).verify(body.decode(), headers)["type"] == "task.created"
    with database.write() as connection:
        connection.execute(update(webhooks).values(previous_until=datetime.now(UTC) - timedelta(seconds=1)))
    create(client)
    drain(Deliverer(database, KEYRING, receiver))
    headers, body = receiver.attempts[1]
    Webhook(new).verify(body.decode(), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(created["secret"]).verify(body.decode(), headers)


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (500, "the response has the status 500"),
        (302, "the response has the status 302"),
        (TimeoutError("secret"), "no response: TimeoutError"),
        (Refused("not there"), "not there"),
    ],
)
def test_a_change_that_fails_is_tried_again_with_the_same_id_before_the_next(
    client: Client, database: Database, verdict: Verdict, error: str
) -> None:
    one = f"/webhooks/{register(client)['id']}"
    ids = [create(client), create(client)]
    verdicts = iter([verdict, verdict])
    receiver = Receiver(lambda _: next(verdicts, 204))
    results: list[str] = []
    deliverer = Deliverer(database, KEYRING, receiver, results.append)
    for failures in (1, 2):
        assert deliverer.deliver()
        shown = client.get(one).json
        assert (shown["failures"], shown["last_error"]) == (failures, error)
        assert shown["next_attempt_at"] is not None
        come_due(database)
    drain(deliverer)
    assert receiver.kinds == [("task.created", one) for one in ids]
    sent = [headers["webhook-id"] for headers, _ in receiver.attempts]
    assert len(set(sent)) == 2
    assert sent[:3] == [sent[0]] * 3
    assert results == ["failed", "failed", "delivered", "delivered"]
    assert client.get(one).json["failures"] == 0


def test_a_webhook_that_fails_keeps_no_other_from_its_changes(client: Client, database: Database) -> None:
    register(client, f"{URL}/down")
    register(client, f"{URL}/up")
    task = create(client)
    receiver = Receiver()
    post = receiver.post
    receiver.post = lambda url, *rest: 500 if url.endswith("down") else post(url, *rest)  # type: ignore[method-assign]
    deliverer = Deliverer(database, KEYRING, receiver)
    assert [deliverer.deliver(), deliverer.deliver()] == [True, True]
    assert receiver.kinds == [("task.created", task)]


def test_what_fails_too_long_is_a_dead_letter_that_can_be_replayed(client: Client, database: Database) -> None:
    one = f"/webhooks/{register(client)['id']}"
    first, second = create(client), create(client)
    down = [True]
    receiver = Receiver(lambda message: 500 if down[0] and message["data"]["id"] == first else 204)
    deliverer = Deliverer(database, KEYRING, receiver, patience=Patience(give_up=NOW))
    drain(deliverer)
    assert receiver.kinds == [("task.created", second)]
    (letter,) = client.get(f"{one}/dead-letters").json
    assert (letter["kind"], letter["task_id"], letter["replayed"]) == ("created", first, False)
    assert letter["message_id"] == receiver.attempts[0][0]["webhook-id"]
    assert client.get(one).json["active"] is True
    assert client.post(f"{one}/replay").json == {"letters": 1}
    assert client.get(f"{one}/dead-letters").json[0]["replayed"] is True
    drain(deliverer)  # it fails once more
    assert client.get(f"{one}/dead-letters").json[0]["replayed"] is False
    down[0] = False
    client.post(f"{one}/replay")
    drain(deliverer)
    assert receiver.kinds == [("task.created", second), ("task.created", first)]
    assert receiver.attempts[-1][0]["webhook-id"] == letter["message_id"]
    assert client.get(f"{one}/dead-letters").json == []


def test_dead_letters_in_a_row_disable_a_webhook_until_its_owner_switches_it_on(
    client: Client, database: Database
) -> None:
    one = f"/webhooks/{register(client)['id']}"
    ids = [create(client) for _ in range(4)]
    verdict = [500]
    receiver = Receiver(lambda _: verdict[0])
    deliverer = Deliverer(database, KEYRING, receiver, patience=Patience(give_up=NOW))
    drain(deliverer)
    shown = client.get(one).json
    assert (shown["active"], shown["disabled_reason"]) == (False, "3 changes in a row could not be delivered")
    assert len(client.get(f"{one}/dead-letters").json) == 3
    assert len(receiver.attempts) == 3
    verdict[0] = 204
    assert client.patch(one, json={"active": True}).json["disabled_reason"] is None
    drain(deliverer)
    assert receiver.kinds == [("task.created", ids[3])]


def test_a_server_that_answers_410_is_not_asked_again(client: Client, database: Database) -> None:
    one = f"/webhooks/{register(client)['id']}"
    create(client)
    receiver = Receiver(lambda _: 410)
    drain(Deliverer(database, KEYRING, receiver))
    assert client.get(one).json["disabled_reason"] == "its server answered 410 Gone"
    assert len(receiver.attempts) == 1


def test_dead_letters_are_bounded(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_core.delivery.MOST_LETTERS", 2)
    one = f"/webhooks/{register(client)['id']}"
    ids = [create(client) for _ in range(4)]
    drain(Deliverer(database, KEYRING, Receiver(lambda _: 500), patience=Patience(give_up=NOW, letters=10)))
    assert [letter["task_id"] for letter in client.get(f"{one}/dead-letters").json] == ids[2:]


def test_nobody_else_delivers_to_a_leased_webhook_and_a_lost_lease_moves_nothing(
    client: Client, database: Database
) -> None:
    register(client)
    task = create(client)
    other = Deliverer(database, KEYRING, Receiver())
    seen: list[bool] = []

    def answer(_message: dict[str, Any]) -> int:
        seen.append(other.deliver())
        come_due(database)  # the lease is over, as after a pause of this process
        drain(other)
        return 500

    slow = Receiver(answer)
    Deliverer(database, KEYRING, slow).deliver()
    assert seen == [False]
    assert isinstance(other._sender, Receiver)
    assert other._sender.kinds == [("task.created", task)]
    with database.read() as connection:
        row = connection.execute(select(webhooks.c.failures, webhooks.c.lease)).one()
    assert tuple(row) == (0, None)  # the late failure is of a lease that is over


def test_changes_that_were_removed_before_delivery_disable_the_webhook_and_say_so(
    client: Client, database: Database
) -> None:
    one = f"/webhooks/{register(client)['id']}"
    create(client)
    with database.write() as connection:
        connection.execute(delete(task_changes))
    after = create(client)
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    assert receiver.attempts == []
    assert client.get(one).json["disabled_reason"].startswith("changes were removed")
    client.patch(one, json={"active": True})
    later = create(client)
    drain(Deliverer(database, KEYRING, receiver))
    assert [task for _, task in receiver.kinds] == [later]
    assert after < later


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)  # SQLite has no transaction ids
def test_a_dump_from_a_server_with_higher_transaction_ids_keeps_no_change_from_a_webhook(
    client: Client, database: Database
) -> None:
    register(client)
    receiver = Receiver()
    create(client)
    drain(Deliverer(database, KEYRING, receiver))
    with database.write() as connection:
        for table in (task_changes, webhooks):
            connection.execute(update(table).values(transaction_id=2**62))
    migrate(database)
    task = create(client)
    drain(Deliverer(database, KEYRING, receiver))
    assert receiver.kinds[1:] == [("task.created", task)]


def test_the_backlog_is_reported(client: Client, database: Database) -> None:
    samples: list[Backlog] = []
    deliverer = Deliverer(database, KEYRING, Receiver(lambda _: 503), sample=samples.append)
    one = f"/webhooks/{register(client)['id']}"
    register(client)
    deliverer.sample()
    create(client)
    earlier = datetime.now(UTC) - timedelta(hours=1)
    with database.write() as connection:
        connection.execute(update(task_changes).values(changed_at=earlier))
        connection.execute(update(webhooks).values(next_attempt_at=earlier + timedelta(minutes=20)))
    deliverer.sample()
    client.patch(one, json={"active": False})
    deliverer.sample()
    drain(deliverer)
    with database.write() as connection:
        connection.execute(update(webhooks).values(next_attempt_at=datetime.now(UTC) + timedelta(hours=1)))
    deliverer.sample()
    assert samples[0] == (0.0, 0.0, 0, 0)
    assert [sample[2:] for sample in samples[1:]] == [(2, 0), (1, 1), (1, 1)]
    assert all(3600 <= sample.oldest_seconds < 7200 for sample in samples[1:])
    assert [2400 <= sample.due_seconds < 3600 for sample in samples[1:]] == [True, True, False]
    assert samples[3].due_seconds == 0  # it waits for its next attempt, nobody is late


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_commit_wakes_who_listens(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LISTENING_POLL_SECONDS", 3600.0)
    register(client)
    arrived = threading.Semaphore(0)

    def answer(_: dict[str, Any]) -> int:
        arrived.release()
        return 204

    deliverer = Deliverer(database, KEYRING, Receiver(answer), listens=True)
    deliverer.start()
    try:
        for _ in range(10):
            create(client)
            assert arrived.acquire(timeout=60)
    finally:
        deliverer.stop()


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_listener_whose_connection_ends_listens_anew(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
    register(client)
    woken = threading.Semaphore(0)
    deliverer = Deliverer(database, KEYRING, Receiver(), listens=True)
    monkeypatch.setattr(deliverer, "wake", woken.release)
    thread = threading.Thread(target=deliverer._listen)
    thread.start()
    try:
        for _ in range(2):
            assert woken.acquire(timeout=60)
            create(client)
            assert woken.acquire(timeout=60)
            with database.read() as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(query, 'LISTEN')"
                )
    finally:
        deliverer.end()
        thread.join()


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_transaction_notifies_once_and_only_for_an_account_with_an_active_webhook(
    client: Client, database: Database
) -> None:
    one = f"/webhooks/{register(client)['id']}"
    client.patch(one, json={"active": False})
    with psycopg.connect(client.application.extensions[EXTENSION].settings.database_url, autocommit=True) as listener:
        listener.execute("LISTEN task_changes")
        create(client)
        client.patch(one, json={"active": True})
        with database.write() as connection:
            for title in "abc":
                tasks.create(connection, 0, NewTask(title=title))
        listener.execute("NOTIFY task_changes, 'end'")
        heard = [notification.payload for notification in listener.notifies(timeout=60, stop_after=2)]
    assert heard == ["", "end"]


def test_the_owner_of_a_webhook_that_is_disabled_gets_a_mail(serve: Serve, database: Database) -> None:
    letterbox = Letterbox()
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in_confirmed(client)
    gone, own = register(client, f"{URL}/gone", headers=ada), register(client, headers=ada)
    client.patch(f"/webhooks/{own['id']}", json={"active": False}, headers=ada)
    create(client, headers=ada)
    results: list[str] = []
    drain(Deliverer(database, KEYRING, Receiver(lambda _: 410), results.append, post=letterbox))
    ((to, subject, text),) = letterbox.mails
    assert (to, subject) == ("ada@example.org", "A webhook of yours is disabled")
    assert f"{URL}/gone any more: its server answered 410 Gone." in text
    assert f"PATCH /webhooks/{gone['id']} " in text
    assert results == ["failed", "disabled"]


def test_no_mail_about_a_webhook_goes_to_an_address_that_nobody_has_confirmed(serve: Serve, database: Database) -> None:
    letterbox = Letterbox()
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    register(client, headers=ada)
    create(client, headers=ada)
    results: list[str] = []
    drain(Deliverer(database, KEYRING, Receiver(lambda _: 410), results.append, post=letterbox))
    assert (results, letterbox.mails) == (["failed", "disabled"], [])


def test_a_mail_that_cannot_wait_leaves_the_webhook_disabled(client: Client, database: Database) -> None:
    class Full:
        def send(self, to: str, subject: str, text: str) -> None:  # noqa: ARG002
            raise QueueFull

    created = register(client)
    create(client)
    with database.write() as connection:
        connection.execute(update(accounts).values(email="ada@example.org"))
    drain(Deliverer(database, KEYRING, Receiver(lambda _: 410), post=Full()))
    assert client.get(f"/webhooks/{created['id']}").json["active"] is False


def test_the_threads_deliver_what_comes_while_they_run_and_end(client: Client, database: Database) -> None:
    register(client)
    arrived: list[dict[str, Any]] = []
    got = threading.Event()

    def answer(message: dict[str, Any]) -> int:
        arrived.append(message)
        got.set()
        return 204

    deliverer = Deliverer(database, KEYRING, Receiver(answer))
    deliverer.start()
    try:
        create(client)
        assert got.wait(60)
    finally:
        deliverer.stop()
    assert len(arrived) == 1


def test_delays_grow_and_are_bounded() -> None:
    for failures in range(200):
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 20))
        assert all(0 <= delay(failures) <= longest for _ in range(20))
    assert max(delay(30) for _ in range(200)) > LONGEST_DELAY / 2


def test_webhooks_go_with_their_account_and_no_secret_is_exported(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    secret = register(client, headers=ada)["secret"]
    exported = client.get("/auth/me/export", headers=ada).text
    assert URL in exported
    assert secret not in exported
    create(client, headers=ada)
    drain(Deliverer(database, KEYRING, Receiver(lambda _: 500), patience=Patience(give_up=NOW)))
    with database.write() as connection:
        connection.execute(delete(webhooks))
        assert connection.execute(select(webhook_dead_letters)).all() == []


def test_the_document_has_the_operations_of_webhooks(client: Client) -> None:
    document = client.get("/openapi.json").json
    paths = {path for path in document["paths"] if path.startswith("/webhooks")}
    assert len(paths) == 5


def test_insecure_is_announced() -> None:
    assert any("WEBHOOKS=insecure" in note for note in Settings(webhooks="insecure").weaker)
    assert not any("WEBHOOKS" in note for note in Settings(webhooks="on").weaker)


def test_a_slow_receiver_has_its_turn_and_then_others_have_theirs(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TURN_SECONDS", 0.0)
    register(client, f"{URL}/first")
    register(client, f"{URL}/second")
    tasks = [create(client), create(client)]
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    got = [(url.rpartition("/")[2], message["data"]["id"]) for url, message in receiver.taken]
    assert got == [("first", tasks[0]), ("second", tasks[0]), ("first", tasks[1]), ("second", tasks[1])]


def test_the_webhooks_of_one_account_take_one_thread_whatever_it_does_to_them(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada, bob = log_in(client), log_in(client, "bob@example.org")
    slow = [f"/webhooks/{register(client, f'{URL}/slow', headers=ada)['id']}" for _ in range(2)]
    register(client, f"{URL}/bob", headers=bob)
    create(client, headers=ada)
    create(client, headers=bob)
    receiver = Receiver()
    post = receiver.post
    others: list[bool] = []

    def posted(url: str, body: bytes, headers: Any) -> int:
        if url.endswith("slow") and not others:
            for one in slow:
                client.patch(one, json={"active": True}, headers=ada)  # ends the lease
            others.extend([deliverer.deliver(), deliverer.deliver()])  # as further threads do meanwhile
        return post(url, body, headers)

    receiver.post = posted  # type: ignore[method-assign]
    deliverer = Deliverer(database, KEYRING, receiver)
    deliverer.deliver()
    assert others == [True, False]
    assert [url for url, _ in receiver.taken] == [f"{URL}/bob", f"{URL}/slow"]
    drain(deliverer)
    assert {url for url, _ in receiver.taken} == {f"{URL}/bob", f"{URL}/slow"}


@pytest.mark.parametrize("path", ["", "/rotate-secret"])
def test_a_new_address_or_secret_is_used_from_the_next_message_on(
    client: Client, database: Database, path: str
) -> None:
    one = f"/webhooks/{register(client, f'{URL}/old')['id']}"
    for _ in range(3):
        create(client)
    new = ""

    def answer(_: dict[str, Any]) -> int:
        nonlocal new
        if not new and path:
            new = client.post(one + path).json["secret"]
        elif not new:
            new = client.patch(one, json={"url": URL}).json["url"]
        return 204

    receiver = Receiver(answer)
    drain(Deliverer(database, KEYRING, receiver))
    if path:
        for headers, body in receiver.attempts[1:]:
            Webhook(new).verify(body.decode(), headers)
    assert len(receiver.taken) == 4  # the first one again: at least once
    assert [url for url, _ in receiver.taken[1:]] == [f"{URL}/old" if path else URL] * 3


@pytest.mark.parametrize("how", ["disabled", "replaced", "changed", "reset"])
def test_whoever_was_in_an_account_gets_nothing_once_it_is_disabled_or_has_another_password(
    serve: Serve, database: Database, how: str
) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada, bob = log_in(client), log_in(client, "bob@example.org")
    for who in (ada, bob):
        register(client, headers=who)
    create(client, "behind", headers=ada)
    account = administration.find(database, "ada@example.org").id
    if how == "disabled":
        for disabled in (True, False):
            administration.change(database, "test", account, AccountChanges(disabled=disabled))
    elif how == "replaced":
        administration.replace_password(database, "test", account, digest(PASSWORD))
    elif how == "changed":
        assert change_password(client, ada).status_code == 204
    else:
        token = secrets.token_urlsafe()
        with database.write() as connection:
            mail_tokens.add(connection, sha256(token.encode()).digest(), "reset", "ada@example.org", TOMORROW)
        ByMail(database, Letterbox(), "", digest).reset(TokenAndPassword(token, PASSWORD))
    kept = create(client, headers=bob)
    ada = log_in(client)
    create(client, headers=ada)
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    assert receiver.kinds == [("task.created", kept)]
    (shown,) = client.get("/webhooks", headers=ada).json
    assert (shown["active"], shown["disabled_reason"]) == (False, administration.WEBHOOKS_ENDED)


def test_a_password_that_is_changed_during_a_delivery_is_before_the_next_message(
    serve: Serve, database: Database
) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    one = f"/webhooks/{register(client, headers=ada)['id']}"
    first, second = create(client, headers=ada), create(client, headers=ada)
    receiver = Receiver(lambda _: change_password(client, ada).status_code)
    drain(Deliverer(database, KEYRING, receiver))
    assert receiver.kinds == [("task.created", first)]
    assert client.patch(one, json={"active": True}, headers=ada).json["active"] is True
    receiver.answer = lambda _: 204
    drain(Deliverer(database, KEYRING, receiver))
    assert [task for _, task in receiver.kinds] == [first, first, second]  # at least once


@pytest.mark.parametrize("path", ["/auth/sessions", "/auth/logout"])
def test_webhooks_outlast_the_sessions_that_end_without_a_new_password(
    serve: Serve, database: Database, path: str
) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    register(client, headers=ada)
    task = create(client, headers=ada)
    method = "DELETE" if path == "/auth/sessions" else "POST"
    assert client.open(path, method=method, headers=ada).status_code == 204
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    assert receiver.kinds == [("task.created", task)]


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/webhooks", {"url": URL}),
        ("PATCH", "/webhooks/1", {"active": True}),
        ("POST", "/webhooks/1/rotate-secret", None),
        ("POST", "/auth/tokens", {"name": "t", "scopes": ["tasks:read"], "days": 1}),
    ],
)
def test_a_session_that_another_replica_has_just_ended_makes_no_way_in_that_outlasts_it(
    serve: Serve, database: Database, method: str, path: str, sent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_api.accounts.service.REMEMBERED_SECONDS", 3600.0)
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    assert register(client, headers=ada)["id"] == 1
    account = administration.find(database, "ada@example.org").id
    administration.replace_password(database, "another replica", account, digest(PASSWORD))
    assert client.get("/webhooks", headers=ada).status_code == 200  # the session is remembered
    refused = client.open(path, method=method, json=sent, headers=ada)
    assert (refused.status_code, refused.json["type"]) == (401, "/problems#token-revoked")
    ada = log_in(client)
    assert [hook["active"] for hook in client.get("/webhooks", headers=ada).json] == [False]
    assert client.get("/auth/tokens", headers=ada).json == []
    assert client.open(path, method=method, json=sent, headers=ada).status_code in {200, 201}


def test_a_webhook_that_is_switched_on_and_gone_again_and_again_sends_few_mails(
    serve: Serve, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MAILS", 2)
    letterbox = Letterbox()
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada, bob = log_in_confirmed(client), log_in_confirmed(client, "bob@example.org")
    one = f"/webhooks/{register(client, headers=ada)['id']}"
    register(client, headers=bob)
    create(client, headers=ada)
    deliverer = Deliverer(database, KEYRING, Receiver(lambda _: 410), post=letterbox)
    for _ in range(4):
        assert client.patch(one, json={"active": True}, headers=ada).status_code == 200
        drain(deliverer)
    create(client, headers=bob)
    drain(deliverer)
    assert [to for to, _, _ in letterbox.mails] == ["ada@example.org"] * 2 + ["bob@example.org"]


def test_an_owner_learns_from_no_failure_whether_an_internal_name_exists(client: Client, database: Database) -> None:
    inside = {"postgres.default.svc": ["10.96.0.7"], "metadata.internal": ["169.254.169.254"], "empty.internal": []}

    def resolver(host: str, _port: int) -> list[str]:
        if host not in inside:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return inside[host]

    ids = [register(client, f"https://{host}/")["id"] for host in (*inside, "nothing.internal")]
    for _ in range(2):
        create(client)
    results: list[str] = []
    sender = Sender(resolver=resolver)
    for patience in (Patience(), Patience(give_up=NOW)):
        drain(Deliverer(database, KEYRING, sender, results.append, patience=patience))
        come_due(database)
    shown = [client.get(f"/webhooks/{one}").json for one in ids]
    letters = [client.get(f"/webhooks/{one}/dead-letters").json for one in ids]
    assert {hook["last_error"] for hook in shown} == {UNREACHABLE}
    assert {letter["error"] for each in letters for letter in each} == {UNREACHABLE}
    assert len({(hook["failures"], hook["active"], len(each)) for hook, each in zip(shown, letters, strict=True)}) == 1
    assert results.count("dead") == 2 * len(ids)


def test_the_changes_of_a_transaction_keep_its_trace_and_those_of_others_do_not(
    settings: Settings, client: Client, database: Database
) -> None:
    traced, span = Database(settings), f"00-{'a' * 32}-{'b' * 16}-01"
    traced.trace(lambda: span)
    create(client)
    with traced.write() as connection:
        for title in "ab":
            tasks.create(connection, 0, NewTask(title=title))
    with traced.write():
        pass
    create(client)
    traced.engine.dispose()
    with database.read() as connection:
        noted = connection.execute(select(task_changes.c.traceparent).order_by(task_changes.c.id)).scalars().all()
    assert noted == [None, span, span, None]
