import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from task_api.config import Settings
from task_api.store import labels as store
from task_api.tasks import labels, service
from task_api.tasks.model import LabelChange, LabelQuery, NewTask, TaskQuery, distinct
from task_api.tasks.quota import Quota
from task_core.database import Database
from task_core.schema import LOCAL_ACCOUNT

from .conftest import KEY, Client, Lend, log_in
from .test_changes import apply, shown, sync
from .test_listing import next_link


def create(client: Client, *labels: str, **options: Any) -> int:
    task: int = client.post("/tasks", json={"title": "t", "labels": labels}, **options).json["id"]
    return task


def kept(client: Client, **options: Any) -> list[list[str]]:
    return [task["labels"] for task in client.get("/tasks?limit=200", **options).json]


def test_labels_are_listed_with_the_number_of_their_tasks(client: Client) -> None:
    assert client.get("/labels").json == []
    for names in (["b", "a"], ["a"], [], ["B", "\U0001f600", "\uffee", "é"]):
        create(client, *names)
    client.delete(f"/tasks/{create(client, 'a', 'gone')}")
    expected = [("B", 1), ("a", 2), ("b", 1), ("é", 1), ("\uffee", 1), ("\U0001f600", 1)]
    assert client.get("/labels").json == [{"name": name, "tasks": tasks} for name, tasks in expected]


def test_labels_come_in_pages_that_leave_none_out(client: Client) -> None:
    names = sorted(['"', "&", "a b", "a\nb", "a", "ä", "%41"])
    create(client, *names)
    page = client.get("/labels?limit=2")
    uses = page.json
    while "Link" in page.headers:
        assert len(page.json) == 2
        page = client.get(next_link(page))
        uses += page.json
    assert [use["name"] for use in uses] == names


def test_a_list_of_labels_is_not_sent_twice_while_nothing_changes(client: Client) -> None:
    create(client, "a")
    first = client.get("/labels")
    again = client.get("/labels", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_renamed_label_is_another_in_every_task_and_one_with_a_label_that_is_there(client: Client) -> None:
    for names in (["a"], ["a", "b", "c"], ["c"], ["b"]):
        create(client, *names)
    answer = client.post("/labels/rename", json={"name": " a ", "to": " b "})
    assert (answer.status_code, answer.json) == (200, {"tasks": 2, "more": False})
    assert kept(client) == [["b"], ["b", "c"], ["c"], ["b"]]
    assert client.post("/labels/rename", json={"name": "a", "to": "b"}).json == {"tasks": 0, "more": False}
    assert client.post("/labels/rename", json={"name": "b", "to": "b"}).json == {"tasks": 0, "more": False}


def test_a_removed_label_is_in_no_task(client: Client) -> None:
    for names in (["a"], ["a", "b"], ["b"]):
        create(client, *names)
    assert client.post("/labels/remove", json={"name": "a"}).json == {"tasks": 2, "more": False}
    assert kept(client) == [[], ["b"], ["b"]]


def test_each_task_that_changes_has_a_new_version_and_the_others_have_not(client: Client) -> None:
    changed, other = create(client, "a"), create(client, "c")
    copy, token = sync(client)
    before = client.get(f"/tasks/{changed}").json
    client.post("/labels/rename", json={"name": "a", "to": "b"})
    answer = client.get(f"/tasks/{changed}")
    assert answer.headers["ETag"] == '"2"'
    assert answer.json == {**before, "labels": ["b"], "updated_at": answer.json["updated_at"]}
    assert answer.json["updated_at"] > before["updated_at"]
    assert client.get(f"/tasks/{changed}/history").json[0]["fields"] == ["labels"]
    assert client.get(f"/tasks/{other}").headers["ETag"] == '"1"'
    page = client.get("/tasks/changes", query_string={"since": token}).json
    assert [(change["kind"], change["id"], change["version"]) for change in page["changes"]] == [("updated", 1, 2)]
    apply(copy, page)
    assert copy == shown(client)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/labels/rename", {"name": "a"}),
        ("/labels/rename", {"name": "a", "to": ""}),
        ("/labels/rename", {"name": "a", "to": "x" * 51}),
        ("/labels/rename", {"name": "a", "to": "a\0"}),
        ("/labels/rename", {"name": "a", "to": None}),
        ("/labels/remove", {"name": " "}),
        ("/labels/remove", {"name": "a", "to": "b"}),
    ],
)
def test_a_body_that_breaks_a_rule_changes_nothing(client: Client, path: str, body: object) -> None:
    create(client, "a")
    assert client.post(path, json=body).status_code == 400
    assert kept(client) == [["a"]]


@pytest.mark.parametrize("other", ["user", "admin"])
def test_labels_are_those_of_ones_own_tasks(guarded: Client, database: Database, other: str) -> None:
    ada, bob = {"headers": log_in(guarded)}, {"headers": log_in(guarded, "bob@example.org")}
    with database.write() as connection:
        statement = text("UPDATE accounts SET role = :role WHERE email = 'bob@example.org'")
        connection.execute(statement, {"role": other})
    create(guarded, "a", **ada)
    create(guarded, "b", **bob)
    assert guarded.get("/labels", **bob).json == [{"name": "b", "tasks": 1}]
    for path, body in (("rename", {"name": "a", "to": "b"}), ("remove", {"name": "a"})):
        assert guarded.post(f"/labels/{path}", json=body, **bob).json == {"tasks": 0, "more": False}
    assert kept(guarded, **ada) == [["a"]]
    assert len(guarded.get("/tasks?label=a", **bob).json) == (1 if other == "admin" else 0)
    assert guarded.get("/labels").status_code == 401


def test_a_token_to_read_may_list_labels_and_not_change_them(guarded: Client) -> None:
    body = {"name": "t", "scopes": ["tasks:read"], "days": 1}
    token = guarded.post("/auth/tokens", json=body, headers=log_in(guarded)).json["token"]
    reading = {"Authorization": f"Bearer {token}"}
    assert guarded.get("/labels", headers=reading).status_code == 200
    assert guarded.post("/labels/remove", json={"name": "a"}, headers=reading).status_code == 403


def test_a_name_that_is_too_long_for_the_quota_is_refused(lend: Lend) -> None:
    client = lend(auth="on", jwt_keys=(KEY,), quota_tasks=0, quota_bytes=8)
    headers = {"headers": log_in(client)}
    create(client, "ab", **headers)
    assert client.post("/labels/rename", json={"name": "ab", "to": "abcdef"}, **headers).status_code == 403
    assert kept(client, **headers) == [["ab"]]
    assert client.post("/labels/rename", json={"name": "ab", "to": "abcde"}, **headers).status_code == 200


def test_many_tasks_are_changed_in_pieces_between_which_others_write(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(Database):
        def transaction(self, work: Any) -> Any:
            create(client, "other")
            return super().transaction(work)

    monkeypatch.setattr(labels, "PIECE", 3)
    for _ in range(7):
        create(client, "a")
    database = Watched(settings)
    assert labels.replace(database, LOCAL_ACCOUNT, "a", "b", Quota()) == LabelChange(7, more=False)
    database.engine.dispose()
    assert Counter(map(tuple, kept(client))) == {("b",): 7, ("other",): 3}


def test_a_request_that_takes_long_ends_after_a_piece_and_can_be_sent_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "PIECE", 2)
    monkeypatch.setattr(labels, "SECONDS", -1)
    for _ in range(5):
        create(client, "a")
    answers = [client.post("/labels/rename", json={"name": "a", "to": "b"}).json for _ in range(3)]
    assert answers == [{"tasks": 2, "more": True}, {"tasks": 2, "more": True}, {"tasks": 1, "more": False}]
    assert kept(client) == [["b"]] * 5


def test_who_changes_a_task_while_its_label_is_renamed_waits_and_goes_last(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = create(client, "a")
    others = []
    change = store.change

    def between(*arguments: Any) -> None:
        put = client.application.test_client().put
        others.append(threading.Thread(target=put, args=(f"/tasks/{task}",), kwargs={"json": {"labels": ["c"]}}))
        others[0].start()
        others[0].join(1)  # it would be done by then, if it did not wait
        change(*arguments)

    monkeypatch.setattr(store, "change", between)
    client.post("/labels/rename", json={"name": "a", "to": "b"})
    others[0].join()
    assert kept(client) == [["c"]]
    assert client.get(f"/tasks/{task}").headers["ETag"] == '"3"'


def test_no_change_of_others_is_lost_beside_a_new_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "PIECE", 2)
    tasks = [create(client, "a") for _ in range(20)]

    def write() -> None:
        own = client.application.test_client()
        for task in reversed(tasks):
            assert own.put(f"/tasks/{task}", json={"title": "mine"}).status_code == 200

    writer = threading.Thread(target=write)
    writer.start()
    answer = client.post("/labels/rename", json={"name": "a", "to": "b"})
    writer.join()
    assert answer.json == {"tasks": 20, "more": False}
    listed = client.get("/tasks").json
    assert [(task["title"], task["labels"]) for task in listed] == [("mine", ["b"])] * 20


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = st.sampled_from(["a", "b", ",", '"', "\\", '","', "é", "\x01"]) | st.text(characters, min_size=1, max_size=9)
named = names.filter(str.strip)


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(named, max_size=4), max_size=6), named, st.none() | named)
def test_whatever_the_names_filter_list_and_renaming_do_what_sets_do(
    database: Database, given_labels: list[list[str]], old: str, new: str | None
) -> None:
    with database.write() as connection:
        connection.execute(text("DELETE FROM tasks"))
        made = [service.create(connection, 0, NewTask(title="t", labels=each)) for each in given_labels]
    sets = [set(distinct(each)) for each in given_labels]
    assert [set(one.task.labels) for one in made] == sets
    wanted, other = old.strip(), new and new.strip()

    def having(*labels: str) -> list[int]:
        with database.read() as connection:
            return [one.task.id for one in service.page(connection, 0, TaskQuery(label=list(labels)))[0]]

    for required in ({wanted}, *sets[:2]):
        if required:
            expected = [one.task.id for one, each in zip(made, sets, strict=True) if required <= each]
            assert having(*required) == expected
    replaced = labels.replace(database, 0, wanted, other, Quota())
    touched = [each for each in sets if wanted in each and wanted != other]
    assert replaced == LabelChange(len(touched), more=False)
    after = [each - {wanted} | ({other} if other else set()) if wanted in each else each for each in sets]
    with database.read() as connection:
        kept, _ = service.page(connection, 0, TaskQuery())
        listed, _ = labels.page(connection, 0, LabelQuery())
    assert [one.task.labels for one in kept] == [sorted(each) for each in after]
    counted = Counter(label for each in after for label in each)
    assert [(use.name, use.tasks) for use in listed] == sorted(counted.items())
