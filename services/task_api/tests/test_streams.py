"""The feed of changes as server-sent events: the server that holds connections is in the tests' place."""

import json
import queue
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import OperationalError

from service_kit.http.requests import EXTENSION
from service_kit.http.streams import EVENTS, HOLD, Stream
from task_api.config import Rate
from task_api.http import streams
from task_api.http.context import Services
from task_api.http.errors import FEED_GONE, TOO_MANY_STREAMS
from task_api.tasks import changes
from task_core import changes as store
from task_core.database import Database
from task_core.schema import change_floors, personal_tokens

from .conftest import KEY, PASSWORD, Client, Lend, Serve, log_in, log_in_tokens

ACCEPT = {"Accept": EVENTS}
SECONDS = 30.0
Event = dict[str, str]


def parsed(data: bytes) -> list[Event]:
    """Return the events of what a stream has sent."""
    blocks = data.decode().removesuffix("\n\n").split("\n\n") if data else []
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


class Held:
    """A connection that the server holds, to a client that reads while `reads`."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.reads = True
        self.sent: queue.Queue[bytes] = queue.Queue()
        self.raw: list[bytes] = []
        self.ended = ""

    def hold(self, stream: Stream) -> None:
        self.stream = stream

    def start(self) -> None:
        self.stream.deliver = self.deliver
        self.take()

    def take(self) -> None:
        self.stream.idle = True
        self.stream.taken()

    def deliver(self, data: bytes, reason: str) -> None:
        self.raw.append(data)
        if reason:
            self.close(reason)
        self.sent.put(data)
        if self.reads and not self.ended:
            self.take()

    def close(self, reason: str) -> None:
        if not self.ended:
            self.ended = reason
            self.stream.closed()

    def next(self) -> Event:
        """Wait for the next event."""
        (collected,) = parsed(self.sent.get(timeout=SECONDS))
        return collected

    def wait_for_end(self) -> str:
        deadline = time.monotonic() + SECONDS
        while not self.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.ended


Open = Callable[..., tuple[Any, Held]]


@pytest.fixture
def open_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Return a function that opens a stream and returns the response and the connection."""
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0.02)
    opened = []
    applications = set()

    def begin(client: Client, query: str = "", *, reads: bool = True, **headers: str) -> tuple[Any, Held]:
        held = Held()
        held.reads = reads
        response = client.get(
            f"/tasks/changes{query}", headers={**ACCEPT, **headers}, environ_overrides={HOLD: held.hold}
        )
        applications.add(client.application)
        if held.stream:
            opened.append(held)
            held.start()
        return response, held

    yield begin
    for held in opened:
        held.close("the test is over")
    for application in applications:
        application.extensions[EXTENSION].follower.stop()


def page(event: Event) -> Any:
    assert set(event) - {"retry"} == {"id", "data"}
    content = json.loads(event["data"])
    assert content["next"] == event["id"]
    return content


def read_on(held: Held, first: Any) -> list[Any]:
    """Read pages until there is no more for now; return the changes."""
    collected = list(first["changes"])
    content = first
    while content["more"]:
        content = page(held.next())
        collected += content["changes"]
    return collected


def begin_of(response: Any) -> Any:
    assert (response.status_code, response.content_type) == (200, EVENTS), response.text
    (event,) = parsed(response.data)
    return page(event)


def test_the_stream_is_the_feed_from_its_beginning_and_goes_on(client: Client, open_stream: Open) -> None:
    ids = [client.post("/tasks", json={"title": str(number)}).json["id"] for number in range(5)]
    response, held = open_stream(client, "?limit=2")
    assert [change["id"] for change in read_on(held, begin_of(response))] == ids
    client.put(f"/tasks/{ids[0]}", json={"status": "completed"})
    content = page(held.next())
    client.delete(f"/tasks/{ids[1]}")
    last = page(held.next())
    assert [(change["kind"], change["id"]) for change in content["changes"] + last["changes"]] == [
        ("updated", ids[0]),
        ("deleted", ids[1]),
    ]
    fed = client.get("/tasks/changes", query_string={"since": content["next"]}).json
    assert fed == last


def test_a_client_learns_that_there_is_no_more_also_where_there_is_nothing(client: Client, open_stream: Open) -> None:
    response, held = open_stream(client)
    assert read_on(held, begin_of(response)) == []


def test_a_client_comes_again_with_the_id_of_the_last_event_which_goes_before_since(
    client: Client, open_stream: Open
) -> None:
    response, held = open_stream(client)
    read_on(held, begin_of(response))
    client.post("/tasks", json={"title": "a"})
    old = page(held.next())["next"]
    client.post("/tasks", json={"title": "b"})
    content = page(held.next())
    begun = begin_of(open_stream(client, f"?since={old}")[0])
    assert [change["task"]["title"] for change in begun["changes"]] == ["b"]
    again = begin_of(open_stream(client, f"?since={old}", **{"Last-Event-ID": content["next"]})[0])
    assert (again["changes"], again["more"]) == ([], False)


@pytest.mark.parametrize("token", ["x", "\xff", "x" * 5000])
def test_an_id_that_is_no_token_is_refused(client: Client, open_stream: Open, token: str) -> None:
    response, held = open_stream(client, **{"Last-Event-ID": token})
    assert response.status_code == 400
    assert held.stream is None


def forget(database: Database) -> None:
    """Have a change be missing that comes after all tokens."""
    with database.write() as connection:
        values = {"owner_id": 0, "transaction_id": 2**40, "change_id": 2**40}
        connection.execute(insert(change_floors), values)


def test_a_token_that_is_gone_is_refused_and_ends_a_stream_so_that_its_client_begins_anew(
    client: Client, database: Database, open_stream: Open
) -> None:
    response, held = open_stream(client)
    read_on(held, begin_of(response))
    client.post("/tasks", json={"title": "a"})
    token = page(held.next())["next"]
    forget(database)
    client.post("/tasks", json={"title": "b"})
    gone = held.next()
    assert (gone["event"], gone["id"], json.loads(gone["data"])["type"]) == ("gone", "", FEED_GONE.uri)
    assert held.ended == "gone"
    refused, nothing = open_stream(client, **{"Last-Event-ID": token})
    assert (refused.status_code, refused.json["type"]) == (410, FEED_GONE.uri)
    assert nothing.stream is None


def test_a_client_that_does_not_read_is_sent_one_page_and_the_rest_when_it_does(
    client: Client, open_stream: Open
) -> None:
    response, held = open_stream(client)
    read_on(held, begin_of(response))
    held.reads = False
    client.post("/tasks", json={"title": "0"})
    collected = page(held.next())["changes"]
    for number in range(1, 5):
        client.post("/tasks", json={"title": str(number)})
    other, followed = open_stream(client)
    assert len(read_on(followed, begin_of(other))) == 5
    assert held.sent.empty()
    held.reads = True
    held.take()
    while len(collected) < 5:
        collected += page(held.next())["changes"]
    assert [change["task"]["title"] for change in collected] == ["0", "1", "2", "3", "4"]


def test_streams_at_one_place_are_sent_the_same_object_in_memory(client: Client, open_stream: Open) -> None:
    opened = [open_stream(client) for _ in range(5)]
    for response, held in opened:
        read_on(held, begin_of(response))
    client.post("/tasks", json={"title": "a"})
    for _, held in opened:
        held.next()
    assert len({id(held.raw[-1]) for _, held in opened}) == 1


def test_while_nothing_changes_no_page_is_read_for_any_stream(
    client: Client, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        response, held = open_stream(client)
        read_on(held, begin_of(response))
    looks: list[int] = []
    pages: list[int] = []

    def counted(calls: list[int], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            return function(*arguments)

        return call

    monkeypatch.setattr(store, "newest", counted(looks, store.newest))
    settled = len(looks) + 3
    while len(looks) < settled:
        time.sleep(0.01)
    monkeypatch.setattr(changes, "page", counted(pages, changes.page))
    while len(looks) < settled + 5:
        time.sleep(0.01)
    assert pages == []


def test_an_account_gets_its_own_changes_and_an_administrator_those_of_all(
    guarded: Client, database: Database, open_stream: Open
) -> None:
    ada, bob, boss = (log_in(guarded, f"{name}@example.org") for name in ("ada", "bob", "boss"))
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE accounts SET role = 'admin' WHERE email = 'boss@example.org'")
    _forget_sessions(guarded)
    opened = {}
    for name, headers in (("ada", ada), ("bob", bob), ("boss", boss)):
        response, opened[name] = open_stream(guarded, **headers)
        read_on(opened[name], begin_of(response))
    guarded.post("/tasks", json={"title": "ada's"}, headers=ada)
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    titles = {
        name: [change["task"]["title"] for _ in range(count) for change in page(opened[name].next())["changes"]]
        for name, count in (("ada", 1), ("bob", 1))
    }
    assert titles == {"ada": ["ada's"], "bob": ["bob's"]}
    seen: list[Any] = []
    while len(seen) < 2:
        seen += page(opened["boss"].next())["changes"]
    assert [(change["task"]["title"], change["task"]["owner_id"]) for change in seen] == [("ada's", 1), ("bob's", 2)]
    assert opened["ada"].sent.empty()
    assert opened["bob"].sent.empty()


def _forget_sessions(client: Client) -> None:
    services: Services = client.application.extensions[EXTENSION]
    assert services.accounts
    services.accounts._sessions.forget()


def log_out(client: Client, headers: dict[str, str]) -> None:
    client.post("/auth/logout", headers=headers)


def delete_account(client: Client, headers: dict[str, str]) -> None:
    answer = client.post("/auth/me/delete", json={"password": PASSWORD}, headers=headers)
    assert answer.status_code == 204, answer.text


def _change_account(client: Client, change: str) -> None:
    services: Services = client.application.extensions[EXTENSION]
    with services.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE accounts SET {change} WHERE email = 'ada@example.org'")
    _forget_sessions(client)


def disable(client: Client, _: dict[str, str]) -> None:
    _change_account(client, "disabled_at = created_at")


def promote(client: Client, _: dict[str, str]) -> None:
    _change_account(client, "role = 'admin'")


@pytest.mark.parametrize("done", [log_out, delete_account, disable, promote])
def test_a_stream_ends_when_who_opened_it_may_not_read_it_any_more(
    guarded: Client, open_stream: Open, done: Callable[..., None]
) -> None:
    headers, other = log_in(guarded), log_in(guarded, "bob@example.org")
    (response, held), (_, others) = open_stream(guarded, **headers), open_stream(guarded, **other)
    read_on(held, begin_of(response))
    done(guarded, headers)
    assert held.wait_for_end() == "token"
    assert others.ended == ""


def test_a_stream_ends_with_its_access_token(
    guarded: Client, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, held = open_stream(guarded, **log_in(guarded))
    read_on(held, begin_of(response))
    later = time.time() + 3600
    monkeypatch.setattr("task_api.accounts.tokens.time.time", lambda: later)
    assert held.wait_for_end() == "token"


def test_a_stream_ends_with_its_personal_token(guarded: Client, database: Database, open_stream: Open) -> None:
    headers = log_in(guarded)
    new = {"name": "reader", "scopes": ["tasks:read"], "days": 1}
    token = guarded.post("/auth/tokens", json=new, headers=headers).json["token"]
    response, held = open_stream(guarded, Authorization=f"Bearer {token}")
    read_on(held, begin_of(response))
    with database.write() as connection:
        connection.execute(update(personal_tokens).values(expires_at=datetime.now(UTC) - timedelta(days=1)))
    assert held.wait_for_end() == "token"
    writer = guarded.post("/auth/tokens", json={**new, "name": "w", "scopes": ["tasks:write"]}, headers=headers).json
    assert open_stream(guarded, Authorization=f"Bearer {writer['token']}")[0].status_code == 403


def test_an_account_has_so_many_streams_and_no_more(lend: Lend, open_stream: Open) -> None:
    client = lend(auth="on", jwt_keys=(KEY,), streams=2)
    ada, bob = log_in(client), log_in(client, "bob@example.org")
    opened = [open_stream(client, **ada) for _ in range(2)]
    refused, held = open_stream(client, **ada)
    assert (refused.status_code, refused.json["type"]) == (429, TOO_MANY_STREAMS.uri)
    assert int(refused.headers["Retry-After"]) > 0
    assert held.stream is None
    assert open_stream(client, **bob)[0].status_code == 200
    assert client.get("/tasks/changes", headers=ada).status_code == 200
    opened[0][1].close("client")
    assert open_stream(client, **ada)[0].status_code == 200


def test_the_rate_limit_counts_the_opening(serve: Serve, open_stream: Open) -> None:
    client = serve(rate_limit=Rate(20, 60))
    answers = [open_stream(client)[0].status_code for _ in range(40)]
    assert answers.count(200) <= 20
    assert answers[-1] == 429


def test_without_a_database_a_stream_stays_open_and_loses_nothing(
    client: Client, database: Database, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, held = open_stream(client)
    read_on(held, begin_of(response))
    tries = []

    def down() -> Any:
        tries.append(1)
        raise OperationalError("", {}, Exception("down"))

    with monkeypatch.context() as patch:
        patch.setattr(database, "peek", down)
        task = client.post("/tasks", json={"title": "a"}).json["id"]
        while len(tries) < 3:
            time.sleep(0.01)
        assert held.sent.empty()
        assert held.ended == ""
    assert [change["id"] for change in page(held.next())["changes"]] == [task]


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream;charset=utf-8", True),
        ("application/json;q=0.5, text/event-stream", True),
        ("text/event-stream;q=0.5, application/json;q=0.4", True),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0", False),
        ("text/*", False),
        ("*/*", False),
        ("application/json", False),
    ],
)
def test_a_stream_is_for_those_who_prefer_it(client: Client, open_stream: Open, accept: str, streamed: bool) -> None:
    response, held = open_stream(client, Accept=accept)
    assert (held.stream is not None) is streamed
    assert response.content_type == (EVENTS if streamed else "application/json")
    assert "Accept" in response.headers["Vary"].split(", ")


def test_a_server_that_holds_no_connections_answers_with_a_page(client: Client) -> None:
    response = client.get("/tasks/changes", headers=ACCEPT)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.json["changes"] == []


def test_head_has_the_headers_of_the_stream_and_opens_none(client: Client) -> None:
    held = Held()
    response = client.open("/tasks/changes", method="HEAD", headers=ACCEPT, environ_overrides={HOLD: held.hold})
    assert (response.status_code, response.content_type, response.data) == (200, EVENTS, b"")
    assert held.stream is None


def test_the_boards_cookies_open_a_stream_and_those_without_its_header_do_not(
    guarded: Client, open_stream: Open
) -> None:
    log_in_tokens(guarded)
    ours = {"X-Requested-With": "board"}
    guarded.post("/session", json={"email": "ada@example.org", "password": PASSWORD}, headers=ours)
    response, held = open_stream(guarded, **ours)
    read_on(held, begin_of(response))
    assert open_stream(guarded)[0].status_code == 401
    guarded.delete("/session", headers=ours)
    assert held.wait_for_end() == "token"


def test_another_origin_reads_a_stream_where_it_may(serve: Serve, open_stream: Open) -> None:
    client = serve(cors_origins=("https://app.example",))
    assert open_stream(client, Origin="https://app.example")[0].headers["Access-Control-Allow-Origin"]
    assert "Access-Control-Allow-Origin" not in open_stream(client, Origin="https://other.example")[0].headers


def test_nothing_of_a_stream_is_kept_by_caches_or_buffered_by_nginx(client: Client, open_stream: Open) -> None:
    headers = open_stream(client)[0].headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in headers


def test_the_document_has_the_stream_beside_the_page(client: Client) -> None:
    operation = client.get("/openapi.json").json["paths"]["/tasks/changes"]["get"]
    assert operation["responses"]["200"]["content"][EVENTS] == {"schema": {"type": "string"}}
    assert "Last-Event-ID" in [parameter["name"] for parameter in operation["parameters"]]
    assert "429" in operation["responses"]
