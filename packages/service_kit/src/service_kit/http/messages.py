"""Reading bodies and queries into types, and writing answers."""

from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar, cast, get_args

import msgspec
from flask import Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from service_kit.http.problems import Refusal

T = TypeVar("T")
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

_encode = msgspec.json.Encoder().encode


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast("type[Any]", kind))


def _holds_time(annotation: Any) -> bool:
    return annotation is datetime or any(map(_holds_time, get_args(annotation)))


@cache
def _times(kind: Hashable) -> frozenset[str]:
    """The names of the parameters that are times."""
    fields = msgspec.structs.fields(cast("type[msgspec.Struct]", kind))
    return frozenset(field.encode_name for field in fields if _holds_time(field.type))


def body(kind: type[T], content_type: str = JSON) -> T:
    """The request's body as that type.

    Raises Refusal 415 and 400, RequestEntityTooLarge, and msgspec's errors, which are answered by 400.
    """
    if request.environ.get("CONTENT_TYPE") != content_type != request.mimetype:
        offer = {"Accept-Patch" if request.method == "PATCH" else "Accept": content_type}
        raise Refusal(415, f"the body has to be sent as Content-Type: {content_type}", offer)
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise Refusal(415, "the body has to be sent without a Content-Encoding", {"Accept-Encoding": "identity"})
    data, announced = request.get_data(cache=True), request.content_length
    if announced is None:  # a chunked body is read up to the limit, and no further
        if len(data) >= cast("int", request.max_content_length):
            raise RequestEntityTooLarge
    elif len(data) < announced:
        raise Refusal(400, f"the body ended after {len(data)} of {announced} bytes (Content-Length)")
    try:
        decoded: T = _decoder(cast("Hashable", kind)).decode(data)
    except UnicodeDecodeError:
        raise Refusal(400, "the body has to be JSON in UTF-8") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    return decoded


def query(kind: type[T]) -> T:
    """The query's parameters as that type. Raises Refusal 400 for one given twice, and msgspec's errors."""
    given = {}
    for name, values in request.args.lists():
        if len(values) > 1:
            raise Refusal(400, f"the parameter {name!r} is given {len(values)} times")
        is_time = name in _times(cast("Hashable", kind))
        if is_time and ":" not in values[0]:  # a bare number would be taken for Unix time
            raise Refusal(400, f"the parameter {name!r} has to be a time such as 2030-01-01T00:00:00Z")
        # a plus sign that was not escaped arrives as a space, and no time has one before its offset
        given[name] = values[0].replace(" ", "+") if is_time else values[0]
    return msgspec.convert(given, kind, strict=False)


class _Whole(Response):
    """An answer in one piece, which needs nothing of what streams, redirects and relative locations do."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response(self.status, self.headers.to_wsgi_list())
        return (
            [] if environ["REQUEST_METHOD"] == "HEAD" or self.status_code == HTTPStatus.NOT_MODIFIED else self.response
        )


def respond(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return _Whole(_encode(content), status, headers, content_type=JSON)
