"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a POST sent again is answered again, and done once.

What is kept is which tasks the request has changed, not the response: a request sent again is answered with what these
tasks are by then.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Generic, NamedTuple, TypeVar

import msgspec
from flask import Response, request
from sqlalchemy import Connection

from service_kit.http.problems import Refusal
from service_kit.telemetry.logs import log
from task_api.http.context import account, database
from task_api.http.errors import KEY_IN_FLIGHT, KEY_MALFORMED, KEY_REUSED
from task_api.store import idempotency as store
from task_core.database import UNAVAILABLE

LONGEST_KEY = 255

R = TypeVar("R")
Reference = tuple[str, int]
"""An operation and the id of its task."""

_references = msgspec.msgpack.Decoder(list[Reference])


class Work(NamedTuple, Generic[R]):
    """What a request does once, and how its result is stored, read again and returned."""

    do: Callable[[Connection], R]
    refer: Callable[[R], list[Reference]]
    recall: Callable[[Connection, list[Reference]], R]
    respond: Callable[[R], Response]


def once(work: Work[R]) -> Response:
    """Do the work in one transaction, or recall its result where this Idempotency-Key has one; return the response.

    The response is made when the transaction is over, which others may wait for. Raises Refusal: 400 for a malformed
    key, 422 for one of another request, 409 for one in flight.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return work.respond(database().transaction(work.do))
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Refusal(
            KEY_MALFORMED,
            f"Idempotency-Key has to be 1 to {LONGEST_KEY} printable ASCII characters, a UUID for example",
        )
    owner, name = account().id, store.claim_name()
    digest = sha256(b"\0".join((request.method.encode(), request.full_path.encode(), request.get_data()))).digest()
    now = datetime.now(UTC)
    holder = database().transaction(lambda connection: store.claim(connection, owner, key, digest, name, now))
    if holder is not None:
        return _again(work, holder.request_digest == digest, holder.response)

    def do(connection: Connection) -> R:
        result = work.do(connection)
        if not store.keep(connection, owner, key, name, msgspec.msgpack.encode(work.refer(result))):
            raise Refusal(
                KEY_IN_FLIGHT, "another request with this key went ahead, as this one took long: send it again"
            )
        return result

    try:
        result = database().transaction(do)
    except UNAVAILABLE:
        raise  # the claim lapses by itself: to release it, the client would wait for the database once more
    except BaseException:
        _release(owner, key, name)
        raise
    return work.respond(result)


def _again(work: Work[R], same_request: bool, kept: bytes | None) -> Response:
    if not same_request:
        raise Refusal(KEY_REUSED, "this Idempotency-Key belongs to another request: use a new key for a new request")
    if kept is None:
        raise Refusal(
            KEY_IN_FLIGHT, "a request with this Idempotency-Key is in flight: try again", {"Retry-After": "1"}
        )
    with database().read() as connection:
        result = work.recall(connection, _references.decode(kept))
    response = work.respond(result)
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _release(owner: int, key: str, name: str) -> None:
    try:
        with database().write() as connection:
            store.release(connection, owner, key, name)
    except Exception:  # noqa: BLE001 - the first error is the one to report; the claim lapses by itself
        log.warning("an idempotency key could not be released", exc_info=True)
