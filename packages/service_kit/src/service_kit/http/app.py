"""The application that every service begins with."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response
from werkzeug.routing import IntegerConverter, UnicodeConverter, ValidationError

from service_kit.http import operations, problems, requests
from service_kit.service import Service


class _Number(IntegerConverter):
    """A number in a path has one spelling: ASCII digits without a leading zero."""

    regex = "0|[1-9][0-9]*"


class _Text(UnicodeConverter):
    """A text in a path holds no U+0000: PostgreSQL accepts none."""

    def to_python(self, value: str) -> str:
        if "\0" in value:
            raise ValidationError
        return value


class _App(Flask):
    """Flask, spared the question whether each function is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


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
