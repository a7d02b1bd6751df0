"""Lists of tasks are compressed; nothing that may hold a secret is."""

import gzip

import msgspec
import pytest

from .conftest import Client, log_in
from .test_openapi import operations

GZIP = {"Accept-Encoding": "gzip"}


@pytest.fixture
def filled(client: Client) -> Client:
    """A client of a service with 40 tasks."""
    for number in range(40):
        client.post("/tasks", json={"title": f"task {number}", "description": "The figures of the week."})
    return client


def test_a_list_is_the_same_in_gzip(filled: Client) -> None:
    plain, small = filled.get("/tasks"), filled.get("/tasks", headers=GZIP)
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == plain.data
    assert len(small.data) < len(plain.data) / 4
    assert small.headers["Vary"] == plain.headers["Vary"] == "Accept, Accept-Encoding"
    assert small.headers["Link"] == plain.headers["Link"]
    assert small.headers["Content-Length"] == str(len(small.data))


def test_a_list_that_is_known_in_one_coding_is_304_in_the_other(filled: Client) -> None:
    tag = filled.get("/tasks", headers=GZIP).headers["ETag"]
    assert tag.startswith("W/")
    assert filled.get("/tasks").headers["ETag"] == tag
    for headers in ({}, GZIP):
        unchanged = filled.get("/tasks", headers={"If-None-Match": tag, **headers})
        assert (unchanged.status_code, unchanged.data) == (304, b"")
        assert unchanged.headers["Vary"] == "Accept, Accept-Encoding"
        assert "Content-Encoding" not in unchanged.headers


def test_a_task_keeps_the_strong_tag_that_a_write_needs(client: Client) -> None:
    place = client.post("/tasks", json={"title": "a", "description": "b" * 10_000}).headers["Location"]
    one = client.get(place, headers=GZIP)
    assert "Content-Encoding" not in one.headers
    assert client.put(place, json={"title": "c"}, headers={"If-Match": one.headers["ETag"]}).status_code == 200


def test_the_document_names_the_only_responses_that_are_compressed(guarded: Client) -> None:
    answer = guarded.get("/openapi.json", headers=GZIP)
    assert answer.headers["Content-Encoding"] == "gzip"
    document = msgspec.json.decode(gzip.decompress(answer.data))
    coded = {
        (name, status)
        for name, operation in operations(document).items()
        for status, response in operation["responses"].items()
        if "Content-Encoding" in response.get("headers", {})
    }
    assert coded == {("list_tasks", "200"), ("list_labels", "200"), ("scrape", "200")}


@pytest.mark.parametrize("path", ["/auth/me", "/auth/me/export", "/auth/sessions", "/auth/tokens"])
def test_what_an_account_alone_may_know_is_not_compressed(guarded: Client, path: str) -> None:
    headers = log_in(guarded)
    for _ in range(20):
        guarded.post("/tasks", json={"title": "a", "description": "b" * 1000}, headers=headers)
    answer = guarded.get(path, headers={**headers, **GZIP})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer.headers


def test_tokens_are_not_compressed(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.http.compression.LEAST_BYTES", 1)
    headers = log_in(guarded)
    account = {"email": "ada@example.org", "password": "a horse and its battery"}
    for answer in (
        guarded.post("/auth/login", json=account, headers=GZIP),
        guarded.post(
            "/auth/tokens", json={"name": "ci", "scopes": ["tasks:read"], "days": 1}, headers={**headers, **GZIP}
        ),
        guarded.get("/auth/me", headers={**headers, **GZIP}),
    ):
        assert answer.status_code < 300, answer.text
        assert "Content-Encoding" not in answer.headers
