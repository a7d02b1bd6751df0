import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from .conftest import Client, log_in

HTTP_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
UNDOCUMENTED = {
    "board.board_file",
    "board.board_worker",
    "openapi_assets",
    "openapi_docs",
    "openapi_document",
    "problem_types",
    "session.refresh_session",
    "session.sign_in",
    "session.sign_out",
}
"""Pages for people, and what they alone use."""


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {op["operationId"]: op for path in document["paths"].values() for op in path.values()}


def test_every_route_is_in_the_document_and_nothing_else(guarded: Client) -> None:
    document = guarded.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    routes = {
        (method, re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule))
        for rule in guarded.application.url_map.iter_rules()
        if rule.endpoint not in UNDOCUMENTED
        for method in (rule.methods or set()) & HTTP_METHODS
    }
    assert described == routes


def test_what_is_public_says_so_and_all_else_needs_a_token(guarded: Client) -> None:
    document = guarded.get("/openapi.json").json
    assert document["security"] == [{"bearer": []}]
    public = {name for name, op in operations(document).items() if op.get("security") == []}
    assert public == {"index", "health", "livez", "readyz", "scrape", "register_account", "login", "refresh"}
    for name, operation in operations(document).items():
        assert ("401" in operation["responses"]) == (name not in public or name in {"login", "refresh"})


def test_without_accounts_the_document_knows_no_security(client: Client) -> None:
    document = client.get("/openapi.json").json
    assert "security" not in document
    assert "/auth/login" not in document["paths"]


def test_errors_are_problem_documents_and_patch_is_a_merge_patch(client: Client) -> None:
    document = client.get("/openapi.json").json
    for operation in operations(document).values():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]
    patch = operations(document)["patch_task"]
    assert list(patch["requestBody"]["content"]) == ["application/merge-patch+json"]


def patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict) and isinstance(part.get("pattern"), str):
        yield part["pattern"]
    for one in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from patterns(one)


def test_patterns_have_no_class_of_characters_that_is_another_in_ecmascript(guarded: Client) -> None:
    collected = set(patterns(guarded.get("/openapi.json").json))
    assert len(collected) > 5
    assert [one for one in collected if re.search(r"\\[bBdDsSwW]", one.replace(r"[\s\S]", ""))] == []


def test_if_match_is_declared_with_the_answers_to_one_that_does_not_match(client: Client) -> None:
    taking = {
        name: operation
        for name, operation in operations(client.get("/openapi.json").json).items()
        if any(parameter["name"] == "If-Match" for parameter in operation["parameters"])
    }
    assert set(taking) == {"get_task", "put_task", "patch_task", "delete_task", "restore_task"}
    for operation in taking.values():
        assert {"400", "412"} <= set(operation["responses"])


def test_links_lead_from_a_created_task_to_what_can_be_done_with_it(guarded: Client) -> None:
    named = operations(guarded.get("/openapi.json").json)
    links = named["create_task"]["responses"]["201"]["links"]
    assert set(links) == {"get_task", "put_task", "patch_task", "delete_task", "restore_task", "task_history"}
    for operation in named.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                assert link["operationId"] in named


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize(
    ("method", "path", "body", "operation", "status"),
    [
        ("POST", "/tasks", {"title": "b"}, "create_task", "201"),
        ("GET", "/tasks", None, "list_tasks", "200"),
        ("GET", "/tasks/1", None, "get_task", "200"),
        ("PUT", "/tasks/1", {"status": "completed"}, "put_task", "200"),
        ("POST", "/tasks/bulk", {"operations": [{"op": "delete", "id": 1}]}, "bulk_tasks", "200"),
        ("DELETE", "/tasks/1", None, "delete_task", "200"),
        ("GET", "/tasks/changes", None, "list_changes", "200"),
        ("GET", "/tasks/1/history", None, "task_history", "200"),
        ("POST", "/tasks/1/restore", None, "restore_task", "200"),
        ("GET", "/tasks/changes?since=x", None, "list_changes", "400"),
        ("GET", "/auth/me", None, "me", "200"),
        ("GET", "/tasks/99", None, "get_task", "404"),
        ("POST", "/tasks", {}, "create_task", "400"),
    ],
)
def test_answers_are_as_the_document_says(
    guarded: Client, method: str, path: str, body: Any, operation: str, status: str
) -> None:
    headers = log_in(guarded)
    guarded.post("/tasks", json={"title": "a"}, headers=headers)
    document = guarded.get("/openapi.json").json
    answer = guarded.open(path, method=method, json=body, headers=headers)
    assert str(answer.status_code) == status
    content = operations(document)[operation]["responses"][status]["content"][answer.mimetype]
    resolved(document, content["schema"]).validate(answer.json)


def test_schemas_are_valid_json_schema(guarded: Client) -> None:
    document = guarded.get("/openapi.json").json
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_docs_page_and_all_it_loads_come_from_here(client: Client) -> None:
    page = client.get("/docs")
    assert page.content_type.startswith("text/html")
    assert "http:" not in page.text.replace("http-equiv", "")
    assert "https:" not in page.text
    for asset in ("start.js", "swagger_bundle.js", "swagger_style.css"):
        assert f"/docs/{asset}" in page.text
        answer = client.get(f"/docs/{asset}")
        assert answer.status_code == 200
        assert answer.data
        answer.close()
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert client.get("/docs/redoc.js").status_code == 404


def test_the_document_is_the_same_each_time(client: Client) -> None:
    first, second = client.get("/openapi.json").data, client.get("/openapi.json").data
    assert first == second
    assert msgspec.json.decode(first)["info"]["title"] == "Task API"


def integers(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict) and part.get("type") == "integer":
        yield part
    for one in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from integers(one)


def test_every_integer_has_a_format_and_is_exact_in_json(guarded: Client) -> None:
    collected = list(integers(guarded.get("/openapi.json").json))
    assert len(collected) > 10
    assert all(one["format"] in {"int32", "int64"} and one["maximum"] < 2**53 for one in collected)


def test_every_operation_with_text_in_its_address_declares_that_it_may_be_too_long(guarded: Client) -> None:
    long = {}
    for path, item in guarded.get("/openapi.json").json["paths"].items():
        for method, operation in item.items():
            places = [one for one in operation.get("parameters", []) if one["in"] in {"path", "query"}]
            texts = [one for one in places if one["in"] == "query" or one["schema"]["type"] == "string"]
            long[f"{method} {path}"] = (bool(texts), "414" in operation["responses"])
    assert {name for name, (texts, declared) in long.items() if texts != declared} == set()
    assert long["get /tasks"] == long["delete /auth/sessions/{session_id}"] == (True, True)
