"""Load on one server by keep-alive connections, and what its processes spent on it."""

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Concatenate, ParamSpec, Self
from urllib.parse import urlsplit

import psutil

P = ParamSpec("P")
CONNECTIONS = 4
TASKS_BEFORE = 1000
MIX = {"get": 50, "list": 20, "update": 15, "create": 10, "delete": 5}
"""Parts in a hundred of the mixed load."""


class UnexpectedAnswerError(Exception):
    """A request of the load was not answered as it must be, so its cost means nothing."""


@dataclass
class Server:
    """A server that runs: where it listens, its first process, and the headers that requests to it carry."""

    name: str
    url: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)
    owned: list[list[int]] = field(default_factory=lambda: [[] for _ in range(CONNECTIONS)])
    """The ids of the tasks that each connection reads and writes."""


class Client:
    """One keep-alive connection."""

    def __init__(self, server: Server) -> None:
        self.connection = HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        self.headers = {**server.headers, "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def request(self, method: str, path: str, body: object = None, *, expected: int = 200) -> tuple[bytes, str | None]:
        """Give the answer's body and Link header. Raises `UnexpectedAnswerError` for another status than EXPECTED."""
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != expected:
            raise UnexpectedAnswerError(
                f"{method} {path} was answered {response.status}: {answer[:500].decode(errors='replace')}"
            )
        return answer, response.headers["Link"]

    def create(self, number: int) -> int:
        """Create a task and give its id."""
        body = {
            "title": f"Write report {number}",
            "description": "The figures of the week, with a picture.",
            "priority": "high",
        }
        created, _ = self.request("POST", "/tasks", body, expected=201)
        return int(json.loads(created)["id"])


def in_parallel(work: Callable[[int], None]) -> None:
    """Call WORK with each connection's number, each in a thread; raise the first error that one of them met."""
    errors: list[Exception] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def fill(server: Server) -> None:
    """Create the tasks that are there before the mixed load."""

    def work(index: int) -> None:
        with Client(server) as client:
            server.owned[index] = [client.create(number) for number in range(TASKS_BEFORE // CONNECTIONS)]

    in_parallel(work)


def mixed(server: Server, requests: int, seed: int) -> None:
    """Send about REQUESTS requests of the mix, the same ones for the same SEED, over all connections at once."""

    def work(index: int) -> None:
        ids = server.owned[index]
        chance = random.Random(f"{seed}/{index}")
        kinds = chance.choices(list(MIX), list(MIX.values()), k=requests // CONNECTIONS)
        with Client(server) as client:
            for number, kind in enumerate(kinds):
                send(client, kind, number, ids, chance)

    in_parallel(work)


def send(client: Client, kind: str, number: int, ids: list[int], chance: random.Random) -> None:
    """Send one request of the mix, about one of the tasks IDS."""
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
        case "delete":
            client.request("DELETE", f"/tasks/{ids.pop(chance.randrange(len(ids)))}")


def repeated(server: Server, requests: int, path: str) -> None:
    """GET the same PATH, REQUESTS times in all, over all connections at once."""

    def work(_index: int) -> None:
        with Client(server) as client:
            for _ in range(requests // CONNECTIONS):
                client.request("GET", path)

    in_parallel(work)


def processes(pid: int) -> list[psutil.Process]:
    """Give the process and all that descend from it."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Give the CPU time, user and system, of the process and its descendants, those that ended included."""
    total = 0.0
    for process in processes(pid):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def cost(load: Callable[Concatenate[Server, P], None], server: Server, *args: P.args, **kwargs: P.kwargs) -> float:
    """Give the CPU seconds that the server spends while LOAD is on it."""
    before = cpu_seconds(server.pid)
    load(server, *args, **kwargs)
    return cpu_seconds(server.pid) - before
