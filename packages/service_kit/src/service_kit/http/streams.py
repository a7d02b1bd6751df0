"""Responses without an end, as server-sent events (WHATWG HTML, section 9.2).

WSGI has no such response: its thread would wait as long as its client. So the server offers under `HOLD` in the environ
to hold the connection itself once what the response begins with is sent, as `wsgi.file_wrapper` offers to send a file.
A server that does not offer it has no streams, and neither has ours while it has as many as it may.
"""

import random
from collections.abc import Callable
from typing import Any

from flask import Response, request

from service_kit.http.messages import prefers

EVENTS = "text/event-stream"
HOLD = "service_kit.hold"
"""The key of the environ with a function of a `Stream`, to be called before `start_response`."""

RETRY_MILLISECONDS = (1_000, 5_000)
"""After how long a client comes again whose stream has ended: at random, so that they do not come all at once."""


class Stream:
    """A response that goes on. Who makes it overrides the last three methods, which must not wait for anything."""

    ends_at: float
    """When it has lasted long enough, by the monotonic clock; set by the server."""
    deliver: Callable[[bytes, str], None]
    """What the server takes more with, and the reason of an end; set by the server before the first `taken`."""
    idle = False
    """Whether the client has taken all that was sent."""
    delivered = True
    """Whether the server has what was sent; the server's own."""

    def send(self, data: bytes) -> None:
        """Send more. Only while `idle`: a client that is sent more before it has taken what there was is dropped."""
        self.idle = False
        self.deliver(data, "")

    def end(self, reason: str, data: bytes = b"") -> None:
        """Send this and end. `reason` is the label of a metric. Only while `idle`, as with `send`."""
        self.idle = False
        self.deliver(data, reason)

    def begun(self) -> None:
        """The response begins; `closed` will follow, however it ends. Called in the thread of the request."""

    def taken(self) -> None:
        """The client has taken all that was sent. Called in the server's main thread."""

    def closed(self) -> None:
        """The stream has ended. Called in the server's main thread, or in that of the request if it has not begun."""


class Streamed(Response):
    """A response that begins with `first` and goes on with what its stream is sent."""

    def __init__(self, stream: Stream, first: bytes) -> None:
        headers = {"Vary": "Accept", "X-Accel-Buffering": "no"}  # nginx would keep events until its buffer is full
        super().__init__(  # a list: the length of what it begins with is not its length
            [b"retry: %d\n%s" % (random.randint(*RETRY_MILLISECONDS), first)], 200, headers, content_type=EVENTS
        )
        self.held = stream

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "HEAD":
            start_response(self.status, self.headers.to_wsgi_list())
            return []
        environ[HOLD](self.held)
        self.held.begun()
        start_response(self.status, self.headers.to_wsgi_list())
        return self.response


def wanted() -> bool:
    """Return whether the request is answered with a stream: its client prefers that, and the server has room for it."""
    return HOLD in request.environ and prefers(EVENTS)


def event(data: bytes, *, identity: str, name: str = "") -> bytes:
    """Return an event; `data` is one line. An empty `identity` makes the client forget the last one."""
    kind = f"event: {name}\n" if name else ""
    return f"{kind}id: {identity}\ndata: ".encode() + data + b"\n\n"
