"""Errors as problem details (RFC 9457), for everything: this service's own refusals, Flask's, and what nobody foresaw."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.http import dump_options_header

from task_api.accounts.model import BadToken, EmailTaken, LoginFailed, Throttled
from task_api.store.database import UNAVAILABLE, SchemaBehind
from task_api.tasks.model import BadCursor, TaskNotFound, VersionConflict
from task_api.tasks.service import BulkFailure
from task_api.telemetry.logs import log

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details (RFC 9457): `type` is about:blank, so `title` is the status's phrase, and `detail` says what to do."""

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


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as the answer to the current request."""
    body = encode_problem(status, detail, instance=request.path, request_id=getattr(g, "request_id", ""))
    return Response(body, status, headers, content_type=CONTENT_TYPE)


def bearer(error: str = "", **more: str) -> dict[str, str]:
    """The WWW-Authenticate header (RFC 6750)."""
    parameters = {"realm": "task-api"} | ({"error": error} if error else {}) | more
    return {"WWW-Authenticate": dump_options_header("Bearer", parameters).replace("; ", " ", 1).replace(";", ",")}


def register(app: Flask) -> None:
    """Answer every exception of these kinds with its problem."""

    @app.errorhandler(Refusal)
    def refused(error: Refusal) -> Response:
        return respond(error.status, error.detail, error.headers)

    @app.errorhandler(msgspec.ValidationError)
    @app.errorhandler(msgspec.DecodeError)
    @app.errorhandler(BadCursor)
    def invalid(error: Exception) -> Response:
        return respond(400, str(error))

    @app.errorhandler(TaskNotFound)
    def no_task(error: TaskNotFound) -> Response:
        return respond(404, str(error))

    @app.errorhandler(VersionConflict)
    def stale(error: VersionConflict) -> Response:
        return respond(412, str(error), {"ETag": f'"{error.held.version}"'})

    @app.errorhandler(BulkFailure)
    def bulk(error: BulkFailure) -> Response:
        return respond(412 if isinstance(error.cause, VersionConflict) else 404, str(error))

    @app.errorhandler(EmailTaken)
    def taken(error: EmailTaken) -> Response:
        return respond(409, str(error))

    @app.errorhandler(LoginFailed)
    def login_failed(error: LoginFailed) -> Response:
        return respond(401, str(error), bearer())

    @app.errorhandler(Throttled)
    def throttled(error: Throttled) -> Response:
        return respond(429, str(error), {"Retry-After": str(error.retry_after)})

    @app.errorhandler(BadToken)
    def bad_token(error: BadToken) -> Response:
        return respond(401, str(error), bearer("invalid_token", error_description=str(error)))

    def unavailable(error: Exception) -> Response:
        log.error("database unavailable", error=str(getattr(error, "orig", None) or error))
        return respond(503, "the database does not answer: try again", {"Retry-After": str(RETRY_SECONDS)})

    for kind in (*UNAVAILABLE, SchemaBehind):
        app.register_error_handler(kind, unavailable)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if isinstance(error, RequestEntityTooLarge):
            return respond(413, f"a request's body has at most {app.config['MAX_CONTENT_LENGTH']} bytes")
        given = error.get_response()
        headers = {name: given.headers[name] for name in ("Allow", "Location") if name in given.headers}
        return respond(error.code or 500, error.description or "", headers)

    @app.errorhandler(Exception)
    def unforeseen(_error: Exception) -> Response:
        log.exception("unexpected error")
        return respond(500, "an unexpected error; the log has it under this request id")


def expect(condition: Any, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
    """Refuse the request unless the condition holds."""
    if not condition:
        raise Refusal(status, detail, headers)
