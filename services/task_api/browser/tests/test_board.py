"""What one person does: by mouse, by keyboard alone, and on a phone."""

import secrets
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from .conftest import DESKTOP, PHONE, People, Service, Visit

pytestmark = pytest.mark.browser


def test_a_day_by_mouse(service: Service, visit: Visit) -> None:
    board = visit(service.url)
    page = board.page
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    for title in ("Write the report", "Buy milk", "Call Ada"):
        board.add(title)
    expect(board.column("Pending").get_by_role("listitem")).to_have_count(3)

    page.get_by_role("button", name="Buy milk", exact=True).click()
    page.get_by_label("Rename: Buy milk").fill("Buy oat milk")
    page.keyboard.press("Enter")
    expect(board.card("Buy oat milk")).to_be_visible()

    board.card("Call Ada").drag_to(board.column("In progress"))
    expect(board.column("In progress").get_by_role("listitem")).to_have_count(1)
    board.card("Write the report").get_by_role("button", name="Move to In progress").click()
    board.card("Write the report").get_by_role("button", name="Move to Completed").click()
    expect(board.column("Completed").get_by_role("button", name="Write the report", exact=True)).to_be_visible()

    dialog = board.details("Call Ada")
    dialog.get_by_label("Description").fill("About the engine")
    dialog.get_by_label("Priority").select_option("High")
    dialog.get_by_label("Due").fill("2030-06-01T14:30")
    dialog.get_by_role("button", name="Save").click()
    expect(board.card("Call Ada")).to_contain_text("Due 1 Jun 2030, 14:30")
    board.saved()

    held = {task["title"]: task for task in service.tasks()}
    assert {title: task["status"] for title, task in held.items()} == {
        "Write the report": "completed",
        "Buy oat milk": "pending",
        "Call Ada": "in_progress",
    }
    ada = held["Call Ada"]
    assert (ada["description"], ada["priority"], ada["due_at"]) == ("About the engine", "high", "2030-06-01T12:30:00Z")


def kinds(service: Service, task_id: int) -> list[str]:
    return [entry["kind"] for entry in service.client.get(f"/tasks/{task_id}/history").json()]


def test_a_deletion_is_sent_at_once_and_undone_by_a_restore(service: Service, visit: Visit) -> None:
    kept, _ = service.create("Keep me", "Drop me")
    board = visit(service.url)
    page = board.page
    board.details("Keep me").get_by_role("button", name="Delete").click()
    expect(board.card("Keep me")).to_have_count(0)
    board.until(lambda: service.titles() == ["Drop me"])
    page.get_by_role("button", name="Undo").click()
    expect(board.card("Keep me")).to_be_visible()
    board.until(lambda: service.titles() == ["Drop me", "Keep me"])
    assert kinds(service, kept["id"]) == ["restored", "deleted", "created"]

    board.details("Drop me").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Dismiss").click()
    expect(board.card("Drop me")).to_have_count(0)
    board.until(lambda: service.titles() == ["Keep me"])


def test_a_deletion_that_is_undone_before_it_is_sent_never_is(service: Service, visit: Visit) -> None:
    (task,) = service.create("Keep me")
    board = visit(service.url)
    page = board.page
    expect(board.card("Keep me")).to_be_visible()
    page.context.set_offline(True)
    board.details("Keep me").get_by_role("button", name="Delete").click()
    expect(page.locator(".sign")).to_contain_text("1 change waits")
    page.get_by_role("button", name="Undo").click()
    expect(board.card("Keep me")).to_be_visible()
    page.context.set_offline(False)
    board.saved()
    assert kinds(service, task["id"]) == ["created"]


def test_what_a_control_cannot_show_stays_as_it_is(embedded: Service, visit: Visit) -> None:
    fields = {"description": "One\r\nTwo", "project": "Home\tand\ngarden", "due_at": "9999-12-31T23:59:59Z"}
    (task,) = embedded.create("Two\nlines", **fields)
    board = visit(embedded.url)
    page = board.page
    page.locator("button.title").click()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel").click()  # it has no change to confirm
    page.get_by_role("button", name="Details").click()
    dialog.get_by_label("Priority").select_option("High")
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: embedded.tasks()[0]["priority"] == "high")
    unchanged = {name: task[name] for name in ("title", *fields)}
    assert {name: embedded.tasks()[0][name] for name in unchanged} == unchanged


def test_a_due_date_without_a_time_is_not_dropped(embedded: Service, visit: Visit) -> None:
    embedded.create("Plan")
    board = visit(embedded.url)
    dialog = board.details("Plan")
    dialog.get_by_label("Due").focus()
    board.page.keyboard.type("01062030")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("The due date needs a day and a time, until the year 9999.")
    expect(dialog.get_by_label("Due")).to_be_focused()


@pytest.mark.parametrize("sort", ["__proto__", "constructor", "unknown"])
def test_an_address_with_an_unknown_order_shows_the_newest_first(embedded: Service, visit: Visit, sort: str) -> None:
    embedded.create("Older", "Newer")
    board = visit(f"{embedded.url}/?sort={sort}")
    expect(board.page.locator("button.title")).to_have_text(["Newer", "Older"])


def test_what_the_browser_cannot_keep_is_not_lost_from_the_field(
    embedded: Service, visit: Visit, people: People
) -> None:
    person = people()
    person.add_init_script("indexedDB.open = () => { throw new DOMException('denied', 'SecurityError'); }")
    page = visit(embedded.url, person).page
    page.get_by_label("New task").fill("Not lost")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="nothing can be changed")).to_be_attached()
    expect(page.get_by_label("New task")).to_have_value("Not lost")
    assert embedded.tasks() == []


def test_what_the_browser_cannot_keep_is_not_lost_from_the_details(embedded: Service, visit: Visit) -> None:
    embedded.create("Plan")
    board = visit(embedded.url)
    dialog = board.details("Plan")
    board.page.evaluate("() => { IDBObjectStore.prototype.add = function () { this.transaction.abort(); }; }")
    dialog.get_by_label("Description").fill("Written for long")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("nothing can be changed")
    expect(dialog.get_by_label("Description")).to_have_value("Written for long")
    assert [task["description"] for task in embedded.tasks()] == [""]


def test_the_history_of_a_task(service: Service, visit: Visit) -> None:
    (task,) = service.create("Plan")
    service.change(task["id"], priority="high", description="By Friday")
    board = visit(service.url)
    dialog = board.details("Plan")
    dialog.get_by_text("History").click()
    expect(dialog.get_by_role("listitem")).to_contain_text(["Changed: Description, Priority", "Created"])


def test_a_page_whose_scripts_do_not_come_names_the_remedy(embedded: Service, visit: Visit) -> None:
    page = visit("about:blank", service_workers="block").page
    page.route("**/columns.js", lambda route: route.abort(), times=2)
    page.goto(embedded.url)
    page.get_by_role("link", name="Load it again").click()
    expect(page.get_by_text("No tasks yet")).to_be_visible()


def test_everything_by_keyboard_alone(service: Service, visit: Visit) -> None:
    service.create("Third", "Second", "First")
    board = visit(service.url)
    page = board.page
    expect(board.card("First")).to_be_visible()
    press = page.keyboard.press

    def focused() -> str:
        name = page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        return str(name)

    page.get_by_label("Sort by").focus()
    press("Tab")  # the first card's box
    assert focused() == "Select: First"
    press("Tab")
    assert focused() == "First"
    press("ArrowDown")
    assert focused() == "Second"
    press("End")
    assert focused() == "Third"
    press("Shift+ArrowRight")
    expect(board.column("In progress").get_by_role("listitem")).to_have_count(1)
    assert focused() == "Third"
    press("ArrowLeft")
    assert focused() in {"First", "Second"}
    press("Home")
    press("Enter")
    page.keyboard.type("First of all")
    press("Enter")
    expect(board.card("First of all")).to_be_visible()
    assert focused() == "First of all"
    press("Enter")
    page.keyboard.type("Never mind")
    press("Escape")
    assert focused() == "First of all"

    press("Shift+Tab")
    press("Space")
    expect(page.get_by_text("1 selected", exact=True).first).to_be_visible()
    press("Tab")
    press("ArrowDown")
    press("Delete")  # the selected task, not the one with the focus
    expect(board.card("First of all")).to_have_count(0)
    expect(board.card("Second")).to_be_visible()
    page.get_by_role("button", name="Undo").focus()
    press("Enter")
    expect(board.card("First of all")).to_be_visible()

    page.get_by_role("button", name="Details: Second").focus()
    press("Enter")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    press("Escape")
    assert focused() == "Details: Second"
    board.saved()
    assert service.titles() == ["First of all", "Second", "Third"]


def test_a_dialog_that_closes_leaves_the_focus_where_a_person_has_gone_meanwhile(
    embedded: Service, visit: Visit
) -> None:
    embedded.create("First")
    board = visit(embedded.url)
    dialog = board.details("First")
    board.page.evaluate("""() => {
      document.querySelector("dialog").close();
      document.querySelector("input[type=search]").focus();
    }""")
    expect(dialog).to_have_count(0)  # the close event has come
    expect(board.page.get_by_label("Search")).to_be_focused()


def test_a_phone_shows_a_column_at_a_time(service: Service, visit: Visit) -> None:
    service.create("On the go")
    board = visit(service.url, viewport=PHONE, has_touch=True, is_mobile=True)
    page = board.page
    board.card("On the go").get_by_role("button", name="Move to In progress").tap()
    expect(board.column("Pending")).to_be_hidden()
    expect(board.column("In progress").get_by_role("listitem")).to_have_count(1)
    page.get_by_role("navigation", name="Columns").get_by_role("button", name="Pending").tap()
    expect(board.card("On the go")).to_be_hidden()
    page.get_by_role("button", name="Filters").tap()
    expect(page.get_by_label("Sort by")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    board.saved()
    assert [task["status"] for task in service.tasks()] == ["in_progress"]


def box(control: Locator) -> FloatRect:
    """Return where a control is on the page."""
    bounds = control.bounding_box()
    assert bounds is not None
    return bounds


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_long_name_of_a_project_pushes_no_filter_aside(
    embedded: Service, visit: Visit, viewport: dict[str, int]
) -> None:
    embedded.create("Plan", project="x" * 100)
    board = visit(embedded.url, viewport=viewport)
    page = board.page
    expect(board.card("Plan")).to_be_visible()
    if viewport == PHONE:
        page.get_by_role("button", name="Filters").click()
    project, priority = (box(page.get_by_label(name, exact=True)) for name in ("Project", "Priority"))
    assert project["x"] + project["width"] <= priority["x"]
    assert project["width"] < 300
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_button_of_a_session_with_a_long_name_has_one_line(
    services: Callable[[str, str], str], visit: Visit
) -> None:
    url, email, password = services("sqlite", "on"), f"{secrets.token_hex(8)}@example.org", "a horse and its battery"
    account = {"email": email, "password": password}
    httpx.post(f"{url}/auth/register", json=account).raise_for_status()
    httpx.post(f"{url}/auth/login", json=account, headers={"User-Agent": "x" * 200}).raise_for_status()
    page = visit(url).page
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Account", exact=True).click()
    end, out = (box(page.get_by_role("button", name=name)) for name in ("End the session", "Sign out everywhere"))
    assert end["height"] == out["height"]


def test_search_and_filters_are_in_an_address_that_can_be_shared(service: Service, visit: Visit) -> None:
    service.create("Red apple", "Green apple", priority="high")
    service.create("Red pear", description="no apple", due_at="2020-01-01T00:00:00Z")
    board = visit(service.url)
    page = board.page
    titles = board.page.locator("button.title")
    page.get_by_label("Search").press_sequentially("apple red")
    expect(titles).to_have_text(["Red pear", "Red apple"])
    page.get_by_label("Priority", exact=True).select_option("High")
    expect(titles).to_have_text(["Red apple"])
    other = visit(page.url)
    expect(other.page.locator("button.title")).to_have_text(["Red apple"])
    expect(other.page.get_by_label("Search")).to_have_value("apple red")
    page.get_by_label("Search").fill("plum")
    expect(page.get_by_text("No task matches")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(titles).to_have_count(3)
    page.get_by_label("Due", exact=True).select_option("Overdue")
    expect(titles).to_have_text(["Red pear"])


def test_projects_group_tasks(service: Service, visit: Visit) -> None:
    service.create("Paint the wall", project="Flat")
    service.create("Pay the rent")
    board = visit(service.url)
    page = board.page
    titles = page.locator("button.title")
    dialog = board.details("Pay the rent")
    dialog.get_by_label("Project").fill(" Money ")
    dialog.get_by_role("button", name="Save").click()
    expect(board.card("Pay the rent")).to_contain_text("Money")
    page.get_by_label("Project", exact=True).select_option("Flat")
    expect(titles).to_have_text(["Paint the wall"])
    board.add("Buy paint")
    expect(titles).to_have_text(["Buy paint", "Paint the wall"])
    board.saved()
    assert {task["title"]: task["project"] for task in service.tasks()} == {
        "Paint the wall": "Flat",
        "Pay the rent": "Money",
        "Buy paint": "Flat",
    }
    other = visit(page.url)
    expect(other.page.locator("button.title")).to_have_text(["Buy paint", "Paint the wall"])


def test_a_task_has_an_address(service: Service, visit: Visit) -> None:
    (task,) = service.create("Look at this")
    board = visit(f"{service.url}/?task={task['id']}")
    expect(board.page.get_by_role("dialog").get_by_label("Title")).to_have_value("Look at this")


def test_many_tasks_at_once(service: Service, visit: Visit) -> None:
    service.create(*(f"Task {number}" for number in range(30)))
    board = visit(service.url)
    page = board.page
    page.get_by_label("Search").fill("2")
    page.get_by_role("checkbox", name="Select: Task 29").check()
    page.get_by_role("button", name="Select all shown").click()
    page.get_by_label("Move to", exact=True).select_option("Completed")
    expect(board.column("Completed").locator(".count")).to_have_text("12")
    page.get_by_label("Set priority").select_option("High")
    board.saved()
    changed = [task for task in service.tasks() if (task["status"], task["priority"]) == ("completed", "high")]
    assert sorted(task["title"] for task in changed) == sorted(f"Task {n}" for n in range(30) if "2" in str(n))
    page.get_by_role("region", name="Selected tasks").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_text("No task matches")).to_be_visible()
    board.until(lambda: len(service.tasks()) == 18)


def in_page(page: Page) -> int:
    return int(page.evaluate("document.querySelectorAll('li').length"))


def test_of_ten_thousand_tasks_only_those_that_are_seen_are_in_the_page(embedded: Service, visit: Visit) -> None:
    embedded.create(*(f"Task {number}" for number in range(10_000)))
    board = visit(embedded.url)
    page = board.page
    expect(board.column("Pending").locator(".count")).to_have_text("10,000")
    assert in_page(page) < 40
    page.get_by_role("button", name="Task 9999", exact=True).focus()
    page.keyboard.press("End")
    expect(page.get_by_role("button", name="Task 0", exact=True)).to_be_focused()
    assert in_page(page) < 40
    item = page.get_by_role("listitem").filter(has_text="Task 0")
    assert (item.get_attribute("aria-posinset"), item.get_attribute("aria-setsize")) == ("10000", "10000")
    page.get_by_label("Search").fill("4321")
    expect(page.locator("button.title")).to_have_text(["Task 4321"])


def test_the_page_comes_in_one_chain_of_requests_and_at_most_60_kilobytes(embedded: Service, visit: Visit) -> None:
    board = visit("about:blank")
    page = board.page
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.send("Network.setBypassServiceWorker", {"bypass": True})
    sizes: dict[str, float] = {}
    names: dict[str, str] = {}
    starters: dict[str, str] = {}

    def seen(event: dict[str, object]) -> None:
        request = event["request"]
        initiator = event["initiator"]
        assert isinstance(request, dict)
        assert isinstance(initiator, dict)
        names[str(event["requestId"])] = request["url"]
        starters[request["url"]] = str(initiator["type"])

    wire.on("Network.requestWillBeSent", seen)
    wire.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page.goto(embedded.url)
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    stream = f"{embedded.url}/tasks/changes"
    while [url for request, url in names.items() if request not in sizes] != [stream]:  # all but that has come
        page.wait_for_timeout(100)
    assert sum(sizes.values()) <= 60_000
    files = {url: kind for url, kind in starters.items() if url.endswith((".js", ".css")) and "worker" not in url}
    assert set(files.values()) == {"parser"}, files  # none waits for another


def test_it_can_be_installed(embedded: Service, visit: Visit) -> None:
    page = visit(embedded.url).page
    wire = page.context.new_cdp_session(page)
    manifest = wire.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert wire.send("Page.getInstallabilityErrors")["installabilityErrors"] in (
        [],
        [{"errorId": "in-incognito", "errorArguments": []}],  # a test's context is one
    )


def test_labels_are_added_taken_off_and_filtered_by(service: Service, visit: Visit) -> None:
    service.create("Paint the wall", labels=["flat", "urgent"])
    service.create("Pay the rent", "Call Ada")
    board = visit(service.url)
    page = board.page
    titles = page.locator("button.title")
    expect(board.card("Paint the wall")).to_contain_text("flat, urgent")
    dialog = board.details("Pay the rent")
    field = dialog.get_by_label("Add label", exact=True).first
    field.fill(" money ")
    field.press("Enter")
    expect(dialog.get_by_role("checkbox", name="money")).to_be_checked()
    field.fill("flat")  # not added, but saved
    dialog.get_by_role("button", name="Save").click()
    expect(board.card("Pay the rent")).to_contain_text("flat, money")
    dialog = board.details("Paint the wall")
    dialog.get_by_role("checkbox", name="urgent").uncheck()
    dialog.get_by_role("button", name="Save").click()
    page.get_by_text("Labels: any").click()
    page.get_by_role("checkbox", name="flat", exact=True).check()
    expect(titles).to_have_text(["Pay the rent", "Paint the wall"])
    board.add("Buy paint")
    board.saved()
    assert {task["title"]: task["labels"] for task in service.tasks()} == {
        "Paint the wall": ["flat"],
        "Pay the rent": ["flat", "money"],
        "Call Ada": [],
        "Buy paint": ["flat"],
    }
    other = visit(page.url)
    expect(other.page.locator("button.title")).to_have_text(["Buy paint", "Pay the rent", "Paint the wall"])


def test_several_labels_narrow_to_the_tasks_that_have_all_by_keyboard_too(embedded: Service, visit: Visit) -> None:
    embedded.create("Both", labels=["flat", "urgent"])
    embedded.create("Flat", labels=["flat"])
    embedded.create("Urgent", labels=["urgent"])
    board = visit(f"{embedded.url}/?label=urgent&label=flat")
    page = board.page
    titles = page.locator("button.title")
    expect(titles).to_have_text(["Both"])
    chooser = page.get_by_text("Labels: flat, urgent")
    chooser.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # to the list, which scrolls
    page.get_by_role("checkbox", name="flat", exact=True).focus()
    page.keyboard.press("Space")
    expect(titles).to_have_text(["Urgent", "Both"])
    expect(page.get_by_role("checkbox", name="flat", exact=True)).to_be_focused()
    assert page.url.endswith("/?label=urgent")
    embedded.create("Another", labels=["attic"])  # a label more does not take the focus away
    expect(page.get_by_role("checkbox", name="attic", exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name="flat", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("checkbox", name="flat", exact=True)).to_be_hidden()
    expect(page.get_by_text("Labels: urgent")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("searchbox").click()  # leaving closes it
    expect(page.get_by_role("checkbox", name="flat", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.get_by_text("Labels: any")).to_be_visible()
    expect(titles).to_have_text(["Another", "Urgent", "Flat", "Both"])


def test_labels_that_a_control_cannot_show_or_that_are_too_many_are_not_changed(
    embedded: Service, visit: Visit
) -> None:
    names = sorted(['a, b "c"', "line\nbreak", "\U0001f600", "\uffee", *map(str, range(16))])
    (task,) = embedded.create("Plan", labels=names)
    board = visit(embedded.url)
    dialog = board.details("Plan")
    dialog.get_by_role("button", name="Cancel").click()  # it has no change to confirm
    board.details("Plan")
    dialog.get_by_label("Add label", exact=True).first.fill("one more")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("A task has at most 20 labels.")
    dialog.get_by_role("checkbox", name="15").uncheck()
    dialog.get_by_role("button", name="Save").click()
    board.saved()
    board.until(lambda: embedded.tasks()[0]["labels"] == sorted({*names, "one more"} - {"15"}))
    assert embedded.tasks()[0]["title"] == task["title"]


def test_selected_tasks_get_a_label_and_keep_those_they_have(service: Service, visit: Visit) -> None:
    service.create("One", labels=["a"])
    service.create("Two", labels=["b"])
    service.create("Three")
    board = visit(service.url)
    page = board.page
    page.get_by_role("checkbox", name="Select: One").check()
    page.get_by_role("checkbox", name="Select: Two").check()
    toolbar = page.get_by_role("region", name="Selected tasks")
    toolbar.get_by_role("combobox", name="Add label").fill("b")
    toolbar.get_by_role("button", name="Add label").click()
    expect(board.card("One")).to_contain_text("a, b")
    board.saved()
    assert [task["labels"] for task in service.tasks()] == [["a", "b"], ["b"], []]


def test_a_label_is_renamed_and_removed_in_all_tasks(service: Service, visit: Visit) -> None:
    service.create("One", "Two", labels=["old"])
    service.create("Three", labels=["new", "other"])
    board = visit(f"{service.url}/?label=old")
    page = board.page
    titles = page.locator("button.title")
    expect(titles).to_have_text(["Two", "One"])
    page.get_by_role("button", name="Edit labels").click()
    dialog = page.get_by_role("dialog", name="Labels")
    expect(dialog.get_by_role("listitem").filter(has=page.get_by_label("New name of the label: old"))).to_contain_text(
        "2 tasks"
    )
    dialog.get_by_label("New name of the label: old").fill("new")
    page.keyboard.press("Enter")
    expect(page.get_by_text("old is now new in 2 tasks").first).to_be_visible()
    expect(titles).to_have_text(["Three", "Two", "One"])  # the filter follows
    page.once("dialog", lambda seen: seen.accept())
    dialog.get_by_role("button", name="Remove the label: other").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    dialog.get_by_role("button", name="Close").click()
    assert [task["labels"] for task in service.tasks()] == [["new"]] * 3
    assert page.url.endswith("/?label=new")
    page.context.set_offline(True)
    page.get_by_role("button", name="Edit labels").click()
    expect(dialog.get_by_role("alert")).to_contain_text("cannot be reached")


def test_a_task_is_made_to_repeat_completed_changed_and_made_to_stop(service: Service, visit: Visit) -> None:
    service.create("Water the plants", due_at="2029-12-31T08:00:00Z")  # a Monday
    board = visit(service.url)
    page = board.page
    dialog = board.details("Water the plants")
    expect(dialog.get_by_label("Time zone")).to_be_hidden()
    dialog.get_by_label("How often").select_option("Weekly")
    expect(dialog.get_by_label("Time zone")).to_have_value("Europe/Berlin")
    dialog.get_by_label("Every").fill("2")
    dialog.get_by_role("checkbox", name="Mon").check()
    dialog.get_by_role("checkbox", name="Thu").check()
    dialog.get_by_label("Ends").select_option("after a number of tasks")
    dialog.get_by_label("Tasks, this one included").fill("3")
    dialog.get_by_role("button", name="Save").click()
    expect(board.card("Water the plants").get_by_title("Repeats: Every 2 weeks; Mon, Thu; 3 tasks")).to_be_visible()
    board.saved()
    (task,) = service.tasks()
    expected = {"recurrence": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH;COUNT=3", "time_zone": "Europe/Berlin"}
    assert task.items() >= expected.items()

    page.get_by_role("button", name="Move to In progress: Water the plants").click()
    page.get_by_role("button", name="Move to Completed: Water the plants").click()
    expect(board.column("Pending").locator("button.title")).to_have_text("Water the plants")
    expect(board.column("Completed").locator("button.title")).to_have_text("Water the plants")
    next_one = next(one for one in service.tasks() if one["status"] == "pending")
    assert (next_one["due_at"], next_one["recurrence"]) == (
        "2030-01-03T08:00:00Z",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH;COUNT=2",
    )

    board.column("Pending").get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Every")).to_have_value("2")
    expect(dialog.get_by_role("checkbox", name="Thu")).to_be_checked()
    dialog.get_by_label("How often").select_option("Monthly")
    dialog.get_by_label("On", exact=True).select_option("the last day of the month")
    dialog.get_by_label("Every").fill("1")
    dialog.get_by_label("Ends").select_option("on a day")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("a day where it ends on one")
    dialog.get_by_label("Last day", exact=True).fill("2030-06-30")
    dialog.get_by_role("button", name="Save").click()
    expect(board.column("Pending")).to_contain_text("\u21bb Monthly")
    board.until(lambda: "FREQ=MONTHLY;BYMONTHDAY=-1;UNTIL=20300630" in [one["recurrence"] for one in service.tasks()])

    board.column("Pending").get_by_role("button", name="Details").click()
    dialog.get_by_label("How often").select_option("Never")
    dialog.get_by_role("button", name="Save").click()
    expect(board.column("Pending")).not_to_contain_text("\u21bb")
    board.until(lambda: None in [one["recurrence"] for one in service.tasks()])


def test_a_rule_that_the_dialog_cannot_show_is_shown_as_text_and_kept(embedded: Service, visit: Visit) -> None:
    rule = "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1"
    embedded.create("Close the books", due_at="2030-01-31T08:00:00Z", recurrence=rule)
    board = visit(embedded.url)
    dialog = board.details("Close the books")
    expect(dialog.get_by_label("How often")).to_have_value(rule)
    dialog.get_by_label("Priority").select_option("High")
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: embedded.tasks()[0]["priority"] == "high")
    assert (embedded.tasks()[0]["recurrence"], embedded.tasks()[0]["time_zone"]) == (rule, None)


def test_a_task_that_repeats_needs_a_due_date_and_a_time_zone_that_there_is(embedded: Service, visit: Visit) -> None:
    embedded.create("Call Ada")
    board = visit(embedded.url)
    dialog = board.details("Call Ada")
    dialog.get_by_label("How often").select_option("Daily")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("A task that repeats needs a due date.")
    expect(dialog.get_by_label("Due")).to_be_focused()
    dialog.get_by_label("Due").fill("2030-06-01T14:30")
    dialog.get_by_label("Time zone").fill("Europe/Atlantis")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("The time zone needs a name such as Europe/Berlin.")
    dialog.get_by_label("Time zone").fill("Asia/Tokyo")
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: embedded.tasks()[0]["time_zone"] == "Asia/Tokyo")
    assert embedded.tasks()[0]["recurrence"] == "FREQ=DAILY"


def test_reminders_are_added_shown_changed_and_taken_away(service: Service, visit: Visit) -> None:
    service.create("Call Ada", due_at="2030-06-01T12:30:00Z", reminders=[{"before": "P1DT2H"}])
    board = visit(service.url)
    dialog = board.details("Call Ada")
    expect(dialog.get_by_role("checkbox", name="1 day 2 hours before")).to_be_checked()
    expect(dialog.get_by_label("Moment")).to_be_hidden()
    dialog.get_by_label("Remind me").select_option("15 minutes before")
    dialog.get_by_role("button", name="Add reminder").click()
    expect(dialog.get_by_label("Remind me")).to_be_focused()
    dialog.get_by_label("Remind me").select_option("15 minutes before")
    dialog.get_by_role("button", name="Add reminder").click()  # once each
    expect(dialog.get_by_role("checkbox", name="minutes before")).to_have_count(1)
    dialog.get_by_label("Remind me").select_option("at a moment")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("The reminder needs a day and a time.")
    expect(dialog.get_by_label("Moment")).to_be_focused()
    dialog.get_by_label("Moment").fill("2030-05-31T20:00")  # what was not added counts
    dialog.get_by_role("button", name="Save").click()
    board.saved()
    expected = [{"before": "P1DT2H"}, {"before": "PT15M"}, {"at": "2030-05-31T18:00:00Z"}]
    board.until(lambda: service.tasks()[0]["reminders"] == expected)
    expect(board.card("Call Ada")).to_contain_text("\u23f0 3")
    shown = board.card("Call Ada").get_by_title("Reminds: 1 day 2 hours before, 15 minutes before, at ")
    expect(shown).to_be_visible()

    dialog = board.details("Call Ada")
    dialog.get_by_role("button", name="Cancel").click()  # it has no change to confirm
    dialog = board.details("Call Ada")
    for box in dialog.get_by_role("group", name="Reminders").get_by_role("checkbox").all():
        box.uncheck()
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: service.tasks()[0]["reminders"] == [])
    expect(board.card("Call Ada")).not_to_contain_text("\u23f0")


def test_reminders_before_the_due_date_need_one_and_five_are_the_most(embedded: Service, visit: Visit) -> None:
    reminders = [{"at": f"2030-01-0{day}T08:00:00.123456Z"} for day in range(1, 6)]
    embedded.create("Call Ada", reminders=reminders)
    board = visit(embedded.url)
    dialog = board.details("Call Ada")
    dialog.get_by_label("Remind me").select_option("when it is due")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("A task has at most 5 reminders.")
    dialog.get_by_role("group", name="Reminders").get_by_role("checkbox").first.uncheck()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("A reminder before the due date needs one.")
    expect(dialog.get_by_label("Due", exact=True)).to_be_focused()
    dialog.get_by_label("Due", exact=True).fill("2030-06-01T14:30")
    dialog.get_by_role("button", name="Save").click()
    board.until(lambda: embedded.tasks()[0]["reminders"] == [*reminders[1:], {"before": "PT0S"}])
