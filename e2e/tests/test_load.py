"""The load of the proofs, on the real service: it keeps its pace, and its ledger cannot be fooled."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from e2e.load import Load
from locust_verdict.record import Recorder, Requests, read
from tooling.service import running

PATIENCE = 120.0  # seconds: no outcome depends on them
ENDPOINTS = {"GET /tasks", "GET /tasks/<id>", "POST /tasks"}
KEY = "k1:" + "0123456789abcdefghijklmnopqrstuv"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"AUTH": "on", "JWT_KEYS": KEY, "LOG_LEVEL": "warning"}) as address:
        yield address


@pytest.fixture
def load(url: str, tmp_path: Path) -> Iterator[Load]:
    with Recorder(tmp_path / "record.jsonl") as recorder:
        yield Load(url, recorder, accounts=2)


def until(condition: Callable[[], object]) -> None:
    """Wait for what a load does in the end, however slow the machine is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the load does not come to it"
        time.sleep(0.05)


def endpoints(load: Load) -> set[str]:
    """Return the endpoints in the load's record so far."""
    return {entry.endpoint for entry in read(load.recorder.path) if isinstance(entry, Requests)}


def test_an_undisturbed_load_finds_each_write_once(load: Load) -> None:
    started = time.monotonic()
    with load.running(40):
        until(lambda: endpoints(load) == ENDPOINTS and all(account.tasks for account in load.accounts))
    due = 40 * (time.monotonic() - started)
    acknowledged, wrong = load.audit()
    assert (load.failed, wrong) == ([], [])
    assert 0 < load.requests <= due + 1
    assert acknowledged == sum(len(account.tasks) for account in load.accounts)


def test_a_lost_a_doubled_and_an_unknown_write_are_reported(load: Load, url: str) -> None:
    account = load.accounts[0]
    with load.running(40):
        until(lambda: len(account.tasks) > 1)
    lost, doubled = list(account.tasks)[:2]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {account.token}"}) as client:
        client.delete(f"/tasks/{account.tasks[lost]}").raise_for_status()
        for title in (doubled, "from nowhere"):
            client.post("/tasks", json={"title": title}).raise_for_status()
    _, wrong = load.audit()
    assert sorted(wrong) == sorted(
        [
            f"{lost}: acknowledged{account.acknowledged[lost]}, and there 0 times",
            f"{doubled}: acknowledged{account.acknowledged[doubled]}, and there 2 times",
            "from nowhere: never written",
        ]
    )


def test_a_service_that_is_away_fails_requests_and_does_not_slow_the_clients(load: Load) -> None:
    load.url = "http://127.0.0.1:1"
    started = time.monotonic()
    with load.running(40):
        until(lambda: load.requests >= 40)
    due = 40 * (time.monotonic() - started)
    assert len(load.failed) == load.requests <= due + 1
    assert "ConnectError" in load.failed[0].what


def test_after_a_crash_clients_ask_once_more(load: Load) -> None:
    load.url, load.resends = "http://127.0.0.1:1", 1
    with load.running(20):
        until(lambda: load.requests)
    assert len(load.cut) == len(load.failed) == load.requests > 0


def test_a_late_request_belongs_to_the_second_of_its_intended_start(tmp_path: Path) -> None:
    late = 60.0
    with Recorder(tmp_path / "record.jsonl") as recorder:
        load = Load("http://service.example", recorder, accounts=0)

        async def send() -> None:
            transport = httpx.MockTransport(lambda _: httpx.Response(200))
            async with httpx.AsyncClient(transport=transport, base_url=load.url) as client:
                await load._send(client, "GET", "/tasks", "GET /tasks", time.monotonic() - late, {})

        asyncio.run(send())
        load._flush()
    entries = [entry for entry in read(tmp_path / "record.jsonl") if isinstance(entry, Requests)]
    (intended,) = [entry for entry in entries if entry.intended]
    ended = max(entry.at for entry in entries)
    assert ended - intended.at >= late - 1, "a stall spoils the seconds that it lasts, not the one in which it ends"
