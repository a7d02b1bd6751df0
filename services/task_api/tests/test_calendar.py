"""The calendar of to-dos: read back by other programs' libraries, `icalendar` and `dateutil`."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import islice
from typing import Any, cast
from zoneinfo import ZoneInfo

import icalendar
import pytest
from dateutil import rrule
from dateutil.tz import datetime_exists, resolve_imaginary, tzical
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from task_api.config import Rate
from task_api.tasks import calendar, recurrence, service
from task_api.tasks.model import CHANGEABLE, NewTask, Task, Versioned
from task_core.database import Database
from task_core.reminder import Reminder
from task_core.schema import LOCAL_ACCOUNT

from .conftest import KEY, Client, Lend, empty, log_in
from .test_recurrence import series, utc

BERLIN = "Europe/Berlin"
NOW = utc("2026-11-27T12:00")
WIDTH = 75
TASK = NewTask(title="t", due_at=utc("2026-03-27T08:00"), recurrence="FREQ=DAILY", time_zone=BERLIN)


def written(*tasks: Versioned) -> bytes:
    """Return a calendar of tasks as the service writes them."""
    zones: set[str] = set()
    lines = [line for one in tasks for line in calendar._to_do(one, "name", NOW, zones)]
    return b"".join(map(calendar._folded, ["BEGIN:VCALENDAR", *lines, "END:VCALENDAR"]))


def versioned(new: NewTask, version: int = 1) -> Versioned:
    fields = {name: getattr(new, name) for name in CHANGEABLE}
    return Versioned(Task(id=7, **fields, created_at=NOW, updated_at=NOW), version, 0)


def to_dos(content: bytes) -> list[Any]:
    """Return the to-dos of a calendar, in which nothing is wrong by the library's judgement."""
    for line in content.split(b"\r\n"):
        assert len(line) <= WIDTH
        line.decode()  # no character is divided
    assert content.count(b"\n") == content.count(b"\r\n")
    every = cast("Any", icalendar.Calendar.from_ical(content)).walk("VTODO")
    assert [one.errors for one in every] == [[]] * len(every)
    return list(every)


def feed(client: Client, **headers: str) -> list[Any]:
    answer = client.get("/tasks.ics", headers=headers)
    assert answer.status_code == 200, answer.text
    return to_dos(answer.data)


def readable(text: str) -> str:
    """Return a text as RFC 5545 can hold it."""
    one_kind_of_line = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        "\ufffd" if (ord(each) < 32 and each not in "\t\n") or each == "\x7f" else each for each in one_kind_of_line
    )


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50).filter(
    str.strip
)
moments = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))
new_tasks = st.builds(
    NewTask,
    title=names | st.text('a;,:\\\n"é漢😀', min_size=1, max_size=200).filter(str.strip),
    description=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
    status=st.sampled_from(["pending", "in_progress", "completed"]),
    priority=st.sampled_from(["low", "normal", "high"]),
    due_at=st.none() | moments,
    project=st.none() | names,
    labels=st.lists(names, max_size=4),
    reminders=st.lists(st.builds(Reminder, at=moments), max_size=5),
)


@given(new_tasks, st.integers(1, 2**31 - 1))
@example(NewTask(title="\\n;\\,", labels=["a,b", "a;b", "a\\"], description="\\\\n\r\n\n\\N"), 1)
def test_another_program_reads_what_a_task_is(new: NewTask, version: int) -> None:
    one = versioned(new, version)
    (read,) = to_dos(written(one))
    assert read["SUMMARY"] == readable(new.title)
    assert read.get("DESCRIPTION", "") == readable(new.description)
    assert read["STATUS"] == calendar.STATUS[new.status]
    assert read["PRIORITY"] == calendar.PRIORITY[new.priority]
    assert [str(each) for each in read.categories] == [readable(label) for label in new.labels]
    assert read.get(calendar.PROJECT) == (None if new.project is None else readable(new.project))
    assert (read["DUE"].dt if "DUE" in read else None) == (new.due_at and new.due_at.replace(microsecond=0))
    assert (read["COMPLETED"].dt if "COMPLETED" in read else None) == (NOW if new.status == "completed" else None)
    alarms = [alarm["TRIGGER"].dt for alarm in read.walk("VALARM")]
    assert alarms == [cast("datetime", one.at).replace(microsecond=0) for one in new.reminders]
    assert read["SEQUENCE"] == version - 1
    assert read["CREATED"].dt == read["LAST-MODIFIED"].dt == read["DTSTAMP"].dt == NOW


OTHER: dict[str, Any] = {
    "title": "u",
    "description": "d",
    "status": "in_progress",
    "priority": "high",
    "due_at": utc("2026-03-28T08:00"),
    "project": "p",
    "labels": ["l"],
    "recurrence": "FREQ=WEEKLY",
    "time_zone": "Asia/Tokyo",
    "reminders": [Reminder(before="PT1H")],
}


@pytest.mark.parametrize("field", CHANGEABLE)
def test_each_field_of_a_task_is_in_its_to_do(field: str) -> None:
    assert written(versioned(replace(TASK, **{field: OTHER[field]}))) != written(versioned(TASK))


def occurrences(content: bytes, most: int) -> list[datetime]:
    """Return when a to-do is due after the first time, by `dateutil`, which reads rule and time zone itself."""
    (read,) = to_dos(content)
    if "RRULE" not in read:
        return []
    start, name, zone = read["DTSTART"].dt.replace(tzinfo=None), read["DTSTART"].params.get("TZID", "UTC"), None
    if name != "UTC":
        zone = tzical(StringIO(content.decode().replace("\r\n ", ""))).get(name)
    local = zone or UTC
    rule = rrule.rrulestr(read["RRULE"].to_ical().decode(), dtstart=start.replace(tzinfo=local))
    # A time that the clock leaves out is read by the offset before (RFC 5545, section 3.3.5). dateutil takes one that
    # comes twice in Casablanca, where the clock goes back for Ramadan, for one of them.
    later = (
        (one if datetime_exists(one.replace(tzinfo=None), ZoneInfo(name)) else resolve_imaginary(one)).astimezone(UTC)
        for one in rule
    )
    return list(islice((one for one in later if one > read["DUE"].dt), most))


RULES = [
    "FREQ=DAILY",
    "FREQ=DAILY;INTERVAL=3;BYHOUR=2;BYMINUTE=30",
    "FREQ=WEEKLY;BYDAY=MO,TH",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,TU;WKST=SU",
    "FREQ=MONTHLY",
    "FREQ=MONTHLY;BYDAY=1MO,-1FR",
    "FREQ=MONTHLY;BYMONTHDAY=-1",
    "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
    "FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU",
    "FREQ=YEARLY",
]
ZONES = ["America/New_York", "Africa/Casablanca", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", BERLIN]
ENDS = ["", ";COUNT=3", ";COUNT=1", ";UNTIL=20270401", ";UNTIL=20270401T003000Z", ";UNTIL=20250101"]


@given(
    st.sampled_from(RULES),
    st.sampled_from(ENDS),
    st.none() | st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
)
@example("FREQ=DAILY", "", BERLIN, utc("2026-03-27T01:30"))  # over the night in which 2:30 is left out
@example("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", ";COUNT=3", BERLIN, utc("2026-03-29T01:30"))  # its task of that day
@example("FREQ=DAILY", "", BERLIN, utc("2026-10-24T00:30"))  # over the night in which 2:30 comes twice
@example("FREQ=DAILY", ";UNTIL=20260603", BERLIN, utc("2026-06-01T22:30"))  # days end two hours earlier in UTC
@example("FREQ=WEEKLY;BYDAY=MO,TH", ";COUNT=3", None, utc("2026-11-25T08:00"))  # a Wednesday
@example("FREQ=DAILY;INTERVAL=3;BYHOUR=2;BYMINUTE=30", "", "Africa/Casablanca", utc("2027-02-01T00:00"))  # comes twice
def test_another_program_finds_the_occurrences_that_the_service_makes(
    rule: str, end: str, zone: str | None, due_at: datetime
) -> None:
    due_at = due_at.replace(microsecond=0)
    local = due_at.astimezone(ZoneInfo(zone or "UTC"))
    assume(not local.fold)
    assume(not recurrence.faults(rule + end, zone, due_at))
    content = written(versioned(NewTask(title="t", due_at=due_at, recurrence=rule + end, time_zone=zone)))
    (read,) = to_dos(content)
    assert read["DUE"].dt == due_at
    assert occurrences(content, 5) == series(rule + end, zone, due_at, 5)


def test_a_time_that_comes_twice_is_due_at_the_moment_that_is_meant() -> None:
    second = NewTask(title="t", due_at=utc("2026-10-25T01:30"), recurrence="FREQ=DAILY", time_zone=BERLIN)
    content = written(versioned(second))
    (read,) = to_dos(content)
    assert b"TZID" not in content
    assert read["DUE"].dt == second.due_at


def test_a_time_zone_is_defined_once_before_it_is_used(client: Client) -> None:
    for zone in (BERLIN, BERLIN, "Asia/Tokyo", None):
        task = {"title": "t", "due_at": "2030-01-01T00:00:00Z", "recurrence": "FREQ=DAILY", "time_zone": zone}
        assert client.post("/tasks", json=task).status_code == 201
    lines = client.get("/tasks.ics").text.split("\r\n")
    for zone in (BERLIN, "Asia/Tokyo"):
        assert lines.count(f"TZID:{zone}") == 1
        used = next(number for number, line in enumerate(lines) if f"TZID={zone}" in line)
        assert lines.index(f"TZID:{zone}") < used
    assert "DUE:20300101T000000Z" in lines


@pytest.mark.parametrize("zone", sorted(ZONES))
def test_a_time_zone_is_the_same_in_its_definition(zone: str) -> None:
    content = b"".join(map(calendar._folded, calendar._zone(zone))).decode()
    defined = cast("Any", tzical(StringIO(content.replace("\r\n ", ""))).get())
    start = utc("2020-01-01T00:30")
    for moment in (start + timedelta(hours=11) * number for number in range(5000)):
        local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        if local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) == moment:  # else the time comes twice
            assert local.replace(tzinfo=defined).astimezone(UTC) == moment


def test_a_series_that_is_done_leaves_one_to_do_that_recurs(client: Client) -> None:
    task = {"title": "t", "due_at": "2030-01-01T00:00:00Z", "recurrence": "FREQ=DAILY"}
    client.post("/tasks", json=task)
    client.put("/tasks/1", json={"status": "completed"})
    first, second = feed(client)
    assert (first["STATUS"], "RRULE" in first) == ("COMPLETED", False)
    assert (second["STATUS"], "RRULE" in second) == ("NEEDS-ACTION", True)


def test_a_to_do_was_completed_when_its_status_was_changed_to_that(client: Client, database: Database) -> None:
    client.post("/tasks", json={"title": "t"})
    client.put("/tasks/1", json={"status": "completed"})
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE task_changes SET changed_at = '2026-01-02 03:04:05.000000+00:00'")
    client.put("/tasks/1", json={"title": "u"})
    client.post("/tasks", json={"title": "v", "status": "completed"})
    first, second = feed(client)
    assert first["COMPLETED"].dt == utc("2026-01-02T03:04:05")
    assert second["COMPLETED"].dt == second["CREATED"].dt


def test_a_to_do_keeps_its_identity_and_counts_its_changes(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    client.post("/tasks", json={"title": "b"})
    before = [(one["UID"], one["SEQUENCE"]) for one in feed(client)]
    client.put("/tasks/1", json={"title": "c"})
    assert [(one["UID"], one["SEQUENCE"]) for one in feed(client)] == [(before[0][0], 1), before[1]]
    assert before[0][0] != before[1][0]


def test_the_calendar_says_what_it_is_and_how_often_it_changes(client: Client) -> None:
    answer = client.get("/tasks.ics")
    assert answer.content_type == "text/calendar; charset=utf-8"
    read = cast("Any", icalendar.Calendar.from_ical(answer.data))
    assert (read["VERSION"], read["NAME"]) == ("2.0", "Tasks")
    assert read["REFRESH-INTERVAL"].dt == timedelta(hours=1)
    assert read["PRODID"]


CHANGES: dict[str, tuple[str, str, Any]] = {
    "a change": ("PUT", "/tasks/1", {"title": "new"}),
    "a new task": ("POST", "/tasks", {"title": "new"}),
    "a deletion": ("DELETE", "/tasks/2", None),
    "a label": ("POST", "/labels/rename", {"name": "a", "to": "b"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_not_changed_is_not_sent_again_and_what_has_is(client: Client, name: str) -> None:
    for _ in range(2):
        client.post("/tasks", json={"title": "t", "labels": ["a"]})
    first = client.get("/tasks.ics")
    tag = {"If-None-Match": first.headers["ETag"]}
    same = client.get("/tasks.ics", headers=tag)
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", first.headers["ETag"])
    method, path, body = CHANGES[name]
    assert client.open(path, method=method, json=body).status_code < 300
    assert client.get("/tasks.ics", headers=tag).status_code == 200


def test_a_deletion_and_a_creation_together_are_a_change(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    tag = {"If-None-Match": client.get("/tasks.ics").headers["ETag"]}
    client.delete("/tasks/1")
    client.post("/tasks", json={"title": "b"})
    assert client.get("/tasks.ics", headers=tag).status_code == 200


def test_caches_keep_it_for_its_owner_alone_and_no_page_learns_its_address(client: Client) -> None:
    headers = client.get("/tasks.ics").headers
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_large_calendar_is_written_a_page_at_a_time(client: Client, database: Database) -> None:
    number = 450
    with database.write() as connection:
        for each in range(number):
            service.create(connection, LOCAL_ACCOUNT, NewTask(title=str(each)))
    pieces = list(calendar.write(database, LOCAL_ACCOUNT))
    assert [piece.count(b"BEGIN:VTODO") for piece in pieces] == [0, 200, 200, 50, 0]
    assert [one["SUMMARY"] for one in feed(client)] == [str(each) for each in range(number)]


@pytest.mark.parametrize("most", ["MOST_TASKS", "MOST_BYTES"])
def test_what_is_too_large_for_a_calendar_is_refused_with_what_to_do(
    client: Client, monkeypatch: pytest.MonkeyPatch, most: str
) -> None:
    client.post("/tasks", json={"title": "t"})
    monkeypatch.setattr(calendar, most, 1)
    assert client.get("/tasks.ics").status_code == 200
    client.post("/tasks", json={"title": "t"})
    answer = client.get("/tasks.ics")
    assert (answer.status_code, answer.json["type"]) == (403, "/problems#calendar-too-large")


def token(client: Client, headers: dict[str, str], *scopes: str) -> str:
    body = {"name": "calendar", "scopes": scopes, "days": 365}
    answer = client.post("/auth/tokens", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json["token"])


def test_a_token_in_the_address_reads_the_calendar_of_its_account(guarded: Client) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    guarded.post("/tasks", json={"title": "ada's"}, headers=ada)
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    own = token(guarded, ada, "calendar:read")
    answer = guarded.get(f"/tasks.ics?token={own}")
    assert [one["SUMMARY"] for one in to_dos(answer.data)] == ["ada's"]
    assert [one["SUMMARY"] for one in feed(guarded, **bob)] == ["bob's"]
    assert [one["SUMMARY"] for one in to_dos(guarded.get(f"/tasks.ics?token={own}", headers=bob).data)] == ["bob's"]


def test_it_is_listed_and_ended_as_any_personal_token(guarded: Client) -> None:
    ada = log_in(guarded)
    own = token(guarded, ada, "calendar:read")
    (listed,) = guarded.get("/auth/tokens", headers=ada).json
    assert (listed["calendar"], listed["scopes"]) == (True, [])  # a value that old clients do not know is not in a list
    guarded.delete(f"/auth/tokens/{listed['id']}", headers=ada)
    answer = guarded.get(f"/tasks.ics?token={own}")
    assert (answer.status_code, answer.json["type"]) == (401, "/problems#token-invalid")


def test_a_token_of_the_calendar_may_do_nothing_else(guarded: Client) -> None:
    own = token(guarded, log_in(guarded), "calendar:read")
    bearer = {"Authorization": f"Bearer {own}"}
    assert guarded.get("/tasks.ics", headers=bearer).status_code == 200
    for method, path in (("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/auth/me"), ("GET", "/tasks/changes")):
        assert guarded.open(path, method=method, headers=bearer, json={}).status_code == 403
        assert guarded.open(f"{path}?token={own}", method=method, json={}).status_code == 401


def test_no_token_that_may_do_more_is_taken_from_an_address(guarded: Client) -> None:
    ada = log_in(guarded)
    session = ada["Authorization"].removeprefix("Bearer ")
    for more in (session, token(guarded, ada, "calendar:read", "tasks:read"), token(guarded, ada, "tasks:read")):
        answer = guarded.get(f"/tasks.ics?token={more}")
        assert (answer.status_code, answer.json["type"]) == (403, "/problems#scope-missing")
        assert more not in answer.text + str(answer.headers)


def test_a_personal_token_needs_the_scope_of_the_calendar(guarded: Client) -> None:
    ada = log_in(guarded)
    bearer = {"Authorization": f"Bearer {token(guarded, ada, 'tasks:read')}"}
    assert guarded.get("/tasks.ics", headers=bearer).status_code == 403
    assert guarded.get("/tasks.ics").status_code == 401


def test_an_administrator_has_a_calendar_of_their_own_tasks(guarded: Client, database: Database) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE accounts SET role = 'admin' WHERE email = 'ada@example.org'")
    assert len(guarded.get("/tasks", headers=ada).json) == 1
    assert feed(guarded, **ada) == []


def test_requests_by_address_count_for_the_account(lend: Lend) -> None:
    client = lend(auth="on", jwt_keys=(KEY,), rate_limit=Rate(6, 3600))
    own = token(client, log_in(client), "calendar:read")
    statuses = [client.get(f"/tasks.ics?token={own}").status_code for _ in range(9)]
    assert 429 in statuses
    assert statuses[0] == 200


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(new_tasks, max_size=4))
def test_every_task_is_in_the_calendar_of_either_database(
    client: Client, database: Database, new: list[NewTask]
) -> None:
    empty(database)
    with database.write() as connection:
        for each in new:
            service.create(connection, LOCAL_ACCOUNT, each)
    assert [one["SUMMARY"] for one in feed(client)] == [readable(each.title) for each in new]
