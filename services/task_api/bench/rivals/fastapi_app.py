"""The tasks on FastAPI, with its pydantic models."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from services.task_api.bench.rivals import shared

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Description = Annotated[str, StringConstraints(max_length=10_000)]
Project = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50)]
Labels = Annotated[list[Label], Field(max_length=20), AfterValidator(lambda labels: sorted(set(labels)))]
Recurrence = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^[A-Z-]+=[A-Z0-9,+-]+(;[A-Z-]+=[A-Z0-9,+-]+)*$")
]
TimeZone = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")]
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
Reminders = Annotated[list[dict[Literal["at", "before"], str]], Field(max_length=5)]
Status = Literal["pending", "in_progress", "completed"]


class NewTask(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Title
    description: Description = ""
    status: Status = "pending"
    priority: Literal["low", "normal", "high"] = "normal"
    due_at: Moment | None = None
    project: Project | None = None
    labels: Labels = []
    recurrence: Recurrence | None = None
    time_zone: TimeZone | None = None
    reminders: Reminders = []


class TaskChanges(NewTask):
    title: Title = ""


_application = FastAPI(openapi_url=None)
PROBLEM = "application/problem+json"


def _respond(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, shared.JSON)


@_application.exception_handler(shared.Problem)
async def _refuse(_request: Request, error: shared.Problem) -> Response:
    return Response(shared.problem(error), error.status, None, PROBLEM)


@_application.exception_handler(RequestValidationError)
async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    return Response(shared.problem(shared.Problem(400, str(error.errors()[0]["msg"]))), 400, None, PROBLEM)


@_application.get("/tasks")
async def list_tasks(
    request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50, status: Status | None = None
) -> Response:
    return _respond(shared.page(request.scope["account"], limit, status))


@_application.post("/tasks")
async def create_task(request: Request, new: NewTask) -> Response:
    task_id, body = shared.create(request.scope["account"], new)
    return _respond(body, 201, {"Location": f"/tasks/{task_id}"})


@_application.get("/tasks/{task_id}")
async def get_task(request: Request, task_id: int) -> Response:
    return _respond(shared.get(request.scope["account"], task_id))


@_application.put("/tasks/{task_id}")
async def change_task(request: Request, task_id: int, changes: TaskChanges) -> Response:
    fields: dict[str, Any | datetime] = {name: getattr(changes, name) for name in changes.model_fields_set}
    return _respond(shared.change(request.scope["account"], task_id, fields))


@_application.delete("/tasks/{task_id}")
async def delete_task(request: Request, task_id: int) -> Response:
    return _respond(shared.delete(request.scope["account"], task_id))


app = shared.around(_application)
