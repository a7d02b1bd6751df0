"""Who uses the Task API, for Locust.

Each user has an account of its own where the service has accounts. Requests are named as the service names them in its
metrics, by the route's template.

Closed loop: a user thinks after each response, so a slow service gets fewer requests. Open loop (`--rate`): arrivals
are Poisson processes that do not wait for the service. An idle user takes the next arrival; when all users are busy it
starts late, and its lateness is added to the latency "from the intended start" (else: coordinated omission).
"""

import os
import random
import re
import secrets
from http import HTTPStatus
from time import perf_counter, sleep
from typing import Any, ClassVar, cast

from locust import FastHttpUser, task
from locust.contrib.fasthttp import FastResponse

from loadtests import data

ONE = "/tasks/<int:task_id>"
NEXT_PAGE = re.compile(r'<([^>]+)>; rel="next"')
SEEDED = 30
PATIENCE = 10
RECONNECT_EVERY = 20  # requests, on average
READ_OK = (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED)


def weight(name: str, default: int) -> int:
    """Return a user's weight: the environment's LOAD_WEIGHT_`name`, or the default. Raises ValueError if invalid."""
    text = os.environ.get(f"LOAD_WEIGHT_{name}", str(default))
    if not text.isdecimal():
        raise ValueError(f"LOAD_WEIGHT_{name} has to be a whole number, not {text!r}")
    return int(text)


def header(answer: FastResponse, name: str) -> str:
    """Return a header of an answer, empty where it lacks it or where there was no answer."""
    return str(answer.headers.get(name, "")) if answer.headers else ""


class Arrivals:
    """The arrivals of one class of users in this process: a Poisson process, the faster the more users there are."""

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._next = 0.0

    def join(self, user: object) -> None:
        """Let a user have a share from now on."""
        if not self._users:
            self._next = perf_counter()
        self._users.add(user)

    def leave(self, user: object) -> None:
        """Take the user's share away, if it had one."""
        self._users.discard(user)

    def take(self, source: random.Random, rate_per_user: float) -> float:
        """Return the moment of the next arrival, on the clock of `perf_counter`; it is nobody else's."""
        self._next += source.expovariate(rate_per_user * len(self._users))
        return self._next


class Client(FastHttpUser):
    """What all users share: pacing, an account, and requests that know which answers are right."""

    abstract = True
    arrivals: ClassVar[Arrivals]
    pace: ClassVar[float] = 1  # how often this class's users come, next to a reader
    network_timeout = 60.0
    connection_timeout = 10.0

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        mean_pace = sum(kind.weight * kind.pace for kind in KINDS) / sum(kind.weight for kind in KINDS)
        share = self.pace / mean_pace / max(options.peak - 1, 1)  # one of the users is the yardstick
        self.rate = options.rate * share  # arrivals a second
        self.think = options.think / self.pace  # seconds
        self.random = random.Random()  # load, not secrets
        self.data = data.Maker(self.random)
        self.headers: dict[str, str] = {}
        self.intended = perf_counter()
        self.lateness: float | None = 0.0
        self.open_loop = bool(options.rate)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.arrivals = Arrivals()

    def wait_time(self) -> float:
        """Return the seconds until the next arrival."""
        now = perf_counter()
        if self.rate:
            self.intended = self.arrivals.take(self.random, self.rate)
        else:
            self.intended = now + (self.random.expovariate(1 / self.think) if self.think else 0)
        self.lateness = None
        return max(self.intended - now, 0)

    def context(self) -> dict[str, Any]:
        """Return for the record how late this arrival is (ms), in the open loop."""
        if self.lateness is None:
            self.lateness = (perf_counter() - self.intended) * 1000 if self.rate else 0.0
        return {"lateness": self.lateness} if self.open_loop else {}

    def prepare(self) -> None:
        """Do what comes before the work, such as logging in."""

    def on_start(self) -> None:
        """Prepare, then take part."""
        self.prepare()
        self.arrivals.join(self)
        self.intended = perf_counter()

    def on_stop(self) -> None:
        """Take no more arrivals."""
        self.arrivals.leave(self)

    def send(self, method: str, route: str, *, expect: tuple[int, ...] = (200,), **request: Any) -> FastResponse:
        """Send a request; any status but the expected ones is a failure. Returns the response either way."""
        request["headers"] = {**self.headers, **request.get("headers", {})}
        if self.random.random() < 1 / RECONNECT_EVERY:  # clients come and go, and so reach pods that are new
            request["headers"]["Connection"] = "close"
        path = request.pop("path", route)
        with self.client.request(method, path, name=route, catch_response=True, **request) as answer:
            if answer.status_code not in expect:
                problem = str(answer.error) if answer.status_code == 0 else (answer.text or "")[:200]
                answer.failure(f"{method} {route} answered {answer.status_code}: {problem}")
            else:
                answer.success()
        return cast("FastResponse", answer)

    def sign_in(self) -> dict[str, Any] | None:
        """Register and log in; return the tokens, or None where the service has no accounts."""
        if not self.environment.parsed_options.accounts:
            return None
        account = {"email": f"load-{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(16)}
        self.prove("/auth/register", account, HTTPStatus.CREATED)
        answer = self.prove("/auth/login", account, HTTPStatus.OK)
        return self.accept(answer.json()) if answer.status_code == HTTPStatus.OK else None

    def prove(self, route: str, account: dict[str, str], expected: int) -> FastResponse:
        """Send a password. The service takes on few at once: it answers 429 to the others, who wait and try again."""
        for _ in range(PATIENCE):
            answer = self.send("POST", route, json=account, expect=(expected, HTTPStatus.TOO_MANY_REQUESTS))
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                return answer
            sleep(int(header(answer, "Retry-After")) * self.random.uniform(1, 2))
        return self.send("POST", route, json=account, expect=(expected,))

    def accept(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """Use an access token from now on."""
        self.headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        return tokens

    def create_many(self, number: int) -> list[int]:
        """Create tasks by one bulk request and return their ids."""
        operations = [{"op": "create", "task": self.data.task()} for _ in range(number)]
        answer = self.send("POST", "/tasks/bulk", json={"operations": operations})
        return [result["id"] for result in answer.json()["results"]] if answer.status_code == HTTPStatus.OK else []

    def list_tasks(self, query: str = "", headers: dict[str, str] | None = None) -> FastResponse:
        """List tasks."""
        path = f"/tasks?{query}" if query else "/tasks"
        return self.send("GET", "/tasks", path=path, expect=READ_OK, headers=headers or {})

    def get_task(self, task_id: int, headers: dict[str, str] | None = None) -> FastResponse:
        """Get one task."""
        return self.send("GET", ONE, path=f"/tasks/{task_id}", expect=READ_OK, headers=headers or {})

    def next_page(self, answer: FastResponse) -> FastResponse | None:
        """Follow a list's link to its next page, if it has one."""
        link = NEXT_PAGE.search(header(answer, "Link"))
        return self.send("GET", "/tasks", path=link[1]) if link else None


class SignedIn(Client):
    """A user who is logged in already when the work begins."""

    abstract = True

    def prepare(self) -> None:
        self.sign_in()


class Reader(SignedIn):
    """Looks at lists, pages and single tasks; knows entity tags."""

    weight = weight("READER", 12)

    def prepare(self) -> None:
        super().prepare()
        self.ids = self.create_many(SEEDED)
        self.tags: dict[int, str] = {}

    @task(5)
    def look_at_one(self) -> None:
        if not self.ids:
            return self.filter_and_sort()
        task_id = self.random.choice(self.ids)
        tag = self.tags.get(task_id)
        answer = self.get_task(task_id, {"If-None-Match": tag} if tag else None)
        if answer.status_code == HTTPStatus.OK:
            self.tags[task_id] = header(answer, "ETag")
        return None

    @task(3)
    def filter_and_sort(self) -> None:
        self.list_tasks(self.data.query())

    @task(1)
    def leaf_through(self) -> None:
        page: FastResponse | None = self.list_tasks("limit=10")
        for _ in range(3):
            if page is None or not (page := self.next_page(page)):
                break


class Writer(SignedIn):
    """Creates, changes and deletes tasks; never overwrites what it has not seen."""

    weight = weight("WRITER", 4)

    def prepare(self) -> None:
        super().prepare()
        self.tags: dict[int, str] = {}

    @task(4)
    def create(self) -> None:
        key = {"Idempotency-Key": secrets.token_hex(16)}
        answer = self.send("POST", "/tasks", json=self.data.task(), headers=key, expect=(201,))
        if answer.status_code == HTTPStatus.CREATED:
            self.tags[answer.json()["id"]] = header(answer, "ETag")

    @task(3)
    def change(self) -> None:
        if not self.tags:
            return self.create()
        task_id = self.random.choice(list(self.tags))
        headers = {"Content-Type": "application/merge-patch+json", "If-Match": self.tags[task_id]}
        patch = {"status": self.random.choice(data.STATUSES), "due_at": self.data.due()}
        answer = self.send("PATCH", ONE, path=f"/tasks/{task_id}", json=patch, headers=headers)
        if answer.status_code == HTTPStatus.OK:
            self.tags[task_id] = header(answer, "ETag")
        return None

    @task(2)
    def delete(self) -> None:
        if not self.tags:
            return self.create()
        task_id, tag = self.tags.popitem()
        self.send("DELETE", ONE, path=f"/tasks/{task_id}", headers={"If-Match": tag})
        return None


class Session(Client):
    """An account's whole session each time: register, log in, work, refresh, work, log out."""

    weight = weight("SESSION", 1)
    pace = 0.1

    @task
    def whole_session(self) -> None:
        self.headers = {}
        tokens = self.sign_in()
        if tokens:
            self.send("GET", "/auth/me")
        ids = self.create_many(12)
        page = self.list_tasks("limit=5")
        self.next_page(page)
        tag = header(page, "ETag")
        self.list_tasks("limit=5", {"If-None-Match": tag})
        self.list_tasks(self.data.query())
        if tokens:
            answer = self.send("POST", "/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
            if answer.status_code == HTTPStatus.OK:
                self.accept(answer.json())
        for task_id in ids[:3]:
            self.get_task(task_id)
        if tokens:
            self.send("POST", "/auth/logout", expect=(204,))


class Importer(SignedIn):
    """Brings in many tasks at once, and clears them away again."""

    weight = weight("IMPORTER", 1)
    pace = 0.2

    @task
    def import_and_clear(self) -> None:
        ids = self.create_many(self.random.randint(20, 100))
        if ids:
            operations = [{"op": "delete", "id": task_id} for task_id in ids]
            self.send("POST", "/tasks/bulk", json={"operations": operations})


class Yardstick(Client):
    """Sends the cheapest request about twenty times a second, to distinguish a slow machine from a slow service."""

    fixed_count = 1

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.rate, self.think = 0.0, 0.05  # always closed: its own queue would show nothing about the machine

    @task
    def livez(self) -> None:
        self.send("GET", "/livez")


KINDS = (Reader, Writer, Session, Importer)
