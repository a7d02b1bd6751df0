import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dateutil import rrule
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from task_api.tasks import recurrence
from task_api.tasks.recurrence import Occurrence, faults, following
from task_core.database import Database

from .conftest import KEY, Client, Lend, log_in
from .test_changes import shown, sync

BERLIN = "Europe/Berlin"
DAILY = {"title": "t", "due_at": "2030-01-01T08:00:00Z", "recurrence": "FREQ=DAILY", "time_zone": BERLIN}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def series(rule: str, zone: str | None, due_at: datetime, most: int) -> list[datetime]:
    """Return when the tasks of a series are due that are completed one after the other, the first left out."""
    occurrences: list[datetime] = []
    while len(occurrences) < most and (occurrence := following(rule, zone, due_at)):
        due_at, rule = occurrence
        occurrences.append(due_at)
    return occurrences


@pytest.mark.parametrize(
    ("rule", "zone", "due_at", "expected"),
    [
        ("FREQ=DAILY", None, "2026-02-28T08:00", ["2026-03-01T08:00", "2026-03-02T08:00"]),
        ("FREQ=DAILY;INTERVAL=10", None, "2026-02-28T08:00:00.000005", ["2026-03-10T08:00:00.000005"]),
        ("FREQ=WEEKLY", None, "2026-11-25T08:00", ["2026-12-02T08:00"]),
        (
            "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE",
            None,
            "2026-11-23T08:00",
            ["2026-11-25T08:00", "2026-12-07T08:00", "2026-12-09T08:00"],
        ),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU", None, "2026-11-24T08:00", ["2026-11-29T08:00", "2026-12-08T08:00"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=SU", None, "2026-11-24T08:00", ["2026-12-06T08:00"]),
        ("FREQ=MONTHLY", None, "2026-01-31T08:00", ["2026-03-31T08:00", "2026-05-31T08:00"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", None, "2026-01-31T08:00", ["2026-02-28T08:00", "2026-03-31T08:00"]),
        ("FREQ=MONTHLY;BYMONTHDAY=13;BYDAY=FR", None, "2026-03-13T08:00", ["2026-11-13T08:00"]),
        ("FREQ=MONTHLY;BYDAY=1MO,-1FR", None, "2026-11-02T08:00", ["2026-11-27T08:00", "2026-12-07T08:00"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", None, "2026-01-30T08:00", ["2026-02-27T08:00"]),
        ("FREQ=YEARLY", None, "2096-02-29T08:00", ["2104-02-29T08:00"]),
        ("FREQ=MONTHLY", None, "2026-01-01T00:00", ["2026-02-01T00:00", "2026-03-01T00:00"]),
        ("FREQ=YEARLY", None, "9997-01-01T00:00", ["9998-01-01T00:00", "9999-01-01T00:00"]),
        ("FREQ=YEARLY;BYMONTH=3,11", None, "2026-03-05T08:00", ["2026-11-05T08:00", "2027-03-05T08:00"]),
        ("FREQ=YEARLY;BYMONTH=11;BYDAY=4TH", None, "2026-11-26T08:00", ["2027-11-25T08:00"]),
        ("FREQ=DAILY;BYHOUR=17;BYMINUTE=5", BERLIN, "2026-01-01T08:00", ["2026-01-01T16:05", "2026-01-02T16:05"]),
        # the clock goes forward on 29 March 2026 at 2:00, and back on 25 October at 3:00
        ("FREQ=DAILY", BERLIN, "2026-03-28T07:00", ["2026-03-29T06:00", "2026-03-30T06:00"]),
        ("FREQ=DAILY", BERLIN, "2026-03-28T01:30", ["2026-03-29T01:30", "2026-03-30T00:30", "2026-03-31T00:30"]),
        ("FREQ=DAILY", BERLIN, "2026-10-24T00:30", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("FREQ=DAILY;BYHOUR=2", BERLIN, "2026-10-25T01:30", ["2026-10-26T01:30"]),
        ("FREQ=WEEKLY", BERLIN, "2026-10-22T21:30", ["2026-10-29T22:30"]),
    ],
)
def test_the_next_occurrences_follow_the_rule(rule: str, zone: str | None, due_at: str, expected: list[str]) -> None:
    assert faults(rule, zone, utc(due_at)) == {}
    assert series(rule, zone, utc(due_at), len(expected)) == [utc(one) for one in expected]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("COUNT=1", 0),
        ("COUNT=4", 3),
        ("UNTIL=20260102", 1),
        ("UNTIL=20260101", 0),
        ("UNTIL=20260102T225959Z", 1),
        ("UNTIL=20260102T230000Z", 2),
        ("UNTIL=20250101", 0),
    ],
)
def test_count_and_until_end_the_series(end: str, expected: int) -> None:
    midnight = utc("2025-12-31T23:00")  # 1 January in Berlin
    assert faults(f"FREQ=DAILY;{end}", BERLIN, midnight) == {}
    assert len(series(f"FREQ=DAILY;{end}", BERLIN, midnight, 9)) == expected


def test_count_is_what_is_left_and_the_other_parts_stay() -> None:
    occurrence = following("COUNT=4;FREQ=DAILY;WKST=SU", None, utc("2026-01-01T00:00"))
    assert occurrence == Occurrence(utc("2026-01-02T00:00"), "COUNT=3;FREQ=DAILY;WKST=SU")


IMPOSSIBLE = [
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=YEARLY;INTERVAL=2;BYMONTH=2;BYMONTHDAY=29",
    "FREQ=YEARLY;INTERVAL=999;BYMONTH=2,4,6;BYMONTHDAY=31",
    "FREQ=MONTHLY;INTERVAL=12;BYMONTHDAY=31",
    "FREQ=MONTHLY;INTERVAL=999;BYMONTHDAY=1;BYDAY=5MO",
    "FREQ=MONTHLY;BYMONTHDAY=1;BYSETPOS=2",
    "FREQ=YEARLY;BYMONTH=1,2,3,4,5,6,7,8,9,10,11,12;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYMONTHDAY=1;BYSETPOS=366",
]


@pytest.mark.parametrize("rule", IMPOSSIBLE)
def test_a_rule_that_never_comes_again_is_refused_after_few_steps(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    due_at = utc("2027-02-01T08:00")
    steps = []
    rebuild = rrule._iterinfo.rebuild

    def counted(self: Any, *given: int) -> None:
        steps.append(given)
        rebuild(self, *given)

    monkeypatch.setattr(rrule._iterinfo, "rebuild", counted)
    assert faults(rule, BERLIN, due_at) == {
        "recurrence": "after `due_at`, nothing follows in the next 16 periods of the rule"
    }
    assert following(rule, BERLIN, due_at) is None
    assert 0 < len(steps) <= 4 * recurrence.SEARCHED  # not as many as there are until the year 9999


@pytest.mark.parametrize("due_at", ["9999-12-31T23:59:59.999999", "9999-06-01T00:00"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_the_years_that_there_are_end_a_series(due_at: str, zone: str) -> None:
    assert following("FREQ=YEARLY", zone, utc(due_at)) is None
    assert following("FREQ=DAILY;INTERVAL=999", zone, utc(due_at)) is None


def test_a_day_in_the_year_1_in_a_zone_west_of_it_is_refused() -> None:
    assert list(faults("FREQ=DAILY", "America/New_York", utc("0001-01-01T00:00"))) == ["recurrence"]


days = st.sampled_from(recurrence._DAYS)
numbered = st.builds("{}{}".format, st.sampled_from(["", "", "1", "2", "-1", "+4", "5"]), days)


def joined(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.lists(values.map(str), min_size=1, max_size=3).map(",".join)


def rules() -> st.SearchStrategy[str]:
    common = {
        "INTERVAL": st.integers(1, 5).map(str),
        "WKST": days,
        "BYHOUR": st.integers(0, 23).map(str),
        "BYMINUTE": st.integers(0, 59).map(str),
    }
    month_days = joined(st.integers(-31, 31).filter(bool))
    own: dict[str, dict[str, st.SearchStrategy[str]]] = {
        "DAILY": {},
        "WEEKLY": {"BYDAY": joined(days)},
        "MONTHLY": {"BYDAY": joined(numbered), "BYMONTHDAY": month_days},
        "YEARLY": {"BYMONTH": joined(st.integers(1, 12)), "BYDAY": joined(numbered), "BYMONTHDAY": month_days},
    }

    def of(frequency: str) -> st.SearchStrategy[str]:
        parts = st.fixed_dictionaries({"FREQ": st.just(frequency)}, optional={**common, **own[frequency]})
        return parts.map(lambda given: ";".join(f"{name}={value}" for name, value in given.items()))

    return st.sampled_from(sorted(own)).flatmap(of)


zones = st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu", "UTC"])
moments = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))


@given(rule=rules(), zone=zones, due_at=moments)
def test_the_next_occurrence_is_later_at_the_same_wall_time_and_the_one_that_the_whole_rule_has(
    rule: str, zone: str, due_at: datetime
) -> None:
    if faults(rule, zone, due_at):
        return
    occurrence = following(rule, zone, due_at)
    assert occurrence is not None
    assert occurrence.due_at > due_at
    local = ZoneInfo(zone)
    start = due_at.astimezone(local).replace(tzinfo=None)
    values = recurrence.parse(rule).values
    wanted = start.replace(hour=values.get("BYHOUR", start.hour), minute=values.get("BYMINUTE", start.minute)).time()
    now = occurrence.due_at.astimezone(local)
    moved = now.replace(tzinfo=None, fold=0).time() != wanted
    if moved:  # the clock leaves it out that day; the rule keeps it
        assert datetime.combine(now.date(), wanted, local).astimezone(UTC).astimezone(local).time() == now.time()
        assert {"BYHOUR", "BYMINUTE"} <= recurrence.parse(occurrence.rule).values.keys()
    else:
        assert occurrence.rule == rule
    # The independent way: all at once, without steps of our own.
    whole = rrule.rrulestr(f"DTSTART:{start:%Y%m%dT%H%M%S}\nRRULE:{rule}")
    later = (one.replace(microsecond=start.microsecond, tzinfo=local).astimezone(UTC) for one in whole)
    assert occurrence.due_at == next(one for one in later if one > due_at)


@given(rule=rules(), zone=zones, due_at=moments, count=st.integers(1, 5))
def test_a_series_has_as_many_tasks_as_count_says(rule: str, zone: str, due_at: datetime, count: int) -> None:
    occurrences = series(f"{rule};COUNT={count}", zone, due_at, 9)
    assert len(occurrences) < count
    assert occurrences == sorted(set(occurrences)) == series(rule, zone, due_at, len(occurrences))
    end = faults(rule, zone, (occurrences or [due_at])[-1])
    assert end or len(occurrences) == count - 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR has to be a number from 0 to 23"),
        ("FREQ=DAILY;INTERVAL=1000", "INTERVAL has to be a number from 1 to 999"),
        (
            "FREQ=MONTHLY;BYMONTHDAY=0",
            "BYMONTHDAY has to be a number from -31 to 31, but not 0, or several with commas between them",
        ),
        (
            "FREQ=YEARLY;BYMONTH=13",
            "BYMONTH has to be a number from 1 to 12, or several with commas between them",
        ),
    ],
)
def test_a_number_that_is_refused_comes_with_those_that_are_not(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        recurrence.parse(rule)


def test_midnight_is_an_hour_and_a_minute() -> None:
    assert recurrence.parse("FREQ=DAILY;BYHOUR=0;BYMINUTE=0").values["BYHOUR"] == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recurrence": "INTERVAL=2"}, {"#/recurrence": "FREQ has to be one of DAILY, WEEKLY, MONTHLY, YEARLY"}),
        ({"recurrence": "FREQ=HOURLY"}, {"#/recurrence": "FREQ has to be one of"}),
        ({"recurrence": "FREQ=SECONDLY"}, {"#/recurrence": "FREQ has to be one of"}),
        ({"recurrence": "FREQ=DAILY;FREQ=DAILY"}, {"#/recurrence": "FREQ is there twice"}),
        ({"recurrence": "FREQ=DAILY;BYDAY=MO"}, {"#/recurrence": "BYDAY is not supported with FREQ=DAILY"}),
        ({"recurrence": "FREQ=WEEKLY;BYSETPOS=1"}, {"#/recurrence": "BYSETPOS is not supported with FREQ=WEEKLY"}),
        ({"recurrence": "FREQ=YEARLY;BYWEEKNO=3"}, {"#/recurrence": "BYWEEKNO is not supported"}),
        ({"recurrence": "FREQ=DAILY;BYSECOND=3"}, {"#/recurrence": "BYSECOND is not supported"}),
        ({"recurrence": "FREQ=DAILY;X-A=3"}, {"#/recurrence": "X-A is not supported"}),
        ({"recurrence": "FREQ=DAILY;INTERVAL=0"}, {"#/recurrence": "INTERVAL has to be a number from 1 to 999"}),
        ({"recurrence": "FREQ=DAILY;INTERVAL=1000"}, {"#/recurrence": "INTERVAL has to be"}),
        ({"recurrence": "FREQ=DAILY;COUNT=0"}, {"#/recurrence": "COUNT has to be a number from 1 to 9999"}),
        ({"recurrence": "FREQ=DAILY;BYHOUR=9,17"}, {"#/recurrence": "BYHOUR has to be a number from 0 to 23"}),
        ({"recurrence": "FREQ=DAILY;BYMINUTE=60"}, {"#/recurrence": "BYMINUTE has to be a number from 0 to 59"}),
        ({"recurrence": "FREQ=DAILY;UNTIL=20260230"}, {"#/recurrence": "UNTIL has to be a day"}),
        ({"recurrence": "FREQ=DAILY;UNTIL=20260201T080000"}, {"#/recurrence": "UNTIL has to be a day"}),
        ({"recurrence": "FREQ=DAILY;COUNT=2;UNTIL=20310101"}, {"#/recurrence": "COUNT and UNTIL exclude"}),
        ({"recurrence": "FREQ=DAILY;WKST=XX"}, {"#/recurrence": "WKST has to be one of"}),
        ({"recurrence": "FREQ=WEEKLY;BYDAY=1MO"}, {"#/recurrence": "BYDAY has no numbers with FREQ=WEEKLY"}),
        ({"recurrence": "FREQ=MONTHLY;BYDAY=6MO"}, {"#/recurrence": "BYDAY has to be of"}),
        ({"recurrence": "FREQ=MONTHLY;BYMONTHDAY=0"}, {"#/recurrence": "BYMONTHDAY has to be a number from -31 to 31"}),
        ({"recurrence": "FREQ=MONTHLY;BYMONTHDAY=1,,2"}, {"#/recurrence": "BYMONTHDAY has to be"}),
        ({"recurrence": "FREQ=MONTHLY;BYMONTH=1"}, {"#/recurrence": "BYMONTH is not supported with FREQ=MONTHLY"}),
        ({"recurrence": "FREQ=MONTHLY;BYSETPOS=1"}, {"#/recurrence": "BYSETPOS needs BYDAY or BYMONTHDAY"}),
        ({"recurrence": "FREQ=YEARLY;BYDAY=MO"}, {"#/recurrence": "BYDAY needs BYMONTH"}),
        ({"recurrence": "FREQ=YEARLY;BYMONTH=13"}, {"#/recurrence": "BYMONTH has to be"}),
        ({"recurrence": IMPOSSIBLE[0]}, {"#/recurrence": "after `due_at`, nothing follows"}),
        ({"time_zone": "Europe/Atlantis"}, {"#/time_zone": "no time zone of the IANA database"}),
        ({"time_zone": "../../etc/passwd"}, {"#": "Expected `str` matching"}),
        ({"time_zone": "localtime"}, {"#/time_zone": "no time zone"}),
        ({"due_at": None}, {"#/due_at": "a task that recurs needs a due date"}),
        (
            {"due_at": None, "recurrence": "FREQ=HOURLY", "time_zone": "Nowhere"},
            {"#/due_at": "a task", "#/recurrence": "FREQ has", "#/time_zone": "no time zone"},
        ),
    ],
)
def test_what_cannot_recur_so_is_refused_with_a_pointer_to_each_fault(
    client: Client, changes: dict[str, Any], expected: dict[str, str]
) -> None:
    if "#" in expected:
        assert client.post("/tasks", json=DAILY | changes).status_code == 400
        return

    def faults_of(answer: Any, prefix: str = "#") -> dict[str, str]:
        assert (answer.status_code, answer.json["type"]) == (422, "/problems#recurrence-invalid"), answer.text
        return {one["pointer"].replace(prefix, "#"): one["detail"] for one in answer.json["errors"]}

    client.post("/tasks", json=DAILY)
    bulk = [{"op": "update", "id": 1, "changes": {"title": "u"}}, {"op": "create", "task": DAILY | changes}]
    answers = [
        faults_of(client.post("/tasks", json=DAILY | changes)),
        faults_of(client.put("/tasks/1", json=changes)),
        faults_of(client.patch("/tasks/1", json=changes, content_type="application/merge-patch+json")),
        faults_of(client.post("/tasks/bulk", json={"operations": bulk}), "#/operations/1/task"),
        faults_of(
            client.post("/tasks/bulk", json={"operations": [{"op": "update", "id": 1, "changes": changes}]}),
            "#/operations/0/changes",
        ),
    ]
    for answer in answers:
        assert answer.keys() == expected.keys()
        assert all(answer[name].startswith(detail) for name, detail in expected.items()), answer
    assert [task["title"] for task in client.get("/tasks").json] == ["t"]


@pytest.mark.parametrize("rule", ["", "freq=daily", "RRULE:FREQ=DAILY", "FREQ=DAILY;", "FREQ=DAILY\nX=1", "F=1;" * 51])
def test_what_is_no_rule_at_all_is_400(client: Client, rule: str) -> None:
    refused = client.post("/tasks", json=DAILY | {"recurrence": rule})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (400, "#/recurrence")


Complete = Callable[[Client, int], Any]
COMPLETE: dict[str, Complete] = {
    "put": lambda client, task: client.put(f"/tasks/{task}", json={"status": "completed"}),
    "patch": lambda client, task: client.patch(
        f"/tasks/{task}", json={"status": "completed"}, content_type="application/merge-patch+json"
    ),
    "bulk": lambda client, task: client.post(
        "/tasks/bulk", json={"operations": [{"op": "update", "id": task, "changes": {"status": "completed"}}]}
    ),
}


@pytest.mark.parametrize("complete", COMPLETE.values(), ids=COMPLETE)
def test_completing_creates_the_next_task(client: Client, complete: Complete) -> None:
    more = {"description": "d", "priority": "high", "project": "p", "labels": ["l"], "recurrence": "FREQ=DAILY;COUNT=2"}
    first = client.post("/tasks", json=DAILY | more | {"status": "in_progress"}).json
    copy, token = sync(client)
    assert complete(client, 1).status_code == 200
    done, new = client.get("/tasks").json
    assert done == first | {"status": "completed", "updated_at": done["updated_at"]}
    changed = {"id": 2, "status": "pending", "due_at": "2030-01-02T08:00:00Z", "recurrence": "FREQ=DAILY;COUNT=1"}
    assert new == first | changed | {"created_at": new["created_at"], "updated_at": new["created_at"]}
    assert sync(client, token, copy)[0] == shown(client)
    assert [one["kind"] for one in client.get("/tasks/2/history").json] == ["created"]
    assert [one["fields"] for one in client.get("/tasks/1/history").json] == [["status"], []]
    complete(client, 2)
    assert len(client.get("/tasks").json) == 2


def test_a_task_that_is_created_completed_has_its_next_one_too(client: Client) -> None:
    created = client.post("/tasks", json=DAILY | {"status": "completed"})
    tasks = client.get("/tasks").json
    assert sorted((task["status"], task["due_at"]) for task in tasks) == [
        ("completed", "2030-01-01T08:00:00Z"),
        ("pending", "2030-01-02T08:00:00Z"),
    ]
    assert created.json in tasks
    for status in ("pending", "completed"):
        assert client.put(created.headers["Location"], json={"status": status}).headers["ETag"]
    assert len(client.get("/tasks").json) == 2


def test_a_rule_that_comes_with_the_completion_counts_and_one_that_comes_later_does_not(client: Client) -> None:
    client.post("/tasks", json={"title": "t"})
    client.put("/tasks/1", json={**DAILY, "status": "completed"})
    assert len(client.get("/tasks").json) == 2
    client.post("/tasks", json={"title": "t", "status": "completed"})
    client.put("/tasks/3", json=DAILY)
    assert len(client.get("/tasks").json) == 3


def test_completed_again_it_creates_nothing_more(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    for status in ("completed", "completed", "pending", "completed"):
        client.put("/tasks/1", json={"status": status})
    assert len(client.get("/tasks").json) == 2


def test_nor_when_the_next_one_was_deleted_or_the_task_deleted_and_restored(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    client.put("/tasks/1", json={"status": "completed"})
    client.delete("/tasks/2")
    client.delete("/tasks/1")
    assert client.post("/tasks/1/restore").json["recurrence"] == "FREQ=DAILY"
    for status in ("pending", "completed"):
        client.put("/tasks/1", json={"status": status})
    assert [task["id"] for task in client.get("/tasks").json] == [1]
    assert client.post("/tasks/2/restore").json["recurrence"] == "FREQ=DAILY"


def test_completed_by_many_at_once_it_creates_one(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    with ThreadPoolExecutor(6) as pool:
        complete = list(COMPLETE.values()) * 2
        answers = list(pool.map(lambda one: one(client.application.test_client(), 1), complete))
    assert {answer.status_code for answer in answers} == {200}
    assert [task["id"] for task in client.get("/tasks").json] == [1, 2]


def test_a_request_that_is_sent_again_creates_nothing_more(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    body = {"operations": [{"op": "update", "id": 1, "changes": {"status": "completed"}}]}
    answers = [client.post("/tasks/bulk", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json == answers[1].json
    assert len(client.get("/tasks").json) == 2


def test_several_completions_in_one_request_each_have_their_next_one(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    changes: list[dict[str, Any]] = [{"status": status} for status in ("completed", "pending", "completed")]
    operations = [{"op": "update", "id": 1, "changes": one} for one in changes]
    operations += [{"op": "create", "task": DAILY | {"status": "completed"}}]
    assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 200
    assert len(client.get("/tasks").json) == 4


def test_a_completion_that_fails_creates_nothing(client: Client) -> None:
    client.post("/tasks", json=DAILY)
    refused = client.put("/tasks/1", json={"status": "completed"}, headers={"If-Match": '"7"'})
    operations = [{"op": "update", "id": 1, "changes": {"status": "completed"}}, {"op": "delete", "id": 99}]
    assert refused.status_code == 412
    assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 404
    assert [task["status"] for task in client.get("/tasks").json] == ["pending"]


def test_the_next_task_counts_for_the_quota_and_completing_fails_without_room(lend: Lend) -> None:
    client = lend(auth="on", jwt_keys=(KEY,), quota_tasks=1)
    headers = log_in(client)
    client.post("/tasks", json=DAILY, headers=headers)
    refused = client.put("/tasks/1", json={"status": "completed"}, headers=headers)
    assert (refused.status_code, refused.json["type"]) == (403, "/problems#quota-exceeded")
    assert client.get("/tasks/1", headers=headers).json["status"] == "pending"
    assert client.put("/tasks/1", json={"status": "completed", "recurrence": None}, headers=headers).status_code == 200


def test_the_next_task_is_its_owners_and_the_history_names_who_completed(guarded: Client, database: Database) -> None:
    ada, root = log_in(guarded), log_in(guarded, "root@example.org")
    with database.write() as connection:
        connection.execute(text("UPDATE accounts SET role = 'admin' WHERE email = 'root@example.org'"))
    root = log_in(guarded, "root@example.org")
    guarded.post("/tasks", json=DAILY, headers=ada)
    assert guarded.put("/tasks/1", json={"status": "completed"}, headers=root).status_code == 200
    ((created,), own) = (guarded.get(path, headers=ada).json for path in ("/tasks/2/history", "/auth/me"))
    assert created["account_id"] != own["id"]
    assert [task["id"] for task in guarded.get("/tasks", headers=ada).json] == [1, 2]


def test_a_row_that_the_version_before_has_left_without_a_due_date_can_be_completed(
    client: Client, database: Database
) -> None:
    client.post("/tasks", json=DAILY)
    with database.write() as connection:
        connection.execute(text("UPDATE tasks SET due_at = NULL"))
    assert client.put("/tasks/1", json={"status": "completed"}).status_code == 200
    assert len(client.get("/tasks").json) == 1


def test_without_a_time_zone_it_is_utc_and_the_time_zone_may_stay_alone(client: Client) -> None:
    client.post("/tasks", json=DAILY | {"due_at": "2026-03-28T08:00:00Z", "time_zone": None, "status": "completed"})
    assert client.get("/tasks/1").json["due_at"] == "2026-03-29T08:00:00Z"
    assert client.put("/tasks/1", json={"time_zone": BERLIN, "recurrence": None}).json["time_zone"] == BERLIN
    assert client.put("/tasks/1", json={"due_at": None}).status_code == 200


def test_a_rule_that_keeps_its_wall_time_is_accepted_again(client: Client) -> None:
    client.post("/tasks", json=DAILY | {"due_at": "2026-03-28T01:30:00Z"})
    client.put("/tasks/1", json={"status": "completed"})
    new = client.get("/tasks/2").json
    assert new["recurrence"] == "FREQ=DAILY;BYHOUR=2;BYMINUTE=30"
    assert client.put("/tasks/2", json=new).json == new


def test_the_longest_rules_stay_as_long() -> None:
    rule = "FREQ=MONTHLY;BYMONTHDAY=" + ",".join(["28"] * 60)
    rule = rule[: recurrence.LONGEST_RULE - len(";COUNT=10000")].rstrip(",") + ";COUNT=1000"
    due_at = utc("2026-02-28T01:30")  # the next is in April, but the one of March that the clock leaves out
    assert len(rule) <= recurrence.LONGEST_RULE
    assert all(
        len(one.rule) <= recurrence.LONGEST_RULE
        for days in range(400)
        if (one := following(rule, BERLIN, due_at + timedelta(days=days)))
    )
