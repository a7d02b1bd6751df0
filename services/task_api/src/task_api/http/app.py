"""The application: routes and what stands around them."""

from collections.abc import Callable
from typing import Any

from flask import Flask

from task_api.config import Settings
from task_api.http import auth, context, operations, problems, tasks
from task_api.store.database import Database


class _App(Flask):
    """Flask, spared the question whether each function is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings, database: Database) -> Flask:
    """The WSGI application. Connects to nothing yet, so it may be made before a fork."""
    app = _App("task_api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.strict_slashes = False
    app.extensions["task_api"] = context.Services(settings, database)
    context.install(app, settings)
    problems.register(app)
    operations.register(app)
    app.register_blueprint(tasks.blueprint)
    if settings.auth == "on":
        app.register_blueprint(auth.blueprint)
    if settings.cors_origins:
        from flask_cors import CORS  # noqa: PLC0415 - off unless set, and then not even loaded

        exposed = ["ETag", "Link", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"]
        CORS(app, origins=list(settings.cors_origins), expose_headers=exposed, max_age=600)
    return app
