"""Entity tags and conditional requests (RFC 9110, sections 8.8.3 and 13): no update is lost, nothing is sent twice."""

from hashlib import blake2b

from flask import Response, request

from service_kit.http.openapi import IF_MATCH
from service_kit.http.problems import Refusal
from task_api.http.errors import ENTITY_TAG_MALFORMED
from task_api.tasks.model import VersionConflict, Versioned


def entity_tag(versioned: Versioned) -> str:
    """The strong entity tag of a task."""
    return f'"{versioned.version}"'


def check_match(held: Versioned) -> None:
    """Hold the request's If-Match against the task that it is about.

    Raises VersionConflict (412), and Refusal 400 for an If-Match that is no list of entity tags.
    """
    header = request.environ.get("HTTP_IF_MATCH")
    if header is None:
        return
    if not IF_MATCH.fullmatch(header):
        raise Refusal(ENTITY_TAG_MALFORMED, 'If-Match has to be * or entity tags in quotes, such as "3"')
    if not request.if_match.contains(str(held.version)):
        raise VersionConflict(held)


def check_write(held: Versioned) -> None:
    """Hold the request's If-Match and If-None-Match against the task that is about to change.

    Raises as `check_match` does.
    """
    check_match(held)
    if "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(str(held.version)):
        raise VersionConflict(held)


def conditional(response: Response, tag: str = "") -> Response:
    """The response with its entity tag (by default a weak one of its body), or 304 where the client has it already."""
    if not tag:
        tag = f'W/"{blake2b(response.get_data(), digest_size=12).hexdigest()}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    opaque = tag.removeprefix("W/").strip('"')
    if "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(opaque):
        response.status_code = 304
        response.set_data(b"")
        del response.headers["Content-Type"], response.headers["Content-Length"]
    return response
