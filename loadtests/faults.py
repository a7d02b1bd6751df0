"""A proxy that makes a healthy service slow, failing or stalled: what the load gate has to notice."""

import itertools
import os
import random
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from werkzeug.exceptions import InternalServerError, NotFound
from werkzeug.middleware.http_proxy import ProxyMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SETTINGS = "LOAD_FAULTS"  # the environment variable with the Faults as JSON


class Faults(msgspec.Struct, frozen=True):
    """What goes wrong: each of it only where it is set."""

    upstream: str = ""  # base URL of the healthy service
    slow_prefix: str = ""  # requests whose path begins so take longer ...
    slow_seconds: float = 0  # ... by about so much
    error_every: int = 0  # each n-th request, logins aside, is answered with 500
    stall_after: float = 0  # seconds after the first request everything stops ...
    stall_seconds: float = 0  # ... for so long


class Faulty:
    """The WSGI middleware that does it."""

    def __init__(self, application: "WSGIApplication", faults: Faults) -> None:
        self._application = application
        self._faults = faults
        self._counter = itertools.count(1)
        self._first = 0.0

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request, or get it wrong."""
        faults, path = self._faults, environ["PATH_INFO"]
        self._first = self._first or time.monotonic()
        into = time.monotonic() - self._first - faults.stall_after
        if 0 <= into < faults.stall_seconds:
            time.sleep(faults.stall_seconds - into)
        if faults.slow_prefix and path.startswith(faults.slow_prefix):
            time.sleep(faults.slow_seconds * random.uniform(0.9, 1.1))  # a delay, not a secret
        counts = faults.error_every and not path.startswith(("/auth", "/metrics"))
        if counts and next(self._counter) % faults.error_every == 0:
            return InternalServerError()(environ, start_response)
        return self._application(environ, start_response)


def application() -> Faulty:
    """Make the proxy from its environment, for a WSGI server with one process."""
    faults = msgspec.json.decode(os.environ[SETTINGS], type=Faults)
    proxy = ProxyMiddleware(NotFound(), {})  # its own routing cannot take over everything
    target = {"target": faults.upstream, "remove_prefix": False, "host": "<auto>", "headers": {}, "ssl_context": None}

    def forward(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        return proxy.proxy_to(target, environ["PATH_INFO"], "/")(environ, start_response)

    return Faulty(forward, faults)
