"""The application that every service begins with."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request, Response, request_tearing_down
from flask.ctx import _AppCtxGlobals
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import IntegerConverter, MapAdapter, UnicodeConverter, ValidationError

from service_kit.http import operations, problems, requests
from service_kit.service import Service

MOST_HOSTS = 64
"""How many Host headers are remembered: a service has a few, and what a client makes up may not fill the memory."""


class _Number(IntegerConverter):
    """A number in a path has one spelling: ASCII digits without a leading zero."""

    regex = "0|[1-9][0-9]*"


class _Text(UnicodeConverter):
    """A text in a path holds no U+0000: PostgreSQL accepts none."""

    def to_python(self, value: str) -> str:
        if "\0" in value:
            raise ValidationError
        return value


class _Context(_AppCtxGlobals):
    """`flask.g`, whose attributes the interpreter sets, a dozen a request: Flask's own does the same in Python."""

    __setattr__: Any = object.__setattr__
    __delattr__: Any = object.__delattr__


class _NoSession(SessionInterface):
    """No service keeps anything in Flask's session: all requests share one that refuses what is put into it."""

    def __init__(self) -> None:
        self._shared = NullSession()

    def open_session(self, _app: Flask, _request: Request) -> NullSession:
        return self._shared


class _App(Flask):
    """Flask, spared what is the same for each request, and what a service has not: coroutines, sessions, teardowns."""

    app_ctx_globals_class = _Context
    session_interface = _NoSession()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._hosts: dict[tuple[str, str], tuple[str, str]] = {}
        """The host and the name to route by of a scheme and a Host header that Flask accepted."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what Flask does, which checks, splits and encodes (IDNA) the Host of each request anew."""
        environ = {} if request is None else request.environ
        host = environ.get("HTTP_HOST")
        if request is None or host is None or "HTTP_UPGRADE" in environ:
            return super().create_url_adapter(request)
        known = self._hosts.get((request.scheme, host))
        if known is None:
            adapter = super().create_url_adapter(request)
            if adapter is not None:
                if len(self._hosts) >= MOST_HOSTS:
                    self._hosts.clear()
                self._hosts[request.scheme, host] = (request.host, adapter.server_name)
            return adapter
        request.host, server_name = known
        root, path, query = (
            environ.get(name, "").encode("latin1").decode(errors="replace")  # PEP 3333: bytes as Latin-1
            for name in ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
        )
        return MapAdapter(self.url_map, server_name, root, "", request.scheme, path, environ["REQUEST_METHOD"], query)

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        if self.teardown_request_funcs or request_tearing_down.receivers:
            super().do_teardown_request(exc)


def create_app(service: Service, answers: Mapping[type[Exception], Callable[[Any], Response]]) -> Flask:
    """Return the WSGI application with probes, metrics, documents and errors; a service adds its routes.

    `answers` has the responses to the service's own exceptions.
    """
    app = _App(service.package, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would go to whatever host the client names
    app.url_map.converters |= {"int": _Number, "string": _Text, "default": _Text}
    requests.install(app, service)
    problems.register(app, answers)
    operations.register(app)
    return app
