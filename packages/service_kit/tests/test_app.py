"""The application does for each request what Flask does, though less of it anew."""

from typing import Any

import pytest
from flask import Flask, Response, after_this_request, request, session
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

from service_kit.config import Settings
from service_kit.http import app as module
from service_kit.http.app import create_app
from service_kit.service import Service


class Small(Service):
    name = "small"
    title = "Small"
    version = "1"


def application() -> Any:
    return create_app(Small(Settings()), {})


APP = application()
HOSTS = st.sampled_from(["localhost", "Localhost:80", "[::1]:443", "b\xe4r.example", "a..b", "x" * 64 + ".example", ""])


def outcome(create: Any, host: str | None, scheme: str, path: str, query: str, root: str) -> Any:
    """Return what a request is routed by and its host, or the status of its refusal."""
    environ = EnvironBuilder(path="/").get_environ()
    environ |= {"wsgi.url_scheme": scheme, "PATH_INFO": path, "QUERY_STRING": query, "SCRIPT_NAME": root}
    environ.pop("HTTP_HOST", None)
    if host is not None:
        environ["HTTP_HOST"] = host
    incoming = APP.request_class(environ)
    try:
        routed_by = vars(create(incoming))
    except HTTPException as error:
        return error.code
    return {**routed_by, "query_args": str(routed_by["query_args"])}, incoming.host


@given(
    st.none() | HOSTS | st.text(max_size=20),
    st.sampled_from(["http", "https"]),
    st.text(st.characters(max_codepoint=255), max_size=9).map(lambda path: f"/{path}"),
    st.text(st.characters(max_codepoint=255), max_size=9),
    st.sampled_from(["", "/", "/below", "/b\xc3\xa4r/"]),
)
def test_a_request_is_routed_by_what_flask_routes_it_by_also_when_its_host_is_known(
    host: str | None, scheme: str, path: str, query: str, root: str
) -> None:
    request_line = (host, scheme, path, query, root)
    expected = outcome(lambda incoming: Flask.create_url_adapter(APP, incoming), *request_line)

    assert [outcome(APP.create_url_adapter, *request_line) for _ in range(2)] == [expected] * 2


def test_a_host_that_is_not_trusted_is_refused_each_time() -> None:
    app = application()
    app.config["TRUSTED_HOSTS"] = ["localhost"]
    client = app.test_client()

    statuses = [client.get("/livez", headers={"Host": host}).status_code for host in ("a.example", "localhost") * 2]

    assert statuses == [400, 200, 400, 200]


def test_clients_cannot_fill_the_memory_with_hosts() -> None:
    app = application()
    client = app.test_client()

    for number in range(3 * module.MOST_HOSTS):
        assert client.get("/livez", headers={"Host": f"{number}.example"}).status_code == 200

    assert 0 < len(app._hosts) <= module.MOST_HOSTS


def test_nothing_is_kept_in_the_session_that_requests_share() -> None:
    with application().test_request_context("/"), pytest.raises(RuntimeError, match="session is unavailable"):
        session["key"] = "value"


def test_functions_after_a_request_and_at_its_teardown_are_called() -> None:
    app = application()
    called: list[str] = []

    def note(response: Response) -> Response:
        called.append(f"after: {request.path}")
        return response

    def once() -> str:
        after_this_request(note)
        return ""

    app.add_url_rule("/once", "once", once)
    app.teardown_request(lambda _: called.append(f"teardown: {request.path}"))
    client = app.test_client()
    client.get("/once")
    client.get("/livez")

    assert called == ["after: /once", "teardown: /once", "teardown: /livez"]


def test_functions_after_every_request_are_called() -> None:
    app = application()

    def mark(response: Response) -> Response:
        response.headers["X-Mark"] = request.path
        return response

    app.after_request(mark)

    assert app.test_client().get("/livez").headers["X-Mark"] == "/livez"
