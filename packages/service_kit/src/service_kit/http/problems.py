"""Errors as problem details (RFC 9457), for everything: a service's refusals, Flask's, and what nobody foresaw."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service_kit.telemetry.logs import log

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2
PAGE = "/problems"
"""Where a service explains its problem types."""


class ProblemType(msgspec.Struct, frozen=True):
    """A kind of problem that a client can act on: its status never changes, and neither does its URI."""

    name: str
    status: int
    title: str
    advice: str
    """What the client can do, for a person to read."""

    @property
    def uri(self) -> str:
        """The `type` of its problems: a reference to its entry on the service's own page."""
        return f"{PAGE}#{self.name}"


TYPES: dict[str, ProblemType] = {}


def problem_type(name: str, status: int, title: str, advice: str) -> ProblemType:
    """Define a type of problem. Raises ValueError for a name that another type has."""
    if name in TYPES:
        raise ValueError(f"there is a problem type {name} already")
    TYPES[name] = ProblemType(name, status, title, advice)
    return TYPES[name]


MALFORMED_REQUEST = problem_type(
    "malformed-request", 400, "Malformed request", "Send a request that follows HTTP (RFC 9110, RFC 9112)."
)
MALFORMED_BODY = problem_type("malformed-body", 400, "Malformed body", "Send a whole body of JSON in UTF-8 (RFC 8259).")
INVALID_BODY = problem_type(
    "invalid-body", 400, "Invalid body", "Correct every member that `errors` points to (RFC 6901)."
)
INVALID_QUERY = problem_type("invalid-query", 400, "Invalid query", "Correct every parameter that `errors` names.")
NOT_FOUND = problem_type("not-found", 404, "No such resource", "Use a path of the service's OpenAPI document.")
METHOD_NOT_ALLOWED = problem_type(
    "method-not-allowed", 405, "Method not allowed", "Use a method that the Allow header lists."
)
REQUEST_TIMEOUT = problem_type("request-timeout", 408, "Request timeout", "Send the whole request without long pauses.")
BODY_TOO_LARGE = problem_type("body-too-large", 413, "Body too large", "Send less: `detail` has the limit.")
URI_TOO_LONG = problem_type("uri-too-long", 414, "URI too long", "Send a shorter path and query.")
UNSUPPORTED_MEDIA_TYPE = problem_type(
    "unsupported-media-type", 415, "Unsupported media type", "Use the type that Accept or Accept-Patch lists."
)
HEADERS_TOO_LARGE = problem_type("headers-too-large", 431, "Headers too large", "Send fewer or shorter headers.")
INTERNAL_ERROR = problem_type(
    "internal-error", 500, "Internal error", "Report `request_id` to the operator: the log has the cause under it."
)
UNAVAILABLE = problem_type("unavailable", 503, "Unavailable", "Send the request again after Retry-After seconds.")

OF_STATUS = {
    kind.status: kind
    for kind in reversed(TYPES.values())  # the first type of a status is the general one
}


class Violation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule that a request breaks, and where: a member of the body or a parameter of the query."""

    detail: str
    pointer: str | msgspec.UnsetType = msgspec.UNSET
    """A JSON Pointer as a URI fragment (RFC 6901, section 6)."""
    parameter: str | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""
    errors: Sequence[Violation] = ()


class Refusal(Exception):
    """A request that is answered with a problem of a type, and headers beside it."""

    def __init__(
        self,
        kind: ProblemType | int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Violation] = (),
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors


def encode_problem(
    kind: ProblemType | int,
    detail: str,
    *,
    instance: str = "",
    request_id: str = "",
    errors: Sequence[Violation] = (),
) -> bytes:
    """Return a problem's body. For a status its general type is meant, or about:blank where it has none."""
    if isinstance(kind, int):
        kind = OF_STATUS.get(kind, kind)
    common = {"detail": detail, "instance": instance, "request_id": request_id, "errors": errors}
    if isinstance(kind, int):
        problem = Problem(type="about:blank", title=HTTPStatus(kind).phrase, status=kind, **common)  # type: ignore[arg-type]
    else:
        problem = Problem(type=kind.uri, title=kind.title, status=kind.status, **common)  # type: ignore[arg-type]
    return msgspec.json.encode(problem)


def _reference(path: str) -> str:
    """Return the path as a URI reference (RFC 3986), which a path with two slashes in front is not."""
    return ("/." if path.startswith("//") else "") + quote(path, safe="/:@!$&'()*+,;=~")


def respond(
    kind: ProblemType | int, detail: str, headers: Mapping[str, str] | None = None, errors: Sequence[Violation] = ()
) -> Response:
    """Return a problem as the response to the current request."""
    request_id = getattr(g, "request_id", "")
    body = encode_problem(kind, detail, instance=_reference(request.path), request_id=request_id, errors=errors)
    status = kind if isinstance(kind, int) else kind.status
    return Response(body, status, headers, content_type=CONTENT_TYPE)


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return respond(BODY_TOO_LARGE, f"a request's body has at most {current_app.config['MAX_CONTENT_LENGTH']} bytes")
    response = error.get_response()
    headers = {name: response.headers[name] for name in ("Allow", "Location") if name in response.headers}
    return respond(error.code or 500, error.description or "", headers)


def unforeseen(_error: Exception) -> Response:
    """Return the response to an exception that nobody foresaw; the log has its traceback."""
    log.exception("unexpected error")
    return respond(INTERNAL_ERROR, "an unexpected error; the log has it under this request id")


ANSWERS: dict[type[Exception], Callable[[Any], Response]] = {
    Refusal: lambda error: respond(error.kind, error.detail, error.headers, error.errors),
    HTTPException: _http_error,
    Exception: unforeseen,
}
"""How each kind of exception is answered in every service; the nearest of its classes counts."""


def register(app: Flask, own: Mapping[type[Exception], Callable[[Any], Response]]) -> None:
    """Answer every exception with its problem; `own` has the answers to the service's own exceptions."""
    for kind, answer in {**ANSWERS, **own}.items():
        app.register_error_handler(kind, answer)
