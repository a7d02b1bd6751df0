"""The load of the proofs, on the real service: it keeps its pace, and its ledger cannot be fooled."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from e2e.load import Load
from loadtests.record import Recorder, Requests, read
from tooling.service import running

KEY = "k1:" + "0123456789abcdefghijklmnopqrstuv"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"AUTH": "on", "JWT_KEYS": KEY, "LOG_LEVEL": "warning"}) as address:
        yield address


@pytest.fixture
def load(url: str, tmp_path: Path) -> Iterator[Load]:
    with Recorder(tmp_path / "record.jsonl") as recorder:
        yield Load(url, recorder, accounts=2)


def test_an_undisturbed_load_finds_each_write_once(load: Load) -> None:
    with load.running(40):
        time.sleep(1.5)
    acknowledged, wrong = load.audit()
    assert (load.failed, wrong) == ([], [])
    assert 0 < load.requests <= 65
    assert all(account.tasks for account in load.accounts)
    assert acknowledged == sum(len(account.tasks) for account in load.accounts)
    recorded = [entry for entry in read(load.recorder.path) if isinstance(entry, Requests)]
    assert {entry.endpoint for entry in recorded} == {"GET /tasks", "GET /tasks/<id>", "POST /tasks"}


def test_a_lost_a_doubled_and_an_unknown_write_are_found(load: Load, url: str) -> None:
    with load.running(40):
        time.sleep(1)
    account = load.accounts[0]
    lost, doubled = list(account.tasks)[:2]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {account.token}"}) as client:
        client.delete(f"/tasks/{account.tasks[lost]}").raise_for_status()
        for title in (doubled, "from nowhere"):
            client.post("/tasks", json={"title": title}).raise_for_status()
    _, wrong = load.audit()
    assert sorted(wrong) == sorted(
        [
            f"{lost}: acknowledged, and there 0 times",
            f"{doubled}: acknowledged, and there 2 times",
            "from nowhere: never written",
        ]
    )


def test_a_service_that_is_away_fails_requests_and_does_not_slow_the_clients(load: Load) -> None:
    load.url = "http://127.0.0.1:1"
    with load.running(40):
        time.sleep(1.5)
    assert len(load.failed) == load.requests
    assert 40 <= load.requests <= 65
    assert "ConnectError" in load.failed[0].what


def test_after_a_crash_clients_ask_once_more(load: Load) -> None:
    load.url, load.crash = "http://127.0.0.1:1", True
    with load.running(20):
        time.sleep(1)
    assert len(load.cut) == len(load.failed) == load.requests > 0
