from io import BytesIO

import msgspec
import pytest
from sqlalchemy.exc import OperationalError
from werkzeug.test import EnvironBuilder, run_wsgi_app

from service_kit.http.problems import TYPES
from service_kit.http.requests import EXTENSION
from task_api.config import Settings
from task_api.tasks import service
from task_core.database import Database

from .conftest import KEY, PASSWORD, Client, Serve, client_of

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/nothing", b"", {}, 404),
        ("GET", "/tasks/abc", b"", {}, 404),
        ("POST", "/tasks/1", b"{}", JSON, 405),
        ("BREW", "/tasks", b"", {}, 405),
        ("POST", "/health", b"", {}, 405),
        ("POST", "/tasks", b"{", JSON, 400),
        ("POST", "/tasks", b"", JSON, 400),
        ("POST", "/tasks", b'{"title": 7, ', JSON, 400),
        ("POST", "/tasks", b'{"title": 7, "a": "\xff"}', JSON, 400),
        ("POST", "/tasks", b'{"title": 7, "id":' + b"[" * 2000 + b"]" * 2000 + b"}", JSON, 400),
        ("POST", "/tasks", b"\xff\xfe", JSON, 400),
        ("POST", "/tasks", b'{"title": "\\ud800"}', JSON, 400),
        ("POST", "/tasks", b"[" * 100_000, JSON, 400),
        ("POST", "/tasks", b'{"title":"\xe9"}', JSON, 400),
        ("POST", "/tasks", b'{"title":"a","id":' + b"[" * 2000 + b"]" * 2000 + b"}", JSON, 400),
        ("POST", "/tasks", b'{"title":"a"}', {**JSON, "Content-Encoding": "gzip"}, 415),
        ("POST", "/tasks", b"title=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/tasks", b"{}", {}, 415),
        ("PUT", "/tasks/1", b"<a/>", {"Content-Type": "application/xml"}, 415),
        ("POST", "/tasks", b'{"title":"' + b"x" * (1 << 20) + b'"}', JSON, 413),
    ],
)
def test_every_refusal_is_a_problem_document(
    client: Client, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    refused = client.open(path, method=method, data=body, headers=headers)
    assert refused.status_code == status
    assert refused.content_type == "application/problem+json"
    problem = refused.json
    kind = TYPES[problem["type"].removeprefix("/problems#")]
    assert (problem["status"], kind.status, problem["title"]) == (status, status, kind.title)
    assert problem["instance"] == path
    assert problem["detail"]
    assert problem["request_id"] == refused.headers["X-Request-ID"]


def test_every_type_of_problem_is_explained_where_it_refers_to(client: Client) -> None:
    page = client.get("/problems")
    assert page.content_type == "text/html; charset=utf-8"
    for name in TYPES:
        assert f'id="{name}"' in page.text


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"titel": "a"}, [("#/title", "is required"), ("#/titel", "is unknown")]),
        (
            {"title": "", "status": "done", "due_at": "today", "description": "a\x00"},
            [
                ("#/title", "Expected `str` matching regex"),
                ("#/description", "Expected `str` matching regex"),
                ("#/status", "Invalid enum value 'done'"),
                ("#/due_at", "Invalid RFC3339 encoded datetime"),
            ],
        ),
        ({"title": "a", "labels": ["a", ""]}, [("#/labels/1", "Expected `str` of length >= 1")]),
        ({"title": "x" * 201}, [("#", "a title has at most 200 characters, this one has 201")]),
        ({"title": "a", "a/b~c é": 1}, [("#/a~1b~0c%20%C3%A9", "is unknown")]),
        ([], [("#", "Expected `object`, got `array`")]),
    ],
)
def test_all_violations_of_a_body_are_listed_with_their_place(
    client: Client, body: object, errors: list[tuple[str, str]]
) -> None:
    refused = client.post("/tasks", json=body)
    assert (refused.status_code, refused.json["type"]) == (400, "/problems#invalid-body")
    assert [error["pointer"] for error in refused.json["errors"]] == [pointer for pointer, _ in errors]
    for error, (_, detail) in zip(refused.json["errors"], errors, strict=True):
        assert error["detail"].startswith(detail)


def test_violations_within_a_list_name_the_item(client: Client) -> None:
    operations = [
        {"op": "create", "task": {"title": ""}},
        {"op": "delete"},
        {"op": "rename"},
        {"op": "delete", "id": 1},
    ]
    refused = client.post("/tasks/bulk", json={"operations": operations})
    pointers = [error["pointer"] for error in refused.json["errors"]]
    assert pointers == ["#/operations/0/task/title", "#/operations/1/id", "#/operations/2"]


def test_the_list_of_violations_is_bounded(client: Client) -> None:
    refused = client.post("/tasks", json={f"{number}{'x' * 500}": 1 for number in range(1000)})
    assert len(refused.json["errors"]) == 100
    assert len(refused.data) < 20_000


def test_all_violations_of_a_query_are_listed_with_their_parameter(client: Client) -> None:
    refused = client.get("/tasks?limit=0&status=done&due_before=7&sort=id&sort=id&colour=red&label=a&label=%20")
    assert (refused.status_code, refused.json["type"]) == (400, "/problems#invalid-query")
    named = {error["parameter"] for error in refused.json["errors"]}
    assert named == {"limit", "status", "due_before", "sort", "colour", "label"}
    assert len(refused.json["errors"]) == 6


def test_an_operation_that_fails_is_named_by_a_pointer(client: Client) -> None:
    refused = client.post("/tasks/bulk", json={"operations": [{"op": "delete", "id": 7}]})
    assert (refused.status_code, refused.json["type"]) == (404, "/problems#task-not-found")
    assert refused.json["errors"] == [{"detail": "there is no task 7", "pointer": "#/operations/0"}]


def test_a_chunked_body_over_the_limit_is_refused_and_not_cut(client: Client) -> None:
    body = BytesIO(b'{"title":"cut"}' + b" " * (1 << 20) + b"garbage")
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    refused = client.post("/tasks", input_stream=body, headers=JSON, environ_overrides=chunked)
    assert refused.status_code == 413
    assert client.get("/tasks").json == []


def test_a_body_that_ends_too_early_is_refused(client: Client) -> None:
    body = b'{"title":"truncated"}'
    short = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "100"}
    refused = client.post("/tasks", input_stream=BytesIO(body), headers=JSON, environ_overrides=short)
    assert refused.status_code == 400
    assert "ended after 21 of 100 bytes" in refused.json["detail"]
    assert client.get("/tasks").json == []


def test_a_request_of_http_1_1_needs_a_host(client: Client) -> None:
    environment = EnvironBuilder(path="/tasks", environ_overrides={"SERVER_PROTOCOL": "HTTP/1.1"}).get_environ()
    del environment["HTTP_HOST"]
    _, status, _ = run_wsgi_app(client.application.wsgi_app, environment)
    assert status.startswith("400 ")


def test_a_schema_that_is_not_there_yet_is_503(empty_settings: Settings) -> None:
    database = Database(empty_settings)
    refused = client_of(msgspec.structs.replace(empty_settings, rate_limit=None), database).get("/tasks")
    database.engine.dispose()
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]


def test_a_wrong_method_is_405_with_the_allowed_ones(client: Client) -> None:
    allowed = client.delete("/tasks").headers["Allow"]
    assert set(allowed.replace(" ", "").split(",")) == {"GET", "HEAD", "POST", "OPTIONS"}


def test_an_unexpected_exception_is_500_and_reveals_nothing_of_the_inside(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(service, "page", broken)
    refused = client.get("/tasks")
    assert refused.status_code == 500
    assert refused.content_type == "application/problem+json"
    assert "inside" not in refused.text


def test_a_database_that_does_not_answer_is_503_with_retry_after(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    monkeypatch.setattr(service, "page", gone)
    refused = client.get("/tasks")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")


def test_a_server_that_is_not_there_is_503_and_not_ready() -> None:
    database = Database(Settings(database_url="postgresql://nobody@127.0.0.1:9/none"))
    client = client_of(Settings(rate_limit=None), database)
    assert client.get("/tasks").status_code == 503
    unready = client.get("/readyz")
    assert (unready.status_code, unready.headers["Retry-After"]) == (503, "2")
    assert unready.json["detail"] == "the database does not answer: try again"  # whose name and address the log has
    assert client.get("/livez").status_code == 200
    assert client.get("/health").json["status"] == "healthy"


def test_readiness_waits_for_the_schema(empty_settings: Settings) -> None:
    database = Database(empty_settings)
    client = client_of(empty_settings, database)
    not_ready = client.get("/readyz")
    assert not_ready.status_code == 503
    assert "task-api migrate" in not_ready.json["detail"]
    database.engine.dispose()


def test_readiness_falls_while_draining(client: Client) -> None:
    assert client.get("/readyz").json == {"status": "ready"}
    client.application.extensions[EXTENSION].draining = lambda: True
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("request_id", ["abc-123", "0f9c2b1e:1"])
def test_a_request_id_comes_back(client: Client, request_id: str) -> None:
    assert client.get("/health", headers={"X-Request-ID": request_id}).headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", 'a"b', "é"])
def test_a_request_id_that_could_forge_a_log_is_replaced(client: Client, request_id: str) -> None:
    made = client.get("/health", headers={"X-Request-ID": request_id}).headers["X-Request-ID"]
    assert made != request_id
    assert len(made) == 32


@pytest.mark.parametrize(
    ("path", "instance"),
    [("/a%20b%22%3C%3E", "/a%20b%22%3C%3E"), ("/caf%C3%A9", "/caf%C3%A9"), ("/a%25b", "/a%25b"), ("/%0Ab", "/%0Ab")],
)
def test_the_instance_of_a_problem_is_a_uri_reference(client: Client, path: str, instance: str) -> None:
    assert client.get(path).json["instance"] == instance


def test_an_origin_with_a_literal_address_may_call_and_none_that_its_brackets_would_match(serve: Serve) -> None:
    client = serve(cors_origins=("http://[::1]:3000", "https://app.example"))
    for origin, allowed in (
        ("http://[::1]:3000", True),
        ("https://app.example", True),
        ("http://1:3000", False),
        ("https://app.example.evil", False),
        ("https://appxexample", False),
    ):
        headers = client.get("/health", headers={"Origin": origin}).headers
        assert headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)


def test_cross_origin_requests_are_off_unless_set(client: Client, serve: Serve) -> None:
    origin = {"Origin": "https://app.example"}
    assert "Access-Control-Allow-Origin" not in client.get("/tasks", headers=origin).headers
    open_to_one = serve(cors_origins=("https://app.example",))
    assert open_to_one.get("/tasks", headers=origin).headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert (
        "Access-Control-Allow-Origin"
        not in open_to_one.get("/tasks", headers={"Origin": "https://evil.example"}).headers
    )
    preflight = {**origin, "Access-Control-Request-Method": "PUT"}
    assert "PUT" in open_to_one.options("/tasks/1", headers=preflight).headers["Access-Control-Allow-Methods"]


def test_without_accounts_a_page_that_reaches_us_by_another_name_is_refused(client: Client) -> None:
    assert client.get("/tasks", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/tasks", headers={"Host": "localhost:5000"}).status_code == 200
    assert client.get("/tasks", headers={"Host": "LOCALHOST"}).status_code == 200


def test_a_number_that_no_type_holds_is_refused_wherever_it_is(client: Client) -> None:
    answer = client.post("/tasks", data=b'{"unknown": 1e999}', content_type="application/json")
    assert answer.status_code == 400
    assert "out of range" in answer.json["detail"]


@pytest.mark.parametrize("path", ["//tasks", "//evil.example/tasks", "/tasks//1", "/tasks/"])
def test_no_spelling_of_a_path_redirects_to_the_host_that_the_client_names(client: Client, path: str) -> None:
    assert "Location" not in client.get(path, headers={"Host": "localhost:1"}).headers


def test_every_answer_carries_the_security_headers(client: Client) -> None:
    for path in ("/tasks", "/nothing", "/health"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_behind_a_trusted_proxy_the_connection_is_the_clients(serve: Serve) -> None:
    https = {"X-Forwarded-Proto": "https"}
    assert "Strict-Transport-Security" in serve(trusted_proxies=1).get("/health", headers=https).headers
    assert "Strict-Transport-Security" not in serve().get("/health", headers=https).headers


@pytest.mark.parametrize(
    "address", ["1" * 129, "a" * 4000, "fe80::1%" + "z" * 200, "999.1.1.1", "[::1]:80", "\xff", ","]
)
def test_no_text_in_x_forwarded_for_is_a_fault_of_the_service(serve: Serve, address: str) -> None:
    client = serve(trusted_proxies=1, auth="on", jwt_keys=(KEY,))
    headers = {"X-Forwarded-For": address}
    account = {"email": "ada@example.org", "password": PASSWORD}
    assert client.post("/auth/register", json=account, headers=headers).status_code == 201
    assert client.post("/auth/login", json=account, headers=headers).status_code == 200
    assert client.get("/tasks", headers=headers).status_code == 401
