"""No input costs more than linear time: a text eight times as long may cost eight times as much, never 64 times."""

import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from task_api import transfer
from task_api.accounts import model as accounts
from task_api.http.app import create_app
from task_api.http.context import Services
from task_api.tasks import model as tasks
from task_core.database import Database

from .conftest import Migrated

Call = Callable[[str], object]
SHORT, GROWTH = 400, 8
LINEAR = 3 * GROWTH
LEAST_SECONDS = 1e-6  # the clock of a virtual machine may stand still for so long
PARTS = [" ", "a", '"', ",", "\t", "=", "W/", "0", ".", "-", ":", "@", "//:", "%20", "&password", "a@", "é"]
ENDS = ["", "\0", "!", '"']
"""What makes a match fail at the end, after everything before it has matched."""


def processor_time(call: Call, text: str, repeats: int) -> float:
    """Return the least processor time of some calls, in seconds."""
    spent = []
    for _ in range(repeats):
        began = time.thread_time()
        call(text)
        spent.append(time.thread_time() - began)
    return min(spent)


def growth(call: Call, part: str, end: str, repeats: int) -> float:
    """Return the factor by which the call's cost grows for a text that is `GROWTH` times as long."""
    short, long = (part * (length // len(part)) + end for length in (SHORT, SHORT * GROWTH))
    return processor_time(call, long, repeats) / max(processor_time(call, short, repeats), LEAST_SECONDS)


def superlinear(call: Call) -> dict[str, float]:
    """Return the texts that the call takes more than linear time for; what looks like one is measured again."""
    suspects = [text for text in product(PARTS, ENDS) if growth(call, *text, repeats=1) > LINEAR]
    measured = {f"{part!r} and {end!r}": growth(call, part, end, repeats=5) for part, end in suspects}
    return {text: factor for text, factor in measured.items() if factor > LINEAR}


def decoding(kind: type, field: str) -> Call:
    """Return a call that decodes a body with the text in one of its fields."""
    config = kind.__struct_config__  # type: ignore[attr-defined]
    tag = {config.tag_field: config.tag} if config.tag_field else {}
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    encoder = msgspec.json.Encoder()

    def decode(text: str) -> object:
        try:
            return decoder.decode(encoder.encode({**tag, field: text}))
        except msgspec.ValidationError as error:
            return error

    return decode


BODIES = {
    f"{kind.__name__}.{field.encode_name}": decoding(kind, field.encode_name)
    for module in (tasks, accounts, transfer)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
    for field in msgspec.structs.fields(kind)
}


def test_a_pattern_that_backtracks_is_noticed() -> None:
    class Old(msgspec.Struct):
        title: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]

    assert growth(decoding(Old, "title"), "a", "\0", repeats=1) > LINEAR


@pytest.mark.parametrize("field", BODIES)
def test_a_field_of_a_body_costs_linear_time(field: str) -> None:
    assert superlinear(BODIES[field]) == {}


@pytest.fixture
def application(migrated: Migrated, tmp_path: Path) -> Iterator[Flask]:
    settings = migrated("sqlite", "tests", tmp_path)
    database = Database(settings)
    settings = msgspec.structs.replace(settings, trusted_proxies=1, cors_origins=("https://a.example",))
    yield create_app(Services(settings, database))
    database.engine.dispose()


def answering(application: Flask, environment: dict[str, Any], place: Callable[[str], dict[str, str]]) -> Call:
    """Return a call that answers a request which has the text at the place."""

    def answer(text: str) -> None:
        request = {**environment, "wsgi.input": BytesIO(b"{}"), **place(text)}
        run_wsgi_app(application.wsgi_app, request)

    return answer


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(tasks.TaskQuery)])
def test_a_parameter_of_a_query_costs_linear_time(application: Flask, name: str) -> None:
    environment = EnvironBuilder(path="/tasks").get_environ()
    assert (
        superlinear(answering(application, environment, lambda text: {"QUERY_STRING": f"{name}={quote(text)}"})) == {}
    )


HEADERS = [
    "Accept",
    "Accept-Encoding",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Forwarded",
    "Host",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "Origin",
    "Range",
    "Traceparent",
    "Tracestate",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Request-ID",
]


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize(("method", "path"), [("PUT", "/tasks/1"), ("POST", "/tasks"), ("GET", "/health")])
def test_a_header_costs_linear_time(application: Flask, name: str, method: str, path: str) -> None:
    environment = EnvironBuilder(path=path, method=method, content_type="application/json", data=b"{}").get_environ()
    variable = name.upper().replace("-", "_")
    variable = variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"
    assert superlinear(answering(application, environment, lambda text: {variable: text})) == {}
