"""The tasks on BlackSheep, validated by msgspec."""

from typing import Any, cast

import msgspec
from blacksheep import Application, Content, Request, Response
from msgspec import UNSET

from services.task_api.bench.rivals import shared
from task_api.tasks.model import CHANGEABLE, NewTask, TaskChanges, TaskQuery

_application = Application()
_router = _application.router
_new, _changes = msgspec.json.Decoder(NewTask), msgspec.json.Decoder(TaskChanges)


def _account(request: Request) -> int:
    return cast("dict[str, Any]", request.scope)["account"]  # type: ignore[no-any-return]


def _id(request: Request) -> int:
    return int(cast("dict[str, str]", request.route_values)["task_id"])


def _respond(body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    return Response(status, headers, Content(b"application/json", body))


@_application.exception_handler(shared.Problem)
async def _refuse(_self: Application, _request: Request, error: shared.Problem) -> Response:
    return Response(error.status, None, Content(b"application/problem+json", shared.problem(error)))


@_application.exception_handler(msgspec.DecodeError)
@_application.exception_handler(msgspec.ValidationError)
async def _invalid(_self: Application, _request: Request, error: msgspec.DecodeError) -> Response:
    body = shared.problem(shared.Problem(400, str(error)))
    return Response(400, None, Content(b"application/problem+json", body))


@_router.get("/tasks")
async def list_tasks(request: Request) -> Response:
    fields = {name: values[0] for name, values in request.query.items()}
    wanted = msgspec.convert(fields, TaskQuery, strict=False)
    return _respond(shared.page(_account(request), wanted.limit, None if wanted.status is UNSET else wanted.status))


@_router.post("/tasks")
async def create_task(request: Request) -> Response:
    task_id, body = shared.create(_account(request), _new.decode(await request.read() or b""))
    return _respond(body, 201, [(b"Location", b"/tasks/%d" % task_id)])


@_router.get("/tasks/{int:task_id}")
async def get_task(request: Request) -> Response:
    return _respond(shared.get(_account(request), _id(request)))


@_router.put("/tasks/{int:task_id}")
async def change_task(request: Request) -> Response:
    data = _changes.decode(await request.read() or b"")
    fields = {name: value for name in CHANGEABLE if (value := getattr(data, name)) is not UNSET}
    return _respond(shared.change(_account(request), _id(request), fields))


@_router.delete("/tasks/{int:task_id}")
async def delete_task(request: Request) -> Response:
    return _respond(shared.delete(_account(request), _id(request)))


app = shared.around(_application)
