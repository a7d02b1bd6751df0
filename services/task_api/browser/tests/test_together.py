"""Two people at once, several tabs, lost connections: nothing is lost, and nothing is done twice."""

import re
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tooling.service import command_line, free_port, listening

from .conftest import Board, People, Service, Visit

pytestmark = pytest.mark.browser
PASSWORD = "a horse and its battery"


def test_what_another_person_does_appears_without_a_reload(service: Service, visit: Visit) -> None:
    ada, grace = visit(service.url), visit(service.url)
    ada.add("From Ada")
    expect(grace.card("From Ada")).to_be_visible()
    grace.card("From Ada").get_by_role("button", name="Move to In progress").click()
    expect(ada.column("In progress").get_by_role("listitem")).to_have_count(1)
    grace.details("From Ada").get_by_role("button", name="Delete").click()
    grace.page.get_by_role("button", name="Dismiss").click()
    expect(ada.card("From Ada")).to_have_count(0)


def streams(service: Service, number: int) -> None:
    """Wait until so many streams are open."""
    while f"api_streams_open {number}.0" not in service.client.get("/metrics").text:
        time.sleep(0.1)


def test_changes_come_by_one_stream_of_all_tabs_and_the_feed_is_hardly_polled(
    service: Service, visit: Visit, people: People
) -> None:
    streams(service, 0)
    person = people()
    one, other = visit(service.url, person), visit(service.url, person)
    streams(service, 1)
    one.page.wait_for_timeout(5000)  # a poll that was due before the stream opened
    polls: list[str] = []
    person.on("request", lambda request: polls.append(request.url) if "/tasks/changes" in request.url else None)
    one.page.wait_for_timeout(12_000)
    assert len(polls) <= 3  # of two tabs that would poll every four seconds
    service.create("From elsewhere")
    expect(one.card("From elsewhere")).to_be_visible()
    expect(other.card("From elsewhere")).to_be_visible()
    streams(service, 1)
    one.page.close()
    service.create("Without the first tab")
    expect(other.card("Without the first tab")).to_be_visible()
    streams(service, 1)


@pytest.mark.parametrize("between", ["a proxy that buffers", "a service without streams", "too many streams"])
def test_where_there_is_no_stream_the_feed_is_polled(
    embedded: Service, visit: Visit, people: People, between: str
) -> None:
    def answer(route: Route) -> None:
        if between == "a service without streams":
            route.fulfill(json={"changes": [], "next": "x", "more": False})
        elif between == "too many streams":
            route.fulfill(status=429, json={"type": "/problems#too-many-streams", "title": "Too many"})

    person = people()
    person.route("**/tasks/changes", answer)
    board = visit(embedded.url, person)
    for title in ("First", "Second"):
        embedded.create(title)
        expect(board.card(title)).to_be_visible()


def test_the_focus_stays_on_a_task_that_somebody_else_moves(embedded: Service, visit: Visit) -> None:
    _, first, _ = embedded.create("Third", "Second", "First")
    board = visit(embedded.url)
    title = board.card("Second").get_by_role("button", name="Second", exact=True)
    title.focus()
    embedded.change(first["id"], status="completed")
    expect(board.column("Completed").get_by_role("button", name="Second", exact=True)).to_be_focused()
    embedded.bulk([{"op": "delete", "id": first["id"]}])
    expect(board.column("Completed").get_by_role("listitem")).to_have_count(0)
    expect(board.page.get_by_label("New task")).to_be_focused()


@pytest.mark.parametrize("done", ["moved", "reordered", "filtered out", "deleted"])
def test_a_title_that_is_half_typed_stays_in_its_field_whatever_somebody_else_does_to_the_task(
    embedded: Service, visit: Visit, done: str
) -> None:
    below, task, above = embedded.create("Below", "Plan", "Above")
    board = visit(f"{embedded.url}/?sort=changed&q=a")
    page = board.page
    page.get_by_role("button", name="Plan", exact=True).click()
    field = page.get_by_label("Rename: Plan")
    page.keyboard.type("A better ")
    page.keyboard.press("ArrowLeft")
    for one in (below, above):
        embedded.change(one["id"], priority="low")
    if done == "deleted":
        embedded.bulk([{"op": "delete", "id": task["id"]}])
    elif done == "reordered":
        embedded.change(task["id"], priority="high")
    else:
        embedded.change(task["id"], **{"status": "completed"} if done == "moved" else {"title": "Empty"})
    embedded.create("A later one")
    expect(board.card("A later one")).to_be_visible()  # the page has seen it all
    expect(field).to_be_focused()
    expect(field).to_have_value("A better ")
    assert field.evaluate("field => field.selectionStart") == len("A better")
    board.saved()
    assert "A better" not in embedded.titles()

    page.keyboard.press("End")
    page.keyboard.type("plan")
    page.keyboard.press("Enter")
    if done in {"moved", "reordered"}:
        board.saved()
        title = board.column("Completed" if done == "moved" else "Pending").get_by_role("button", name="A better plan")
        expect(title.first).to_be_focused()
        assert "A better plan" in embedded.titles()
    else:  # the person decides
        expect(page.get_by_role("button", name="1 change needs you")).to_be_visible()


def test_what_another_tab_does_appears_at_once(service: Service, visit: Visit, people: People) -> None:
    person = people()
    one, other = visit(service.url, person), visit(service.url, person)
    other.page.route("**/tasks/changes?*", lambda route: route.abort())  # it hears of it from the first tab alone
    one.add("From the first tab")
    expect(other.card("From the first tab")).to_have_count(1)
    one.saved()
    assert service.titles() == ["From the first tab"]


def opened_for_editing(service: Service, visit: Visit) -> tuple[Board, int]:
    (task,) = service.create("Plan", description="Old text")
    board = visit(service.url)
    board.details("Plan")
    return board, task["id"]


def test_changes_of_different_fields_come_together(service: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(service, visit)
    service.change(task_id, priority="high")
    board.page.get_by_label("Description").fill("My text")
    board.page.get_by_role("button", name="Save").click()
    board.saved()
    (task,) = service.tasks()
    assert (task["priority"], task["description"]) == ("high", "My text")


def test_a_conflict_shows_both_versions_and_lets_one_merge(service: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(service, visit)
    service.change(task_id, description="Their text", status="in_progress")
    page = board.page
    page.get_by_label("Description").fill("My text")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    dialog = page.get_by_role("dialog", name="Changed by somebody else too")
    expect(dialog).to_contain_text("Yours My text")
    expect(dialog).to_contain_text("Theirs Their text")
    dialog.get_by_label("Theirs").check()
    expect(dialog.get_by_label("Description")).to_have_value("Their text")
    dialog.get_by_label("Description").fill("Their text and mine")
    dialog.get_by_role("button", name="Save this").click()
    board.saved()
    (task,) = service.tasks()
    assert (task["description"], task["status"]) == ("Their text and mine", "in_progress")


def test_a_conflict_that_is_decided_is_not_asked_about_again_by_a_second_click(embedded: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(embedded, visit)
    embedded.change(task_id, description="Their text")
    page = board.page
    page.get_by_label("Description").fill("My text")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    keep = page.get_by_role("button", name="Keep theirs")
    keep.evaluate("""(keep) => {
      keep.click();
      document.querySelector(".sign button")?.click();
    }""")
    board.saved()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_conflict_shows_titles_that_are_names_of_other_things_and_keeps_theirs_to_the_second(
    embedded: Service, visit: Visit
) -> None:
    (task,) = embedded.create("0", due_at="2030-01-01T10:00:00Z")
    board = visit(embedded.url)
    dialog = board.details("0")
    embedded.change(task["id"], title="length", due_at="2031-01-01T10:00:30Z")
    dialog.get_by_label("Title").fill("1")
    dialog.get_by_label("Due").fill("2032-01-01T10:00")
    dialog.get_by_role("button", name="Save").click()
    board.page.get_by_role("button", name="1 change needs you").click()
    merge = board.page.get_by_role("dialog", name="Changed by somebody else too")
    expect(merge).to_contain_text("Yours 1")
    expect(merge).to_contain_text("Theirs length")
    merge.get_by_label("Theirs").last.check()
    merge.get_by_role("button", name="Save this").click()
    board.saved()
    (now,) = embedded.tasks()
    assert (now["title"], now["due_at"]) == ("1", "2031-01-01T10:00:30Z")


def test_labels_that_both_changed_are_a_conflict_and_those_of_one_come_together(service: Service, visit: Visit) -> None:
    (task,) = service.create("Plan", labels=["a"])
    board = visit(service.url)
    page = board.page
    dialog = board.details("Plan")
    service.change(task["id"], description="Theirs")
    dialog.get_by_role("checkbox", name="a").uncheck()
    dialog.get_by_role("button", name="Save").click()
    board.saved()
    assert [(one["description"], one["labels"]) for one in service.tasks()] == [("Theirs", [])]

    board.details("Plan")
    service.change(task["id"], labels=["b", "c"])
    dialog.get_by_role("combobox", name="Add label").fill("d")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    merge = page.get_by_role("dialog", name="Changed by somebody else too")
    expect(merge).to_contain_text("Yours d")
    expect(merge).to_contain_text("Theirs b, c")
    merge.get_by_label("Theirs").check()
    merge.get_by_role("combobox", name="Add label").fill("d")
    merge.get_by_role("button", name="Save this").click()
    board.saved()
    assert service.tasks()[0]["labels"] == ["b", "c", "d"]


def test_labels_changed_without_a_connection_are_sent_once_it_is_back(service: Service, visit: Visit) -> None:
    service.create("Plan", labels=["a"])
    board = visit(service.url)
    expect(board.card("Plan")).to_contain_text("a")
    board.page.context.set_offline(True)
    dialog = board.details("Plan")
    dialog.get_by_role("combobox", name="Add label").fill("b")
    dialog.get_by_role("button", name="Save").click()
    expect(board.card("Plan")).to_contain_text("a, b")
    assert service.tasks()[0]["labels"] == ["a"]
    board.page.context.set_offline(False)
    board.saved()
    assert service.tasks()[0]["labels"] == ["a", "b"]


def change_all(board: Board, title: str) -> None:
    board.page.get_by_label(f"Select: {title}", exact=True).check()
    board.page.get_by_role("button", name="Select all shown").click()
    board.page.get_by_label("Set priority").select_option("High")


def test_many_tasks_are_changed_by_one_request(embedded: Service, visit: Visit) -> None:
    embedded.create(*(f"Task {number}" for number in range(60)))
    board = visit(embedded.url)
    expect(board.column("Pending").locator(".count")).to_have_text("60")
    sent: list[str] = []
    board.page.on("request", lambda request: sent.append(f"{request.method} {request.url.removeprefix(embedded.url)}"))
    change_all(board, "Task 59")
    board.until(lambda: {task["priority"] for task in embedded.tasks()} == {"high"})
    board.saved()
    assert [one for one in sent if "/tasks/changes" not in one] == ["POST /tasks/bulk"]


def test_tasks_that_the_page_has_just_made_or_changed_are_changed_by_one_request(
    embedded: Service, visit: Visit
) -> None:
    board = visit(embedded.url)
    page = board.page
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    page.route("**/tasks/changes?*", lambda route: route.abort())  # it has their versions from the results alone
    for title in ("One", "Two"):
        board.add(title)
    board.until(lambda: embedded.titles() == ["One", "Two"])
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url.removeprefix(embedded.url)}"))
    change_all(board, "Two")
    board.until(lambda: {task["priority"] for task in embedded.tasks()} == {"high"})
    page.get_by_label("Set priority").select_option("Low")
    board.until(lambda: {task["priority"] for task in embedded.tasks()} == {"low"})
    assert [one for one in sent if "/tasks/changes" not in one] == ["POST /tasks/bulk"] * 2


def test_of_many_tasks_the_one_that_somebody_changed_meanwhile_is_a_conflict(service: Service, visit: Visit) -> None:
    _, task, _ = service.create("One", "Two", "Three")
    board = visit(service.url)
    expect(board.column("Pending").locator(".count")).to_have_text("3")
    board.page.route("**/tasks/changes?*", lambda route: route.abort())  # the page has not seen it
    service.change(task["id"], priority="low")
    change_all(board, "Two")
    expect(board.page.get_by_role("button", name="1 change needs you")).to_be_visible()
    expected = {"One": "high", "Two": "low", "Three": "high"}
    board.until(lambda: {task["title"]: task["priority"] for task in service.tasks()} == expected)


def test_a_conflict_of_one_of_many_tasks_does_not_change_the_order_of_what_follows(
    embedded: Service, visit: Visit
) -> None:
    _, _, task = embedded.create("One", "Two", "Three")
    board = visit(embedded.url)
    page = board.page
    expect(board.column("Pending").locator(".count")).to_have_text("3")
    page.context.set_offline(True)
    change_all(board, "Two")
    expect(page.locator(".sign")).to_contain_text("No connection. 1 change waits")
    page.get_by_label("Select: Three").uncheck()
    page.get_by_label("Select: Two").uncheck()
    page.get_by_label("Set priority").select_option("Low")
    expect(page.locator(".sign")).to_contain_text("2 changes wait")
    embedded.change(task["id"], priority="low")
    page.context.set_offline(False)
    expected = {"One": "low", "Two": "high", "Three": "low"}
    board.until(lambda: {task["title"]: task["priority"] for task in embedded.tasks()} == expected)
    expect(page.get_by_role("button", name="1 change needs you")).to_be_visible()


def test_a_limit_on_requests_only_delays_what_needs_more_of_them(embedded: Service, visit: Visit) -> None:
    titles = sorted(f"Task {number}" for number in range(20))
    embedded.create(*titles)
    board = visit(embedded.url)
    page = board.page
    expect(board.column("Pending").locator(".count")).to_have_text("20")
    page.get_by_label("Select: Task 9", exact=True).check()
    page.get_by_role("button", name="Select all shown").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    board.until(lambda: embedded.tasks() == [])
    refused = {"type": "/problems#rate-limited", "title": "Too many requests", "status": 429}
    admitted: list[float] = []

    def limit(route: Route) -> None:
        now = time.monotonic()
        admitted[:] = [at for at in admitted if now - at < 1.0]
        if len(admitted) < 10:
            admitted.append(now)
            route.continue_()
        else:
            route.fulfill(status=429, json=refused, headers={"Retry-After": "1"})

    page.route("**/restore", limit)
    page.get_by_role("button", name="Undo").click()
    board.until(lambda: embedded.titles() == titles)
    board.saved()


def test_a_change_of_what_somebody_deleted_can_be_kept(service: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(service, visit)
    service.bulk([{"op": "delete", "id": task_id}])
    page = board.page
    page.get_by_label("Description").fill("My text")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    page.get_by_role("button", name="Restore it").click()
    board.saved()
    assert [(task["id"], task["description"]) for task in service.tasks()] == [(task_id, "My text")]


def test_a_change_of_what_was_deleted_for_good_can_be_kept(service: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(service, visit)
    service.bulk([{"op": "delete", "id": task_id}])
    page = board.page
    missing = {"type": "/problems#task-not-found", "title": "Not found", "status": 404}
    page.route("**/restore", lambda route: route.fulfill(status=404, json=missing))
    page.get_by_label("Description").fill("My text")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    page.get_by_role("button", name="Restore it").click()
    page.get_by_role("button", name="1 change needs you").click()
    page.get_by_role("button", name="Create again").click()
    board.saved()
    assert [(task["title"], task["description"]) for task in service.tasks()] == [("Plan", "My text")]


def test_a_feed_that_is_gone_is_begun_anew(service: Service, visit: Visit) -> None:
    first, _ = service.create("Deleted meanwhile", "Still there")
    board = visit(service.url)
    expect(board.card("Deleted meanwhile")).to_be_visible()
    gone = {"type": "/problems#feed-gone", "title": "Gone", "status": 410}

    def refuse(route: Route) -> None:
        service.bulk([{"op": "delete", "id": first["id"]}])
        route.fulfill(status=410, json=gone)

    board.page.route(re.compile("/tasks/changes.*since="), refuse, times=1)
    service.create("Has the feed read")
    expect(board.card("Deleted meanwhile")).to_have_count(0)
    expect(board.card("Still there")).to_be_visible()


def test_a_page_that_is_opened_again_reads_only_what_has_changed(
    service: Service, visit: Visit, people: People
) -> None:
    service.create(*(f"Task {number}" for number in range(250)))
    person = people()
    board = visit(service.url, person)
    expect(board.column("Pending").locator(".count")).to_have_text("250")
    board.page.wait_for_timeout(2500)  # the tasks are kept a little later than they are shown
    board.page.close()
    service.create("Meanwhile")

    again = person.new_page()
    pages: list[str] = []
    again.on("request", lambda request: pages.append(request.url) if "/tasks/changes?" in request.url else None)
    again.goto(service.url)
    expect(Board(again).card("Meanwhile")).to_be_visible()
    expect(Board(again).column("Pending").locator(".count")).to_have_text("251")
    assert len(pages) == 1
    assert "since=" in pages[0]


def test_a_deletion_of_what_somebody_changed_asks_first(service: Service, visit: Visit) -> None:
    board, task_id = opened_for_editing(service, visit)
    service.change(task_id, title="Better plan")
    page = board.page
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("button", name="1 change needs you").click()
    page.get_by_role("button", name="Keep theirs").click()
    expect(board.card("Better plan")).to_be_visible()
    board.saved()
    assert service.titles() == ["Better plan"]


def test_edits_without_a_connection_survive_the_tab_and_are_sent_once(
    service: Service, visit: Visit, people: People
) -> None:
    service.create("Rename me", "Move me")
    person = people()
    board = visit(service.url, person)
    expect(board.card("Move me")).to_be_visible()
    board.page.evaluate("navigator.serviceWorker.ready")
    board.page.reload()  # from here on the worker has all that the page needs
    expect(board.card("Move me")).to_be_visible()
    board.page.wait_for_timeout(2500)  # the tasks are kept a little later than they are shown
    person.set_offline(True)
    person.route("**/tasks/bulk", lambda route: route.abort())  # on a busy machine a tab that opens or closes is online
    board.add("Made offline")
    board.page.get_by_role("button", name="Rename me", exact=True).click()
    board.page.keyboard.type("Renamed")
    board.page.keyboard.press("Enter")
    board.card("Move me").get_by_role("button", name="Move to In progress").click()
    expect(board.page.locator(".sign")).to_contain_text("3 changes wait")
    board.page.close()

    again = visit(service.url, person)
    expect(again.card("Made offline")).to_be_visible()
    expect(again.card("Renamed")).to_be_visible()
    person.unroute_all()
    person.set_offline(False)
    again.saved()
    assert {task["title"]: task["status"] for task in service.tasks()} == {
        "Made offline": "pending",
        "Renamed": "pending",
        "Move me": "in_progress",
    }


def test_renaming_one_of_several_tasks_whose_common_change_still_waits_renames_that_one(
    embedded: Service, visit: Visit
) -> None:
    embedded.create("One", "Two", "Three")
    board = visit(embedded.url)
    page = board.page
    expect(board.card("Three")).to_be_visible()
    page.context.set_offline(True)
    for title in ("One", "Two", "Three"):
        page.get_by_label(f"Select: {title}").check()
    page.get_by_label("Set priority").select_option("High")
    expect(page.locator(".sign")).to_contain_text("1 change waits")
    page.get_by_role("button", name="Two", exact=True).click()
    page.keyboard.type("Renamed")
    page.keyboard.press("Enter")
    expect(board.card("Renamed")).to_have_count(1)
    page.context.set_offline(False)
    board.saved()
    assert {(task["title"], task["priority"]) for task in embedded.tasks()} == {
        ("One", "high"),
        ("Renamed", "high"),
        ("Three", "high"),
    }


def test_a_response_that_is_lost_is_asked_for_again_and_nothing_is_done_twice(service: Service, visit: Visit) -> None:
    board = visit(service.url)
    expect(board.page.get_by_text("No tasks yet")).to_be_visible()
    keys = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.fetch()
        route.abort("connectionreset")

    board.page.route("**/tasks/bulk", lose, times=2)
    board.add("Only once")
    board.saved()
    expect(board.card("Only once")).to_have_count(1)
    assert service.titles() == ["Only once"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_restart_of_the_service_in_the_middle_of_an_edit_loses_nothing(
    visit: Visit, tmp_path: Path, source: dict[str, str]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"AUTH": "off", "HOST": "127.0.0.1", "PORT": str(port), "DB_PATH": str(tmp_path / "tasks.db"), **source}
    started = partial(listening, command_line("serve"), settings, ready=f"{url}/readyz", log=tmp_path / "log")
    with started():
        board = visit(url)
        board.add("Before")
        board.saved()
        board.details("Before").get_by_label("Description").fill("Written over a restart")
    board.page.get_by_role("button", name="Save").click()
    board.add("Meanwhile")
    expect(board.page.locator(".sign")).to_contain_text("2 changes wait")
    with started():
        board.saved()
        tasks = httpx.get(f"{url}/tasks").json()
        assert [(task["title"], task["description"]) for task in tasks] == [
            ("Before", "Written over a restart"),
            ("Meanwhile", ""),
        ]
        board.page.goto("about:blank")


def registered(board: Board, email: str, password: str = PASSWORD) -> None:
    page = board.page
    page.get_by_role("button", name="I need an account").click()
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Create an account").click()
    expect(page.get_by_text("No tasks yet")).to_be_visible()


def signed_in(board: Board, email: str, password: str = PASSWORD) -> None:
    page = board.page
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def address() -> str:
    return f"{secrets.token_hex(8)}@example.org"


def test_registering_signing_in_and_out(guarded: str, visit: Visit) -> None:
    board, email = visit(guarded), address()
    page = board.page
    registered(board, email)
    board.add("Mine alone")
    board.saved()
    assert page.evaluate("document.cookie") == ""
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "token" not in kept
    assert "eyJ" not in kept
    cookies = page.context.cookies()
    assert len(cookies) == 3
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies)

    page.reload()
    expect(board.card("Mine alone")).to_be_visible()
    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert {cookie["name"] for cookie in page.context.cookies()} == {"task_api_device"}

    signed_in(board, email, "a guess that is wrong")
    expect(page.get_by_role("alert").filter(has_text="wrong address or password")).to_be_visible()
    signed_in(board, email)
    expect(board.card("Mine alone")).to_be_visible()


def test_signing_in_and_out_in_one_tab_does_it_in_the_others(guarded: str, visit: Visit) -> None:
    first, email = visit(guarded), address()
    registered(first, email)
    second = visit(guarded, first.page.context)
    for leaving, staying in ((first, second), (second, first)):
        leaving.page.get_by_role("button", name="Account").click()
        leaving.page.get_by_role("button", name="Sign out", exact=True).click()
        expect(staying.page.get_by_role("heading", name="Sign in")).to_be_visible()
        signed_in(staying, email)
        expect(leaving.page.get_by_text("No tasks yet")).to_be_visible()
        leaving.add("Written by " + ("the first" if leaving is first else "the second"))
        expect(staying.page.locator("button.title")).to_have_count(1)
        leaving.saved()
        leaving.details("Written by").get_by_role("button", name="Delete").click()
        expect(staying.page.get_by_text("No tasks yet")).to_be_visible()


def test_sessions_and_the_password(guarded: str, visit: Visit) -> None:
    desk, train, email = visit(guarded), visit(guarded), address()
    registered(desk, email)
    signed_in(train, email)
    expect(train.page.get_by_text("No tasks yet")).to_be_visible()
    desk.page.get_by_role("button", name="Account").click()
    sessions = desk.page.get_by_role("dialog").get_by_role("listitem")
    expect(sessions).to_have_count(2)
    desk.page.get_by_role("button", name="End the session").click()
    expect(sessions).to_have_count(1)
    expect(train.page.get_by_text("Your session has ended")).to_be_visible()

    dialog = desk.page.get_by_role("dialog")
    dialog.get_by_label("Password", exact=True).fill(PASSWORD)
    dialog.get_by_label("New password").fill("another horse, another battery")
    dialog.get_by_role("button", name="Change password").click()
    expect(desk.page.get_by_text("The password is changed").first).to_be_visible()
    signed_in(train, email, "another horse, another battery")
    expect(train.page.get_by_text("No tasks yet")).to_be_visible()


def test_an_address_for_calendars_is_made_copied_and_ended(guarded: str, visit: Visit) -> None:
    board = visit(guarded)
    registered(board, address())
    board.add("In the calendar")
    board.saved()
    board.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    board.page.get_by_role("button", name="Account").click()
    dialog = board.page.get_by_role("dialog")
    expect(dialog.get_by_label("Address for your calendar")).to_be_hidden()
    dialog.get_by_role("button", name="Make a calendar address").click()
    expect(board.page.get_by_text("The address is copied").first).to_be_visible()
    link = dialog.get_by_label("Address for your calendar").input_value()
    assert board.page.evaluate("navigator.clipboard.readText()") == link
    calendar = httpx.get(link)
    assert (calendar.status_code, calendar.text.count("SUMMARY:In the calendar")) == (200, 1)

    dialog.get_by_role("button", name="End the calendar address").click()
    expect(dialog.get_by_label("Address for your calendar")).to_be_hidden()
    expect(dialog.get_by_role("button", name="End the calendar address")).to_have_count(0)
    assert httpx.get(link).status_code == 401


def test_what_waits_when_a_session_ends_is_sent_after_the_next_sign_in(guarded: str, visit: Visit) -> None:
    board, email = visit(guarded), address()
    registered(board, email)
    board.page.context.set_offline(True)
    board.add("Written when the session had ended")
    expect(board.page.locator(".sign")).to_contain_text("1 change waits")
    board.page.context.clear_cookies()
    board.page.context.set_offline(False)
    expect(board.page.get_by_text("Your session has ended")).to_be_visible()

    signed_in(board, email)
    expect(board.card("Written when the session had ended")).to_be_visible()
    board.saved()
    board.page.reload()
    expect(board.card("Written when the session had ended")).to_be_visible()


def test_what_one_account_writes_is_never_sent_as_another(
    services: Callable[[str, str], str], visit: Visit, people: People
) -> None:
    url, person, ada, grace = services("sqlite", "on"), people(), address(), address()
    board = visit(url, person)
    registered(board, ada)
    board.page.route("**/tasks/changes?*", lambda route: route.abort())  # it does not see that its session has ended
    board.page.context.clear_cookies()
    other = visit(url, person)
    registered(other, grace)
    other.add("Of Grace")
    other.saved()
    board.add("Of Ada")
    board.page.unroute_all()
    expect(board.card("Of Grace")).to_be_visible()
    expect(board.card("Of Ada")).to_have_count(0)
    assert "Of Ada" in kept(board.page)

    sign_out(other)
    expect(board.page.get_by_role("heading", name="Sign in")).to_be_visible()
    signed_in(board, ada)
    expect(board.card("Of Ada")).to_be_visible()
    expect(board.card("Of Grace")).to_have_count(0)
    board.saved()


def test_what_one_account_wrote_is_never_sent_as_another_that_has_its_id_in_a_new_database(
    visit: Visit, people: People, tmp_path: Path, source: dict[str, str]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"AUTH": "on", "JWT_KEYS": f"k1:{secrets.token_urlsafe(32)}", "HOST": "127.0.0.1", "PORT": str(port)}
    started = partial(listening, command_line("serve"), ready=f"{url}/readyz", log=tmp_path / "log")
    person, ada, grace = people(), address(), address()
    with started({**settings, **source, "DB_PATH": str(tmp_path / "old.db")}):
        board = visit(url, person)
        registered(board, ada)
        board.page.route(re.compile("/tasks|/session"), lambda route: route.abort())
        board.add("Of Ada")
        expect(board.page.locator(".sign")).to_contain_text("1 change waits")
    with started({**settings, **source, "DB_PATH": str(tmp_path / "new.db")}):
        person.clear_cookies()  # as when they have expired
        other = visit(url, person)
        registered(other, grace)
        other.add("Of Grace")
        other.saved()
        board.page.unroute_all()
        expect(board.card("Of Grace")).to_be_visible()
        for page in (board.page, other.page):
            page.reload()
            expect(Board(page).card("Of Grace")).to_be_visible()
            Board(page).saved()
            expect(Board(page).card("Of Ada")).to_have_count(0)
        assert "Of Ada" in kept(board.page)
        account = {"email": grace, "password": PASSWORD}
        token = httpx.post(f"{url}/auth/login", json=account).raise_for_status().json()["access_token"]
        tasks = httpx.get(f"{url}/tasks", headers={"Authorization": f"Bearer {token}"}).json()
        assert [task["title"] for task in tasks] == ["Of Grace"]
        for page in (board.page, other.page):
            page.goto("about:blank")


def test_what_an_earlier_version_of_the_page_kept_is_sent_unless_it_is_older_than_the_account(
    services: Callable[[str, str], str], visit: Visit
) -> None:
    board = visit(services("sqlite", "on"))
    registered(board, address())
    board.page.evaluate(
        """async () => {
          const done = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
          const { id } = await (await fetch("/auth/me", { headers: { "X-Requested-With": "board" } })).json();
          const database = await done(indexedDB.open("board"));
          const store = database.transaction("changes", "readwrite").objectStore("changes");
          const day = 86_400_000;
          for (const [title, at] of [["Written by another", Date.now() - day], ["Written before", Date.now()]]) {
            const task = { title, description: "", status: "pending", priority: "normal", due_at: null, project: null };
            const operations = [{ op: "create", id: `new-${title}`, task: { ...task, labels: [] } }];
            await done(store.add({ account: String(id), key: crypto.randomUUID(), at, operations }));
          }
        }"""
    )
    board.page.reload()
    expect(board.card("Written before")).to_be_visible()
    board.saved()
    expect(board.card("Written by another")).to_have_count(0)


def kept(page: Page) -> str:
    """Return everything that the browser keeps for the page and could show to the next person."""
    text = page.evaluate(
        """async () => {
          const done = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
          const database = await done(indexedDB.open("board"));
          const content = [location.href, document.documentElement.outerHTML, JSON.stringify(localStorage)];
          for (const name of database.objectStoreNames) {
            content.push(JSON.stringify(await done(database.transaction(name).objectStore(name).getAll())));
          }
          database.close();
          for (const { name } of performance.getEntriesByType("resource")) {
            const held = await fetch(name, { cache: "only-if-cached", mode: "same-origin" }).catch(() => null);
            if (held && !name.includes("/board/")) content.push(await held.text());
          }
          return content.join("\\n");
        }"""
    )
    return str(text)


def sign_out(board: Board) -> None:
    board.page.get_by_role("button", name="Account").click()
    board.page.get_by_role("button", name="Sign out", exact=True).click()
    expect(board.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_nothing_of_an_account_stays_in_the_browser_after_signing_out(
    services: Callable[[str, str], str], visit: Visit, people: People
) -> None:
    person, email = people(), address()
    board = visit(services("sqlite", "on"), person)
    page = board.page
    page.on("dialog", lambda dialog: dialog.accept())
    registered(board, email)
    for title in ("Secret that is renamed", "Secret that is deleted"):
        board.add(title)
    board.saved()
    other = visit(page.url, person)
    other.details("Secret that is renamed")
    third = visit(page.url, person)
    third.page.get_by_role("button", name="Secret that is renamed", exact=True).click()
    third.page.keyboard.type("Secret that is half-typed")
    board.details("Secret that is deleted").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Secret that is renamed", exact=True).click()
    page.keyboard.type("Secret that has another name")
    page.keyboard.press("Enter")
    board.saved()
    person.route("**/tasks/bulk", lambda route: route.abort())  # of either tab: one sends for both
    board.add("Secret on its way")
    page.get_by_label("Search").fill("secret")
    expect(page.locator(".sign")).to_contain_text("1 change waits")
    page.wait_for_timeout(2500)  # the tasks are kept a little later than they are shown
    expect(third.page.get_by_role("textbox", name="Rename: ")).to_be_focused()
    sign_out(board)
    for one in (other, third):
        expect(one.page.get_by_role("heading", name="Sign in")).to_be_visible()
    for text in (kept(page), kept(other.page), kept(third.page)):
        assert "secret" not in text.lower()
        assert email not in text


def test_a_page_that_cannot_learn_who_is_signed_in_names_the_reason(
    services: Callable[[str, str], str], visit: Visit
) -> None:
    page = visit("about:blank", service_workers="block").page
    page.route("**/auth/me", lambda route: route.abort())
    page.goto(services("sqlite", "on"))
    expect(page.get_by_role("status").filter(has_text="The service cannot be reached")).to_be_visible()
    page.unroute_all()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_form_on_another_site_cannot_act_for_the_person(guarded: str, visit: Visit, people: People) -> None:
    person = people()
    board = visit(guarded, person)
    registered(board, address())
    elsewhere = person.new_page()
    elsewhere.route("http://attacker.example/", lambda route: route.fulfill(content_type="text/html", body="<p>Hello"))
    elsewhere.goto("http://attacker.example/")
    status = elsewhere.evaluate(
        """async (url) => {
          const plain = { method: "POST", credentials: "include", body: '{"title": "planted"}' };
          const sent = [
            fetch(url + "/tasks", { ...plain, mode: "no-cors" }),
            fetch(url + "/tasks", { ...plain, headers: { "X-Requested-With": "board" } }),
          ];
          return (await Promise.allSettled(sent)).map(({ status, value }) => value?.type ?? status);
        }""",
        guarded,
    )
    assert status in (["opaque", "rejected"], ["rejected", "rejected"])
    board.page.reload()
    expect(board.page.get_by_text("No tasks yet")).to_be_visible()


def test_a_task_that_repeats_is_completed_without_a_connection_and_comes_again_once(
    service: Service, visit: Visit
) -> None:
    service.create("Water the plants", due_at="2030-01-01T08:00:00Z")
    board = visit(service.url)
    page = board.page
    expect(board.card("Water the plants")).to_be_attached()
    page.context.set_offline(True)
    dialog = board.details("Water the plants")
    dialog.get_by_label("How often").select_option("Daily")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Move to In progress: Water the plants").click()
    page.get_by_role("button", name="Move to Completed: Water the plants").click()
    expect(page.locator(".sign")).to_contain_text("No connection")
    expect(board.column("Pending").locator("button.title")).to_have_count(0)
    page.context.set_offline(False)
    expect(board.column("Pending").locator("button.title")).to_have_text("Water the plants")
    board.saved()
    assert sorted((one["status"], one["due_at"]) for one in service.tasks()) == [
        ("completed", "2030-01-01T08:00:00Z"),
        ("pending", "2030-01-02T08:00:00Z"),
    ]


def test_repetitions_that_both_changed_are_a_conflict_and_one_of_somebody_else_stays(
    embedded: Service, visit: Visit
) -> None:
    (task,) = embedded.create("Plan", due_at="2030-01-01T08:00:00Z", recurrence="FREQ=DAILY", time_zone="Europe/Berlin")
    board = visit(embedded.url)
    page = board.page
    dialog = board.details("Plan")
    embedded.change(task["id"], recurrence="FREQ=WEEKLY")
    dialog.get_by_label("Description").fill("Mine")
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: embedded.tasks()[0]["description"] == "Mine")
    assert embedded.tasks()[0]["recurrence"] == "FREQ=WEEKLY"

    expect(board.card("Plan")).to_contain_text("\u21bb Weekly")
    dialog = board.details("Plan")
    embedded.change(task["id"], recurrence="FREQ=MONTHLY;BYDAY=1MO")
    dialog.get_by_label("How often").select_option("Yearly")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    merge = page.get_by_role("dialog", name="Changed by somebody else too")
    expect(merge).to_contain_text("Yours Yearly")
    expect(merge).to_contain_text("Theirs FREQ=MONTHLY;BYDAY=1MO")
    merge.get_by_label("Theirs").check()
    expect(merge.get_by_label("How often")).to_have_value("FREQ=MONTHLY;BYDAY=1MO")
    merge.get_by_label("How often").select_option("Daily")
    merge.get_by_role("button", name="Save this").click()
    board.until(lambda: embedded.tasks()[0]["recurrence"] == "FREQ=DAILY")


def test_reminders_that_both_changed_are_a_conflict(embedded: Service, visit: Visit) -> None:
    (task,) = embedded.create("Plan", due_at="2030-01-01T08:00:00Z", reminders=[{"before": "PT1H"}])
    board = visit(embedded.url)
    page = board.page
    dialog = board.details("Plan")
    embedded.change(task["id"], reminders=[{"before": "P7D"}])
    dialog.get_by_label("Remind me").select_option("5 minutes before")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="1 change needs you").click()
    merge = page.get_by_role("dialog", name="Changed by somebody else too")
    expect(merge).to_contain_text("Yours 1 hour before, 5 minutes before")
    expect(merge).to_contain_text("Theirs 7 days before")
    merge.get_by_label("Theirs").check()
    merge.get_by_label("Remind me").select_option("1 day before")
    merge.get_by_role("button", name="Save this").click()
    board.until(lambda: embedded.tasks()[0]["reminders"] == [{"before": "P7D"}, {"before": "P1D"}])
