"""A service for the tests of the server: it echoes, waits, and sends much."""

import math
import sys
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from service_kit import gthread
from service_kit.config import Settings, load
from service_kit.http.app import create_app
from service_kit.http.streams import Stream, Streamed, event, wanted
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

    add_long(app)
    add_streams(app)
    return app


PART = bytes(64 * 1024)
made = {"parts": 0, "ended": 0}


def parts(number: int, breaks: bool) -> Iterator[bytes]:
    """Yield parts of a long response, and note how many were made, and that it has ended."""
    try:
        for _ in range(number):
            made["parts"] += 1
            yield PART
        if breaks:
            raise ValueError("no further")
    finally:
        made["ended"] += 1


def add_long(app: Flask) -> None:
    """The routes of a response of many parts, and of what was made of it."""

    @app.get("/long/<int:number>")
    def long(number: int) -> Response:
        made["parts"] = 0
        return Response(parts(number, "breaks" in request.args))

    @app.get("/made")
    def show() -> Response:
        return Response(f"{made['parts']} {made['ended']}")


streams: list[Stream] = []


class Kept(Stream):
    """A stream that the routes below know while it lasts."""

    def begun(self) -> None:
        streams.append(self)

    def closed(self) -> None:
        streams.remove(self)


def held() -> list[Stream]:
    """Return the open streams once the server holds all of them."""
    while not all(hasattr(one, "deliver") for one in [*streams]):  # the request of one is in its thread still
        time.sleep(0.01)
    return [*streams]


def add_streams(app: Flask) -> None:
    """The routes that open streams, send on all that are open, and end them."""

    @app.get("/stream")
    def stream() -> Response:
        response: Response = Streamed(Kept(), event(b"first", identity="1")) if wanted() else Response("no stream")
        if "bad" in request.args:
            response.headers["X-Bad"] = "\N{SNOWMAN}"
        return response

    @app.post("/send/<int:times>")
    def send(times: int) -> Response:
        data = request.get_data() * times
        for one in held():
            one.send(data)
        return Response(str(len(streams)))

    @app.post("/end")
    def end() -> Response:
        for one in held():
            one.end("told", b"the end")
        return Response()


def main(silence: float, places: float, held: float, heartbeat: float, age: float) -> None:
    """Serve with these limits: seconds of silence, connections, bytes held for requests; seconds of streams."""
    for phase, (_, whole) in gthread.SECONDS.items():
        gthread.SECONDS[phase] = silence, whole
    gthread.SECONDS[gthread.Phase.STREAMING] = heartbeat, math.inf
    gthread.STREAM_SECONDS = age
    gthread.PLACES = int(places)
    gthread.HELD_BYTES = int(held)
    settings = load(Settings)
    logs.configure(settings.log_level)
    service = Small(settings)
    serve(service, lambda: application(service), listen(settings.host, settings.port))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
