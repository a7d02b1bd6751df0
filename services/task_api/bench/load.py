"""Load on one server over keep-alive connections, and the CPU time that it costs."""

import json
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Concatenate, ParamSpec, Self
from urllib.parse import urlsplit

import psutil

P = ParamSpec("P")
CONNECTIONS = 4
TIMEOUT = 60.0
"""Seconds; a busy machine must not end a measure."""

TASKS_BEFORE = 1000
MIX = {"get": 50, "list": 20, "update": 15, "create": 10, "delete": 5}
"""Percent of the mixed load."""


class UnexpectedResponseError(Exception):
    """A response has another status than expected, so that its cost means nothing."""


@dataclass
class Server:
    """A running server: its address, its first process, and the headers of its requests.

    `database` is the first process of a database server that works for it alone.
    """

    name: str
    url: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)
    owned: list[list[int]] = field(default_factory=lambda: [[] for _ in range(CONNECTIONS)])
    """The ids of the tasks that each connection reads and writes."""

    database: int | None = None


class Client:
    """One keep-alive connection."""

    def __init__(self, server: Server) -> None:
        self.connection = HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT)
        self.headers = {**server.headers, "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def request(self, method: str, path: str, body: object = None, *, expected: int = 200) -> tuple[bytes, str | None]:
        """Return the response's body and Link header. Raises `UnexpectedResponseError` for another status."""
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        response = self.connection.getresponse()
        content = response.read()
        if response.status != expected:
            raise UnexpectedResponseError(
                f"{method} {path} returned {response.status}: {content[:500].decode(errors='replace')}"
            )
        return content, response.headers["Link"]

    def create(self, number: int) -> int:
        """Create a task and return its id."""
        body = {
            "title": f"Write report {number}",
            "description": "The figures of the week, with a picture.",
            "priority": "high",
        }
        created, _ = self.request("POST", "/tasks", body, expected=201)
        return int(json.loads(created)["id"])


def in_parallel(work: Callable[[int], None]) -> None:
    """Call `work` with each connection's number, each in a thread; raise the first error."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(work, range(CONNECTIONS)))


def fill(server: Server) -> None:
    """Create the tasks that the mixed load reads and changes."""

    def work(index: int) -> None:
        with Client(server) as client:
            server.owned[index] = [client.create(number) for number in range(TASKS_BEFORE // CONNECTIONS)]

    in_parallel(work)


def mixed(server: Server, requests: int, seed: int, mix: Mapping[str, int] = MIX) -> None:
    """Send about `requests` requests of the mix, the same ones for the same `seed`, over all connections at once."""

    def work(index: int) -> None:
        ids = server.owned[index]
        chance = random.Random(f"{seed}/{index}")
        kinds = chance.choices(list(mix), list(mix.values()), k=requests // CONNECTIONS)
        with Client(server) as client:
            for number, kind in enumerate(kinds):
                send(client, kind, number, ids, chance)

    in_parallel(work)


def send(client: Client, kind: str, number: int, ids: list[int], chance: random.Random) -> None:
    """Send one request of the mix for one of the tasks `ids`."""
    match kind:
        case "get":
            client.request("GET", f"/tasks/{chance.choice(ids)}")
        case "list":
            client.request("GET", "/tasks?limit=20")
        case "create":
            ids.append(client.create(number))
        case "update":
            status = chance.choice(("pending", "completed"))
            client.request("PUT", f"/tasks/{chance.choice(ids)}", {"status": status})
        case "rename":
            client.request("PUT", f"/tasks/{chance.choice(ids)}", {"title": f"Title {chance.random()}"})
        case "delete":
            client.request("DELETE", f"/tasks/{ids.pop(chance.randrange(len(ids)))}")


def repeated(server: Server, requests: int, path: str) -> None:
    """Send `requests` GET requests for `path` in all, over all connections at once."""

    def work(_index: int) -> None:
        with Client(server) as client:
            for _ in range(requests // CONNECTIONS):
                client.request("GET", path)

    in_parallel(work)


def processes(pid: int) -> list[psutil.Process]:
    """Return the process and its descendants."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds, user and system, of the process and its descendants, ended ones included."""
    total = 0.0
    for process in processes(pid):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def cost(load: Callable[Concatenate[Server, P], None], server: Server, *args: P.args, **kwargs: P.kwargs) -> float:
    """Return the CPU seconds that the server, with its database, spends under `load`."""
    pids = [pid for pid in (server.pid, server.database) if pid is not None]
    before = sum(map(cpu_seconds, pids))
    load(server, *args, **kwargs)
    return sum(map(cpu_seconds, pids)) - before
