"""As many statements are executed for many objects as for few: no operation has a statement for each row (N+1)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from service_kit.http.requests import EXTENSION
from task_api.http.context import Services

from .conftest import KEY, PASSWORD, Client, Serve, log_in

Send = Callable[[Client, dict[str, str], list[int]], Any]

OPERATIONS: dict[str, Send] = {
    "a list": lambda client, headers, _: client.get("/tasks?limit=200", headers=headers),
    "a list with a search, filters and an order": lambda client, headers, _: client.get(
        "/tasks?limit=200&q=task&status=pending&label=label&sort=-due_at", headers=headers
    ),
    "a calendar": lambda client, headers, _: client.get("/tasks.ics", headers=headers),
    "labels": lambda client, headers, _: client.get("/labels", headers=headers),
    "a renamed label": lambda client, headers, _: client.post(
        "/labels/rename", json={"name": "label", "to": "other"}, headers=headers
    ),
    "a removed label": lambda client, headers, _: client.post(
        "/labels/remove", json={"name": "label"}, headers=headers
    ),
    "one task": lambda client, headers, ids: client.get(f"/tasks/{ids[0]}", headers=headers),
    "a change": lambda client, headers, ids: client.put(f"/tasks/{ids[0]}", json={"title": "new"}, headers=headers),
    "a new task": lambda client, headers, _: client.post("/tasks", json={"title": "task"}, headers=headers),
    "a deletion": lambda client, headers, ids: client.delete(f"/tasks/{ids[0]}", headers=headers),
    "a page of the feed": lambda client, headers, _: client.get("/tasks/changes?limit=200", headers=headers),
    "a history": lambda client, headers, ids: client.get(f"/tasks/{ids[0]}/history", headers=headers),
    "a restored task": lambda client, headers, ids: [
        client.delete(f"/tasks/{ids[0]}", headers=headers),
        client.post(f"/tasks/{ids[0]}/restore", headers=headers),
    ][-1],
    "an export": lambda client, headers, _: client.get("/auth/me/export", headers=headers),
    "personal tokens": lambda client, headers, _: client.get("/auth/tokens", headers=headers),
    "sessions": lambda client, headers, _: client.get("/auth/sessions", headers=headers),
}


PIECES = 5
"""An export has a statement for each piece; the caller may be known from the request before."""


@contextmanager
def statements(client: Client) -> Iterator[list[str]]:
    """Collect the statements that the application runs within the block."""
    services: Services = client.application.extensions[EXTENSION]
    engine = services.database.watched()
    executed: list[str] = []

    def collect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield executed
    finally:
        event.remove(engine, "before_cursor_execute", collect)


def counted(client: Client, send: Send, number: int, who: str) -> list[str]:
    """Return the statements of a request by an account that owns `number` tasks and as many tokens."""
    headers = log_in(client, who)
    operations = [{"op": "create", "task": {"title": f"task {place}", "labels": ["label"]}} for place in range(number)]
    made = client.post("/tasks/bulk", json={"operations": operations}, headers=headers)
    for place in range(min(number, 20)):
        body = {"name": f"token {place}", "scopes": ["tasks:read"], "days": 1}
        client.post("/auth/tokens", json=body, headers=headers)
        client.post("/auth/login", json={"email": who, "password": PASSWORD})
    with statements(client) as executed:
        response = send(client, headers, [result["id"] for result in made.json["results"]])
        assert response.status_code < 300, response.text
        _ = response.data  # a stream executes statements while it is read
    return executed


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_number_of_statements_does_not_grow_with_the_rows(serve: Serve, operation: str) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=None, registration_limit=None)
    few = counted(client, OPERATIONS[operation], 2, "few@example.org")
    many = counted(client, OPERATIONS[operation], 100, "many@example.org")
    assert few
    assert len(many) < len(few) + PIECES, many


def test_a_bulk_request_has_a_bounded_number_of_statements_for_each_operation(serve: Serve) -> None:
    client = serve()
    counts = []
    for number in (1, 50):
        with statements(client) as executed:
            operations = [{"op": "create", "task": {"title": "task"}}] * number
            assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 200
        counts.append(len(executed))
    assert counts[1] - counts[0] <= 3 * 49
