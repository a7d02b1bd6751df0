"""The application: it delivers to webhooks beside the few requests that it answers."""

import socket
from typing import Annotated, cast

from flask import Flask, Response
from msgspec import Meta, Struct

from notifier import __version__
from notifier.config import Settings
from service_kit.http import requests
from service_kit.http.app import create_app as create_common_app
from service_kit.http.messages import respond
from service_kit.http.openapi import Answers, documented
from service_kit.server import serve
from service_kit.service import NotReady, Service
from service_kit.telemetry.traces import Tracer
from task_core import telemetry
from task_core.database import Database
from task_core.delivery import Backlog
from task_core.errors import UNAVAILABLE, SchemaBehind, down
from task_core.start import Delivery, start_delivery


class Application(Service):
    """The running service."""

    name = "notifier"
    title = "Notifier"
    version = __version__
    description = "Delivers changes of tasks to webhooks. Errors are problem details (RFC 9457)."
    settings: Settings

    def __init__(self, settings: Settings, database: Database) -> None:
        super().__init__(settings)
        self.database = database
        self.delivery: Delivery | None = None

    @property
    def backlog(self) -> Backlog:
        """What this process last read of what is to be delivered."""
        return self.delivery.deliverer.backlog if self.delivery else Backlog()

    def check(self) -> None:
        answers = True
        try:
            self.database.check()
        except SchemaBehind as error:
            raise NotReady(str(error)) from error
        except UNAVAILABLE as error:
            answers = not down(error)
            raise
        finally:
            telemetry.database_answers(self.database.dialect, answers)

    def start_worker(self) -> None:
        self.database.close()
        insecure = self.settings.webhooks == "insecure"
        tracer = self.tracer
        self.delivery = start_delivery(self.settings, self.database, insecure=insecure, tracer=tracer, listens=True)

    def sample(self) -> None:
        telemetry.sample_pool(self.database.engine.pool)
        if self.delivery and self.draining():
            self.delivery.end()

    def start_tracer(self) -> Tracer:
        tracer = super().start_tracer()
        tracer.watch(self.database.watched())
        return tracer


class Undelivered(Struct, frozen=True):
    """What is to be delivered, at most some seconds ago."""

    due_seconds: Annotated[float, Meta(ge=0, description="for how long an attempt has been due; 0 where none is")]
    oldest_seconds: Annotated[float, Meta(ge=0, description="the age of the oldest change; 0 where none waits")]
    waiting: Annotated[int, Meta(ge=0, description="active webhooks with something to deliver")]
    disabled: Annotated[int, Meta(ge=0, description="webhooks that are disabled")]


@documented(answers=Answers(ok=Undelivered), tag="backlog")
def get_backlog() -> Response:
    """Return what is to be delivered, for an autoscaler."""
    return respond(Undelivered(*cast("Application", requests.service()).backlog))


def create_app(service: Application) -> Flask:
    """The WSGI application."""
    app = create_common_app(service, {})
    app.add_url_rule("/backlog", "get_backlog", get_backlog, methods=["GET"])
    return app


def application(settings: Settings) -> Flask:
    """The WSGI application under these settings."""
    return create_app(Application(settings, Database(settings)))


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM."""
    service = Application(settings, Database(settings))
    serve(service, lambda: create_app(service), listener)
