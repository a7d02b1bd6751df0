"""A constant body for every task, by Flask and by no framework: what the server and Flask cost alone."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BODY = b'{"title":"%s"}' % (b"x" * 148)

flask_app = Flask(__name__)


@flask_app.get("/health")
@flask_app.get("/tasks/<int:_task_id>")
def respond(_task_id: int = 0) -> Response:
    """Return the constant body."""
    return Response(BODY, content_type="application/json")


def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Return the constant body (PEP 3333)."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
    return [BODY]
