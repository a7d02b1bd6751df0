"""The proof "page": the board stays open in a browser while the service under it is replaced, and people go on."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import httpx
from playwright.sync_api import Page, Response, expect, sync_playwright

from e2e.load import titles
from e2e.proofs import DEPLOYMENT, Bench, Proof, next_version
from tooling.deploy import release, rollout
from tooling.tools import require

PATIENCE = 120.0  # seconds: no outcome depends on them
PAUSE = 1.0  # seconds between two changes, as a person makes them
SAVED = "All changes saved"
KEPT = "window.keptOpen"


def staying_open(bench: Bench, proof: Proof) -> None:
    """A person who edits tasks while the service is rolled out and back sees a sign at most, and loses nothing."""
    newer, credentials = next_version(bench.image), {"email": address(), "password": secrets.token_urlsafe(24)}
    with open_page(bench.target.url()) as page:
        errors, failing, signs = list[str](), list[str](), Counter[str]()
        page.context.on("weberror", lambda error: errors.append(str(error.error)))
        page.on("requestfailed", lambda request: failing.append(f"{request.method} {request.url}: {request.failure}"))
        page.on(
            "response", lambda reply: failing.append(f"{reply.status} {reply.url}") if server_error(reply) else None
        )
        sign_in(page, bench.target.url(), credentials)
        page.evaluate(f"{KEPT} = true")
        numbers, written = count(1), dict[str, None]()

        def change() -> None:
            number = next(numbers)
            created, renamed = f"task {number}", f"task {number}, renamed"
            page.get_by_label("New task").fill(created)
            page.keyboard.press("Enter")
            page.get_by_role("button", name=created, exact=True).click()
            page.get_by_label(f"Rename: {created}").fill(renamed)
            page.keyboard.press("Enter")
            written[renamed] = None
            signs[page.locator(".sign").inner_text()] += 1
            page.wait_for_timeout(PAUSE * 1000)

        with proof.phase("calm", settle=0):
            for _ in range(5):
                change()
        with proof.phase("rolling update", settle=0):
            meanwhile(change, lambda: release.deploy(bench.target, newer, proof.steps))
        with proof.phase("rollback", settle=0) as log:
            meanwhile(change, lambda: rollout.roll_back(bench.kube, DEPLOYMENT, log))
        with proof.phase("after it", settle=0) as log:
            change()
            expect(page.locator(".sign")).to_have_text(SAVED, timeout=PATIENCE * 1000)
            log(f"{len(written)} tasks were created and renamed")
        proof.check("the page was never loaded anew", kept := page.evaluate(f"{KEPT} === true"), bool(kept))
    with httpx.Client(base_url=bench.target.url(), timeout=30) as client:
        token = client.post("/auth/login", json=credentials).raise_for_status().json()["access_token"]
        held = Counter(titles(client, token))
    wrong = [
        f"{title}: there {held[title]} times, written {int(title in written)} times"
        for title in sorted(written.keys() | held.keys())
        if held[title] != int(title in written)
    ]
    proof.check("each change is there once", f"{len(written)} tasks, {len(wrong)} wrong", bool(written) and not wrong)
    proof.check("no error of a script", len(errors), not errors)
    shown = ", ".join(f"{text!r} {times} times" for text, times in signs.most_common())
    proof.notes += [f"the sign after each change: {shown}", *errors, *wrong]
    proof.notes.append("\n".join([f"{len(failing)} requests failed, and were sent again by the page:", *failing[:20]]))


def server_error(response: Response) -> bool:
    """Return whether the service, or what is before it, could not answer."""
    return httpx.codes.is_server_error(response.status)


def address() -> str:
    """Return the address of a person who has no account yet."""
    return f"e2e-{secrets.token_hex(8)}@example.com"


@contextmanager
def open_page(url: str) -> Iterator[Page]:
    """Open the board in Chromium. Raises `MissingTool` where there is none."""
    program = require("chromium")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]  # of a container, in which Chromium may run
        with playwright.chromium.launch(executable_path=program, args=flags) as browser:
            page = browser.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.goto(url)
            yield page


def sign_in(page: Page, url: str, credentials: dict[str, str]) -> None:
    """Make the account, and sign in to it through the page."""
    httpx.post(f"{url}/auth/register", json=credentials, timeout=30).raise_for_status()
    page.get_by_label("E-mail address").fill(credentials["email"])
    page.get_by_label("Password").fill(credentials["password"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("No tasks yet")).to_be_visible(timeout=PATIENCE * 1000)


def meanwhile(change: Callable[[], None], work: Callable[[], object]) -> None:
    """Go on with changes until `work`, in a thread of its own, is done. Raises what it raises."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        while not done.done():
            change()
        done.result()
