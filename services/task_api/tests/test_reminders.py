"""Reminders as a field of tasks, and which of them are still to go out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from task_core.database import Database
from task_core.reminder import LONGEST_BEFORE, Reminder, duration, seconds
from task_core.schema import deleted_tasks, task_reminders, tasks

from .conftest import Client

DUE = "2030-01-01T08:00:00Z"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


def pending(database: Database, task_id: int = 1) -> list[str]:
    """Return when a task is still to remind, in order."""
    moments = select(task_reminders.c.remind_at).where(task_reminders.c.task_id == task_id)
    with database.read() as connection:
        found = connection.scalars(moments.order_by(task_reminders.c.remind_at)).all()
    return [f"{one.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for one in found]


def create(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/tasks", json={"title": "t", **fields})
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json
    return task


@given(st.integers(0, LONGEST_BEFORE))
@example(LONGEST_BEFORE)
def test_a_duration_is_read_as_it_was_written(length: int) -> None:
    assert seconds(duration(length)) == length
    assert msgspec.convert({"before": duration(length)}, Reminder).before == duration(length)


@given(
    st.from_regex(
        r"P[0-9]{1,3}DT[0-9]{1,4}H[0-9]{1,5}M[0-9]{1,6}S", fullmatch=True, alphabet=st.characters(codec="ascii")
    )
)
def test_a_duration_that_is_returned_may_be_sent_back(before: str) -> None:
    try:
        reminder = msgspec.convert({"before": before}, Reminder)
    except msgspec.ValidationError:
        assert seconds(before) > LONGEST_BEFORE
    else:
        assert msgspec.convert(msgspec.to_builtins(reminder), Reminder) == reminder


def test_reminders_are_returned_in_their_order_once_each_and_in_one_form(client: Client) -> None:
    sent = [
        {"before": "PT90M"},
        {"at": "2029-12-31T10:00:00.5+02:00"},
        {"before": "PT1H30M"},
        {"before": "P2W"},
        {"before": "PT0S"},
    ]
    task = create(client, due_at=DUE, reminders=sent)
    expected = [{"before": "PT1H30M"}, {"at": "2029-12-31T08:00:00.500000Z"}, {"before": "P14D"}, {"before": "PT0S"}]
    assert task["reminders"] == expected
    assert client.get("/tasks/1").json["reminders"] == client.get("/tasks").json[0]["reminders"] == expected
    assert client.put("/tasks/1", json=task).headers["ETag"] == '"1"', "a task that was read changes nothing"


@pytest.mark.parametrize(
    ("reminders", "pointers"),
    [
        ([{}], ["#/reminders/0"]),
        ([{"at": DUE}, {"at": DUE, "before": "PT1H"}], ["#/reminders/1"]),
        ([{"at": "2030-01-01T08:00:00"}], ["#/reminders/0/at"]),
        ([{"at": "0001-01-01T00:00:00+05:00"}], ["#/reminders/0"]),
        (
            [{"before": "-PT1H"}, {"before": "P1M"}, {"before": "PT"}, {"before": "P"}, {"before": "PT1H\n"}],
            [f"#/reminders/{index}/before" for index in range(5)],
        ),
        ([{"before": None}], ["#/reminders/0/before"]),
        ([{"before": "P999DT24H"}], ["#/reminders/0"]),
        ([{"before": "P999D"}, {"before": "P999DT9999H99999M999999S"}], ["#/reminders/1"]),
        ([{"before": "PT1H", "by": "mail"}], ["#/reminders/0/by"]),
        ([{"before": f"PT{hours}H"} for hours in range(6)], ["#/reminders"]),
    ],
)
def test_malformed_reminders_are_named(client: Client, reminders: list[Any], pointers: list[str]) -> None:
    create(client, due_at=DUE)
    changed = {"due_at": DUE, "reminders": reminders}
    answers = [client.post("/tasks", json={"title": "t", **changed}), client.put("/tasks/1", json=changed)]
    answers.append(client.patch("/tasks/1", json=changed, headers=MERGE_PATCH))
    for answer in answers:
        assert answer.status_code == 400
        assert [one["pointer"] for one in answer.json["errors"]] == pointers


def test_a_reminder_before_the_due_date_needs_one(client: Client) -> None:
    create(client, due_at=DUE, reminders=[{"at": DUE}, {"before": "PT1H"}])
    new = {"title": "u", "reminders": [{"at": DUE}, {"before": "PT1H"}]}
    bulk = {"operations": [{"op": "update", "id": 1, "changes": {"due_at": None}}]}
    answers = [
        (client.post("/tasks", json=new), "#/reminders/1/before"),
        (client.put("/tasks/1", json={"due_at": None}), "#/reminders/1/before"),
        (client.post("/tasks/bulk", json=bulk), "#/operations/0/changes/reminders/1/before"),
    ]
    for answer, pointer in answers:
        assert (answer.status_code, answer.json["type"]) == (422, "/problems#reminders-invalid")
        assert [one["pointer"] for one in answer.json["errors"]] == [pointer]
    assert client.put("/tasks/1", json={"due_at": None, "reminders": [{"at": DUE}]}).status_code == 200


def test_relative_reminders_move_with_the_due_date_and_absolute_ones_stay(client: Client, database: Database) -> None:
    create(client, due_at=DUE, reminders=[{"before": "PT15M"}, {"at": "2029-12-24T12:00:00Z"}])
    assert pending(database) == ["2029-12-24T12:00:00Z", "2030-01-01T07:45:00Z"]
    client.put("/tasks/1", json={"due_at": "2030-02-01T08:00:00Z"})
    assert pending(database) == ["2029-12-24T12:00:00Z", "2030-02-01T07:45:00Z"]
    client.put("/tasks/1", json={"reminders": [{"before": "P1D"}]})
    assert pending(database) == ["2030-01-31T08:00:00Z"]


def test_the_version_before_moves_reminders_too(client: Client, database: Database) -> None:
    create(client, due_at=DUE, reminders=[{"before": "PT15M"}])
    with database.write() as connection:
        later = datetime(2030, 3, 1, tzinfo=UTC)
        connection.execute(update(tasks).values(due_at=later, version=tasks.c.version + 1))
    assert pending(database) == ["2030-02-28T23:45:00Z"]


def test_what_is_completed_or_deleted_does_not_remind_until_it_is_open_again(
    client: Client, database: Database
) -> None:
    create(client, due_at=DUE, reminders=[{"before": "PT15M"}])
    moments = pending(database)
    for status, expected in (("completed", []), ("in_progress", moments)):
        client.put("/tasks/1", json={"status": status})
        assert pending(database) == expected
    client.delete("/tasks/1")
    with database.read() as connection:
        assert connection.execute(select(task_reminders)).all() == []
        assert connection.execute(select(deleted_tasks.c.reminders)).scalar_one() == [Reminder(before="PT15M")]
    client.post("/tasks/1/restore")
    assert pending(database) == moments


def test_a_moment_that_has_passed_when_it_is_set_does_not_remind(client: Client, database: Database) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    create(client, due_at=soon, reminders=[{"before": "PT1H"}, {"at": "2020-01-01T00:00:00Z"}])
    assert pending(database) == []


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_the_first_and_the_last_moment_are_kept(client: Client, moment: str) -> None:
    reminders = [{"before": "P99W"}, {"at": moment}]
    task = create(client, due_at=moment, reminders=[{"before": "P999DT23H59M59S"}, *reminders])
    assert client.get("/tasks/1").json == task


def test_the_next_task_of_a_series_has_its_own_relative_reminders(client: Client, database: Database) -> None:
    reminders = [{"before": "PT15M"}, {"at": "2029-12-31T00:00:00Z"}]
    create(client, due_at=DUE, recurrence="FREQ=DAILY", reminders=reminders)
    client.put("/tasks/1", json={"status": "completed"})
    assert client.get("/tasks/2").json["reminders"] == [{"before": "PT15M"}]
    assert (pending(database), pending(database, 2)) == ([], ["2030-01-02T07:45:00Z"])


def test_what_is_due_and_did_not_go_out_yet_stays_when_the_task_is_edited(client: Client, database: Database) -> None:
    past = (datetime.now(UTC) - timedelta(minutes=1)).replace(microsecond=0)
    due = {"at": past.isoformat()}
    create(client, due_at=DUE, reminders=[due])
    with database.write() as connection:
        connection.execute(insert(task_reminders).values(task_id=1, remind_at=past))
    client.put("/tasks/1", json={"reminders": [due, {"before": "PT15M"}], "status": "in_progress"})
    assert pending(database) == [f"{past:%Y-%m-%dT%H:%M:%SZ}", "2030-01-01T07:45:00Z"]
