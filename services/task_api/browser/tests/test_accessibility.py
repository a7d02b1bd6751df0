"""WCAG 2.2 AA by axe-core: no violation in any state, in light and dark, at desk and on a phone. Pictures are kept."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tooling import tools

from .conftest import DESKTOP, PHONE, Board, Service, Visit, screenshot
from .test_together import address, registered

pytestmark = pytest.mark.browser
AXE = tools.HOME / "node" / "node_modules" / "axe-core" / "axe.min.js"
RUN = """async () => {
  const { violations } = await axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return violations.map(({ id, nodes }) => [id, ...nodes.map((node) => `${node.html} ${node.failureSummary}`)]);
}"""
SIGHTS = [
    pytest.param(scheme, screen, id=f"{scheme}-{name}")
    for scheme in ("light", "dark")
    for name, screen in (("desktop", DESKTOP), ("phone", PHONE))
]


def check(page: Page, name: str) -> None:
    """Keep a picture of the page, and fail where axe finds anything."""
    page.wait_for_timeout(250)  # a notice rises; its colours are mixed meanwhile
    screenshot(page, name)
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text())
    assert page.evaluate(RUN) == [], name


def samples(service: Service) -> list[int]:
    """Create tasks of every look; return their ids."""
    late = "2020-03-01T08:00:00Z"
    made = service.create(
        "Order new chairs", "Book the room for the workshop", "Answer the auditor's questions", priority="low"
    )
    made += service.create(
        "Invite everybody to the review",
        "Compare the three offers",
        description="By Friday.",
        project="Office",
        labels=["quarterly", "with Ada"],
    )
    made += service.create("Renew the certificate", priority="high", due_at=late)
    made += service.create(
        "Write the report about last quarter, with the figures that Ada sent", due_at="2030-01-01T08:00:00Z"
    )
    made += service.create("Draft the agenda", "Fix the printer", status="in_progress", priority="high")
    made += service.create("Pay the hosting bill", "Send the minutes", status="completed")
    return [task["id"] for task in made]


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_no_state_of_the_board_breaks_a_rule(
    embedded: Service, visit: Visit, request: pytest.FixtureRequest, scheme: str, screen: dict[str, int]
) -> None:
    look = request.node.callspec.id
    board = visit(embedded.url, viewport=screen, color_scheme=scheme)
    page = board.page
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    check(page, f"empty-{look}")
    ids = samples(embedded)
    expect(board.card("Order new chairs")).to_be_attached()
    check(page, f"board-{look}")
    for name, state in states(board, embedded, ids):
        state()
        check(page, f"{name}-{look}")
        if page.get_by_role("dialog").count():
            page.keyboard.press("Escape")


def states(board: Board, service: Service, ids: list[int]) -> list[tuple[str, Callable[[], object]]]:
    """Return the other states of the board by their names, each with what brings it about."""
    page = board.page

    def filters() -> None:
        if page.get_by_role("button", name="Filters").is_visible():
            page.get_by_role("button", name="Filters").click()

    def renaming() -> None:
        board.card("Compare the three offers").get_by_role(
            "button", name="Compare the three offers", exact=True
        ).click()

    def selection() -> None:
        page.keyboard.press("Escape")
        page.get_by_role("checkbox", name="Select: Compare").check()

    def details() -> None:
        page.get_by_role("button", name="Clear selection").click()
        board.details("Compare the three offers").get_by_text("History").click()
        expect(page.get_by_role("dialog").get_by_role("listitem")).to_contain_text("Created")

    def deleted() -> None:
        board.details("Order new chairs").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("button", name="Undo")).to_be_visible()

    def conflict() -> None:
        page.get_by_role("button", name="Dismiss").click()
        dialog = board.details("Compare the three offers")
        service.change(ids[4], description="By Thursday, says Grace.")
        dialog.get_by_label("Description").fill("By Monday.")
        dialog.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="1 change needs you").click()
        expect(page.get_by_role("dialog")).to_be_visible()

    def no_match() -> None:
        page.get_by_label("Search").fill("nothing like it")
        expect(page.get_by_text("No task matches")).to_be_visible()

    def offline() -> None:
        page.get_by_label("Search").fill("")
        page.get_by_role("button", name="1 change needs you").click()
        page.get_by_role("button", name="Keep theirs").click()
        page.context.set_offline(True)
        board.add("Written on the train")
        expect(page.locator(".sign")).to_contain_text("No connection")

    return [
        ("filters", filters),
        ("renaming", renaming),
        ("selection", selection),
        ("details", details),
        ("deleted", deleted),
        ("conflict", conflict),
        ("no-match", no_match),
        ("offline", offline),
    ]


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_no_dialog_with_labels_breaks_a_rule(
    embedded: Service, visit: Visit, request: pytest.FixtureRequest, scheme: str, screen: dict[str, int]
) -> None:
    look = request.node.callspec.id
    embedded.create("Paint the wall", labels=[f"label {number}" for number in range(12)], project="Flat")
    board = visit(embedded.url, viewport=screen, color_scheme=scheme)
    page = board.page
    board.details("Paint the wall")
    check(page, f"labels-of-a-task-{look}")
    page.keyboard.press("Escape")
    if page.get_by_role("button", name="Filters").is_visible():
        page.get_by_role("button", name="Filters").click()
    page.get_by_role("button", name="Edit labels").click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).to_have_count(12)
    check(page, f"labels-{look}")


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_no_dialog_of_a_task_that_repeats_breaks_a_rule(
    embedded: Service, visit: Visit, request: pytest.FixtureRequest, scheme: str, screen: dict[str, int]
) -> None:
    look = request.node.callspec.id
    rule = {"recurrence": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH;COUNT=3", "time_zone": "Europe/Berlin"}
    embedded.create("Water the plants", due_at="2030-01-01T08:00:00Z", **rule)
    board = visit(embedded.url, viewport=screen, color_scheme=scheme)
    expect(board.card("Water the plants")).to_contain_text("\u21bb Every 2 weeks")
    check(board.page, f"repeating-{look}")
    dialog = board.details("Water the plants")
    dialog.get_by_label("How often").scroll_into_view_if_needed()
    check(board.page, f"repeats-weekly-{look}")
    dialog.get_by_label("How often").select_option("Monthly")
    dialog.get_by_label("Ends").select_option("on a day")
    check(board.page, f"repeats-monthly-{look}")


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_no_dialog_of_a_task_that_reminds_breaks_a_rule(
    embedded: Service, visit: Visit, request: pytest.FixtureRequest, scheme: str, screen: dict[str, int]
) -> None:
    look = request.node.callspec.id
    reminders = [{"before": "PT15M"}, {"before": "P1DT2H"}, {"at": "2029-12-24T12:00:00Z"}]
    embedded.create("Water the plants", due_at="2030-01-01T08:00:00Z", reminders=reminders)
    board = visit(embedded.url, viewport=screen, color_scheme=scheme)
    expect(board.card("Water the plants")).to_contain_text("\u23f0 3")
    check(board.page, f"reminding-{look}")
    dialog = board.details("Water the plants")
    dialog.get_by_label("Remind me").select_option("at a moment")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_be_visible()
    check(board.page, f"reminds-{look}")


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_loading_failing_and_help_break_no_rule(
    embedded: Service, visit: Visit, request: pytest.FixtureRequest, scheme: str, screen: dict[str, int]
) -> None:
    look = request.node.callspec.id
    board = visit("about:blank", viewport=screen, color_scheme=scheme, service_workers="block")
    page = board.page
    page.route("**/tasks/changes?*", lambda _: None)  # never answered
    page.goto(embedded.url)
    expect(page.get_by_text("Loading tasks…")).to_be_visible()
    check(page, f"loading-{look}")
    page.unroute_all(behavior="ignoreErrors")
    page.route("**/tasks/changes?*", lambda route: route.abort())
    page.goto(embedded.url)
    expect(page.get_by_text("The tasks cannot be loaded")).to_be_visible()
    check(page, f"failed-{look}")
    page.get_by_role("button", name="Try again").click()
    page.unroute_all()
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    if screen == DESKTOP:
        page.get_by_role("button", name="Keyboard").click()
        check(page, f"help-{look}")


@pytest.mark.parametrize(("scheme", "screen"), SIGHTS)
def test_no_page_about_the_account_breaks_a_rule(
    services: Callable[[str, str], str],
    visit: Visit,
    request: pytest.FixtureRequest,
    scheme: str,
    screen: dict[str, int],
) -> None:
    look = request.node.callspec.id
    board = visit(services("sqlite", "on"), viewport=screen, color_scheme=scheme)
    page = board.page
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    check(page, f"sign-in-{look}")
    page.get_by_role("button", name="I need an account").click()
    page.get_by_label("E-mail address").fill(address())
    page.get_by_label("Password").fill("password1234")
    page.get_by_role("button", name="Create an account").click()
    expect(page.get_by_role("alert").filter(has_text="common")).to_be_visible()
    check(page, f"register-{look}")
    page.get_by_role("button", name="I have an account").click()
    registered(board, address())
    page.get_by_role("button", name="Account").click()
    expect(page.get_by_text("This session")).to_be_visible()
    check(page, f"account-{look}")


def test_motion_is_left_out_for_those_who_ask(embedded: Service, visit: Visit) -> None:
    embedded.create("Gone soon")
    board = visit(embedded.url, reduced_motion="reduce")
    board.details("Gone soon").get_by_role("button", name="Delete").click()
    notice = board.page.locator(".notice")
    assert notice.evaluate("(element) => getComputedStyle(element).animationName") == "none"
