"""Checks that a server has every compared feature; run on each before any is measured."""

import json
from pathlib import Path

import httpx

from services.task_api.bench.load import TIMEOUT

FIELDS = {
    "id",
    "title",
    "description",
    "status",
    "priority",
    "due_at",
    "project",
    "labels",
    "recurrence",
    "time_zone",
    "reminders",
    "created_at",
    "updated_at",
}
BAD_BODIES: tuple[object, ...] = (
    {},
    {"title": ""},
    {"title": "x" * 201},
    {"title": "x", "status": "lost"},
    {"title": "x", "priority": 7},
    {"title": "x", "color": "red"},
    {"title": "x", "due_at": "2026-12-01T10:00:00"},
    [],
)
COUNTED = 'api_requests_total{endpoint="/tasks'
LOGGED = {"time", "level", "message", "method", "route", "status", "duration_ms", "account", "request_id"}


class NotEqualError(Exception):
    """A server lacks a compared feature."""


def require(holds: object, what: str) -> None:
    """Raise `NotEqualError` unless it holds."""
    if not holds:
        raise NotEqualError(what)


def counted(client: httpx.Client) -> float:
    """Return the number of requests for tasks in the server's metrics."""
    samples = (line for line in client.get("/metrics").text.splitlines() if line.startswith(COUNTED))
    return sum(float(sample.rpartition(" ")[2]) for sample in samples)


def logged(log: Path) -> int:
    """Return the number of complete JSON lines about requests for tasks in a log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"message":"request"' in line]
    return sum(set(line) >= LOGGED and line["route"].startswith("/tasks") for line in lines)


def check(url: str, headers: dict[str, str], log: Path) -> None:
    """Raise `NotEqualError` where a response, the metrics or the log differ from the comparison's rules."""
    sent = 0

    def answered(status: int, method: str, path: str, body: object = None, **more: dict[str, str]) -> httpx.Response:
        nonlocal sent
        sent += 1
        response = client.request(method, path, **({} if body is None else {"json": body}), **more)  # type: ignore[arg-type]
        require(
            response.status_code == status,
            f"{method} {path} with {body!r}: {response.status_code} instead of {status}: {response.text[:200]}",
        )
        return response

    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT) as client:
        before, lines = counted(client), logged(log)
        answered(401, "GET", "/tasks", headers={"Authorization": ""})
        answered(401, "GET", "/tasks", headers={"Authorization": headers["Authorization"][:-5] + "AAAAA"})
        body = {"title": " Write report ", "priority": "high", "due_at": "2026-12-01T10:00:00+02:00"}
        created = answered(201, "POST", "/tasks", body)
        task = created.json()
        place = created.headers["Location"]
        require(set(task) == FIELDS, f"fields {sorted(task)}")
        require(task["title"] == "Write report" and task["due_at"] == "2026-12-01T08:00:00Z", f"created {task}")
        require(created.headers["RateLimit"] and created.headers["X-Request-ID"], "headers")
        require(answered(200, "GET", place).json() == task, "the task as created is not the task as read")
        changed = answered(200, "PUT", place, {"status": "completed"}).json()
        require(changed == {**task, "status": "completed", "updated_at": changed["updated_at"]}, f"changed {changed}")
        for bad in BAD_BODIES:
            answered(400, "POST", "/tasks", bad)
        answered(400, "PUT", place, {"title": ""})
        answered(400, "GET", "/tasks?limit=0")
        answered(400, "GET", "/tasks?status=lost")
        require([one["id"] for one in answered(200, "GET", "/tasks?limit=20").json()] == [task["id"]], "list")
        require(answered(200, "GET", "/tasks?status=pending").json() == [], "list of a status")
        answered(200, "DELETE", place)
        answered(404, "GET", place)
        require(counted(client) - before == sent, f"{sent} requests, and the metrics count {counted(client) - before}")
        require(logged(log) - lines == sent, f"{sent} requests, and the log has {logged(log) - lines} more lines")


def check_limit(url: str, headers: dict[str, str]) -> None:
    """Raise `NotEqualError` unless a server with a limit of 16 a minute refuses before the 34th (two windows)."""
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT) as client:
        responses = [client.get("/tasks") for _ in range(40)]
    require(responses[0].status_code == httpx.codes.OK, f"first of 40: {responses[0].status_code}")
    refused = [one for one in responses if one.status_code == httpx.codes.TOO_MANY_REQUESTS]
    require(refused and all(int(one.headers["Retry-After"]) > 0 for one in refused), "no 429 with Retry-After in 40")
