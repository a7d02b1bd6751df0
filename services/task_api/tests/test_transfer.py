import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from task_api import transfer
from task_api.config import Settings
from task_api.transfer import (
    LARGEST_IMPORTED_ID,
    LARGEST_IMPORTED_VERSION,
    EndLine,
    TransferError,
    export,
    import_lines,
)
from task_core.database import Database, SchemaBehind
from task_core.schema import metadata

from .conftest import KEY, Client, client_of, log_in


@pytest.fixture
def fresh(other_settings: Settings) -> Iterator[Database]:
    database = Database(other_settings)
    yield database
    database.engine.dispose()


def fill(client: Client) -> None:
    for email in ("ada@example.org", "bob@example.org"):
        headers = log_in(client, email)
        for number in range(3):
            task = {
                "title": f'{email} {number} \u2028 \\ " é',
                "priority": "high",
                "due_at": "2027-01-01T00:00:00.000001Z",
                "project": f"Project {number}",
                "labels": [f"Label {number} \u2028", '"'][:number],
                "recurrence": "FREQ=DAILY;COUNT=3",
                "time_zone": "Europe/Berlin",
                "reminders": [{"before": "P1DT2H"}, {"at": "2026-12-24T12:00:00.000005Z"}][:number],
            }
            client.post("/tasks", json=task, headers=headers)
    client.delete("/tasks/2", headers=log_in(client, "ada@example.org"))
    client.put("/tasks/3", json={"description": "line\nline"}, headers=log_in(client, "ada@example.org"))


def test_what_goes_out_comes_in_the_same(guarded: Client, database: Database, fresh: Database) -> None:
    fill(guarded)
    lines = list(export(database))
    assert import_lines(fresh, lines) == EndLine(3, 5)
    assert list(export(fresh))[1:] == lines[1:]
    assert json.loads(lines[-1]) == {"type": "end", "accounts": 3, "tasks": 5}


def test_after_an_import_people_log_in_and_new_ids_follow_on(
    guarded: Client, database: Database, fresh: Database
) -> None:
    fill(guarded)
    import_lines(fresh, export(database))
    client = client_of(Settings(auth="on", jwt_keys=(KEY,), rate_limit=None), fresh)
    ada = log_in(client, "ada@example.org")
    assert client.post("/tasks", json={"title": "next"}, headers=ada).json["id"] == 7
    assert [task["id"] for task in client.get("/tasks?q=next", headers=ada).json] == [7]


def test_what_was_completed_before_an_export_creates_nothing_more_after_it(
    client: Client, database: Database, fresh: Database
) -> None:
    task = {"title": "t", "due_at": "2030-01-01T00:00:00Z", "recurrence": "FREQ=DAILY", "status": "completed"}
    completed = client.post("/tasks", json=task).json["id"]
    import_lines(fresh, export(database))
    other = client_of(Settings(rate_limit=None), fresh)
    for status in ("pending", "completed"):
        assert other.put(f"/tasks/{completed}", json={"status": status}).status_code == 200
    assert len(other.get("/tasks").json) == 2


def test_importing_twice_changes_nothing(guarded: Client, database: Database) -> None:
    fill(guarded)
    lines = list(export(database))
    import_lines(database, lines)
    assert list(export(database)) == lines


LINE = (
    b'{"type":"task","id":%d,"title":"t","description":"","status":"pending","created_at":"2026-01-01T00:00:00Z",'
    b'"updated_at":"2026-01-01T00:00:00Z","owner_id":0,"priority":1,"due_at":null,"version":1}\n'
)
ACCOUNT = (
    b'{"type":"account","id":%d,"email":"%s","password_hash":null,"role":"%s","created_at":"2026-01-01T00:00:00Z"}\n'
)


def hashed(parameters: bytes) -> bytes:
    """The line of an account whose password hash has these parameters."""
    phc = b'"$argon2id$v=19$%s$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA"' % parameters
    return (ACCOUNT % (5, b"ada@example.org", b"user")).replace(b"null", phc)


END = b'{"type":"end","accounts":0,"tasks":%d}\n'
TWO_ACCOUNTS = b'{"type":"end","accounts":2,"tasks":0}\n'


NOT_EXPORTED = {
    "sessions": "people log in again",
    "refresh_tokens": "they belong to sessions",
    "personal_tokens": "they are made anew for the other service",
    "mail_tokens": "they end within a day",
    "audit_log": "it is about the service that was left",
    "deleted_tasks": "they can be restored where they were deleted",
    "task_changes": "the import is the first change that the other feed has",
    "change_feed": "each database has a feed of its own",
    "change_floors": "they belong to the feed",
    "account_usage": "triggers count it",
    "idempotency_keys": "they end within a day",
    "webhooks": "their receivers are told by the service that was left, and have its secrets",
    "task_reminders": "triggers write those that are in the future",
    "reminder_mails": "they are of the service that was left, and sent within a day",
    "webhook_dead_letters": "they belong to webhooks",
    "rate_windows": "they end within minutes",
}


def test_every_table_is_exported_or_has_a_reason_why_not() -> None:
    assert set(metadata.tables) - {"accounts", "tasks"} == set(NOT_EXPORTED)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINE % 1, b"{", END % 1], "line 2"),
        ([LINE % 1, b"\xff", END % 1], "line 2"),
        ([LINE % 1, LINE % 2], "cut off behind line 2: its last line is missing"),
        ([LINE % 1, END % 2], "cut off behind line 2: it announces 0 accounts and 2 tasks"),
        ([LINE % 1, END % 1, LINE % 2], "line 3: there is something behind the end"),
        ([LINE % 1, LINE.replace(b'"t"', b'"other"') % 1, END % 2], "line 2: task 1 is another here"),
        ([LINE.replace(b'"owner_id":0', b'"owner_id":77') % 1, END % 1], "line 1: its owner, account 77,"),
        ([LINE % 1, b'{"type":"plan"}', END % 1], "line 2"),
        (
            [ACCOUNT % (5, b"ada@example.org", b"user"), ACCOUNT % (6, b"ada@example.org", b"user"), TWO_ACCOUNTS],
            "line 2: account 6",
        ),
        ([], "cut off"),
        ([LINE % 1, LINE.replace(b'"t"', b'"a\\u0000b"') % 2, END % 2], r"line 2: .*`\$.title`"),
        ([LINE.replace(b'"t"', b'"%s"' % (b"t" * 201)) % 1, END % 1], "line 1: a title has at most 200 characters"),
        ([LINE.replace(b'"t"', b'" t"') % 1, END % 1], "line 1: a title has no space around it"),
        ([LINE.replace(b'"id"', b'"labels":["b","a"],"id"') % 1, END % 1], "line 1: labels are sorted"),
        ([LINE.replace(b'"id"', b'"labels":["a "],"id"') % 1, END % 1], "line 1: labels are sorted"),
        ([LINE.replace(b'"id"', b'"recurrence":"FREQ=HOURLY","id"') % 1, END % 1], "line 1: FREQ has to be"),
        ([LINE.replace(b'"id"', b'"time_zone":"Nowhere","id"') % 1, END % 1], "line 1: no time zone"),
        ([LINE.replace(b'"t"', b'"\\ud800"') % 1, END % 1], "line 1: .*surrogate"),
        ([LINE.replace(b'"description":""', b'"description":"\\u0000"') % 1, END % 1], r"line 1: .*`\$.description`"),
        ([LINE.replace(b"pending", b"done") % 1, END % 1], r"line 1: .*`\$.status`"),
        ([LINE.replace(b'"priority":1', b'"priority":3') % 1, END % 1], r"line 1: .*`\$.priority`"),
        ([LINE.replace(b'"version":1', b'"version":2147483648') % 1, END % 1], r"line 1: .*`\$.version`"),
        ([LINE.replace(b'"version":1', b'"version":1073741825') % 1, END % 1], r"line 1: .*`\$.version`"),
        ([LINE % (2**52 + 1), END % 1], r"line 1: .*`\$.id`"),
        ([LINE % (2**63 - 1), END % 1], r"line 1: .*`\$.id`"),
        ([LINE % 2**63, END % 1], r"line 1: .*`\$.id`"),
        ([LINE % -1, END % 1], r"line 1: .*`\$.id`"),
        ([LINE.replace(b'"due_at":null', b'"due_at":"0001-01-01T00:00:00+05:00"') % 1, END % 1], "line 1: .*in UTC"),
        ([LINE.replace(b'"due_at":null', b'"due_at":"2026-01-01T00:00:00"') % 1, END % 1], r"line 1: .*`\$.due_at`"),
        ([b'{"x":' + b"[" * 100_000, END % 0], "line 1: maximum recursion depth"),
        ([ACCOUNT % (5, b"ada", b"user")], "line 1: .*regex"),
        ([ACCOUNT % (5, b"Ada@example.org", b"user")], "line 1: an address is kept in small letters"),
        ([ACCOUNT % (5, b"ada@example.org", b"root")], r"line 1: .*`\$.role`"),
        ([ACCOUNT % (2**63, b"ada@example.org", b"user")], r"line 1: .*`\$.id`"),
        ([(ACCOUNT % (5, b"ada@example.org", b"user")).replace(b"null", b'"secret"')], r"line 1: .*`\$.password_hash`"),
        ([hashed(b"m=2097152,t=1,p=4")], "line 1: the password hash has memory_cost 2097152: at most 65536"),
        ([hashed(b"m=19456,t=1000,p=1")], "line 1: the password hash has time_cost 1000"),
        ([hashed(b"m=19456,t=2,p=200")], "line 1: the password hash has parallelism 200"),
        ([hashed(b"m=,t=2,p=1")], "line 1: the password hash is malformed"),
        ([(ACCOUNT % (5, b"ada@example.org", b"user")).replace(b"00Z", b"00+24:00")], "line 1"),
        ([*(LINE % number for number in range(1, 600)), LINE % 600 + b"}", END % 600], "line 600: "),
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_nothing_of_it_stays(
    fresh: Database, lines: list[bytes], message: str
) -> None:
    with pytest.raises(TransferError, match=message):
        import_lines(fresh, lines)
    with fresh.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0
        assert connection.scalar(text("SELECT count(*) FROM accounts")) == 1


def test_after_the_largest_id_and_version_that_are_imported_tasks_are_created_and_changed(
    client: Client, database: Database
) -> None:
    largest = LINE.replace(b'"version":1', b'"version":%d' % LARGEST_IMPORTED_VERSION) % LARGEST_IMPORTED_ID
    import_lines(database, [largest, END % 1])
    created = client.post("/tasks", json={"title": "t"})
    assert (created.status_code, created.json["id"]) == (201, LARGEST_IMPORTED_ID + 1)
    assert client.put(f"/tasks/{LARGEST_IMPORTED_ID}", json={"title": "u"}).status_code == 200


def test_a_task_that_is_on_two_lines_comes_in_once(fresh: Database) -> None:
    import_lines(fresh, [LINE % 1, LINE % 1, END % 2])
    assert json.loads(list(export(fresh))[-1])["tasks"] == 1


def test_an_id_that_was_assigned_before_is_not_assigned_again_after_an_import(
    client: Client, database: Database
) -> None:
    for _ in range(3):
        client.post("/tasks", json={"title": "t"})
    client.delete("/tasks/3")
    import_lines(database, list(export(database)))
    assert client.post("/tasks", json={"title": "t"}).json["id"] == 4


def test_an_import_of_no_tasks_leaves_the_first_id_free(client: Client, database: Database) -> None:
    import_lines(database, [END % 0])
    assert client.post("/tasks", json={"title": "t"}).json["id"] == 1


def between_pieces(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act after each piece of an import."""
    write = transfer._pieces

    def pieces(staged: Any) -> Iterator[Any]:
        for piece in write(staged):
            yield piece
            act()

    monkeypatch.setattr(transfer, "_pieces", pieces)


def test_others_write_between_the_pieces_of_an_import_and_their_ids_follow_it(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[Any] = []
    between_pieces(monkeypatch, lambda: created.append(client.post("/tasks", json={"title": "beside"}).json["id"]))
    import_lines(database, [*(LINE % number for number in range(1, 1101)), END % 1100])
    assert created == [1101, 1102, 1103, 1104]


@pytest.mark.parametrize("failure", [TransferError("no"), KeyboardInterrupt(), OperationalError("", None, Exception())])
def test_the_pieces_of_an_import_that_fails_are_deleted_and_nothing_else_is(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    pieces = iter(range(10))

    def fail_at_the_third() -> None:
        client.post("/tasks", json={"title": "beside"})
        if next(pieces) == 2:
            raise failure

    between_pieces(monkeypatch, fail_at_the_third)
    with pytest.raises((TransferError, KeyboardInterrupt)):
        import_lines(database, [*(LINE % number for number in range(1, 1601)), END % 1600])
    assert {task["title"] for task in client.get("/tasks?limit=200").json} == {"beside"}


def test_an_import_that_was_killed_is_completed_by_another_of_the_same_file(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*(LINE % number for number in range(1, 1101)), END % 1100]

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_undo", lambda *_: None)
        between_pieces(patch, killed)
        with pytest.raises(KeyboardInterrupt):
            import_lines(database, lines)
    assert import_lines(database, lines) == EndLine(0, 1100)
    assert json.loads(list(export(database))[-1])["tasks"] == 1100
    assert client.post("/tasks", json={"title": "t"}).json["id"] == 1101


def test_an_import_that_cannot_be_undone_reports_how_to_complete_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    unavailable = OperationalError("", None, Exception())

    def lost() -> None:
        monkeypatch.setattr(database, "write", lambda: (_ for _ in ()).throw(unavailable))
        raise unavailable

    between_pieces(monkeypatch, lost)
    with pytest.raises(TransferError, match="import the same file again"):
        import_lines(database, [*(LINE % number for number in range(1, 1101)), END % 1100])


@pytest.mark.parametrize(
    "command", [lambda database: next(export(database)), lambda database: import_lines(database, [])]
)
def test_a_database_without_tables_fails_with_the_command_that_migrates_it(
    empty_settings: Settings, command: Callable[[Database], object]
) -> None:
    database = Database(empty_settings)
    with pytest.raises(SchemaBehind, match="task-api migrate"):
        command(database)
    database.engine.dispose()


def test_a_task_that_differs_from_the_one_here_is_refused(client: Client, database: Database) -> None:
    client.post("/tasks", json={"title": "mine"})
    with pytest.raises(TransferError, match="task 1 is another here"):
        import_lines(database, [LINE % 1, END % 1])
    assert client.get("/tasks/1").json["title"] == "mine"


def test_many_lines_come_in_by_batches_with_progress(fresh: Database) -> None:
    seen: list[int] = []
    lines = [LINE % number for number in range(1, 1203)]
    import_lines(fresh, [*lines, END % 1202], seen.append)
    assert seen[-1] == 1202
    with fresh.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 1202
    assert len(io.BytesIO(b"".join(export(fresh))).readlines()) == 1204


@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
)
def test_any_wordsand_any_moment_survive(fresh: Database, words: str, moment: datetime) -> None:
    title = f"({words})"
    with fresh.write() as connection:
        connection.execute(text("DELETE FROM tasks"))
    at = moment.replace(tzinfo=UTC).isoformat()
    line = json.loads(LINE % 1) | {"title": title, "due_at": at, "created_at": at, "updated_at": at}
    import_lines(fresh, [json.dumps(line).encode(), END % 1])
    given_out = json.loads(list(export(fresh))[1])
    assert given_out["title"] == title
    assert datetime.fromisoformat(given_out["due_at"]) == moment.replace(tzinfo=UTC)
