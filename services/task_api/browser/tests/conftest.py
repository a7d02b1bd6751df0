"""One browser for all tests, a service for each database, and each test's people in contexts of their own."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tooling.postgres import postgres
from tooling.project import REPORTS
from tooling.service import NO_AUTHORITIES, running
from tooling.tools import MissingTool, require

SCREENSHOTS = REPORTS / "browser"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
BULK = 1000
PATIENCE_MILLISECONDS = float(os.environ.get("EXPECT_SECONDS", "30")) * 1000
"""How long anything may take on a slow machine: longer than the page's own pauses before it sends again."""

expect.set_options(timeout=PATIENCE_MILLISECONDS)


@pytest.fixture(scope="session")
def source() -> dict[str, str]:
    """Return settings by which the service runs from the folder that SERVICE_SOURCE names: a canary's."""
    folder = os.environ.get("SERVICE_SOURCE")
    return {"PYTHONPATH": folder} if folder else {}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    try:
        program = require("chromium")
    except MissingTool as error:
        pytest.exit(str(error), returncode=2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def services(source: dict[str, str]) -> Iterator[Callable[[str, str], str]]:
    """Return a function that returns the URL of a service on a database, with or without accounts."""
    with ExitStack() as stack:
        made: dict[tuple[str, str], str] = {}

        def url(database: str, accounts: str) -> str:
            if (database, accounts) not in made:
                settings = {"AUTH": accounts, "RATE_LIMIT": "off", "REGISTRATION_LIMIT": "off", **source}
                if accounts == "on":
                    settings["JWT_KEYS"] = f"k1:{secrets.token_urlsafe(32)}"
                if database == "postgresql":
                    settings["DATABASE_URL"] = stack.enter_context(postgres())
                made[database, accounts] = stack.enter_context(running(settings))
            return made[database, accounts]

        yield url


class Service:
    """A service without accounts, as a program sees it; it is empty at first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, verify=NO_AUTHORITIES, timeout=30)
        while tasks := self.tasks():
            with suppress(httpx.HTTPStatusError):  # the page of the last test may delete one meanwhile
                self.bulk([{"op": "delete", "id": task["id"]} for task in tasks])

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def tasks(self) -> list[dict[str, Any]]:
        """Return all tasks, by id."""
        tasks: list[dict[str, Any]] = []
        path: str | None = "/tasks?limit=200"
        while path:
            answer = self.client.get(path).raise_for_status()
            tasks += answer.json()
            path = answer.links.get("next", {}).get("url")
        return tasks

    def titles(self) -> list[str]:
        """Return the titles of all tasks, in order."""
        return sorted(task["title"] for task in self.tasks())

    def bulk(self, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do operations; return the tasks."""
        results = []
        for at in range(0, len(operations), BULK):
            answer = self.client.post("/tasks/bulk", json={"operations": operations[at : at + BULK]})
            results += answer.raise_for_status().json()["results"]
        return [result["task"] for result in results]

    def create(self, *titles: str, **fields: Any) -> list[dict[str, Any]]:
        """Create a task of each title."""
        return self.bulk([{"op": "create", "task": {"title": title, **fields}} for title in titles])

    def change(self, task_id: int, **changes: Any) -> None:
        """Change a task, as somebody else does."""
        self.bulk([{"op": "update", "id": task_id, "changes": changes}])


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, services: Callable[[str, str], str]) -> Iterator[Service]:
    """An empty service without accounts, on each database."""
    with closing(Service(services(request.param, "off"))) as service:
        yield service


@pytest.fixture
def embedded(services: Callable[[str, str], str]) -> Iterator[Service]:
    """An empty service without accounts on SQLite, where the database makes no difference."""
    with closing(Service(services("sqlite", "off"))) as service:
        yield service


@pytest.fixture(params=["sqlite", "postgresql"])
def guarded(request: pytest.FixtureRequest, services: Callable[[str, str], str]) -> str:
    """The URL of a service with accounts."""
    return services(request.param, "on")


People = Callable[..., BrowserContext]


@pytest.fixture
def people(chromium: Browser) -> Iterator[People]:
    """Return a function that returns the browser of another person; every error of a script fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def person(**options: Any) -> BrowserContext:
        context = chromium.new_context(
            **{"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options}
        )
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on(
            "console",
            lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None,
        )
        contexts.append(context)
        return context

    yield person
    for context in contexts:
        context.close()
    assert errors == []


class Board:
    """The page, by what a person can see and do."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def column(self, name: str) -> Any:
        """Return the column of that heading."""
        return self.page.get_by_role("region", name=name)

    def card(self, title: str) -> Any:
        """Return the card of a task."""
        return self.page.get_by_role("listitem").filter(has=self.page.get_by_role("button", name=title, exact=True))

    def add(self, title: str) -> None:
        """Create a task, and wait until the page has it: before, its sign does not know of the change."""
        self.page.get_by_label("New task").fill(title)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("button.title", has_text=title).first).to_be_attached()

    def saved(self) -> None:
        """Wait until nothing waits to be sent."""
        expect(self.page.locator(".sign")).to_have_text("All changes saved")

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so that the page does not show."""
        for _ in range(int(PATIENCE_MILLISECONDS / 100)):
            if reached():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("what was waited for has not come about")

    def details(self, title: str) -> Any:
        """Open the dialog of a task."""
        self.page.get_by_role("button", name=f"Details: {title}").click()
        return self.page.get_by_role("dialog")


@pytest.fixture
def visit(people: People) -> Callable[..., Board]:
    """Return a function that opens the page in a browser of its own, or in that of a context."""

    def opened(url: str, context: BrowserContext | None = None, **options: Any) -> Board:
        page = (context or people(**options)).new_page()
        page.goto(url)
        return Board(page)

    return opened


Visit = Callable[..., Board]


def screenshot(page: Page, name: str) -> None:
    """Keep a picture of the page."""
    Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
