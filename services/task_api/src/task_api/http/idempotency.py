"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a POST sent again is answered again, and done once."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
from flask import Response, request
from sqlalchemy import Connection

from service_kit.http.problems import Refusal
from service_kit.telemetry.logs import log
from task_api.http.context import account, database
from task_api.http.errors import KEY_IN_FLIGHT, KEY_MALFORMED, KEY_REUSED
from task_api.store import idempotency as store
from task_api.store.database import UNAVAILABLE

LONGEST_KEY = 255
KEPT_HEADERS = ("Location", "ETag", "Content-Type")


class Kept(msgspec.Struct, array_like=True):
    """An answer as it is kept."""

    status: int
    headers: dict[str, str]
    body: bytes


def once(work: Callable[[Connection], Response]) -> Response:
    """Do the work in one transaction; where the request's Idempotency-Key was answered before, give that answer again.

    Raises Refusal: 400 for a key that is none, 422 for one that came with another request, 409 for one in flight.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        with database().write() as connection:
            return work(connection)
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Refusal(
            KEY_MALFORMED,
            f"Idempotency-Key has to be 1 to {LONGEST_KEY} printable ASCII characters, a UUID for example",
        )
    owner, token = account().id, secrets.token_hex(16)
    digest = sha256(b"\0".join((request.method.encode(), request.full_path.encode(), request.get_data()))).digest()
    with database().write() as connection:
        holder = store.claim(connection, owner, key, digest, token, datetime.now(UTC))
    if holder is not None:
        return _answered_before(holder.request_digest == digest, holder.response)
    try:
        with database().write() as connection:
            response = work(connection)
            headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
            kept = msgspec.msgpack.encode(Kept(response.status_code, headers, response.get_data()))
            if not store.answer(connection, owner, key, token, kept):
                raise Refusal(
                    KEY_IN_FLIGHT, "another request with this key went ahead, as this one took long: send it again"
                )
    except UNAVAILABLE:
        raise  # the claim lapses by itself: to release it, the client would wait for the database once more
    except BaseException:
        _release(owner, key, token)
        raise
    return response


def _answered_before(same_request: bool, response: bytes | None) -> Response:
    if not same_request:
        raise Refusal(KEY_REUSED, "this Idempotency-Key belongs to another request: use a new key for a new request")
    if response is None:
        raise Refusal(
            KEY_IN_FLIGHT, "a request with this Idempotency-Key is in flight: try again", {"Retry-After": "1"}
        )
    kept = msgspec.msgpack.decode(response, type=Kept)
    return Response(kept.body, kept.status, {**kept.headers, "Idempotency-Replayed": "true"})


def _release(owner: int, key: str, token: str) -> None:
    try:
        with database().write() as connection:
            store.release(connection, owner, key, token)
    except Exception:  # noqa: BLE001 - the first error is the one to tell; the claim lapses by itself
        log.warning("an idempotency key could not be released", exc_info=True)
