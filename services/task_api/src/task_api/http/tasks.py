"""The routes under /tasks."""

from functools import partial
from urllib.parse import urlencode

import msgspec
from flask import Blueprint, Response, g, request, url_for
from sqlalchemy import Connection

from service_kit.http import streams
from service_kit.http.compression import compressed
from service_kit.http.messages import MERGE_PATCH, body, prefers, query, respond
from service_kit.http.openapi import Answers, Link, documented
from service_kit.http.problems import Refusal
from task_api.http.context import account, check_account, database, services
from task_api.http.errors import CREATED_TASK_DELETED
from task_api.http.idempotency import Reference, Work, once
from task_api.http.preconditions import check_match, check_write, conditional, entity_tag
from task_api.http.streams import Following
from task_api.tasks import changes, service
from task_api.tasks.model import (
    Bulk,
    BulkResult,
    BulkResults,
    Changes,
    ChangesQuery,
    Deleted,
    HistoryEntry,
    NewTask,
    Task,
    TaskChanges,
    TaskMergePatch,
    TaskNotFound,
    TaskPage,
    TaskQuery,
    Versioned,
)

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")
ONE = "/<int:task_id>"
READ, WRITE = ("tasks:read",), ("tasks:write",)


def leads_to(*operations: str, task_id: str = "$response.body#/id") -> tuple[Link, ...]:
    """Return links to operations on the task of the response."""
    return tuple(Link(operation, {"task_id": task_id}) for operation in operations)


CHANGES = ("put_task", "patch_task", "delete_task", "restore_task", "task_history")
PAGE = "application/vnd.task-api.page+json"
"""A list with what the other lacks to write back: each task's version, and the next page beside the tasks."""

LISTED = Answers(
    ok=list[Task],
    alternatives={PAGE: TaskPage},
    problems=(400,),
    not_modified=True,
    paged=True,
    compressed=True,
    links=leads_to("get_task", task_id="$response.body#/0/id"),
)
READ_ON = Answers(ok=Changes, alternatives={streams.EVENTS: str}, problems=(400, 410))
CREATED = Answers(created=Task, problems=(400, 403, 409, 410, 413, 415, 422), links=leads_to("get_task", *CHANGES))
FETCHED = Answers(ok=Task, problems=(404,), not_modified=True, entity_tag=True, links=leads_to(*CHANGES))
CHANGED = Answers(ok=Task, problems=(400, 403, 404, 413, 415, 422), entity_tag=True, links=leads_to("get_task"))
DELETED = Answers(ok=Deleted, problems=(404,), links=leads_to("get_task", "restore_task"))
RESTORED = Answers(ok=Task, problems=(403, 404), entity_tag=True, links=leads_to("get_task"))
TASK_ID = {"task_id": "the task's id"}

blueprint.before_request(check_account)


def _pages(cursor: str | None) -> tuple[str, str | None]:
    """Return the addresses of the first page, with the filters of the request, and of the cursor's if there is one."""
    filters = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != "cursor"])
    path = request.path
    following = cursor and f"{path}?{filters}{'&' if filters else ''}{urlencode({'cursor': cursor})}"
    return f"{path}?{filters}" if filters else path, following


def _shown(versioned: Versioned, scope: int | None) -> Task:
    """Return a task as an account of that scope may see it: administrators, who see those of all, see whose it is."""
    return versioned.with_owner if scope is None else versioned.task


@blueprint.get("")
@documented(query=TaskQuery, answers=LISTED, scopes=READ)
def list_tasks() -> Response:
    """List tasks, a page at a time.

    The Link header (RFC 8288) names the next page, as long as there is one. With `application/vnd.task-api.page+json`
    in Accept, each task has its version, and `next` is that page.
    """
    wanted, scope = query(TaskQuery), account().scope
    with database().read() as connection:
        tasks, cursor = service.page(connection, scope, wanted)
    first, following = _pages(cursor)
    if prefers(PAGE):
        items = [versioned.current(with_owner=scope is None) for versioned in tasks]
        response = respond(TaskPage(items, following), media=PAGE)
    else:
        response = respond([_shown(versioned, scope) for versioned in tasks])
    links = {"first": first, **({"next": following} if following else {})}
    response.headers["Link"] = ", ".join(f'<{page}>; rel="{relation}"' for relation, page in links.items())
    response.headers["Vary"] = "Accept"
    return compressed(conditional(response))


@blueprint.post("")
@documented(json=NewTask, answers=CREATED, idempotent=True, scopes=WRITE)
def create_task() -> Response:
    """Create a task."""
    new = body(NewTask)
    who = account()

    def create(connection: Connection) -> Versioned:
        with services().quota.held(connection, who.id):
            return service.create(connection, who.id, new)

    return once(
        Work(
            do=create,
            refer=lambda created: [("create", created.task.id)],
            recall=_created,
            respond=lambda created: respond(
                _shown(created, who.scope),
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
    scope = account().scope
    with database().read() as connection:
        held = service.get(connection, scope, task_id)
    check_match(held)
    return conditional(respond(_shown(held, scope)), entity_tag(held))


_change_of = partial(
    documented,
    answers=CHANGED,
    path=TASK_ID,
    if_match=True,
    scopes=WRITE,
)


def _change(task_id: int, wanted: TaskChanges) -> Response:
    who = account()

    def change(connection: Connection) -> Versioned:
        held = _held(connection, task_id)
        with services().quota.held(connection, held.owner_id):
            return service.change(connection, held, wanted, who.id)

    changed = database().transaction(change)
    return respond(_shown(changed, who.scope), 200, {"ETag": entity_tag(changed)})


def _held(connection: Connection, task_id: int) -> Versioned:
    held = service.get(connection, account().scope, task_id, lock=True)
    check_write(held)
    return held


@blueprint.put(ONE)
@_change_of(json=TaskChanges)
def put_task(task_id: int) -> Response:
    """Change a task: fields that the body leaves out stay as they are.

    Completing one that recurs creates the next one, once.
    """
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
    who = account()
    database().transaction(lambda connection: service.delete(connection, _held(connection, task_id), who.id))
    return respond(Deleted(task_id))


@blueprint.post(f"{ONE}/restore")
@documented(answers=RESTORED, path=TASK_ID, if_match=True, scopes=WRITE)
def restore_task(task_id: int) -> Response:
    """Restore a task that was deleted in the last 30 days.

    It is as it was, at a later version. A task that is not deleted stays as it is. A deleted one has the version that
    its deletion led to, as the feed of changes and its history name it: `If-Match` is held against that.
    """
    who = account()
    quota = services().quota
    restored = database().transaction(
        lambda connection: service.restore(connection, who.scope, task_id, who.id, quota, check_write)
    )
    return respond(_shown(restored, who.scope), 200, {"ETag": entity_tag(restored)})


@blueprint.get(f"{ONE}/history")
@documented(answers=Answers(ok=list[HistoryEntry], problems=(404,)), path=TASK_ID, scopes=READ)
def task_history(task_id: int) -> Response:
    """List who changed what of a task and when, the newest first.

    The last 1000 changes are kept, as long as the task is there or can be restored.
    """
    with database().read() as connection:
        return respond(service.history(connection, account().scope, task_id))


@blueprint.get("/changes")
@documented(query=ChangesQuery, answers=READ_ON, scopes=READ)
def list_changes() -> Response:
    """Read on in the feed of changes.

    Without `since` it begins with the tasks that there are. Each further request sends `next` of the page before.
    Every change of what the caller may see comes at least once, and a task's last change comes last.

    With `text/event-stream` in Accept the pages come as server-sent events, as soon as there are changes: the data of
    each is a page, its id is the page's `next`. After an event `gone`, the client begins anew with an empty copy.
    Where the server has no room for a stream, the response is a page.
    """
    wanted, scope = query(ChangesQuery), account().scope
    streamed = streams.wanted()
    if streamed:
        services().follower.check_room(account().id)
        last = request.headers.get("Last-Event-ID")
        wanted = msgspec.structs.replace(wanted, since=last) if last else wanted
    with database().read() as connection:
        page = changes.page(connection, scope, wanted)
    if streamed:
        return Following(services().follower, account(), g.token, wanted, page).response()
    return respond(page, headers={"Vary": "Accept"})
