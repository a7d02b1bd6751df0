"""A service for the tests of the server: it echoes, waits, and sends much."""

import sys
import time

from flask import Flask, Response, request

from service_kit import gthread
from service_kit.config import Settings, load
from service_kit.http.app import create_app
from service_kit.listener import listen
from service_kit.server import serve
from service_kit.service import Service
from service_kit.telemetry import logs

MUCH = bytes(8_000_000)


class Small(Service):
    """Nothing but its name."""

    name = "small"
    title = "Small"
    version = "1"


def application(service: Service) -> Flask:
    """The routes."""
    app = create_app(service, {})

    @app.post("/echo")
    def echo() -> Response:
        return Response(request.get_data(), content_type="application/octet-stream")

    @app.get("/wait")
    def wait() -> Response:
        time.sleep(float(request.args["seconds"]))
        return Response("waited")

    @app.get("/much")
    def much() -> Response:
        return Response(MUCH)

    @app.get("/pieces")
    def pieces() -> Response:
        return Response(str(number) for number in range(3))

    @app.get("/unreadable")
    def unreadable() -> Response:
        return Response("", headers={"X-Bad": "\N{SNOWMAN}"})

    return app


def main(silence: float, places: int, held: int) -> None:
    """Serve with these limits: seconds of silence, connections, and bytes held for requests."""
    for phase, (_, whole) in gthread.SECONDS.items():
        gthread.SECONDS[phase] = silence, whole
    gthread.PLACES = places
    gthread.HELD_BYTES = held
    settings = load(Settings)
    logs.configure(settings.log_level)
    service = Small(settings)
    serve(service, lambda: application(service), listen(settings.host, settings.port))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
