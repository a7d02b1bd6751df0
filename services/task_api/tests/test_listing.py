import re
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import UNSET
from sqlalchemy import text

from task_api.tasks import service
from task_api.tasks.model import NewTask, TaskQuery
from task_core.database import Database

from .conftest import Client

SORTS = ["id", "-id", "updated_at", "-updated_at", "due_at", "-due_at", "priority", "-priority"]
DUE = "2027-01-0{}T00:00:00Z"


def next_link(response: object) -> str | None:
    match = re.search(r'<([^>]*)>; rel="next"', response.headers["Link"])  # type: ignore[attr-defined]
    return match[1] if match else None


def all_pages(client: Client, path: str) -> list[dict[str, object]]:
    matching = []
    following: str | None = path
    while following:
        page = client.get(following)
        assert page.status_code == 200, page.text
        matching += page.json
        following = next_link(page)
    return matching


def fill(client: Client) -> None:
    rows = [
        {
            "title": "Write the report",
            "priority": "high",
            "due_at": DUE.format(3),
            "project": "Office",
            "labels": ["b", "a"],
        },
        {"title": "Report to the board", "description": "numbers, übersicht", "status": "completed"},
        {"title": "Buy milk", "priority": "low", "due_at": DUE.format(1), "labels": ["a", ","]},
        {
            "title": "Call Zoë",
            "description": "about the report-card",
            "due_at": DUE.format(2),
            "status": "in_progress",
            "project": " Office ",
        },
    ]
    operations = [{"op": "create", "task": row} for row in rows]
    assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 200


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=completed", [2]),
        ("status=pending", [1, 3]),
        ("priority=low", [3]),
        ("due_before=2027-01-02T00:00:00Z", [3]),
        ("due_after=2027-01-01T00:00:00Z", [1, 4]),
        ("due_after=2027-01-01T12:00:00%2B02:00&due_before=2027-01-02T12:00:00+00:00", [4]),
        ("q=report", [1, 2, 4]),
        ("q=REPORT%20board", [2]),
        ("q=card", [4]),
        ("q=übersicht", [2]),
        ("q=repo", []),
        ("q=report&status=pending", [1]),
        ("q=report&sort=-due_at", [2, 1, 4]),
        ("q=report&sort=-id", [4, 2, 1]),
        ("project=Office", [1, 4]),
        ("project=%20Office%20&sort=-id", [4, 1]),
        ("project=office", []),
        ("project=Office&q=report&status=pending", [1]),
        ("label=a", [1, 3]),
        ("label=%20a%20&sort=-due_at", [1, 3]),
        ("label=a&label=b", [1]),
        ("label=b&label=b", [1]),
        ("label=,", [3]),
        ("label=b&label=,", []),
        ("label=A", []),
        ("label=%22", []),
        ("label=a&q=report&status=pending&project=Office", [1]),
        ("sort=due_at", [3, 4, 1, 2]),
        ("sort=-priority", [1, 4, 2, 3]),
        ("sort=priority", [3, 2, 4, 1]),
        ("sort=-id&limit=2", [4, 3]),
    ],
)
def test_filters_order_and_search(client: Client, query: str, expected: list[int]) -> None:
    fill(client)
    assert [task["id"] for task in client.get(f"/tasks?{query}").json] == expected


def matching(database: Database, q: str) -> list[str]:
    """Titles of the tasks that a search finds."""
    with database.read() as connection:
        return [versioned.task.title for versioned in service.page(connection, None, TaskQuery(q=q))[0]]


def write(database: Database, *titles: str) -> None:
    """Let there be tasks of these titles and no others."""
    with database.write() as connection:
        connection.execute(text("DELETE FROM tasks"))
        for title in titles:
            service.create(connection, 0, NewTask(title=title))


@pytest.mark.parametrize(
    ("title", "other"),
    [
        ("हिन्दी", "हिन"),
        ("עִבְרִית", "עברית"),
        ("مُحَمَّد", "محمد"),
        ("½ cup", "1 cup"),
        ("x² y", "x³ y"),
        ("\uff11\uff12", "\uff11\uff13"),
        ("٣", "٤"),
        ("cafe\u0301", "cafe"),
        ("\ue000 x", "\ue001 x"),
        ("Ⓐbc", "bcd"),
        ("a\u02b9b", "a"),
        ("ice🥑cream", "ice"),
        ("日本語", "日本"),
        ("can't stop-it", "cant"),
    ],
)
def test_a_search_for_a_tasks_own_title_returns_it_in_any_script(database: Database, title: str, other: str) -> None:
    write(database, other, title)
    assert matching(database, title) == [title]


ONCE_MARKS = "".join(map(chr, range(0x19B0, 0x19CA)))
"""Letters of New Tai Lue that FTS5, with the tables of Unicode 6.1, takes for marks: alone they are no word there."""


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0" + ONCE_MARKS, exclude_categories=["Cs"]), max_size=40))
def test_a_search_for_each_word_of_a_title_returns_the_task_whatever_the_text(database: Database, title: str) -> None:
    write(database, f"- {title} -")
    for word in title.split():
        if re.search(r"[^\W_]", word):
            assert matching(database, word), word


LETTERS = "aAbBéÉжЖλΛ中文٪ب0189-_.,!?'/@#:&|*()<>\"\\ \t"


@hypothesis_settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(LETTERS, max_size=12), max_size=4), st.text(LETTERS, max_size=6))
def test_letters_digits_and_punctuation_mean_the_same_in_both_databases(
    database: Database, titles: list[str], q: str
) -> None:
    def words(words: str) -> set[str]:
        return set(re.findall(r"[^\W_]+", words.lower()))

    titles = [f"({title})" for title in titles]
    write(database, *titles)
    if words(q):
        assert matching(database, q) == [title for title in titles if words(q) <= words(title)]


def test_a_search_may_hold_any_character(client: Client) -> None:
    fill(client)
    assert [task["id"] for task in client.get("/tasks?q=%00milk%00%22buy%22*").json] == [3]


def test_search_follows_changes_and_deletions(client: Client) -> None:
    fill(client)
    client.put("/tasks/1", json={"title": "Write the novel"})
    client.delete("/tasks/2")
    assert [task["id"] for task in client.get("/tasks?q=report").json] == [4]
    assert [task["id"] for task in client.get("/tasks?q=novel").json] == [1]


def test_null_is_a_word_to_search_for_like_any_other(client: Client) -> None:
    for title in ("null", "other"):
        client.post("/tasks", json={"title": title})
    assert [task["title"] for task in client.get("/tasks?q=null").json] == ["null"]


@pytest.mark.parametrize("query", ['q=a>;rel="next",<http://evil.example/?', "q=a%3E%3Bx", "q=%C3%A9+b&status=pending"])
def test_links_hold_the_filters_and_nothing_that_a_query_adds(client: Client, query: str) -> None:
    for _ in range(2):
        client.post("/tasks", json={"title": "é a b x rel next http evil example"})
    link = client.get(f"/tasks?limit=1&{query}").headers["Link"]
    assert re.fullmatch(r"<(/tasks\?[!#-;=?-~]*)>; rel=\"first\", <(/tasks\?[!#-;=?-~]*)>; rel=\"next\"", link)
    assert len(all_pages(client, f"/tasks?limit=1&{query}")) == 2


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "sort=title",
        "status=done",
        "priority=1",
        "status=null",
        "priority=null",
        "due_before=null",
        "cursor=null",
        "due_before=today",
        "due_before=0.5",
        "q=",
        "q=%20-%20",
        "colour=red",
        "label=",
        "label=%20",
        "label=a&label=" + "x" * 51,
        "label=a&" * 20 + "label=b",
        "limit=1&limit=2",
        "cursor=%FF",
        "cursor=AAAA",
        "cursor=WyJpZCIsbnVsbCwiYSJd",
        "due_after=2027-01-01T00:00:00",
        "sort=-id&cursor=WyJpZCIsbnVsbCwxXQ",
        "sort=priority&cursor=WyJwcmlvcml0eSIsbnVsbCwxXQ",
        "sort=priority&cursor=WyJwcmlvcml0eSIsOSwxXQ",
        "sort=due_at&cursor=WyJkdWVfYXQiLCIwMDAxLTAxLTAxVDAwOjAwOjAwKzIzOjU5IiwxXQ",
    ],
)
def test_a_query_that_makes_no_sense_is_400_with_the_reason(client: Client, query: str) -> None:
    refused = client.get(f"/tasks?{query}")
    assert refused.status_code == 400
    assert refused.json["detail"]


def test_pages_keep_every_label_of_the_filter(client: Client) -> None:
    for labels in (["a", "b&c"], ["a"], ["a", "b&c", "d"], ["b&c"]):
        client.post("/tasks", json={"title": "t", "labels": labels})
    first = client.get("/tasks?label=a&label=b%26c&limit=1")
    assert parse_qs(urlsplit(next_link(first) or "").query)["label"] == ["a", "b&c"]
    assert [task["id"] for task in all_pages(client, "/tasks?label=a&label=b%26c&limit=1")] == [1, 3]


def test_the_next_link_keeps_the_filters_and_the_last_page_has_none(client: Client) -> None:
    fill(client)
    first = client.get("/tasks?limit=2&q=report")
    following = next_link(first)
    assert following
    kept = parse_qs(urlsplit(following).query)
    assert (kept["limit"], kept["q"]) == (["2"], ["report"])
    last = client.get(following)
    assert [task["id"] for task in last.json] == [4]
    assert next_link(last) is None


@pytest.mark.parametrize(
    ("task_id", "status"), [(-(2**63), 200), (-(2**63) - 1, 400), (2**63 - 1, 200), (2**63, 400), (2**64, 400)]
)
def test_a_forged_cursor_has_an_id_that_a_database_can_have(client: Client, task_id: int, status: int) -> None:
    forged = service._encode(service.Cursor("id", None, task_id))
    assert client.get(f"/tasks?cursor={forged}").status_code == status


def test_a_page_that_ends_with_the_last_task_has_no_next(client: Client) -> None:
    fill(client)
    count = len(client.get("/tasks").json)
    assert next_link(client.get(f"/tasks?limit={count}")) is None
    assert next_link(client.get(f"/tasks?limit={count - 1}"))


@pytest.mark.parametrize("sort", SORTS)
def test_pages_of_any_size_return_the_same_as_one_page(client: Client, sort: str) -> None:
    fill(client)
    fill(client)
    whole = client.get(f"/tasks?sort={sort}&limit=200").json
    assert len(whole) == 8
    for limit in (1, 3):
        assert all_pages(client, f"/tasks?sort={sort}&limit={limit}") == whole


def test_a_listing_is_not_sent_twice_while_nothing_changes(client: Client) -> None:
    fill(client)
    first = client.get("/tasks")
    again = client.get("/tasks", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    client.delete("/tasks/1")
    assert client.get("/tasks", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


Row = tuple[Any, datetime | None]
tasks_given = st.lists(
    st.tuples(
        st.sampled_from(["low", "normal", "high"]), st.none() | st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 3))
    ),
    max_size=12,
)


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=tasks_given, between=st.lists(tasks_given, max_size=4), sort=st.sampled_from(SORTS), limit=st.integers(1, 5)
)
def test_each_task_is_on_exactly_one_page_whatever_is_inserted_between(
    database: Database, before: list[Row], between: list[list[Row]], sort: Any, limit: int
) -> None:
    with database.write() as connection:
        connection.execute(text("DELETE FROM tasks"))

    def add(rows: list[Row]) -> list[int]:
        with database.write() as connection:
            return [
                service.create(
                    connection, 0, NewTask(title="t", priority=priority, due_at=due and due.replace(tzinfo=UTC))
                ).task.id
                for priority, due in rows
            ]

    there = add(before)
    inserted: list[int] = []
    seen: list[int] = []
    cursor: str | None = None
    batches = iter(between)
    while True:
        with database.read() as connection:
            page, cursor = service.page(connection, None, TaskQuery(sort=sort, limit=limit, cursor=cursor or UNSET))
        seen += [versioned.task.id for versioned in page]
        if cursor is None:
            break
        inserted += add(next(batches, []))
    assert len(seen) == len(set(seen))
    assert set(there) <= set(seen) <= set(there) | set(inserted)


def test_pages_stay_exact_while_other_clients_insert_at_the_same_time(client: Client) -> None:
    there = {client.post("/tasks", json={"title": f"task {number}"}).json["id"] for number in range(40)}
    stop = threading.Event()

    def insert() -> None:
        own = client.application.test_client()
        while not stop.is_set():
            own.post("/tasks", json={"title": "meanwhile", "priority": "low"})

    writers = [threading.Thread(target=insert) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        seen: list[int] = []
        following: str | None = "/tasks?limit=7&sort=-priority"
        while following and len(seen) < 40:
            page = client.get(following)
            seen += [task["id"] for task in page.json]
            following = next_link(page)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert len(seen) == len(set(seen))
    assert there <= set(seen)


PAGE = "application/vnd.task-api.page+json"


def test_a_page_by_its_media_type_has_versions_to_write_back_and_the_next_page(client: Client) -> None:
    fill(client)
    client.put("/tasks/1", json={"title": "Write it"})
    first = client.get("/tasks?limit=3&sort=id", headers={"Accept": PAGE})
    assert (first.content_type, first.headers["Vary"]) == (PAGE, "Accept, Accept-Encoding")
    assert [(item["id"], item["version"]) for item in first.json["items"]] == [(1, 2), (2, 1), (3, 1)]
    assert first.json["next"] == next_link(first)
    last = client.get(first.json["next"], headers={"Accept": PAGE})
    assert ([item["id"] for item in last.json["items"]], last.json["next"]) == ([4], None)
    array = client.get("/tasks?limit=3&sort=id")
    assert array.json == [{name: item[name] for name in item if name != "version"} for item in first.json["items"]]
    assert array.headers["Link"] == first.headers["Link"]
    match = {"If-Match": f'"{first.json["items"][0]["version"]}"'}
    assert client.put("/tasks/1", json={"title": "Write"}, headers=match).status_code == 200
    assert client.put("/tasks/1", json={"title": "Wrote"}, headers=match).status_code == 412


def test_each_form_of_a_list_has_a_tag_of_its_own(client: Client) -> None:
    fill(client)
    array = client.get("/tasks").headers["ETag"]
    page = client.get("/tasks", headers={"Accept": PAGE}).headers["ETag"]
    assert client.get("/tasks", headers={"Accept": PAGE, "If-None-Match": page}).status_code == 304
    assert client.get("/tasks", headers={"Accept": PAGE, "If-None-Match": array}).status_code == 200


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*", "application/json", f"{PAGE};q=0", f"{PAGE};q=0.5, application/json", f"{PAGE}x"]
)
def test_who_does_not_prefer_the_page_gets_the_array(client: Client, accept: str) -> None:
    assert client.get("/tasks", headers={"Accept": accept}).json == []
