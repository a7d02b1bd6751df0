"""Reminders by mail, received from a real SMTP server."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.header import decode_header, make_header
from smtplib import SMTPServerDisconnected
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from sqlalchemy import func, insert, select, update

from service_kit.mail import Mailer
from task_api.accounts import administration
from task_api.accounts.model import AccountChanges
from task_api.config import Settings
from task_api.http.context import Services
from task_core import reminder_mails as module
from task_core import reminders
from task_core.database import Database
from task_core.reminder_mails import ReminderMails
from task_core.reminders import Put, Reminders, put_out
from task_core.schema import LOCAL_ACCOUNT, accounts, reminder_mails, task_changes, task_reminders, tasks

from .conftest import KEY, PASSWORD, Client, Serve, log_in, log_in_confirmed
from .test_mail import ADA, Inbox, inbox
from .test_reminder_delivery import SECOND, create, make_due

__all__ = ["inbox"]
FROM = "tasks@example.org"
Results = list[tuple[str, bool]]


@pytest.fixture
def guarded(serve: Serve) -> Client:
    return serve(auth="on", jwt_keys=(KEY,))


def waiting(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(reminder_mails)) or 0


def come_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(reminder_mails).values(next_attempt_at=datetime.now(UTC) - SECOND))


class Broken(Mailer):
    """A server of mail that is not there."""

    def __init__(self) -> None:
        super().__init__("smtp+insecure://127.0.0.1:1", FROM)
        self.names: list[str] = []

    def deliver(self, *message: str) -> None:
        self.names.append(message[-1])
        raise SMTPServerDisconnected("gone")


@pytest.mark.parametrize("late", [False, True])
def test_a_reminder_comes_by_mail_to_its_owner_alone(
    guarded: Client, database: Database, inbox: tuple[Inbox, str], late: bool
) -> None:
    headers = log_in_confirmed(guarded)
    log_in_confirmed(guarded, "bob@example.org")
    task = create(guarded, headers=headers)
    title = 'Wäsche\n\x07  "aufhängen"'
    guarded.put(f"/tasks/{task}", json={"title": title}, headers=headers)
    moment = make_due(database, timedelta(minutes=2) if late else SECOND)
    assert Reminders(database, by_mail=True).put_out() == 1
    box, url = inbox
    results: Results = []
    mails = ReminderMails(database, Mailer(url, FROM), lambda *result: results.append(result))
    assert [mails.send(), mails.send()] == [True, False]
    mail = box.next()
    assert (mail["To"], mail["From"]) == (ADA, FROM)
    subject = str(make_header(decode_header(mail["Subject"])))
    assert subject == ("Late reminder" if late else "Reminder") + ': Wäsche \x07 "aufhängen"'
    payload: Any = mail.get_payload(decode=True)
    text = payload.decode().replace("\r\n", "\n")
    assert "Due: 2030-01-01 08:00 UTC.\n" in text
    assert (f"set for {moment:%Y-%m-%d %H:%M} UTC, and is late" in text) is late
    assert mail["Message-ID"].startswith("<reminder-")
    assert mail["Message-ID"].endswith("@example.org>")
    assert (results, waiting(database), len(box.mails)) == ([("mailed", late)], 0, 1)


def test_without_a_server_for_mail_or_an_address_no_mail_waits(serve: Serve, database: Database) -> None:
    client = serve()
    create(client)
    make_due(database)
    assert Reminders(database, by_mail=True).put_out() == 1  # AUTH=off has no address
    guarded = serve(auth="on", jwt_keys=(KEY,))
    create(guarded, headers=log_in_confirmed(guarded))
    make_due(database)
    assert Reminders(database).put_out() == 1
    assert waiting(database) == 0


def test_a_mail_that_fails_is_tried_again_with_its_name_until_a_day_is_over(
    guarded: Client, database: Database
) -> None:
    create(guarded, headers=log_in_confirmed(guarded))
    make_due(database)
    Reminders(database, by_mail=True).put_out()
    results: Results = []
    broken = Broken()
    mails = ReminderMails(database, broken, lambda *result: results.append(result))
    for _ in range(2):
        assert mails.send()
        assert not mails.send(), "it waits"
        come_due(database)
    with database.write() as connection:
        assert connection.scalar(select(reminder_mails.c.failures)) == 2
        connection.execute(update(reminder_mails).values(put_out_at=datetime.now(UTC) - module.GIVE_UP - SECOND))
    assert mails.send()
    assert [result for result, _ in results] == ["mail_failed", "mail_failed", "mail_dead"]
    assert len(set(broken.names)) == 1
    assert waiting(database) == 0


def test_an_account_gets_so_many_mails_an_hour_and_others_get_theirs(
    guarded: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminders, "MAILS", 3)
    monkeypatch.setattr(reminders, "MAILS_SECONDS", 1 << 40)  # no window ends meanwhile
    ada, bob = log_in_confirmed(guarded), log_in_confirmed(guarded, "bob@example.org")
    puts: list[Put] = []
    for headers, count in [(ada, 2), (ada, 3), (bob, 1)]:
        for _ in range(count):
            create(guarded, headers=headers)
        make_due(database)
        Reminders(database, by_mail=True, report=puts.extend).put_out()
    owners = [one.owner_id for one in puts]
    assert [one.limited for one in puts] == [False, False, False, True, True, False]
    with database.read() as connection:
        mailed = connection.scalars(select(reminder_mails.c.owner_id).order_by(reminder_mails.c.id)).all()
        sent = connection.scalar(select(func.count()).where(task_changes.c.remind_at.is_not(None)))
    assert (mailed, sent) == ([*owners[:3], owners[-1]], 6)


def test_no_reminder_is_mailed_to_an_address_that_nobody_has_confirmed(guarded: Client, database: Database) -> None:
    create(guarded, headers=log_in(guarded))
    make_due(database)
    Reminders(database, by_mail=True).put_out()
    assert waiting(database) == 0
    with database.write() as connection:  # as the version before does
        (owner, task) = connection.execute(select(tasks.c.owner_id, tasks.c.id)).one()
        now = datetime.now(UTC)
        row = {"owner_id": owner, "task_id": task, "remind_at": now, "put_out_at": now, "next_attempt_at": now}
        connection.execute(insert(reminder_mails), row)
    results: Results = []
    broken = Broken()
    assert ReminderMails(database, broken, lambda *result: results.append(result)).send()
    assert (results, broken.names, waiting(database)) == ([("mail_dropped", False)], [], 0)


def complete(client: Client, _database: Database, headers: dict[str, str]) -> None:
    client.put("/tasks/1", json={"status": "completed"}, headers=headers)


def remove(client: Client, _database: Database, headers: dict[str, str]) -> None:
    client.delete("/tasks/1", headers=headers)


def disable(_client: Client, database: Database, _headers: dict[str, str]) -> None:
    with database.read() as connection:
        account = connection.scalar(select(accounts.c.id).where(accounts.c.email == ADA))
    assert account is not None
    administration.change(database, "operator", account, AccountChanges(disabled=True))


def hand_over(_client: Client, database: Database, _headers: dict[str, str]) -> None:
    """As where a file is imported whose tasks have the same ids."""
    with database.write() as connection:
        connection.execute(update(tasks).values(owner_id=LOCAL_ACCOUNT))


def leave(client: Client, _database: Database, headers: dict[str, str]) -> None:
    assert client.post("/auth/me/delete", json={"password": PASSWORD}, headers=headers).status_code == 204


@pytest.mark.parametrize("finish", [complete, remove, disable, hand_over, leave])
def test_nobody_gets_a_mail_about_what_is_done_with_or_for_an_account_that_is_disabled(
    guarded: Client, database: Database, finish: Callable[[Client, Database, dict[str, str]], None]
) -> None:
    headers = log_in_confirmed(guarded)
    create(guarded, headers=headers)
    make_due(database)
    Reminders(database, by_mail=True).put_out()
    finish(guarded, database, headers)
    results: Results = []
    assert ReminderMails(database, Broken(), lambda *result: results.append(result)).send()
    assert (results, waiting(database)) == ([("mail_dropped", False)], 0)


def test_a_mail_is_held_by_one_and_sent_by_another_where_that_one_was_killed(
    guarded: Client, database: Database, inbox: tuple[Inbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create(guarded, headers=log_in_confirmed(guarded))
    make_due(database)
    Reminders(database, by_mail=True).put_out()
    with database.write() as connection:
        assert module.hold(connection, datetime.now(UTC)) is not None
    box, url = inbox
    monkeypatch.setattr("task_core.reminders.POLL_SECONDS", 0.01)
    mails = ReminderMails(database, Mailer(url, FROM))
    assert not mails.send()
    come_due(database)
    mails.start()
    try:
        assert box.next()["To"] == ADA
    finally:
        mails.stop()
    assert (waiting(database), len(box.mails)) == (0, 1)


def test_each_mail_is_sent_once_by_several_at_the_same_time(
    guarded: Client, database: Database, inbox: tuple[Inbox, str]
) -> None:
    log_in_confirmed(guarded)
    now = datetime.now(UTC) - SECOND
    create(guarded, headers=log_in_confirmed(guarded))
    with database.write() as connection:
        owner = connection.scalar(select(accounts.c.id).where(accounts.c.id != LOCAL_ACCOUNT))
        row = {"owner_id": owner, "task_id": 1, "remind_at": now, "put_out_at": now, "next_attempt_at": now}
        connection.execute(insert(reminder_mails), [row] * 20)
    box, url = inbox

    def send_all() -> None:
        mails = ReminderMails(database, Mailer(url, FROM))
        while waiting(database):
            mails.send()

    threads = [threading.Thread(target=send_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [mail["Message-ID"] for mail in box.mails]
    assert len(names) == len(set(names)) == 20


@pytest.mark.parametrize("webhooks", ["off", "on"])
def test_a_worker_sends_mails_of_reminders_also_where_webhooks_are_off(
    guarded: Client,
    database: Database,
    settings: Settings,
    inbox: tuple[Inbox, str],
    monkeypatch: pytest.MonkeyPatch,
    webhooks: Literal["off", "on"],
) -> None:
    create(guarded, headers=log_in_confirmed(guarded))
    make_due(database)
    box, url = inbox
    stops: list[Callable[[], None]] = []
    monkeypatch.setattr("task_core.start.atexit.register", stops.append)
    monkeypatch.setattr("task_api.http.context.Clearer.start", lambda _: None)  # nothing stops it
    mailing = replace(settings, smtp_url=url, mail_from=FROM, webhooks=webhooks, auth="on", jwt_keys=(KEY,))
    worker = Services(mailing, Database(mailing))
    worker.start_worker()
    try:
        assert box.next()["To"] == ADA
    finally:
        for stop in stops:
            stop()
        worker.database.engine.dispose()


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_an_account_is_deleted_while_its_reminders_go_out(guarded: Client, database: Database) -> None:
    headers = log_in_confirmed(guarded)
    create(guarded, headers=headers)
    make_due(database)
    gone = threading.Event()

    def leave_and_note() -> None:
        leave(guarded, database, headers)
        gone.set()

    with database.write() as connection:
        connection.execute(select(task_reminders).with_for_update())
        thread = threading.Thread(target=leave_and_note)
        thread.start()
        assert not gone.wait(1), "the deletion holds the account, and waits for the reminder"
        assert len(put_out(connection, 10, by_mail=True)) == 1
    thread.join()
    assert gone.is_set()
    assert ReminderMails(database, Broken()).send()
    assert waiting(database) == 0
