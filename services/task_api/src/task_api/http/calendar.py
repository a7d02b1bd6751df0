"""The route of the calendar."""

from flask import Blueprint, Response

from service_kit.http.messages import query
from service_kit.http.openapi import Answers, documented
from task_api.accounts.model import CALENDAR_SCOPE
from task_api.http.context import account, check_account, database
from task_api.http.preconditions import conditional
from task_api.tasks import calendar
from task_api.tasks.model import CalendarQuery

blueprint = Blueprint("calendar", __name__)
FEED = Answers(text=True, media="text/calendar", not_modified=True, problems=(400, 403))
HEADERS = {"Content-Disposition": 'inline; filename="tasks.ics"'}

blueprint.before_request(check_account)


@blueprint.get("/tasks.ics")
@documented(query=CalendarQuery, answers=FEED, scopes=(CALENDAR_SCOPE,), personal=True)
def calendar_feed() -> Response:
    """Return one's own tasks as a calendar of to-dos (RFC 5545), for programs that subscribe to its address.

    Calendar clients can send no headers. So this address alone takes a personal token as `token`: one whose only scope
    is `calendar:read`. An Authorization header goes first.
    """
    query(CalendarQuery)
    owner = account().id
    with database().read() as connection:
        tag = calendar.entity_tag(connection, owner)
    lines = calendar.write(database(), owner)
    return conditional(Response(lines, headers=HEADERS, content_type="text/calendar; charset=utf-8"), tag)
