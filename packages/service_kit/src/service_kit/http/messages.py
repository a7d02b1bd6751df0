"""Reading bodies and queries into types, and writing answers."""

from collections.abc import Hashable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar, cast, get_args

import msgspec
from flask import Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from service_kit.http.problems import (
    INVALID_BODY,
    INVALID_QUERY,
    MALFORMED_BODY,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemType,
    Refusal,
    Violation,
)
from service_kit.http.violations import body_violations, item_of, query_violations

T = TypeVar("T")
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

_encode = msgspec.json.Encoder().encode


_decoders: dict[Hashable, msgspec.json.Decoder[Any]] = {Any: msgspec.json.Decoder()}
_parameters: dict[Hashable, "Parameters"] = {}


class Parameters(NamedTuple):
    """The names of the parameters that are times, and of those that may be repeated."""

    times: frozenset[str]
    lists: frozenset[str]


def prepare(*, query: Any = None, json: Any = None) -> None:
    """Make ready to decode these types, of which `documented` names those of each operation.

    It has to happen before there are threads: when two of them use a type for the first time at once, msgspec 0.22 ends
    the process (SIGSEGV), as one reads what the other is still building.
    """
    if json is not None:
        _decoders[json] = msgspec.json.Decoder(json)
    if query is not None:
        msgspec.json.Decoder(query)
        fields = msgspec.structs.fields(query)
        _parameters[query] = Parameters(
            times=frozenset(field.encode_name for field in fields if _holds_time(field.type)),
            lists=frozenset(field.encode_name for field in fields if item_of(field.type) is not None),
        )


def _prepared(ready: Mapping[Hashable, T], kind: Any) -> T:
    try:
        return ready[kind]
    except KeyError:
        raise LookupError(f"{kind} is the type of no operation: name it in `documented`") from None


def _holds_time(annotation: Any) -> bool:
    return annotation is datetime or any(map(_holds_time, get_args(annotation)))


def body(kind: type[T], content_type: str = JSON) -> T:
    """Return the request's body as that type.

    Raises RequestEntityTooLarge, and Refusal: 415, or 400 with every rule that the body breaks.
    """
    if request.environ.get("CONTENT_TYPE") != content_type != request.mimetype:
        offer = {"Accept-Patch" if request.method == "PATCH" else "Accept": content_type}
        raise Refusal(UNSUPPORTED_MEDIA_TYPE, f"the body has to be sent as Content-Type: {content_type}", offer)
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise Refusal(
            UNSUPPORTED_MEDIA_TYPE,
            "the body has to be sent without a Content-Encoding",
            {"Accept-Encoding": "identity"},
        )
    data, announced = request.get_data(cache=True), request.content_length
    if announced is None:  # a chunked body is read up to the limit, and no further
        if len(data) >= cast("int", request.max_content_length):
            raise RequestEntityTooLarge
    elif len(data) < announced:
        raise Refusal(MALFORMED_BODY, f"the body ended after {len(data)} of {announced} bytes (Content-Length)")
    try:
        decoded: T = _decoded(kind, data)
    except msgspec.ValidationError as error:
        try:
            anything = _decoded(Any, data)
        except msgspec.ValidationError as unreadable:  # such as a number that no type holds
            raise Refusal(MALFORMED_BODY, str(unreadable)) from None
        raise _invalid(INVALID_BODY, error, body_violations(kind, anything)) from None
    return decoded


def _decoded(kind: Any, data: bytes) -> Any:
    try:
        return _prepared(_decoders, kind).decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise Refusal(MALFORMED_BODY, str(error)) from None
    except UnicodeDecodeError:
        raise Refusal(MALFORMED_BODY, "the body has to be JSON in UTF-8") from None
    except RecursionError:
        raise Refusal(MALFORMED_BODY, "the body is nested too deeply") from None


def _invalid(kind: ProblemType, error: msgspec.ValidationError, violations: list[Violation]) -> Refusal:
    """Return the refusal of a request that is well-formed and breaks rules."""
    if len(violations) <= 1:
        return Refusal(kind, str(error), errors=violations)
    return Refusal(kind, f"{len(violations)} rules are broken: `errors` lists them", errors=violations)


def query(kind: type[T]) -> T:
    """Return the query's parameters as that type. Raises Refusal 400 with every rule that the query breaks."""
    received: dict[str, Any] = {}
    misread = []
    parameters = _prepared(_parameters, kind)
    for name, values in request.args.lists():
        if name in parameters.lists:
            received[name] = values
            continue
        is_time = name in parameters.times
        if len(values) > 1:
            misread.append(Violation(parameter=name, detail=f"the parameter {name!r} occurs {len(values)} times"))
        elif is_time and ":" not in values[0]:  # a bare number would be taken for Unix time
            detail = f"the parameter {name!r} has to be a time such as 2030-01-01T00:00:00Z"
            misread.append(Violation(parameter=name, detail=detail))
        # a plus sign that was not escaped arrives as a space, and no time has one before its offset
        received[name] = values[0].replace(" ", "+") if is_time else values[0]
    try:
        if not misread:
            return msgspec.convert(received, kind, strict=False)
        raise msgspec.ValidationError(misread[0].detail)
    except msgspec.ValidationError as error:
        known = {violation.parameter for violation in misread}
        others = [one for one in query_violations(kind, received) if one.parameter not in known]
        raise _invalid(INVALID_QUERY, error, misread + others) from None


class _Whole(Response):
    """An answer in one piece, which needs nothing of what streams, redirects and relative locations do."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response(self.status, self.headers.to_wsgi_list())
        return (
            [] if environ["REQUEST_METHOD"] == "HEAD" or self.status_code == HTTPStatus.NOT_MODIFIED else self.response
        )


def respond(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None, *, media: str = JSON
) -> Response:
    """Return a response in JSON, whose media type may be another that is JSON."""
    return _Whole(_encode(content), status, headers, content_type=media)


def prefers(media: str) -> bool:
    """Return whether Accept names this media type, and JSON does not go before it (RFC 9110, section 12.5.1).

    A wildcard does not name it: a program sends that, and gets JSON. Parameters, such as a charset, change nothing.
    """
    if media not in request.environ.get("HTTP_ACCEPT", "").lower():
        return False
    accepted = request.accept_mimetypes
    named = max((quality for kind, quality in accepted if kind.partition(";")[0].strip().lower() == media), default=0)
    return named > 0 and named >= accepted.quality(JSON)
