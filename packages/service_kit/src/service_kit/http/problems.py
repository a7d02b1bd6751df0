"""Errors as problem details (RFC 9457), for everything: a service's refusals, Flask's, and what nobody foresaw."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service_kit.telemetry.logs import log

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details (RFC 9457): the type is about:blank, so the title is the status's phrase."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""


class Refusal(Exception):
    """A request that is answered with a problem, and headers beside it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def encode_problem(status: int, detail: str, *, instance: str = "", request_id: str = "") -> bytes:
    """A problem's body."""
    title = HTTPStatus(status).phrase
    return msgspec.json.encode(
        Problem(title=title, status=status, detail=detail, instance=instance, request_id=request_id)
    )


def _reference(path: str) -> str:
    """Return the path as a URI reference (RFC 3986), which a path with two slashes in front is not."""
    return ("/." if path.startswith("//") else "") + quote(path, safe="/:@!$&'()*+,;=~")


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as the answer to the current request."""
    body = encode_problem(status, detail, instance=_reference(request.path), request_id=getattr(g, "request_id", ""))
    return Response(body, status, headers, content_type=CONTENT_TYPE)


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return respond(413, f"a request's body has at most {current_app.config['MAX_CONTENT_LENGTH']} bytes")
    given = error.get_response()
    headers = {name: given.headers[name] for name in ("Allow", "Location") if name in given.headers}
    return respond(error.code or 500, error.description or "", headers)


def unforeseen(_error: Exception) -> Response:
    """The response to an exception that nobody foresaw; the log has its traceback."""
    log.exception("unexpected error")
    return respond(500, "an unexpected error; the log has it under this request id")


ANSWERS: dict[type[Exception], Callable[[Any], Response]] = {
    Refusal: lambda error: respond(error.status, error.detail, error.headers),
    msgspec.ValidationError: lambda error: respond(400, str(error)),
    msgspec.DecodeError: lambda error: respond(400, str(error)),
    HTTPException: _http_error,
    Exception: unforeseen,
}
"""How each kind of exception is answered in every service; the nearest of its classes counts."""


def register(app: Flask, own: Mapping[type[Exception], Callable[[Any], Response]]) -> None:
    """Answer every exception with its problem; `own` has the answers to the service's own exceptions."""
    for kind, answer in {**ANSWERS, **own}.items():
        app.register_error_handler(kind, answer)
