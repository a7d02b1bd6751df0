"""Registering and resetting a password by mail, received from a real SMTP server."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from sqlalchemy import select, update

from service_kit.config import ConfigurationError, load
from service_kit.mail import WAITING, Mailer, QueueFull
from task_api.accounts.by_mail import MAILS_TO_AN_ADDRESS
from task_api.config import Rate, Settings
from task_core.database import Database
from task_core.schema import accounts, mail_tokens
from tooling.service import free_port

from .conftest import KEY, PASSWORD, Client, Serve

ADA, NEW = "ada@example.org", "quite another long one"


class Inbox:
    """Mails as the server got them."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.expected = 0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    def next(self) -> Message:
        """Return the next mail, for which it waits."""
        self.expected += 1
        deadline = time.monotonic() + 30
        while len(self.mails) < self.expected:
            assert time.monotonic() < deadline, "no mail came"
            time.sleep(0.01)
        return self.mails[self.expected - 1]

    def token(self) -> str:
        """Return the token in the next mail."""
        match = re.search(r"^  ([\w-]{40,})\r?$", str(self.next().get_payload()), re.MULTILINE)
        assert match
        return match[1]


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, str]]:
    inbox = Inbox()
    port = free_port()
    server = Server(inbox, hostname="127.0.0.1", port=port, ready_timeout=60)
    server.start()
    yield inbox, f"smtp+insecure://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(server.end(), server.loop).result(60)
    server.stop()


class Server(Controller):
    """A server that knows its open connections: a loop that stops before they end leaves them to the collector."""

    def __init__(self, inbox: Inbox, **place: Any) -> None:
        super().__init__(inbox, **place)
        self.open: dict[Any, asyncio.Event] = {}

    def factory(self) -> SMTP:
        known = self.open

        class Session(SMTP):
            def connection_made(self, transport: Any) -> None:
                known[transport] = asyncio.Event()
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                known.pop(self.transport).set()
                super().connection_lost(error)

        return Session(self.handler)

    async def end(self) -> None:
        """Take no more connections, let those that there are end, and close what they leave.

        asyncio leaks a connection that is accepted and not yet set up when its server closes.
        """
        assert isinstance(self.server, asyncio.Server)
        for listening in self.server.sockets:
            self.loop.remove_reader(listening.fileno())
        while sessions := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(sessions)
        self.server.close()
        for transport, ended in list(self.open.items()):
            transport.abort()
            await ended.wait()


@pytest.fixture
def mailing(serve: Serve, inbox: tuple[Inbox, str]) -> Client:
    """A client of the service with accounts and mail."""
    return serve(auth="on", jwt_keys=(KEY,), smtp_url=inbox[1], mail_from="tasks@example.org")


def sign_up(client: Client, inbox: Inbox, email: str = ADA) -> None:
    assert client.post("/auth/register", json={"email": email}).status_code == 204
    created = client.post("/auth/verify", json={"token": inbox.token(), "password": PASSWORD})
    assert (created.status_code, created.json["email"]) == (201, email)


def log_in(client: Client, password: str = PASSWORD) -> Any:
    return client.post("/auth/login", json={"email": ADA, "password": password})


def test_an_account_comes_to_be_when_the_owner_of_the_address_sends_the_token(
    mailing: Client, inbox: tuple[Inbox, str], database: Database
) -> None:
    assert mailing.post("/auth/register", json={"email": "Ada@Example.org"}).status_code == 204
    with database.read() as connection:
        assert connection.scalars(select(accounts.c.email)).all() == ["local"]
        token = inbox[0].token()
        assert token.encode() not in connection.scalars(select(mail_tokens.c.digest)).one()
    assert mailing.post("/auth/verify", json={"token": token, "password": PASSWORD}).status_code == 201
    assert log_in(mailing).status_code == 200
    assert mailing.post("/auth/verify", json={"token": token, "password": PASSWORD}).status_code == 400
    mail = inbox[0].mails[0]
    assert (mail["To"], mail["From"], mail["Auto-Submitted"]) == (ADA, "tasks@example.org", "auto-generated")


@pytest.mark.parametrize("path", ["/auth/register", "/auth/password/forgot"])
def test_no_answer_reveals_whether_an_address_has_an_account(
    mailing: Client, inbox: tuple[Inbox, str], path: str
) -> None:
    sign_up(mailing, inbox[0])
    known, unknown = (mailing.post(path, json={"email": email}) for email in (ADA, "bob@example.org"))
    assert (known.status_code, known.data) == (unknown.status_code, unknown.data) == (204, b"")
    assert {name for name, _ in known.headers} == {name for name, _ in unknown.headers}


def test_where_too_many_mails_wait_no_answer_reveals_an_account_and_a_reset_is_done(
    serve: Serve, mailing: Client, inbox: tuple[Inbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up(mailing, inbox[0])
    mailing.post("/auth/password/forgot", json={"email": ADA})
    token = inbox[0].token()
    monkeypatch.setattr("service_kit.mail.WAITING", 0)
    full = serve(auth="on", jwt_keys=(KEY,), smtp_url=inbox[1], mail_from="tasks@example.org")
    session = {"Authorization": f"Bearer {log_in(full).json['access_token']}"}
    assert full.get("/auth/me", headers=session).status_code == 200  # remembered
    answers = [full.post("/auth/password/forgot", json={"email": email}) for email in (ADA, "bob@example.org")]
    assert [answer.status_code for answer in answers] == [204, 204]
    assert full.post("/auth/password/reset", json={"token": token, "password": NEW}).status_code == 204
    assert (full.get("/auth/me", headers=session).status_code, log_in(full, NEW).status_code) == (401, 200)


@pytest.fixture
def in_vain(serve: Serve, inbox: tuple[Inbox, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """What requests mails to an address with and without an account, and to one's own, while too many wait."""
    serve(auth="on", jwt_keys=(KEY,)).post("/auth/register", json={"email": ADA, "password": PASSWORD})
    monkeypatch.setattr("service_kit.mail.WAITING", 0)
    full = serve(auth="on", jwt_keys=(KEY,), smtp_url=inbox[1], mail_from="tasks@example.org")
    session = {"Authorization": f"Bearer {log_in(full).json['access_token']}"}
    return lambda: [
        *(full.post("/auth/register", json={"email": email}) for email in (ADA, "bob@example.org")),
        full.post("/auth/me/confirm", headers=session),
    ]


def test_a_full_queue_of_mails_is_a_problem_of_its_own(in_vain: Callable[[], list[Any]]) -> None:
    for answer in in_vain():
        assert (answer.status_code, answer.json["type"]) == (429, "/problems#mail-queue-full")
        assert (answer.json["title"], answer.headers["Retry-After"]) == ("Too many mails wait to be sent", "10")


def test_a_mail_for_which_the_queue_had_no_room_is_not_one_that_the_address_has_had(
    in_vain: Callable[[], list[Any]],
) -> None:
    for _ in range(MAILS_TO_AN_ADDRESS.limit + 1):
        answers = in_vain()
        assert [answer.status_code for answer in answers] == [429] * 3
        assert {answer.json["type"] for answer in answers} == {"/problems#mail-queue-full"}


def test_who_registers_an_address_again_learns_of_the_account_by_mail(
    mailing: Client, inbox: tuple[Inbox, str]
) -> None:
    sign_up(mailing, inbox[0])
    mailing.post("/auth/register", json={"email": ADA})
    mail = inbox[0].next()
    assert mail["Subject"] == "You have an account already"
    assert not re.search(r"[\w-]{40,}", str(mail.get_payload()))


def test_a_reset_password_ends_all_sessions_and_every_token(mailing: Client, inbox: tuple[Inbox, str]) -> None:
    sign_up(mailing, inbox[0])
    session = {"Authorization": f"Bearer {log_in(mailing).json['access_token']}"}
    body = {"name": "n", "scopes": ["tasks:read"], "days": 1}
    personal = {"Authorization": f"Bearer {mailing.post('/auth/tokens', json=body, headers=session).json['token']}"}
    for _ in range(2):
        mailing.post("/auth/password/forgot", json={"email": ADA})
    first, second = inbox[0].token(), inbox[0].token()
    reset = mailing.post("/auth/password/reset", json={"token": second, "password": NEW})
    assert reset.status_code == 204
    assert [mailing.get("/auth/me", headers=headers).status_code for headers in (session, personal)] == [401, 401]
    assert (log_in(mailing).status_code, log_in(mailing, NEW).status_code) == (401, 200)
    assert inbox[0].next()["Subject"] == "Your password was reset"
    for token in (first, second):
        again = mailing.post("/auth/password/reset", json={"token": token, "password": PASSWORD})
        assert (again.status_code, again.json["type"].rpartition("#")[2]) == (400, "mail-token-invalid")


def test_who_registers_by_mail_or_resets_the_password_by_mail_has_confirmed_the_address(
    serve: Serve, mailing: Client, inbox: tuple[Inbox, str], database: Database
) -> None:
    sign_up(mailing, inbox[0], "bob@example.org")
    serve(auth="on", jwt_keys=(KEY,)).post("/auth/register", json={"email": ADA, "password": PASSWORD})
    assert confirmed(database) == {"bob@example.org"}
    mailing.post("/auth/password/forgot", json={"email": ADA})
    mailing.post("/auth/password/reset", json={"token": inbox[0].token(), "password": NEW})
    assert confirmed(database) == {ADA, "bob@example.org"}


def test_an_address_that_was_registered_without_mail_is_confirmed_by_a_token_that_is_requested(
    serve: Serve, mailing: Client, inbox: tuple[Inbox, str], database: Database
) -> None:
    serve(auth="on", jwt_keys=(KEY,)).post("/auth/register", json={"email": ADA, "password": PASSWORD})
    session = {"Authorization": f"Bearer {log_in(mailing).json['access_token']}"}
    assert mailing.get("/auth/me", headers=session).json["verified_at"] is None
    assert mailing.post("/auth/me/confirm").status_code == 401
    assert mailing.post("/auth/me/confirm", headers=session).status_code == 204
    token = inbox[0].token()
    assert (inbox[0].mails[0]["To"], inbox[0].mails[0]["Subject"]) == (ADA, "Confirm your address")
    wrong = mailing.post("/auth/password/reset", json={"token": token, "password": NEW})  # it is for one purpose
    assert (wrong.status_code, confirmed(database)) == (400, set())
    answers = [mailing.post("/auth/confirm", json={"token": token}).status_code for _ in range(2)]
    assert (answers, confirmed(database)) == ([204, 400], {ADA})
    me = mailing.get("/auth/me", headers=session)
    assert me.json["verified_at"] is not None, "the session goes on"
    assert '"action":"address confirmed"' in mailing.get("/auth/me/export", headers=session).text


def confirmed(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(select(accounts.c.email).where(accounts.c.verified_at.is_not(None))))


def test_an_address_without_an_account_gets_no_mail(mailing: Client, inbox: tuple[Inbox, str]) -> None:
    mailing.post("/auth/password/forgot", json={"email": "bob@example.org"})
    sign_up(mailing, inbox[0])
    assert [mail["To"] for mail in inbox[0].mails] == [ADA]


def test_a_token_is_for_one_purpose_and_expires(mailing: Client, inbox: tuple[Inbox, str], database: Database) -> None:
    mailing.post("/auth/register", json={"email": ADA})
    sent = {"token": inbox[0].token(), "password": PASSWORD}
    assert mailing.post("/auth/password/reset", json=sent).status_code == 400
    with database.write() as connection:
        connection.execute(update(mail_tokens).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert mailing.post("/auth/verify", json=sent).status_code == 400


def test_a_refused_password_leaves_the_token_valid(mailing: Client, inbox: tuple[Inbox, str]) -> None:
    mailing.post("/auth/register", json={"email": ADA})
    token = inbox[0].token()
    for password in ("password1234", "ada@example.org"):
        assert mailing.post("/auth/verify", json={"token": token, "password": password}).status_code == 400
    assert mailing.post("/auth/verify", json={"token": token, "password": PASSWORD}).status_code == 201


def test_an_address_gets_a_few_mails_an_hour_and_the_answer_stays_the_same(
    mailing: Client, inbox: tuple[Inbox, str]
) -> None:
    count = MAILS_TO_AN_ADDRESS.limit
    answers = [mailing.post("/auth/register", json={"email": ADA}).status_code for _ in range(count + 3)]
    assert answers == [204] * (count + 3)
    mailing.post("/auth/register", json={"email": "bob@example.org"})
    recipients = [inbox[0].next()["To"] for _ in range(count + 1)]
    assert recipients == [ADA] * count + ["bob@example.org"]


def test_an_account_learns_that_its_own_address_has_had_its_mails_of_an_hour(serve: Serve, mailing: Client) -> None:
    serve(auth="on", jwt_keys=(KEY,)).post("/auth/register", json={"email": ADA, "password": PASSWORD})
    session = {"Authorization": f"Bearer {log_in(mailing).json['access_token']}"}
    answers = [mailing.post("/auth/me/confirm", headers=session) for _ in range(MAILS_TO_AN_ADDRESS.limit + 1)]
    assert [answer.status_code for answer in answers] == [204] * MAILS_TO_AN_ADDRESS.limit + [429]
    assert "too many mails to this address" in answers[-1].json["detail"]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= MAILS_TO_AN_ADDRESS.seconds
    assert mailing.post("/auth/password/forgot", json={"email": ADA}).status_code == 204


def test_who_registers_an_address_again_and_again_keeps_its_owner_from_no_other_mail(
    serve: Serve, mailing: Client, inbox: tuple[Inbox, str]
) -> None:
    serve(auth="on", jwt_keys=(KEY,)).post("/auth/register", json={"email": ADA, "password": PASSWORD})
    session = {"Authorization": f"Bearer {log_in(mailing).json['access_token']}"}
    for _ in range(MAILS_TO_AN_ADDRESS.limit + 1):
        mailing.post("/auth/register", json={"email": ADA})
    mailing.post("/auth/password/forgot", json={"email": ADA})
    mailing.post("/auth/me/confirm", headers=session)
    mailing.post("/auth/register", json={"email": "bob@example.org"})  # after them
    mails = [inbox[0].next()]
    while mails[-1]["To"] == ADA:
        mails.append(inbox[0].next())
    assert [mail["Subject"] for mail in mails[-3:-1]] == ["Reset your password", "Confirm your address"]


@pytest.mark.parametrize("path", ["/auth/register", "/auth/password/forgot"])
def test_a_network_causes_a_few_mails_an_hour(serve: Serve, inbox: tuple[Inbox, str], path: str) -> None:
    client = serve(
        auth="on", jwt_keys=(KEY,), smtp_url=inbox[1], mail_from="t@example.org", registration_limit=Rate(2, 86400)
    )
    answers = [client.post(path, json={"email": f"u{number}@example.org"}).status_code for number in range(3)]
    assert answers == [204, 204, 429]


def test_a_mail_leads_to_a_page_with_the_token_after_the_number_sign(serve: Serve, inbox: tuple[Inbox, str]) -> None:
    link = "https://app.example/account"
    client = serve(auth="on", jwt_keys=(KEY,), smtp_url=inbox[1], mail_from="t@example.org", mail_link=link)
    client.post("/auth/register", json={"email": ADA})
    assert f"{link}#register=" in str(inbox[0].next().get_payload())


def test_a_server_that_is_gone_fails_no_request_and_frees_its_place() -> None:
    mailer = Mailer("smtp+insecure://127.0.0.1:9", "t@example.org")  # the discard port: nothing listens
    for _ in range(3):
        mailer.send(ADA, "s", "t")
    mailer._executor.shutdown(wait=True)
    assert mailer._places._value == 100


ENCODED = ["=?utf-8?q?ad=61?=@example.org", "=?utf-8?q?a=0d=0aBcc=3A=20eve=40example.org=0d=0aX=3A?=@example.org"]
"""Addresses in which Python's library reads others, or headers."""


@pytest.mark.parametrize("address", ENCODED)
@pytest.mark.parametrize("path", ["/auth/register", "/auth/password/forgot"])
def test_an_address_that_stands_for_another_is_refused(
    mailing: Client, inbox: tuple[Inbox, str], path: str, address: str
) -> None:
    refused = mailing.post(path, json={"email": address})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (400, "#")
    assert inbox[0].mails == []


@pytest.mark.parametrize("address", ENCODED)
def test_an_address_that_cannot_be_written_takes_no_place_in_the_queue(address: str) -> None:
    mailer = Mailer("smtp+insecure://127.0.0.1:1", "tasks@example.org")
    for _ in range(WAITING + 1):
        with pytest.raises(ValueError, match="address"):
            mailer.send(address, "Hello", "Text.")


def test_mails_that_wait_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.mail.WAITING", 0)
    with pytest.raises(QueueFull):
        Mailer("smtp://127.0.0.1", "t@example.org").send(ADA, "s", "t")


def test_without_tls_no_mail_is_sent_unless_that_is_asked_for(inbox: tuple[Inbox, str]) -> None:
    mailer = Mailer(inbox[1].replace("smtp+insecure", "smtp"), "t@example.org")
    mailer.send(ADA, "s", "t")
    mailer._executor.shutdown(wait=True)
    assert inbox[0].mails == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"SMTP_URL": "mail.example.org"}, "SMTP_URL"),
        ({"SMTP_URL": "smtp://user:secret@host:port"}, "SMTP_URL"),
        ({"SMTP_URL": "smtp://mail.example.org", "MAIL_FROM": ""}, "MAIL_FROM"),
        ({"SMTP_URL": "smtp://mail.example.org", "MAIL_LINK": "app#x"}, "MAIL_LINK"),
    ],
)
def test_a_fault_of_the_mail_settings_is_named_without_the_password(changes: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(Settings, {"MAIL_FROM": "t@example.org", **changes})
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [fault]
    assert "secret" not in str(refused.value)


def test_mail_without_tls_is_said_at_start() -> None:
    settings = load(Settings, {"SMTP_URL": "smtp+insecure://relay", "MAIL_FROM": "t@example.org"})
    assert any(note.startswith("SMTP_URL=smtp+insecure") for note in settings.weaker)
    secure = msgspec.structs.replace(settings, smtp_url="smtps://relay")
    assert not any(note.startswith("SMTP_URL") for note in secure.weaker)
