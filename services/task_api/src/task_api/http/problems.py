"""Errors as problem details (RFC 9457), for everything: the service's refusals, Flask's, and what nobody foresaw."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Flask, Response, current_app, g, request
from sqlalchemy.exc import ProgrammingError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from task_api.accounts.model import BadToken, EmailTaken, LoginFailed, Throttled
from task_api.store.database import UNAVAILABLE, SchemaBehind
from task_api.tasks.model import BadCursor, TaskNotFound, VersionConflict
from task_api.tasks.service import BulkFailure
from task_api.telemetry.logs import log

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


class TooSlow(Exception):
    """A request that does not come in, or trickles. No OSError, which would be taken for a client that has gone."""


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


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as the answer to the current request."""
    body = encode_problem(status, detail, instance=request.path, request_id=getattr(g, "request_id", ""))
    return Response(body, status, headers, content_type=CONTENT_TYPE)


def bearer(error: str = "", **more: str) -> dict[str, str]:
    """The WWW-Authenticate header (RFC 6750)."""
    parameters = {"realm": "task-api", **({"error": error} if error else {}), **more}
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())}


def _unavailable(error: Exception) -> Response:
    log.error("database unavailable", error=str(getattr(error, "orig", None) or error))
    return respond(503, "the database does not answer: try again", {"Retry-After": str(RETRY_SECONDS)})


def _statement_failed(error: ProgrammingError) -> Response:
    """A table or column that is missing comes with the migration: that is worth another try."""
    missing = getattr(error.orig, "sqlstate", "") in {"42P01", "42703"}
    return _unavailable(error) if missing else _unforeseen(error)


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return respond(413, f"a request's body has at most {current_app.config['MAX_CONTENT_LENGTH']} bytes")
    given = error.get_response()
    headers = {name: given.headers[name] for name in ("Allow", "Location") if name in given.headers}
    return respond(error.code or 500, error.description or "", headers)


def _unforeseen(_error: Exception) -> Response:
    log.exception("unexpected error")
    return respond(500, "an unexpected error; the log has it under this request id")


ANSWERS: dict[type[Exception], Callable[[Any], Response]] = {
    Refusal: lambda error: respond(error.status, error.detail, error.headers),
    TooSlow: lambda error: respond(408, str(error)),
    msgspec.ValidationError: lambda error: respond(400, str(error)),
    msgspec.DecodeError: lambda error: respond(400, str(error)),
    BadCursor: lambda error: respond(400, str(error)),
    TaskNotFound: lambda error: respond(404, str(error)),
    VersionConflict: lambda error: respond(412, str(error), {"ETag": f'"{error.held.version}"'}),
    BulkFailure: lambda error: respond(412 if isinstance(error.cause, VersionConflict) else 404, str(error)),
    EmailTaken: lambda error: respond(409, str(error)),
    LoginFailed: lambda error: respond(401, str(error), bearer()),
    Throttled: lambda error: respond(429, str(error), {"Retry-After": str(error.retry_after)}),
    BadToken: lambda error: respond(401, str(error), bearer("invalid_token", error_description=str(error))),
    **dict.fromkeys((*UNAVAILABLE, SchemaBehind), _unavailable),
    ProgrammingError: _statement_failed,
    HTTPException: _http_error,
    Exception: _unforeseen,
}
"""How each kind of exception is answered; the nearest of its classes counts."""


def register(app: Flask) -> None:
    """Answer every exception with its problem."""
    for kind, answer in ANSWERS.items():
        app.register_error_handler(kind, answer)
