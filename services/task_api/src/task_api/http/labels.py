"""The routes under /labels: those of the account's own tasks, also for administrators, who see the tasks of all."""

from urllib.parse import urlencode

from flask import Blueprint, Response, request

from service_kit.http.compression import compressed
from service_kit.http.messages import body, query, respond
from service_kit.http.openapi import Answers, documented
from task_api.http.context import account, check_account, database, services
from task_api.http.preconditions import conditional
from task_api.http.tasks import READ, WRITE
from task_api.tasks import labels
from task_api.tasks.model import LabelChange, LabelQuery, LabelRemoval, LabelRename, LabelUse

blueprint = Blueprint("labels", __name__, url_prefix="/labels")
LISTED = Answers(ok=list[LabelUse], problems=(400,), not_modified=True, paged=True, compressed=True)
CHANGED = Answers(ok=LabelChange, problems=(400, 403, 413, 415))

blueprint.before_request(check_account)


@blueprint.get("")
@documented(query=LabelQuery, answers=LISTED, scopes=READ, personal=True)
def list_labels() -> Response:
    """List the labels of one's own tasks, in the order of their code points.

    The Link header (RFC 8288) names the next page, as long as there is one.
    """
    wanted = query(LabelQuery)
    with database().read() as connection:
        uses, last = labels.page(connection, account().id, wanted)
    response = respond(uses)
    if last is not None:
        following = urlencode({"limit": wanted.limit, "after": last})
        response.headers["Link"] = f'<{request.path}?{following}>; rel="next"'
    return compressed(conditional(response))


@blueprint.post("/rename")
@documented(json=LabelRename, answers=CHANGED, scopes=WRITE, personal=True)
def rename_label() -> Response:
    """Rename a label in all of one's own tasks; where a task has the new name already, the two become one.

    Each task that changes gets a new version. Where there are very many, the request ends with `more`: it is sent
    again until that is false. To send it once too often does no harm.
    """
    wanted = body(LabelRename)
    return respond(labels.replace(database(), account().id, wanted.name, wanted.to, services().quota))


@blueprint.post("/remove")
@documented(json=LabelRemoval, answers=CHANGED, scopes=WRITE, personal=True)
def remove_label() -> Response:
    """Take a label off all of one's own tasks; `more` is as for a new name."""
    wanted = body(LabelRemoval)
    return respond(labels.replace(database(), account().id, wanted.name, None, services().quota))
