import re
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from unicodedata import category

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import UNSET, ValidationError
from msgspec.json import decode, encode

from task_api.store import tasks as store
from task_api.tasks.model import CHANGEABLE, LONGEST_TITLE, PRIORITIES, NewTask, TaskChanges, TaskMergePatch
from task_core.database import Database

from .conftest import Client, log_in

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


def test_a_task_is_created_with_the_defaults_and_found_where_location_says(client: Client) -> None:
    created = client.post("/tasks", json={"title": "  Buy milk  "})
    assert created.status_code == 201
    assert (
        created.json.items()
        >= {
            "id": 1,
            "title": "Buy milk",
            "description": "",
            "status": "pending",
            "priority": "normal",
            "due_at": None,
            "project": None,
            "labels": [],
            "recurrence": None,
            "time_zone": None,
            "reminders": [],
        }.items()
    )
    assert created.json["created_at"] == created.json["updated_at"]
    assert datetime.fromisoformat(created.json["created_at"]).utcoffset() == timedelta(0)
    read = client.get(created.headers["Location"])
    assert read.status_code == 200
    assert read.json == created.json


def test_tasks_are_listed_as_an_array_in_the_order_of_their_ids(client: Client) -> None:
    assert client.get("/tasks").json == []
    for title in "abc":
        client.post("/tasks", json={"title": title})
    assert [task["title"] for task in client.get("/tasks").json] == ["a", "b", "c"]


def test_put_changes_the_fields_given_and_leaves_the_others(client: Client) -> None:
    before = client.post("/tasks", json={"title": "a", "description": "d", "priority": "high"}).json
    after = client.put("/tasks/1", json={"status": "completed"})
    assert after.status_code == 200
    assert after.json == {**before, "status": "completed", "updated_at": after.json["updated_at"]}
    assert after.json["updated_at"] > before["updated_at"]
    assert client.get("/tasks/1").json == after.json


def test_a_task_that_was_read_can_be_put_back_as_it_is(client: Client) -> None:
    task = client.post("/tasks", json={"title": "a", "due_at": "2027-01-01T00:00:00Z"}).json
    put = client.put("/tasks/1", json=task)
    assert put.json == task
    assert put.headers["ETag"] == '"1"'


def test_delete_answers_json_and_then_404(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    assert client.delete("/tasks/1").json == {"id": 1, "message": "task deleted"}
    for again in (client.delete("/tasks/1"), client.get("/tasks/1"), client.put("/tasks/1", json={})):
        assert again.status_code == 404


def test_the_id_of_a_deleted_task_is_never_used_again(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    client.delete("/tasks/1")
    assert client.post("/tasks", json={"title": "b"}).json["id"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": ""},
        {"title": " \t\n"},
        {"title": "\f\x1f\x85\u3000"},
        {"title": "x" * 201},
        {"title": None},
        {"title": 7},
        {"title": "a\x00b"},
        {"title": "a", "status": "done"},
        {"title": "a", "priority": 1},
        {"title": "a", "due_at": "tomorrow"},
        {"title": "a", "due_at": "2027-01-01T00:00:00"},
        {"title": "a", "due_at": "0001-01-01T00:00:00+10:00"},
        {"title": "a", "description": "x" * 10_001},
        {"title": "a", "project": ""},
        {"title": "a", "project": " \t"},
        {"title": "a", "project": "x" * 101},
        {"title": "a", "project": "a\x00b"},
        {"title": "a", "labels": None},
        {"title": "a", "labels": "home"},
        {"title": "a", "labels": [""]},
        {"title": "a", "labels": [" \t"]},
        {"title": "a", "labels": ["x" * 51]},
        {"title": "a", "labels": ["a\x00b"]},
        {"title": "a", "labels": [str(number) for number in range(21)]},
        {"title": "a", "colour": "red"},
        [],
        "title",
    ],
)
def test_a_body_that_breaks_a_rule_is_400_and_nothing_is_created(client: Client, body: object) -> None:
    refused = client.post("/tasks", json=body)
    assert refused.status_code == 400
    assert refused.content_type == "application/problem+json"
    assert refused.json["detail"]
    assert client.get("/tasks").json == []


def test_a_title_of_200_characters_after_trimming_is_taken(client: Client) -> None:
    assert client.post("/tasks", json={"title": " " + "ü" * 200 + " "}).json["title"] == "ü" * 200


def test_the_space_around_a_project_is_removed_and_null_takes_the_task_out_of_it(client: Client) -> None:
    task = client.post("/tasks", json={"title": "a", "project": " " + "ü" * 98 + " "}).json
    assert task["project"] == "ü" * 98
    assert client.put("/tasks/1", json={"project": None}).json["project"] is None


def test_labels_are_a_set_without_the_space_around_each(client: Client) -> None:
    labels = [" b ", "a\tb", "\u00e4" * 50, "b", "B"]
    created = client.post("/tasks", json={"title": "a", "labels": labels})
    assert created.json["labels"] == ["B", "a\tb", "b", "\u00e4" * 50]
    again = client.put("/tasks/1", json={"labels": created.json["labels"][::-1]})
    assert (again.headers["ETag"], again.json) == (created.headers["ETag"], created.json)
    assert client.put("/tasks/1", json={"title": "c"}).json["labels"] == created.json["labels"]
    assert client.put("/tasks/1", json={"labels": []}).json["labels"] == []


def test_due_at_is_kept_in_utc(client: Client) -> None:
    task = client.post("/tasks", json={"title": "a", "due_at": "2027-03-01T01:30:00+02:00"}).json
    assert task["due_at"] == "2027-02-28T23:30:00Z"


def test_merge_patch_takes_null_as_back_to_the_default(client: Client) -> None:
    client.post("/tasks", json={"title": "a", "description": "d", "priority": "high", "project": "p", "labels": ["l"]})
    recurring = {"recurrence": "FREQ=DAILY", "time_zone": "UTC", "reminders": [{"before": "PT1H"}]}
    client.put("/tasks/1", json={"due_at": "2027-01-01T00:00:00Z", **recurring})
    patch = {
        **dict.fromkeys(["description", "priority", "due_at", "project", "labels", *recurring]),
        "status": "in_progress",
    }
    patched = client.patch("/tasks/1", data=encode(patch), headers=MERGE_PATCH)
    assert patched.status_code == 200
    expected: dict[str, Any] = {"description": "", "priority": "normal", "due_at": None, "project": None, "labels": []}
    expected |= {"recurrence": None, "time_zone": None, "reminders": []}
    assert patched.json == {**patched.json, **expected, "status": "in_progress"}


def test_merge_patch_cannot_take_the_title_away(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    assert client.patch("/tasks/1", data=b'{"title": null}', headers=MERGE_PATCH).status_code == 400


def test_merge_patch_obeys_the_same_rules_as_any_change(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    for patch in ({"title": "x" * 201}, {"due_at": "0001-01-01T00:00:00+05:00"}):
        assert client.patch("/tasks/1", data=encode(patch), headers=MERGE_PATCH).status_code == 400


def test_patch_asks_for_the_merge_patch_media_type(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    refused = client.patch("/tasks/1", json={"title": "b"})
    assert refused.status_code == 415
    assert refused.headers["Accept-Patch"] == "application/merge-patch+json"


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
titles = text.filter(str.strip)
moments = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1)).map(
    lambda m: m.isoformat() + "Z"
)
fields = {
    "title": titles,
    "description": text,
    "status": st.sampled_from(["pending", "in_progress", "completed"]),
    "priority": st.sampled_from(PRIORITIES),
    "due_at": moments,
    "project": titles.map(lambda title: title[:100]).filter(str.strip),
    "labels": st.lists(titles, max_size=4),
}


def merged(target: dict[str, object], patch: dict[str, object]) -> dict[str, object]:
    """RFC 7396, section 2, for members that are no objects."""
    result = {**target, **patch}
    return {name: value for name, value in result.items() if value is not None}


@given(
    st.fixed_dictionaries({"title": titles}, optional={k: v for k, v in fields.items() if k != "title"}),
    st.fixed_dictionaries({}, optional={k: v if k == "title" else v | st.none() for k, v in fields.items()}),
)
def test_merge_patch_does_what_rfc_7396_says(target: dict[str, object], patch: dict[str, object]) -> None:
    before = decode(encode(target), type=NewTask)
    changes = decode(encode(patch), type=TaskMergePatch).changes()
    after = {n: getattr(before, n) if (v := getattr(changes, n)) is UNSET else v for n in CHANGEABLE}
    expected = decode(encode(merged(target, patch)), type=NewTask)
    assert after == {name: getattr(expected, name) for name in CHANGEABLE}


@given(st.fixed_dictionaries({}, optional=fields))
def test_a_merge_patch_without_null_is_the_same_as_a_put(patch: dict[str, object]) -> None:
    body = encode(patch)
    assert decode(body, type=TaskMergePatch).changes() == decode(body, type=TaskChanges)


@given(st.text(max_size=300))
def test_a_title_is_trimmed_and_measured_after_that(title: str) -> None:
    try:
        task = decode(encode({"title": title}), type=NewTask)
    except (ValidationError, UnicodeEncodeError):
        assert not title.strip() or len(title.strip()) > 200 or "\0" in title or not title.isprintable()
    else:
        assert task.title == title.strip()
        assert 1 <= len(task.title) <= 200


def test_the_patterns_of_a_title_and_of_words_name_the_spaces_and_the_letters_of_python(client: Client) -> None:
    document = client.get("/openapi.json").json
    title = re.compile(document["components"]["schemas"]["NewTask"]["properties"]["title"]["pattern"])
    (words,) = (one["schema"] for one in document["paths"]["/tasks"]["get"]["parameters"] if one["name"] == "q")
    assert words["pattern"] == r"[\p{L}\p{N}]"
    for character in map(chr, range(1, sys.maxunicode + 1)):
        assert bool(title.search(character)) == bool(character.strip()), hex(ord(character))
        assert character.isalnum() == (category(character)[0] in "LN"), hex(ord(character))


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"title": titles}, optional={k: v for k, v in fields.items() if k != "title"}))
def test_what_is_written_is_read_back_the_same_from_either_database(client: Client, body: dict[str, object]) -> None:
    created = client.post("/tasks", json=body)
    assert created.status_code == 201, created.text
    assert client.get(created.headers["Location"]).json == created.json
    assert created.json["title"] == str(body["title"]).strip()
    assert created.json["description"] == body.get("description", "")


def test_bulk_does_all_in_order(client: Client) -> None:
    client.post("/tasks", json={"title": "old"})
    client.post("/tasks", json={"title": "doomed"})
    operations = [
        {"op": "create", "task": {"title": "new"}},
        {"op": "update", "id": 1, "changes": {"status": "completed"}, "version": 1},
        {"op": "delete", "id": 2},
    ]
    answer = client.post("/tasks/bulk", json={"operations": operations})
    assert answer.status_code == 200, answer.text
    results = answer.json["results"]
    assert [(r["op"], r["id"]) for r in results] == [("create", 3), ("update", 1), ("delete", 2)]
    assert results[2]["task"] is None
    assert [result["version"] for result in results] == [1, 2, 2]
    for path, version in (("/tasks/3", 1), ("/tasks/1", 2), ("/tasks/2/restore", 2)):
        write = client.post if path.endswith("restore") else partial(client.put, json={})
        assert write(path, headers={"If-Match": f'"{version}"'}).status_code == 200
    client.delete("/tasks/2")
    assert [(t["title"], t["status"]) for t in client.get("/tasks").json] == [("old", "completed"), ("new", "pending")]


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        ({"op": "delete", "id": 99}, 404),
        ({"op": "update", "id": 1, "changes": {"title": "x"}, "version": 7}, 412),
        ({"op": "delete", "id": 1, "version": 7}, 412),
    ],
)
def test_bulk_does_nothing_when_one_operation_fails_and_says_which(
    client: Client, failing: object, status: int
) -> None:
    client.post("/tasks", json={"title": "old"})
    operations = [{"op": "create", "task": {"title": "new"}}, {"op": "delete", "id": 1}, failing]
    if status == 412:
        del operations[1]
    refused = client.post("/tasks/bulk", json={"operations": operations})
    assert refused.status_code == status
    assert f"operation {len(operations) - 1}:" in refused.json["detail"]
    assert [task["title"] for task in client.get("/tasks").json] == ["old"]


@pytest.mark.parametrize(
    "operations", [[], [{"op": "rename", "id": 1}], [{"op": "delete"}], [{"op": "delete", "id": 1}] * 1001]
)
def test_bulk_refuses_what_is_no_list_of_operations(client: Client, operations: list[object]) -> None:
    assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 400


def test_an_id_beyond_what_a_database_keeps_is_just_not_found(client: Client) -> None:
    for path in ("/tasks/9223372036854775807", "/tasks/9223372036854775808", "/tasks/" + "9" * 400, "/tasks/-1"):
        assert client.get(path).status_code == 404
        assert client.put(path, json={}).status_code == 404
        assert client.delete(path).status_code == 404


@pytest.mark.parametrize("spelling", ["%D9%A3", "%EF%BC%93", "03", "+3", "3.0", "0x3", "%203"])
def test_a_task_has_one_address(client: Client, spelling: str) -> None:
    for _ in range(3):
        client.post("/tasks", json={"title": "a"})
    assert client.get("/tasks/3").status_code == 200
    assert client.get(f"/tasks/{spelling}").status_code == 404


def test_bulk_updates_in_opposite_orders_do_not_stop_each_other(client: Client) -> None:
    ids = [client.post("/tasks", json={"title": "a"}).json["id"] for _ in range(6)]

    def update(order: int) -> int:
        operations = [{"op": "update", "id": number, "changes": {"title": "b"}} for number in ids[::order]]
        status: int = client.application.test_client().post("/tasks/bulk", json={"operations": operations}).status_code
        return status

    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(update, [1, -1] * 12)) == {200}


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_bulk_does_not_wait_for_tasks_of_other_accounts(guarded: Client, database: Database) -> None:
    ada, bob = log_in(guarded, "ada@example.org"), log_in(guarded, "bob@example.org")
    ids = [guarded.post("/tasks", json={"title": "t"}, headers=ada).json["id"] for _ in range(2)]
    operations = [{"op": "delete", "id": task_id} for task_id in ids]
    with database.write() as connection:
        for task_id in ids:
            store.find(connection, task_id, None, lock=True)
        answer = guarded.post("/tasks/bulk", json={"operations": operations}, headers=bob)
    assert answer.status_code == 404


@given(st.text(st.sampled_from("a \t\n\x00\x1f\u2028é"), max_size=12) | st.text(max_size=250))
def test_a_title_is_valid_when_it_is_short_enough_has_a_visible_character_and_no_nul(title: str) -> None:
    valid = bool(title.strip()) and "\x00" not in title and len(title.strip()) <= LONGEST_TITLE
    try:
        decoded = decode(encode({"title": title}), type=NewTask)
    except ValidationError:
        assert not valid
    else:
        assert (valid, decoded.title) == (True, title.strip())


def test_a_bulk_request_locks_its_tasks_together_so_that_two_do_not_wait_for_each_other(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [client.post("/tasks", json={"title": title}).json["id"] for title in "ab"]
    locked: list[set[int]] = []
    monkeypatch.setattr(store, "lock", lambda _connection, task_ids, _scope: locked.append(set(task_ids)))
    for touched in (ids[:1], ids[::-1]):
        operations = [{"op": "update", "id": one, "changes": {"title": "c"}} for one in touched]
        assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 200
    assert locked == [set(ids)]
