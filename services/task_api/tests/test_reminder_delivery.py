"""Reminders that are due go out once each, in order with the changes, and to nobody who is not to get them."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from task_api.accounts import administration
from task_api.accounts.model import AccountChanges
from task_api.tasks import service as tasks
from task_api.tasks.model import NewTask, Reminder, TaskChanges
from task_core import changes
from task_core import reminders as module
from task_core.database import Database
from task_core.delivery import Deliverer, Patience
from task_core.model import Change, Reminded
from task_core.reminder import LATE
from task_core.reminders import Put, Reminders, Sampler
from task_core.schema import accounts, task_changes, task_reminders

from .conftest import KEY, Client, Serve, log_in
from .test_changes import sync
from .test_webhooks import KEYRING, NOW, Receiver, come_due, drain, register

SECOND = timedelta(seconds=1)
DUE = "2030-01-01T08:00:00Z"
REMINDED = {"title": "t", "due_at": DUE, "reminders": [{"before": "PT15M"}]}


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(webhooks="on")


def create(client: Client, **options: Any) -> int:
    task: int = client.post("/tasks", json=REMINDED, **options).json["id"]
    return task


def make_due(database: Database, ago: timedelta = SECOND) -> datetime:
    """Let the moment of each reminder have been so long ago; return it."""
    moment = (datetime.now(UTC) - ago).replace(microsecond=0)
    with database.write() as connection:
        connection.execute(update(task_reminders).values(remind_at=moment))
    return moment


def outbox(database: Database) -> list[tuple[int, datetime]]:
    """Return the task and the moment of each reminder that went out."""
    entries = select(task_changes.c.task_id, task_changes.c.remind_at).where(task_changes.c.remind_at.is_not(None))
    with database.read() as connection:
        return [(row[0], row[1]) for row in connection.execute(entries.order_by(task_changes.c.id))]


def left(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(task_reminders)) or 0


@pytest.mark.parametrize(("ago", "late"), [(SECOND, False), (61 * SECOND, True), (timedelta(days=40), True)])
def test_a_reminder_that_is_due_goes_out_once_and_is_marked_where_it_is_late(
    client: Client, database: Database, ago: timedelta, late: bool
) -> None:
    register(client)
    task = create(client)
    receiver = Receiver()
    deliverer = Deliverer(database, KEYRING, receiver)
    assert Reminders(database).put_out() == 0
    moment = make_due(database, ago)
    reported: list[Put] = []
    woken: list[bool] = []
    reminders = Reminders(database, lambda: woken.append(True), reported.extend)
    assert [reminders.put_out(), reminders.put_out()] == [1, 0]
    assert [(one.task_id, one.late, one.dropped) for one in reported] == [(task, late, False)]
    assert woken == [True]
    drain(deliverer)
    assert receiver.kinds == [("task.created", task), ("task.reminder", task)]
    data = receiver.taken[1][1]["data"]
    assert (data["kind"], data["version"], data["late"], data["task"]["title"]) == ("reminder", 1, late, "t")
    assert datetime.fromisoformat(data["remind_at"]) == moment
    assert datetime.fromisoformat(data["changed_at"]) >= moment
    drain(deliverer)
    assert len(receiver.attempts) == 2


def test_the_version_before_takes_a_reminder_for_a_change_of_a_kind_that_its_clients_know(
    client: Client, database: Database
) -> None:
    create(client)
    make_due(database)
    Reminders(database).put_out()
    with database.read() as connection:  # its feed and history return all kinds that there are
        kinds = connection.scalars(select(task_changes.c.kind).order_by(task_changes.c.id)).all()
    assert kinds == ["created", "updated"]
    assert [one["kind"] for one in client.get("/tasks/1/history").json] == ["created"]


def test_each_goes_out_once_whoever_puts_them_out_at_the_same_time(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 3)
    ids = [create(client) for _ in range(60)]
    make_due(database)
    several = [Reminders(database) for _ in range(4)]

    def all_of_them(one: Reminders) -> int:
        return sum(iter(one.put_out, 0))

    with ThreadPoolExecutor(len(several)) as pool:
        counts = list(pool.map(all_of_them, several))
    while left(database):  # what one had locked while the others looked is put out by it, or later
        counts.append(several[0].put_out())
    assert sum(counts) == 60
    assert Counter(task for task, _ in outbox(database)) == Counter(ids)


def test_the_oldest_go_out_first(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 1)
    first, second = create(client), create(client)
    for task, ago in ((first, 5), (second, 9)):
        with database.write() as connection:
            moment = datetime.now(UTC) - ago * SECOND
            connection.execute(update(task_reminders).where(task_reminders.c.task_id == task).values(remind_at=moment))
    while Reminders(database).put_out():
        pass
    assert [task for task, _ in outbox(database)] == [second, first]


@pytest.mark.parametrize("what", ["completed", "deleted"])
def test_what_is_done_with_does_not_remind_before_it_went_out_or_before_it_is_sent(
    client: Client, database: Database, what: str
) -> None:
    def finish(task: int) -> None:
        if what == "completed":
            client.put(f"/tasks/{task}", json={"status": "completed"})
        else:
            client.delete(f"/tasks/{task}")

    register(client)
    before, between, open_task = create(client), create(client), create(client)
    make_due(database)
    finish(before)
    Reminders(database).put_out()
    finish(between)
    receiver = Receiver()
    drain(Deliverer(database, KEYRING, receiver))
    assert [task for task, _ in outbox(database)] == [between, open_task]
    assert [one for one in receiver.kinds if one[0] == "task.reminder"] == [("task.reminder", open_task)]


def test_an_account_that_is_disabled_is_not_reminded(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on", auth="on", jwt_keys=(KEY,))
    ada = log_in(client)
    create(client, headers=ada)
    with database.read() as connection:
        account = connection.scalar(select(accounts.c.id).where(accounts.c.email == "ada@example.org"))
    assert account is not None
    administration.change(database, "operator", account, AccountChanges(disabled=True))
    make_due(database)
    reported: list[Put] = []
    assert Reminders(database, report=reported.extend).put_out() == 1
    assert [one.dropped for one in reported] == [True]
    assert (outbox(database), left(database)) == ([], 0)


def test_reminders_are_neither_in_the_feed_nor_in_the_history(client: Client, database: Database) -> None:
    task = create(client)
    _, since = sync(client)
    history = client.get(f"/tasks/{task}/history").json
    make_due(database)
    Reminders(database).put_out()
    page = client.get(f"/tasks/changes?since={since}").json
    assert page["changes"] == []
    client.put(f"/tasks/{task}", json={"title": "u"})
    page = client.get(f"/tasks/changes?since={page['next']}").json
    assert [(one["kind"], one["version"]) for one in page["changes"]] == [("updated", 2)]
    assert client.get(f"/tasks/{task}/history").json[1:] == history


def test_a_reminder_that_cannot_be_delivered_is_a_dead_letter_and_is_replayed_as_it_was(
    client: Client, database: Database
) -> None:
    one = f"/webhooks/{register(client)['id']}"
    task = create(client)
    moment = make_due(database, 90 * SECOND)
    Reminders(database).put_out()
    down = [True]
    receiver = Receiver(lambda message: 500 if down[0] and message["data"]["kind"] == "reminder" else 204)
    deliverer = Deliverer(database, KEYRING, receiver, patience=Patience(give_up=NOW))
    drain(deliverer)
    (letter,) = client.get(f"{one}/dead-letters").json
    assert (letter["kind"], letter["task_id"]) == ("reminder", task)
    down[0] = False
    client.post(f"{one}/replay")
    drain(deliverer)
    sent = receiver.taken[-1][1]
    assert (sent["type"], sent["data"]["late"]) == ("task.reminder", True)
    assert datetime.fromisoformat(sent["data"]["remind_at"]) == moment
    assert receiver.attempts[-1][0]["webhook-id"] == letter["message_id"]


def test_a_reminder_that_failed_is_sent_again_with_its_id(client: Client, database: Database) -> None:
    register(client)
    create(client)
    make_due(database)
    Reminders(database).put_out()
    verdicts = iter([204, 500, 204])
    receiver = Receiver(lambda _: next(verdicts))
    deliverer = Deliverer(database, KEYRING, receiver)
    drain(deliverer)
    come_due(database)
    drain(deliverer)
    sent = [headers["webhook-id"] for headers, _ in receiver.attempts]
    assert len(sent) == 3
    assert sent[1] == sent[2]


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_editing_a_task_while_its_reminder_goes_out_does_not_send_it_twice(database: Database) -> None:
    with database.write() as connection:
        held = tasks.create(
            connection, 0, NewTask(title="t", reminders=[Reminder(at=datetime.now(UTC) + timedelta(days=1))])
        )
    # its moment is over by the time that it is put out, in a transaction that has not ended when it is edited
    moment = make_due(database)
    edited = threading.Event()

    def edit() -> None:
        with database.write() as connection:
            reminders = [Reminder(at=moment), Reminder(before="PT1H")]
            changes = TaskChanges(reminders=reminders, due_at=datetime(2030, 1, 1, tzinfo=UTC))
            tasks.change(connection, held, changes, 0)
        edited.set()

    with database.write() as connection:
        assert len(module.put_out(connection, 10)) == 1
        thread = threading.Thread(target=edit)
        thread.start()
        assert not edited.wait(0.5), "the edit waits"
    thread.join()
    assert Reminders(database).put_out() == 0
    assert len(outbox(database)) == 1
    assert left(database) == 1


def test_the_thread_puts_out_what_comes_due(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    create(client)
    out = threading.Event()
    reminders = Reminders(database, out.set)
    reminders.start()
    try:
        make_due(database)
        assert out.wait(30)
    finally:
        reminders.stop()
    assert len(outbox(database)) == 1


def test_for_how_long_the_oldest_has_been_due_is_sampled_from_time_to_time(client: Client, database: Database) -> None:
    samples: list[float] = []
    create(client)
    sampler = Sampler(database, module.oldest, samples.append)
    sampler.sample()
    make_due(database, 90 * SECOND)
    sampler.sample()
    Sampler(database, module.oldest, samples.append).sample()
    assert samples[0] == 0
    assert len(samples) == 2
    assert samples[1] >= 90


@pytest.mark.parametrize(("after", "late"), [(timedelta(), False), (LATE, False), (LATE + timedelta.resolution, True)])
def test_a_reminder_is_late_that_goes_out_more_than_a_minute_after_its_moment(after: timedelta, late: bool) -> None:
    moment = datetime.now(UTC)
    message = changes.message_of(Change("updated", 1, 1, moment + after, None), moment)
    assert isinstance(message, Reminded)
    assert message.late is late
