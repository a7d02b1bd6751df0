"""Large responses are in gzip where the client prefers that, and only those that a handler passes on."""

import gzip
from typing import Any

import pytest
from flask import Flask, Response
from hypothesis import given
from hypothesis import strategies as st

from service_kit.config import Settings
from service_kit.http import compression
from service_kit.http.app import create_app
from service_kit.http.compression import LEAST_BYTES, MOST_BYTES, compressed
from service_kit.service import Service

GZIP = {"Accept-Encoding": "gzip"}


class Echo(Service):
    name = "echo"
    title = "Echo"
    version = "1.0.0"


def served(make: Any) -> Any:
    """Return a client of a service whose `/` answers with what `make` returns."""
    app: Flask = create_app(Echo(Settings()), {})
    app.add_url_rule("/", "echo", make, methods=["GET"])
    return app.test_client()


def large() -> Response:
    return compressed(Response(b"tea " * LEAST_BYTES, headers={"ETag": '"1"'}))


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br, deflate", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate, gzip;q=0.5, br", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, *", None),
        ("*;q=0", None),
        ("gzip;q=0.5, identity;q=0.8", None),
        ("gzip;q=0.8, identity;q=0.5", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=much", None),
    ],
)
def test_the_coding_follows_accept_encoding(accepted: str | None, coding: str | None) -> None:
    answer = served(large).get("/", headers={} if accepted is None else {"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert (gzip.decompress(answer.data) if coding else answer.data) == b"tea " * LEAST_BYTES


@given(st.text(alphabet="gzip;q=01.,*identity- \t", max_size=60))
def test_no_accept_encoding_is_an_error(accepted: str) -> None:
    assert served(large).get("/", headers={"Accept-Encoding": accepted}).status_code == 200


def test_a_head_request_has_the_headers_of_a_get() -> None:
    client = served(large)
    whole, head = client.get("/", headers=GZIP), client.head("/", headers=GZIP)
    assert head.data == b""
    named = ("Content-Encoding", "Content-Length", "Vary", "ETag", "Content-Type")
    assert [head.headers[name] for name in named] == [whole.headers[name] for name in named]


def test_a_strong_entity_tag_is_weak_on_other_bytes_and_stays_strong_on_its_own() -> None:
    client = served(large)
    assert client.get("/", headers=GZIP).headers["ETag"] == 'W/"1"'
    assert client.get("/").headers["ETag"] == '"1"'


@pytest.mark.parametrize("size", [0, LEAST_BYTES - 1, MOST_BYTES + 1])
def test_what_is_small_or_costs_too_much_is_sent_as_it_is(size: int) -> None:
    answer = served(lambda: compressed(Response(b"a" * size))).get("/", headers=GZIP)
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert len(answer.data) == size


@pytest.mark.parametrize("size", [LEAST_BYTES, MOST_BYTES])
def test_what_lies_between_is_compressed(size: int) -> None:
    answer = served(lambda: compressed(Response(b"a" * size))).get("/", headers=GZIP)
    assert len(answer.data) < size / 50


def test_a_stream_an_error_and_a_response_without_a_body_stay_as_they_are() -> None:
    for make in (
        lambda: compressed(Response(iter([b"a" * LEAST_BYTES]))),
        lambda: compressed(Response(b"a" * LEAST_BYTES, 404)),
        lambda: compressed(Response(status=304)),
    ):
        answer = served(make).get("/", headers=GZIP)
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Vary"] == "Accept-Encoding"


def test_no_response_is_compressed_that_its_handler_does_not_pass_on() -> None:
    answer = served(lambda: Response(b"a" * LEAST_BYTES)).get("/", headers=GZIP)
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("size", [500, MOST_BYTES + 1])
def test_static_content_is_compressed_once_and_shared_whatever_its_size(size: int) -> None:
    content = b"a" * size
    made = []

    def static() -> Response:
        made.append(compressed(Response(content), static=True))
        return made[-1]

    client = served(static)
    assert gzip.decompress(client.get("/", headers=GZIP).data) == content
    client.get("/", headers=GZIP)
    assert made[0].get_data() is made[1].get_data()


@pytest.mark.parametrize("path", ["/docs/swagger_bundle.js", "/docs/swagger_style.css", "/metrics"])
def test_the_pages_scripts_and_the_metrics_are_compressed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LEAST_BYTES", 1024)  # a new process has few metrics
    client = served(large)
    plain, small = client.get(path), client.get(path, headers=GZIP)
    assert small.headers["Content-Encoding"] == "gzip"
    assert len(small.data) < len(plain.data) / 2
    if path != "/metrics":
        assert gzip.decompress(small.data) == plain.data


def test_an_asset_that_the_client_has_is_304_in_either_coding() -> None:
    client = served(large)
    for headers in ({}, GZIP):
        tag = client.get("/docs/swagger_bundle.js", headers=headers).headers["ETag"]
        for again in ({}, GZIP):
            unchanged = client.get("/docs/swagger_bundle.js", headers={**again, "If-None-Match": tag})
            assert (unchanged.status_code, unchanged.data) == (304, b"")
            assert unchanged.headers["Vary"] == "Accept-Encoding"
            assert "Content-Encoding" not in unchanged.headers
