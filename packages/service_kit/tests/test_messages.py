"""Types are made ready to be decoded before there are threads: msgspec cannot do it in two of them at once."""

import subprocess
import sys

import msgspec
import pytest
from flask import Flask

from service_kit.http import messages

THREADS = """
import faulthandler, sys, threading
from typing import Annotated, Literal

import msgspec
from flask import Flask

from service_kit.http import messages

faulthandler.enable()
sys.setswitchinterval(1e-6)
app = Flask("test")


def fresh(number: int) -> type:
    text = Annotated[str, msgspec.Meta(max_length=9 + number, pattern="^[a-z]*$")]
    fields = [(f"text{one}", text | None, None) for one in range(12)]
    return msgspec.defstruct("Fresh", [*fields, ("choice", Literal["a", "b", None], None)])


def use(kind: type, barrier: threading.Barrier) -> None:
    barrier.wait()
    with app.test_request_context("/?text1=abc&choice=a", method="POST", json={"text1": "abc", "choice": "a"}):
        assert messages.query(kind) == messages.body(kind) == kind(text1="abc", choice="a")


for number in range(100):
    kind, barrier = fresh(number), threading.Barrier(6)
    messages.prepare(query=kind, json=kind)
    threads = [threading.Thread(target=use, args=(kind, barrier)) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
"""


def test_a_type_that_was_made_ready_is_decoded_by_many_threads_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class Forgotten(msgspec.Struct):
    name: str = ""


@pytest.mark.parametrize("read", [messages.query, messages.body])
def test_a_type_that_no_operation_names_is_refused_before_it_is_used(read: object) -> None:
    assert callable(read)
    with (
        Flask("test").test_request_context("/?name=a", method="POST", json={"name": "a"}),
        pytest.raises(LookupError, match="name it in `documented`"),
    ):
        read(Forgotten)
