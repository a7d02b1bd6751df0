"""The application: routes and what surrounds them."""

import re

from flask import Flask

from service_kit.config import LOOPBACK
from service_kit.http.app import create_app as create_common_app
from task_api.http import admin, auth, board, calendar, errors, labels, mail, second_factor, session, tasks, webhooks
from task_api.http.context import Services


def create_app(services: Services) -> Flask:
    """Return the WSGI application. Connects to nothing yet, so it may be made before a fork."""
    settings = services.settings
    app = create_common_app(services, errors.ANSWERS)
    if settings.auth == "off":
        # a web page must not reach us by a name of its own (DNS rebinding)
        app.config["TRUSTED_HOSTS"] = [*LOOPBACK, "[::1]"]
    app.register_blueprint(board.blueprint)
    app.register_blueprint(tasks.blueprint)
    app.register_blueprint(labels.blueprint)
    app.register_blueprint(calendar.blueprint)
    if settings.webhooks != "off":
        app.register_blueprint(webhooks.blueprint)
    if settings.auth == "on":
        app.register_blueprint(auth.blueprint)
        app.register_blueprint(session.blueprint)
        app.register_blueprint(second_factor.blueprint)
        app.register_blueprint(mail.blueprint if settings.smtp_url else auth.registration)
        app.register_blueprint(admin.blueprint)
    if settings.cors_origins:
        from flask_cors import CORS  # noqa: PLC0415 - off unless set, and then not even loaded

        exposed = ["ETag", "Link", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"]
        CORS(
            app,
            origins=[rf"{re.escape(origin)}\Z" for origin in settings.cors_origins],
            expose_headers=exposed,
            max_age=600,
        )
    return app
