"""To-dos as Thunderbird, Apple Reminders, Nextcloud Tasks and Outlook write them."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from task_api import cli
from task_api.tasks import calendar, calendar_import, recurrence, service
from task_api.tasks.calendar_import import CalendarFaults, ToDos, read
from task_api.tasks.model import CHANGEABLE, NewTask
from task_core.database import Database
from task_core.reminder import Reminder
from task_core.schema import LOCAL_ACCOUNT

from .conftest import KEY, Client, Lend, empty, log_in
from .test_calendar import BERLIN, RULES, ZONES, new_tasks, readable, versioned, written
from .test_recurrence import utc

OUTLOOK = """BEGIN:VTIMEZONE
TZID:W. Europe Standard Time
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE"""
OWN_ZONE = OUTLOOK.replace("W. Europe Standard Time", "Home")


def to_dos(*bodies: str, around: str = "") -> bytes:
    """Return a calendar with to-dos of these lines."""
    parts = [f"BEGIN:VTODO\nUID:{number}\n{body}\nEND:VTODO" for number, body in enumerate(bodies)]
    lines = "\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", *filter(None, [around]), *parts, "END:VCALENDAR"])
    return lines.replace("\n", "\r\n").encode() + b"\r\n"


def task(body: str, **options: Any) -> NewTask:
    (one,) = read(to_dos(f"SUMMARY:t\n{body}", around=options.pop("around", "")), **options).tasks
    return one


@pytest.mark.parametrize(
    ("body", "due_at"),
    [
        ("DUE:20260601T100000Z", "2026-06-01T10:00"),
        ("DUE;TZID=Europe/Berlin:20260601T100000", "2026-06-01T08:00"),
        ("DUE;TZID=/freeassociation.sourceforge.net/Europe/Berlin:20260601T100000", "2026-06-01T08:00"),
        ("DUE;TZID=W. Europe Standard Time:20260601T100000", "2026-06-01T08:00"),
        ("DUE:20260601T100000", "2026-06-01T10:00"),  # floating
        ("DUE;VALUE=DATE:20260601", "2026-06-01T23:59:59"),
        ("DTSTART:20260601T100000Z\nDURATION:PT1H30M", "2026-06-01T11:30"),
        # the clock goes forward on 29 March: a day is a day, and 24 hours are more
        ("DTSTART;TZID=Europe/Berlin:20260328T120000\nDURATION:P1D", "2026-03-29T10:00"),
        ("DTSTART;TZID=Europe/Berlin:20260328T120000\nDURATION:P0DT24H", "2026-03-29T10:00"),
        ("DTSTART;TZID=Europe/Berlin:20260328T235900\nDURATION:PT5H", "2026-03-29T03:59"),
        ("DTSTART:20260601T090000Z\nDUE:20260601T100000Z", "2026-06-01T10:00"),
        ("DTSTART:20260601T090000Z", None),
        ("", None),
    ],
)
def test_a_to_do_is_due_when_its_program_meant(body: str, due_at: str | None) -> None:
    assert task(body).due_at == (due_at and utc(due_at))


def test_a_time_zone_that_the_calendar_defines_is_read_from_there() -> None:
    assert task("DUE;TZID=Home:20260601T100000", around=OWN_ZONE).due_at == utc("2026-06-01T08:00")
    assert task("DUE;TZID=W. Europe Standard Time:20260601T100000", around=OUTLOOK).due_at == utc("2026-06-01T08:00")


def test_floating_times_are_in_the_time_zone_that_is_named_or_in_the_calendars() -> None:
    floating = "DUE:20260601T100000"
    assert task(floating, floating=BERLIN).due_at == utc("2026-06-01T08:00")
    assert task(floating, around="X-WR-TIMEZONE:Asia/Tokyo").due_at == utc("2026-06-01T01:00")
    assert task(floating, around="X-WR-TIMEZONE:Asia/Tokyo", floating=BERLIN).due_at == utc("2026-06-01T08:00")
    assert task("DUE:20260601T100000Z", floating=BERLIN).due_at == utc("2026-06-01T10:00")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("STATUS:NEEDS-ACTION", "pending"),
        ("STATUS:needs-action", "pending"),
        ("STATUS:IN-PROCESS", "in_progress"),
        ("STATUS:COMPLETED", "completed"),
        ("STATUS:CANCELLED", "completed"),
        ("COMPLETED:20260101T000000Z", "completed"),
        ("PERCENT-COMPLETE:100", "completed"),
        ("PERCENT-COMPLETE:40", "in_progress"),
        ("PERCENT-COMPLETE:0", "pending"),
        ("STATUS:NEEDS-ACTION\nPERCENT-COMPLETE:40", "pending"),
        ("", "pending"),
    ],
)
def test_the_status_is_that_of_the_to_do(body: str, status: str) -> None:
    assert task(body).status == status


@pytest.mark.parametrize(
    ("number", "priority"), [(0, "normal"), (1, "high"), (4, "high"), (5, "normal"), (6, "low"), (9, "low")]
)
def test_priorities_are_three(number: int, priority: str) -> None:
    assert task(f"PRIORITY:{number}").priority == priority


def test_categories_are_labels_each_once_however_they_are_written() -> None:
    assert task("CATEGORIES:b,a\\, c\nCATEGORIES:b\nCATEGORIES:").labels == ["a, c", "b"]


@pytest.mark.parametrize(
    ("body", "rule", "zone"),
    [
        ("DTSTART;TZID=Europe/Berlin:20260601T100000\nRRULE:FREQ=DAILY", "FREQ=DAILY", BERLIN),
        ("DUE;TZID=Europe/Berlin:20260601T100000\nRRULE:FREQ=DAILY", "FREQ=DAILY", BERLIN),
        ("DUE;TZID=W. Europe Standard Time:20260601T100000\nRRULE:FREQ=DAILY", "FREQ=DAILY", BERLIN),
        ("DUE:20260601T100000Z\nRRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=3", "FREQ=WEEKLY;COUNT=3;BYDAY=MO", None),
        ("DUE:20260602T100000Z\nRRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=3", "FREQ=WEEKLY;COUNT=4;BYDAY=MO", None),
        ("DUE;VALUE=DATE:20260601\nRRULE:FREQ=MONTHLY;UNTIL=20261201", "FREQ=MONTHLY;UNTIL=20261201", None),
        # Thunderbird's UNTIL is the last DTSTART, and the last DUE is an hour later
        (
            "DTSTART:20260601T100000Z\nDUE:20260601T110000Z\nRRULE:FREQ=DAILY;UNTIL=20260603T100000Z",
            "FREQ=DAILY;UNTIL=20260603T110000Z",
            None,
        ),
        (
            "DTSTART;TZID=Europe/Berlin:20260601T100000\nDURATION:P1D\nRRULE:FREQ=DAILY;UNTIL=20260603T100000",
            "FREQ=DAILY;UNTIL=20260604T080000Z",
            BERLIN,
        ),
        ("STATUS:COMPLETED\nDUE:20260601T100000Z\nRRULE:FREQ=DAILY", None, None),
        ("DUE;TZID=Europe/Berlin:20260601T100000", None, None),
    ],
)
def test_a_rule_counts_from_when_the_task_is_due(body: str, rule: str | None, zone: str | None) -> None:
    one = task(body)
    assert (one.recurrence, one.time_zone) == (rule, zone)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("DUE:nonsense", "DUE cannot be read: Wrong date format nonsense"),
        ("DUE;TZID=Nowhere:20260601T100000", "TZID 'Nowhere' is neither a name of the IANA database nor defined"),
        ("DUE:20260601T100000Z\nDUE:20260602T100000Z", "DUE is there 2 times"),
        ("DURATION:PT1H", "DURATION needs DTSTART, and no DUE"),
        ("DTSTART:20260601\nDURATION:20260601", "DURATION has to be a length of time such as PT1H"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=HOURLY", "FREQ has to be one of DAILY, WEEKLY, MONTHLY, YEARLY"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=DAILY;BYMONTH=1", "BYMONTH is not supported with FREQ=DAILY"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=SOMETIMES", "RRULE cannot be read"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "RRULE: after `due_at`, nothing follows"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", "RRULE is there 2 times"),
        ("RRULE:FREQ=DAILY", "RRULE needs DTSTART or DUE"),
        ("DUE:20260601T100000Z\nRRULE:FREQ=DAILY\nEXDATE:20260602T100000Z", "EXDATE is not supported"),
        ("RECURRENCE-ID:20260601T100000Z", "RECURRENCE-ID is not supported"),
        (
            "DTSTART:20260601T100000Z\nDUE:20260602T100000Z\nRRULE:FREQ=WEEKLY;BYDAY=MO",
            "RRULE counts from DTSTART, and names days or times of it that are not those of DUE",
        ),
        ("STATUS:DONE", "STATUS has to be one of NEEDS-ACTION, IN-PROCESS, COMPLETED, CANCELLED"),
        ("PRIORITY:10", "PRIORITY has to be a number from 0 to 9"),
        (f"DESCRIPTION:{'x' * 10_001}", "Expected `str` of length <= 10000 - at `DESCRIPTION`"),
        (f"CATEGORIES:{'x' * 51}", "Expected `str` of length <= 50 - at `CATEGORIES[0]`"),
        (f"SUMMARY:{'x' * 201}", "SUMMARY is there 2 times"),
        ("DUE;TZID=Home:20260601T100000\nRRULE:FREQ=DAILY", "TZID: no time zone of the IANA database has this name"),
        ("DUE:00010101T000000\nDUE;TZID=Asia/Tokyo:00010101T000000", "DUE is there 2 times"),
        ("DUE;TZID=Asia/Tokyo:00010101T000000", "a moment between the years 1 and 9999, in UTC, is expected"),
    ],
)
def test_what_would_become_another_task_is_a_fault_of_its_to_do(body: str, fault: str) -> None:
    with pytest.raises(CalendarFaults) as raised:
        read(to_dos("SUMMARY:fine", f"SUMMARY:wrong\n{body}", around=OWN_ZONE))
    (reported,) = raised.value.faults
    assert reported.startswith(f"to-do 2, 'wrong': {fault}" if "SUMMARY" not in body else "to-do 2, ")
    assert fault in reported


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(CalendarFaults) as raised:
        read(to_dos("SUMMARY:a\nPRIORITY:10", "SUMMARY:b", "DESCRIPTION:no title", f"SUMMARY:{'x' * 201}"))
    assert [fault.partition(": ")[0] for fault in raised.value.faults] == [
        "to-do 1, 'a'",
        "to-do 3, 'UID 2'",
        f"to-do 4, '{'x' * 60}'",
    ]


def test_what_a_task_has_no_place_for_is_left_out_and_counted() -> None:
    alarm = "BEGIN:VALARM\nACTION:DISPLAY\nTRIGGER:PT15M\nEND:VALARM"
    event = "BEGIN:VEVENT\nUID:e\nSUMMARY:e\nDTSTART:20260101T000000Z\nEND:VEVENT"
    everything = read(
        to_dos(
            f"SUMMARY:a\nLOCATION:here\nX-APPLE-SORT-ORDER:1\nDUE:20260601T100000Z\n{alarm}\n{alarm}",
            "SUMMARY:b\nDTSTART:20260601T100000Z\nDUE:20260601T110000Z\nRELATED-TO:0\nLOCATION:there",
            "SUMMARY:c\nSTATUS:COMPLETED\nDUE:20260601T100000Z\nRRULE:FREQ=DAILY\nCREATED:20260101T000000Z",
            "SUMMARY:d\nDTSTART:20260601T100000Z\nRRULE:FREQ=DAILY",
            around=event,
        )
    )
    assert everything.left_out == {"VALARM": 2, "VEVENT": 1, "LOCATION": 2, "RELATED-TO": 1, "DTSTART": 1, "RRULE": 1}
    assert [one.title for one in everything.tasks] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "this is no whole calendar"),
        (b"hello", "this is no calendar"),
        (to_dos("SUMMARY:a\nDUE;VALUE=DATE,DATE-TIME:20260601"), "this is no calendar: a parameter has"),
        (b"\xff\xfe", "a calendar is a text in UTF-8"),
        (to_dos("SUMMARY:a")[:-20], "this is no whole calendar"),
        (to_dos("SUMMARY:a") + to_dos("SUMMARY:b")[:-20], "this is no whole calendar"),
        (b"BEGIN:VTODO\r\nSUMMARY:a\r\nEND:VTODO\r\n", "this is no whole calendar"),
    ],
)
def test_what_is_no_whole_calendar_is_refused(content: bytes, fault: str) -> None:
    with pytest.raises(CalendarFaults) as raised:
        read(content)
    assert str(raised.value).startswith(fault)


def test_two_calendars_in_a_file_and_a_byte_order_mark_are_read() -> None:
    assert len(read(b"\xef\xbb\xbf" + to_dos("SUMMARY:a") + to_dos("SUMMARY:b")).tasks) == 2


@pytest.mark.parametrize(("most", "value"), [("MOST_TO_DOS", 1), ("MOST_BYTES", 100)])
def test_what_is_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch, most: str, value: int) -> None:
    monkeypatch.setattr(calendar_import, most, value)
    with pytest.raises(CalendarFaults, match="import it in parts"):
        read(to_dos("SUMMARY:a", "SUMMARY:b"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: to_dos(f"SUMMARY:{text}")))
def test_whatever_the_file_is_it_is_read_or_refused(content: bytes) -> None:
    with suppress(CalendarFaults):
        assert isinstance(read(content), ToDos)


PROPERTIES = ["DUE", "DTSTART", "DURATION", "RRULE", "STATUS", "PRIORITY", "CATEGORIES", "PERCENT-COMPLETE", "EXDATE"]
VALUES = ["20260601", "20260601T100000", "99991231T235959Z", "00010101T000000", "P1D", "-PT5M", "5", "-1", "", "x;y=z"]
VALUES += ["FREQ=DAILY;UNTIL=00010101", "FREQ=WEEKLY;COUNT=2;BYDAY=MO", "FREQ=DAILY;UNTIL=99991231T235959Z", "FREQ="]
lines = st.builds(
    "{}{}:{}".format,
    st.sampled_from(PROPERTIES),
    st.sampled_from(["", ";VALUE=DATE", ";TZID=Asia/Tokyo", ";TZID=Nowhere", ";VALUE=PERIOD", ";VALUE=TEXT"]),
    st.sampled_from(VALUES),
)


@hypothesis_settings(max_examples=400)
@given(st.lists(lines, max_size=5))
def test_whatever_a_to_do_holds_it_is_read_or_refused(body: list[str]) -> None:
    with suppress(CalendarFaults):
        (one,) = read(to_dos("\n".join(["SUMMARY:t", *body]))).tasks
        assert recurrence.faults(one.recurrence, one.time_zone, one.due_at) == {}


def kept(task: NewTask) -> dict[str, Any]:
    """Return what of a task comes back from a calendar."""
    fields = {name: getattr(task, name) for name in CHANGEABLE}
    fields |= {"title": readable(task.title).strip(), "description": readable(task.description)}
    fields["project"] = task.project and (readable(task.project).strip() or None)
    fields["labels"] = sorted({readable(label).strip() for label in task.labels} - {""})
    fields["due_at"] = task.due_at and task.due_at.replace(microsecond=0)
    moments = (cast("datetime", one.at).replace(microsecond=0) for one in task.reminders)
    fields["reminders"] = [Reminder(at=moment) for moment in dict.fromkeys(moments)]
    return fields


@given(new_tasks)
def test_what_was_exported_comes_in_the_same(new: NewTask) -> None:
    assume(readable(new.title).strip())
    (one,) = read(written(versioned(new))).tasks
    assert {name: getattr(one, name) for name in CHANGEABLE} == kept(new)


@given(
    st.sampled_from(RULES),
    st.sampled_from(["", ";COUNT=3", ";UNTIL=20280401T003000Z"]),
    st.none() | st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
)
def test_a_task_that_recurs_comes_in_the_same(rule: str, end: str, zone: str | None, due_at: datetime) -> None:
    due_at = due_at.replace(microsecond=0)
    assume(not due_at.astimezone(recurrence.zone(zone)).fold)
    assume(not recurrence.faults(rule + end, zone, due_at))
    (one,) = read(written(versioned(NewTask(title="t", due_at=due_at, recurrence=rule + end, time_zone=zone)))).tasks
    assert one.recurrence is not None
    assert (one.due_at, one.time_zone) == (due_at, zone)
    assert recurrence.parse(one.recurrence).values == recurrence.parse(rule + end).values


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("DUE:20260601T100000Z\n{TRIGGER:-PT15M}", [Reminder(before="PT15M")]),
        ("DUE:20260601T100000Z\n{TRIGGER;RELATED=END:PT0S}", [Reminder(before="PT0S")]),
        ("DUE:20260601T100000Z\n{TRIGGER:-P1W}\n{TRIGGER:-P7D}", [Reminder(before="P7D")]),
        ("DTSTART:20260601T080000Z\nDUE:20260601T100000Z\n{TRIGGER:-PT15M}", [Reminder(before="PT2H15M")]),
        ("DTSTART:20260601T080000Z\nDUE:20260601T100000Z\n{TRIGGER;RELATED=END:-PT15M}", [Reminder(before="PT15M")]),
        ("DTSTART:20260601T080000Z\nDUE:20260601T100000Z\n{TRIGGER:PT3H}", []),
        ("DUE;VALUE=DATE:20260601\n{TRIGGER:-PT1S}", [Reminder(before="PT1S")]),
        (
            "{TRIGGER;VALUE=DATE-TIME:20260601T073000Z}\n{TRIGGER:-PT15M}",
            [Reminder(at=datetime(2026, 6, 1, 7, 30, tzinfo=UTC))],
        ),
        ("DUE:20260601T100000Z\n{TRIGGER:soon}\n{TRIGGER;VALUE=DATE-TIME:20260601T073000}\n{TRIGGER:-P1000D}", []),
        ("DUE:20260601T100000Z\n{TRIGGER;RELATED=END,START:-PT15M}\n{X-NONE:1}", [Reminder(before="PT15M")]),
        ("DTSTART:20250601T080000Z\nDUE:20260601T100000Z\n{TRIGGER:-P999999999D}\n{TRIGGER:P999999999D}", []),
        (
            "DUE:20260601T100000Z\n" + "\n".join(f"{{TRIGGER:-PT{hours}H}}" for hours in range(1, 7)),
            [Reminder(before=f"PT{hours}H") for hours in range(1, 6)],
        ),
    ],
)
def test_alarms_are_reminders_where_a_task_can_have_them(lines: str, expected: list[Reminder]) -> None:
    text = lines.replace("{", "BEGIN:VALARM\nACTION:DISPLAY\n").replace("}", "\nEND:VALARM")
    everything = read(to_dos(f"SUMMARY:a\n{text}"))
    assert everything.tasks[0].reminders == expected
    assert everything.left_out["VALARM"] == lines.count("{") - len(expected)


def run(database: Database, *arguments: str, content: bytes = b"") -> Result:
    settings = database._settings
    environment = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.sqlite_path}
    environment |= {"AUTH": "on", "JWT_KEYS": f"k1:{KEY.secret}"}
    return CliRunner().invoke(cli.main, arguments, env=environment, input=content)


def test_a_calendar_is_imported_for_an_account_and_exported_again(
    guarded: Client, database: Database, tmp_path: Path
) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    content = to_dos("SUMMARY:a\nLOCATION:here", "SUMMARY:b\nDUE:20260601T100000")
    done = run(database, "import", "--calendar", "Ada@example.org", "--time-zone", BERLIN, content=content)
    assert (done.exit_code, done.output) == (0, "2 tasks were imported; left out: 1 LOCATION\n")
    listed = guarded.get("/tasks", headers=ada).json
    assert [(one["title"], one["due_at"]) for one in listed] == [("a", None), ("b", "2026-06-01T08:00:00Z")]
    assert guarded.get("/tasks", headers=bob).json == []
    assert [change["kind"] for change in guarded.get("/tasks/1/history", headers=ada).json] == ["created"]
    file = tmp_path / "tasks.ics"
    assert run(database, "export", "--calendar", "ada@example.org", str(file)).exit_code == 0
    assert file.read_bytes() == guarded.get("/tasks.ics", headers=ada).data
    assert [one.title for one in read(file.read_bytes()).tasks] == ["a", "b"]


def test_one_fault_and_nothing_is_imported(lend: Lend, database: Database) -> None:
    client = lend()
    refused = run(database, "import", "--calendar", "local", content=to_dos("SUMMARY:a", "SUMMARY:b\nPRIORITY:10"))
    assert refused.exit_code == 1
    assert refused.output.splitlines() == [
        "to-do 2, 'b': PRIORITY has to be a number from 0 to 9",
        "task-api: import: 1 faults: nothing was imported",
    ]
    assert client.get("/tasks").json == []


def test_an_import_that_fails_in_the_database_leaves_nothing(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = calendar_import.create

    def failing(connection: Any, owner_id: int, to_dos: ToDos) -> None:
        create(connection, owner_id, to_dos)
        raise ValueError("planted")

    monkeypatch.setattr(calendar_import, "create", failing)
    assert run(database, "import", "--calendar", "local", content=to_dos("SUMMARY:a", "SUMMARY:b")).exit_code == 1
    assert client.get("/tasks").json == []


@pytest.mark.parametrize("command", ["import", "export"])
def test_an_account_that_is_not_there_and_a_time_zone_that_is_none_are_named(database: Database, command: str) -> None:
    refused = run(database, command, "--calendar", "nobody@example.org")
    assert (refused.exit_code, refused.output) == (1, "task-api: there is no account of nobody@example.org\n")
    if command == "import":
        refused = run(database, "import", "--calendar", "local", "--time-zone", "Nowhere", content=to_dos("SUMMARY:a"))
        assert refused.output.startswith("task-api: no time zone of the IANA database has this name")


@hypothesis_settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(new_tasks, max_size=4))
def test_what_one_database_exports_another_one_imports(client: Client, database: Database, new: list[NewTask]) -> None:
    assume(all(readable(one.title).strip() for one in new))
    empty(database)
    with database.write() as connection:
        for one in new:
            service.create(connection, LOCAL_ACCOUNT, one)
    exported = read(b"".join(calendar.write(database, LOCAL_ACCOUNT)))
    with database.write() as connection:
        calendar_import.create(connection, LOCAL_ACCOUNT, exported)
    titles = [readable(one.title).strip() for one in new]
    assert [one["title"].strip() for one in client.get("/tasks").json][len(new) :] == titles


@pytest.mark.parametrize("name", ["America", "a/" * 5_000], ids=["folder", "long path"])
def test_a_time_zone_that_no_file_can_have_is_a_fault(name: str) -> None:
    to_do = f"BEGIN:VTODO\r\nSUMMARY:t\r\nDUE;TZID={name}:20260101T000000\r\nEND:VTODO\r\n"
    with pytest.raises(CalendarFaults):
        read(f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{to_do}END:VCALENDAR\r\n".encode())
