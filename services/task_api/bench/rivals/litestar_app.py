"""The tasks on Litestar, whose validation is msgspec's as the service's is."""

from typing import Any, Literal

from litestar import Litestar, Request, Response, delete, get, post, put
from msgspec import UNSET

from services.task_api.bench.rivals import shared
from task_api.tasks.model import CHANGEABLE, NewTask, TaskChanges


def _respond(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(body, status_code=status, media_type=shared.JSON, headers=headers)


def _refuse(_request: Request[Any, Any, Any], error: shared.Problem) -> Response[bytes]:
    return Response(shared.problem(error), status_code=error.status, media_type="application/problem+json")


@get("/tasks")
async def list_tasks(
    request: Request[Any, Any, Any],
    limit: int = 50,
    status: Literal["pending", "in_progress", "completed"] | None = None,
) -> Response[bytes]:
    return _respond(shared.page(request.scope["account"], shared.checked_limit(limit), status))  # type: ignore[typeddict-item]


@post("/tasks")
async def create_task(request: Request[Any, Any, Any], data: NewTask) -> Response[bytes]:
    task_id, body = shared.create(request.scope["account"], data)  # type: ignore[typeddict-item]
    return _respond(body, 201, {"Location": f"/tasks/{task_id}"})


@get("/tasks/{task_id:int}")
async def get_task(request: Request[Any, Any, Any], task_id: int) -> Response[bytes]:
    return _respond(shared.get(request.scope["account"], task_id))  # type: ignore[typeddict-item]


@put("/tasks/{task_id:int}")
async def change_task(request: Request[Any, Any, Any], task_id: int, data: TaskChanges) -> Response[bytes]:
    fields = {name: value for name in CHANGEABLE if (value := getattr(data, name)) is not UNSET}
    return _respond(shared.change(request.scope["account"], task_id, fields))  # type: ignore[typeddict-item]


@delete("/tasks/{task_id:int}", status_code=200)
async def delete_task(request: Request[Any, Any, Any], task_id: int) -> Response[bytes]:
    return _respond(shared.delete(request.scope["account"], task_id))  # type: ignore[typeddict-item]


app = shared.around(
    Litestar(
        [list_tasks, create_task, get_task, change_task, delete_task],
        exception_handlers={shared.Problem: _refuse},
        openapi_config=None,
    )
)
