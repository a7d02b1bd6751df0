"""Constant open-loop load, and a ledger of what was acknowledged.

Requests start when they are due, however late the responses are: a stalled service does not slow the clients down.
Every second request uses a connection of its own, the others share kept ones. No library retries a request, so that the
ledger knows of each.
"""

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from locust_verdict.record import Recorder
from locust_verdict.seconds import Seconds

TIMEOUT = 30.0
WRITE_EVERY = 4  # requests
RETRY_FOR = 90.0  # seconds
PAUSE = 0.5  # seconds
PAGE = 100


@dataclass(frozen=True)
class Trouble:
    """A failed request and its time (Unix seconds)."""

    at: float
    request: str
    what: str


@dataclass
class Account:
    """A client's account, and its tasks as they were acknowledged: title to id."""

    token: str
    tasks: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """When each was, and whether from memory: what a lost write is traced by."""
    unsure: set[str] = field(default_factory=set)


class Load:
    """A load on `url` by several accounts, written into a flight record.

    `resends` is how often a request is sent again, with its key, after its connection has broken or hung, as HTTP
    allows (RFC 9110, 9.2.2): at once, then after `PAUSE` seconds; each time counts as `cut`. While `outage` is set,
    clients expect 503 with Retry-After: they retry after that time with the same idempotency key, and the response
    counts as `refused` instead of `failed`. So does 409 with Retry-After, also for a minute after an outage: the key's
    first request may still be running.
    """

    def __init__(self, url: str, recorder: Recorder, *, accounts: int = 4) -> None:
        self.url = url
        self.recorder = recorder
        self.rate = 0.0
        self.outage = False
        self.resends = 0
        self.failed: list[Trouble] = []
        self.refused: list[Trouble] = []
        self.cut: list[Trouble] = []
        self.requests = 0
        self.run = secrets.token_hex(4)
        self.accounts = [self._register(number) for number in range(accounts)]
        self._seconds = Seconds()
        self._stop = False
        self._number = 0

    def _register(self, number: int) -> Account:
        credentials = {"email": f"e2e-{self.run}-{number}@example.com", "password": secrets.token_urlsafe(24)}
        with httpx.Client(base_url=self.url, timeout=TIMEOUT) as client:
            client.post("/auth/register", json=credentials).raise_for_status()
            return Account(client.post("/auth/login", json=credentials).raise_for_status().json()["access_token"])

    @contextmanager
    def running(self, rate: float) -> Iterator["Load"]:
        """Send `rate` requests a second until the block ends, and wait for the last responses."""
        self.rate, self._stop = rate, False
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._drive(started)))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._stop = True
            thread.join()

    async def _drive(self, started: threading.Event) -> None:
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        alone = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, limits=pool) as kept,
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, limits=alone) as fresh,
            asyncio.TaskGroup() as group,
        ):
            flusher = group.create_task(self._flush_often())
            due = time.monotonic()
            started.set()
            while not self._stop:
                due += 1 / self.rate
                await asyncio.sleep(max(due - time.monotonic(), 0))
                self._number += 1
                group.create_task(self._one(self._number, due, fresh if self._number % 2 else kept))
            flusher.cancel()
        self._flush()

    async def _one(self, number: int, due: float, client: httpx.AsyncClient) -> None:
        account = self.accounts[number // (2 * WRITE_EVERY) % len(self.accounts)]
        headers = {"Authorization": f"Bearer {account.token}"}
        if number // 2 % WRITE_EVERY == 0:
            await self._write(account, f"e2e {self.run} {number}", due, client, headers)
        elif number // 2 % WRITE_EVERY == 1 and account.tasks:
            identity = list(account.tasks.values())[-1]
            await self._send(client, "GET", f"/tasks/{identity}", "GET /tasks/<id>", due, headers)
        else:
            await self._send(client, "GET", f"/tasks?limit={PAGE}&sort=-id", "GET /tasks", due, headers)

    async def _write(
        self, account: Account, title: str, due: float, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        headers = {**headers, "Idempotency-Key": secrets.token_hex(16)}
        give_up = time.monotonic() + RETRY_FOR
        while True:
            response = await self._send(client, "POST", "/tasks", "POST /tasks", due, headers, {"title": title})
            if response is not None and response.status_code == httpx.codes.CREATED:
                account.tasks[title] = response.json()["id"]
                replayed = " as a replay" * ("Idempotency-Replayed" in response.headers)
                account.acknowledged[title] = f" at {datetime.now(UTC):%T.%f}{replayed}"
                return
            account.unsure.add(title)
            if not self._told_to_wait(response) or time.monotonic() > give_up:
                return
            assert response is not None  # it has a Retry-After
            await asyncio.sleep(float(response.headers["Retry-After"]))
            due = time.monotonic()

    def _told_to_wait(self, response: httpx.Response | None) -> bool:
        if response is None or "Retry-After" not in response.headers:
            return False
        unavailable, in_flight = httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.CONFLICT
        return response.status_code == in_flight or (self.outage and response.status_code == unavailable)

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        name: str,
        due: float,
        headers: dict[str, str],
        body: object = None,
        *,
        sent_before: int = 0,
    ) -> httpx.Response | None:
        sent = time.monotonic()
        response: httpx.Response | None = None
        problem = ""
        try:
            response = await client.request(method, path, headers=headers, json=body)
        except httpx.TransportError as error:
            problem = f"{type(error).__name__}: {error}"
            if sent_before < self.resends:
                self.cut.append(Trouble(time.time(), name, problem))
                await asyncio.sleep(PAUSE if sent_before else 0)
                return await self._send(client, method, path, name, due, headers, body, sent_before=sent_before + 1)
        else:
            if not response.is_success:
                problem = f"{response.status_code}: {response.text[:200]}"
        ended = time.monotonic()
        self.requests += 1
        self._seconds.add(name, time.time(), (ended - sent) * 1000, late=(sent - due) * 1000, failed=bool(problem))
        if problem:
            kept = self.refused if self._told_to_wait(response) else self.failed
            kept.append(Trouble(time.time(), name, problem))
        return response

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._flush()

    def _flush(self) -> None:
        for requests in self._seconds.take():
            self.recorder.write(requests)

    def audit(self) -> tuple[int, list[str]]:
        """Read back every account's tasks; return how many writes were acknowledged, and what is wrong with them.

        An acknowledged write must be there once. One that was never acknowledged may be there, but not twice.
        """
        wrong, acknowledged = [], 0
        with httpx.Client(base_url=self.url, timeout=TIMEOUT) as client:
            for account in self.accounts:
                counts = Counter(titles(client, account.token))
                acknowledged += len(account.tasks)
                wrong += [
                    f"{title}: acknowledged{account.acknowledged.get(title, '')}, and there {counts[title]} times"
                    for title in account.tasks
                    if counts[title] != 1
                ]
                wrong += [
                    f"{title}: there {counts[title]} times"
                    for title in account.unsure - set(account.tasks)
                    if counts[title] > 1
                ]
                wrong += [f"{title}: never written" for title in set(counts) - set(account.tasks) - account.unsure]
        return acknowledged, wrong


def titles(client: httpx.Client, token: str) -> Iterator[str]:
    """Yield the titles of all tasks of the account with this access token."""
    url: str | httpx.URL = f"/tasks?limit={PAGE}"
    while url:
        response = client.get(url, headers={"Authorization": f"Bearer {token}"}).raise_for_status()
        yield from (task["title"] for task in response.json())
        url = response.links.get("next", {}).get("url", "")
