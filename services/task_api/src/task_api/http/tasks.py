"""The routes under /tasks."""

from functools import partial
from urllib.parse import urlencode

from flask import Blueprint, Response, request, url_for
from sqlalchemy import Connection

from service_kit.http.compression import compressed
from service_kit.http.messages import MERGE_PATCH, body, query, respond
from service_kit.http.openapi import Answers, Link, documented
from service_kit.http.problems import Refusal
from task_api.http.context import account, database, services
from task_api.http.errors import CREATED_TASK_DELETED
from task_api.http.idempotency import Reference, Work, once
from task_api.http.preconditions import check_match, check_write, conditional, entity_tag
from task_api.tasks import service
from task_api.tasks.model import (
    Bulk,
    BulkResult,
    BulkResults,
    Deleted,
    NewTask,
    Task,
    TaskChanges,
    TaskMergePatch,
    TaskNotFound,
    TaskQuery,
    Versioned,
)

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")
ONE = "/<int:task_id>"
READ, WRITE = ("tasks:read",), ("tasks:write",)


def leads_to(*operations: str, task_id: str = "$response.body#/id") -> tuple[Link, ...]:
    """Return links to operations on the task of the response."""
    return tuple(Link(operation, {"task_id": task_id}) for operation in operations)


CHANGES = ("put_task", "patch_task", "delete_task")
LISTED = Answers(
    ok=list[Task],
    problems=(400,),
    not_modified=True,
    paged=True,
    compressed=True,
    links=leads_to("get_task", task_id="$response.body#/0/id"),
)
CREATED = Answers(created=Task, problems=(400, 403, 409, 410, 413, 415, 422), links=leads_to("get_task", *CHANGES))
FETCHED = Answers(ok=Task, problems=(404,), not_modified=True, entity_tag=True, links=leads_to(*CHANGES))
CHANGED = Answers(ok=Task, problems=(400, 403, 404, 413, 415), entity_tag=True, links=leads_to("get_task"))
DELETED = Answers(ok=Deleted, problems=(404,), links=leads_to("get_task"))
TASK_ID = {"task_id": "the task's id"}


@blueprint.before_request
def _who() -> None:
    if request.method != "OPTIONS":
        account()  # before anything of the request is looked at


def _links(cursor: str | None) -> str:
    """Return links to the first page and the next (RFC 8288), with the filters of the request."""
    filters = {name: value for name, value in request.args.items() if name != "cursor"}
    pages = {"first": filters, **({"next": {**filters, "cursor": cursor}} if cursor else {})}
    return ", ".join(
        f'<{"?".join(filter(None, (request.path, urlencode(page))))}>; rel="{relation}"'
        for relation, page in pages.items()
    )


def _shown(versioned: Versioned) -> Task:
    """Return a task as the account may see it: administrators, who see those of all, see whose it is."""
    return versioned.with_owner if account().role == "admin" else versioned.task


@blueprint.get("")
@documented(query=TaskQuery, answers=LISTED, scopes=READ)
def list_tasks() -> Response:
    """List tasks, a page at a time.

    The Link header (RFC 8288) names the next page, as long as there is one.
    """
    wanted = query(TaskQuery)
    with database().read() as connection:
        tasks, cursor = service.page(connection, account().scope, wanted)
    response = respond([_shown(versioned) for versioned in tasks])
    response.headers["Link"] = _links(cursor)
    return compressed(conditional(response))


@blueprint.post("")
@documented(json=NewTask, answers=CREATED, idempotent=True, scopes=WRITE)
def create_task() -> Response:
    """Create a task."""
    new = body(NewTask)
    owner = account().id

    def create(connection: Connection) -> Versioned:
        with services().quota.held(connection, owner):
            return service.create(connection, owner, new)

    return once(
        Work(
            do=create,
            refer=lambda created: [("create", created.task.id)],
            recall=_created,
            respond=lambda created: respond(
                _shown(created),
                201,
                {"Location": url_for("tasks.get_task", task_id=created.task.id), "ETag": entity_tag(created)},
            ),
        )
    )


def _created(connection: Connection, references: list[Reference]) -> Versioned:
    """The task that a request has created. Raises Refusal 410 where it has been deleted since."""
    ((_, task_id),) = references
    try:
        return service.get(connection, account().scope, task_id)
    except TaskNotFound:
        raise Refusal(CREATED_TASK_DELETED, f"task {task_id}, which this key created, has been deleted") from None


@blueprint.post("/bulk")
@documented(
    json=Bulk,
    answers=Answers(ok=BulkResults, problems=(400, 403, 404, 409, 412, 413, 415, 422)),
    idempotent=True,
    scopes=WRITE,
)
def bulk_tasks() -> Response:
    """Create, update and delete many tasks in one transaction: all of it is done, or none."""
    operations = body(Bulk)
    who = account()

    def bulk(connection: Connection) -> list[BulkResult]:
        with services().quota.held(connection, who.id):
            return service.bulk(connection, who.id, who.scope, operations)

    return once(
        Work(
            do=bulk,
            refer=lambda results: [(result.op, result.id) for result in results],
            recall=lambda connection, references: service.recall(connection, who.scope, references),
            respond=lambda results: respond(BulkResults(results)),
        )
    )


@blueprint.get(ONE)
@documented(answers=FETCHED, path=TASK_ID, if_match=True, scopes=READ)
def get_task(task_id: int) -> Response:
    """Get a task."""
    with database().read() as connection:
        found = service.get(connection, account().scope, task_id)
    check_match(found)
    return conditional(respond(_shown(found)), entity_tag(found))


_change_of = partial(
    documented,
    answers=CHANGED,
    path=TASK_ID,
    if_match=True,
    scopes=WRITE,
)


def _change(task_id: int, changes: TaskChanges) -> Response:
    with database().write() as connection:
        held = _held(connection, task_id)
        with services().quota.held(connection, held.owner_id):
            changed = service.change(connection, held, changes)
    return respond(_shown(changed), 200, {"ETag": entity_tag(changed)})


def _held(connection: Connection, task_id: int) -> Versioned:
    held = service.get(connection, account().scope, task_id, lock=True)
    check_write(held)
    return held


@blueprint.put(ONE)
@_change_of(json=TaskChanges)
def put_task(task_id: int) -> Response:
    """Change a task: fields that the body leaves out stay as they are."""
    return _change(task_id, body(TaskChanges))


@blueprint.patch(ONE)
@_change_of(json=TaskMergePatch, content_type=MERGE_PATCH)
def patch_task(task_id: int) -> Response:
    """Change a task by a JSON Merge Patch (RFC 7396): null takes a field back to its default."""
    patch = body(TaskMergePatch, MERGE_PATCH)
    return _change(task_id, patch.changes())


@blueprint.delete(ONE)
@documented(answers=DELETED, path=TASK_ID, if_match=True, scopes=WRITE)
def delete_task(task_id: int) -> Response:
    """Delete a task."""
    with database().write() as connection:
        service.delete(connection, _held(connection, task_id))
    return respond(Deleted(task_id))
