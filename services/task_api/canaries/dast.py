"""Planted defects for the stage dast: the real service with one line of it made wrong."""

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tooling.canaries import canary
from tooling.canaries.fixtures import plant
from tooling.dast import (
    authorization,
    compatibility,
    header_values,
    headers,
    isolation,
    log,
    memory,
    raw_http,
    routes,
    schemathesis,
    series,
    spectral,
    wapiti,
)
from tooling.dast.target import Target, attacked
from tooling.findings import Scan
from tooling.project import service

SERVICE = service("task-api")
NOWHERE = Target("http://127.0.0.1:9")  # the discard port: nothing listens
RUN = "\nfrom task_api.cli import main\nmain()\n"


@contextmanager
def planted(folder: Path, defect: str = "") -> Iterator[Target]:
    """Run the service after `defect`, lines of Python, has changed it."""
    plant(folder, "planted.py", looked_up(defect) + RUN)
    with attacked(SERVICE, folder, program=(sys.executable, str(folder / "planted.py")), embedded=True) as target:
        yield target


def looked_up(defect: str) -> str:
    """Return the defect with a look at each name before it is replaced: where the name is gone, no service starts."""
    lines: list[str] = []
    for statement in ast.parse(defect).body:
        if isinstance(statement, ast.Assign):
            lines += [ast.unparse(target) for target in statement.targets if isinstance(target, ast.Attribute)]
        lines.append(ast.unparse(statement))
    return "".join(f"{line}\n" for line in lines)


def matrix(folder: Path, defect: str) -> Scan:
    """Fill the authorization matrix of a service with a defect."""
    with planted(folder, defect) as target:
        filled = authorization.Matrix(target)
        filled.run()
        return filled.scan()


GET_ANYBODYS = """
from task_api.tasks import service
real = service.get
service.get = lambda connection, owner_id, task_id, **more: real(connection, None, task_id, **more)
"""


@canary("dast/authorization", "a route without its owner check", rule="as-other", path="GET /tasks/{task_id}")
def owner_check(folder: Path) -> Scan:
    return matrix(folder, GET_ANYBODYS)


@canary("dast/authorization", "a delete without its owner check", rule="as-other", path="DELETE /tasks/{task_id}")
def owner_check_of_delete(folder: Path) -> Scan:
    return matrix(folder, GET_ANYBODYS)


LIST_EVERYBODYS = """
from task_api.tasks import service
real = service.page
service.page = lambda connection, owner_id, query: real(connection, None, query)
"""


@canary("dast/authorization", "a list that shows everybody's tasks", rule="as-other", path="GET /tasks")
def list_of_all(folder: Path) -> Scan:
    return matrix(folder, LIST_EVERYBODYS)


NO_LOGIN = """
from datetime import UTC, datetime
from task_api.accounts.model import Account
from task_api.http import auth
auth.account = lambda: Account(1, "owner@example.com", "user", datetime.now(UTC))
"""


@canary("dast/authorization", "a route that needs no token", rule="as-nobody", path="GET /auth/me")
def no_login(folder: Path) -> Scan:
    return matrix(folder, NO_LOGIN)


UNSIGNED = """
import jwt
real = jwt.decode
jwt.decode = lambda token, *_, **__: real(token, options={"verify_signature": False})
"""


@canary("dast/authorization", "tokens whose signature nobody checks", rule="as-tampered", path="GET /tasks")
def signature(folder: Path) -> Scan:
    return matrix(folder, UNSIGNED)


ALG_NONE = """
import jwt
real = jwt.decode
def decode(token, *arguments, **more):
    if jwt.get_unverified_header(token)["alg"] == "none":
        return real(token, options={"verify_signature": False})
    return real(token, *arguments, **more)
jwt.decode = decode
"""


@canary("dast/authorization", "unsigned tokens are taken", rule="as-alg-none", path="GET /tasks/{task_id}")
def alg_none(folder: Path) -> Scan:
    return matrix(folder, ALG_NONE)


FOR_EVER = """
from types import SimpleNamespace
from task_api.accounts import tokens
tokens.time = SimpleNamespace(time=lambda: 0.0)
"""


@canary("dast/authorization", "tokens that never expire", rule="as-expired", path="GET /tasks")
def expiry(folder: Path) -> Scan:
    return matrix(folder, FOR_EVER)


NO_LOGOUT = """
from task_api.store import accounts
accounts.revoke_session = lambda *_: None
"""


@canary("dast/authorization", "a logout that ends nothing", rule="as-revoked", path="GET /auth/me")
def logout(folder: Path) -> Scan:
    return matrix(folder, NO_LOGOUT)


FORGETFUL = """
from task_api.accounts.service import Sessions
Sessions.forget = lambda self: self._known.clear()
"""


@canary(
    "dast/authorization", "a logout that one worker alone knows of", rule="lingering-token", path="POST /auth/logout"
)
def lingering(folder: Path) -> Scan:
    return matrix(folder, FORGETFUL)


NEW_ROUTE = """
from task_api.http import auth, tasks
from service_kit.http.messages import respond
from service_kit.http.openapi import Answers, documented

@{module}.blueprint.get("{path}")
@documented(answers=Answers(ok=tasks.Deleted), path=tasks.TASK_ID)
def added(task_id: int):
    "A route that somebody added, and no more."
    return respond(tasks.Deleted(task_id))
"""


@canary("dast/authorization", "a new route that checks nothing", rule="as-other", path="GET /tasks/{task_id}/title")
def new_route(folder: Path) -> Scan:
    return matrix(folder, NEW_ROUTE.format(module="tasks", path="/<int:task_id>/title"))


def isolated(folder: Path, defect: str) -> Scan:
    """Compare what accounts see and change of a service with a defect."""
    with planted(folder, defect) as target:
        return isolation.Isolation(target).scan()


FILTERED_EVERYBODYS = """
from msgspec import UNSET
from task_api.tasks import service
real = service.page
def page(connection, owner_id, query):
    filtered = query.priority is not UNSET and query.due_before is not UNSET
    return real(connection, None if filtered else owner_id, query)
service.page = page
"""


@canary("dast/authorization", "two filters together show everybody's tasks", rule="shows-anothers", path="GET /tasks")
def filters(folder: Path) -> Scan:
    return isolated(folder, FILTERED_EVERYBODYS)


TOTAL = """
from flask import Flask, request
from sqlalchemy import text
from service_kit.http.requests import service
real = Flask.process_response
def process_response(self, response):
    if request.endpoint == "tasks.list_tasks":
        with service().database.read() as connection:
            response.headers["X-Total-Count"] = str(connection.scalar(text("SELECT count(*) FROM tasks")))
    return real(self, response)
Flask.process_response = process_response
"""


@canary("dast/authorization", "a count of everybody's tasks", rule="shows-anothers", path="GET /tasks")
def total(folder: Path) -> Scan:
    return isolated(folder, TOTAL)


BULK_WITH_VERSION = """
from task_api.tasks import service
real = service.get
def get(connection, owner_id, task_id, **more):
    return real(connection, None if more.get("lock") and held.get() else owner_id, task_id, **more)
service.get = get
from contextvars import ContextVar
held = ContextVar("held", default=False)
bulk = service._bulk
def _bulk(connection, owner_id, scope, operations):
    held.set(any(getattr(one, "version", None) for one in operations.operations))
    yield from bulk(connection, owner_id, scope, operations)
    held.set(False)
service._bulk = _bulk
"""


@canary(
    "dast/authorization",
    "a bulk request reaches everybody's tasks where it holds a version",
    rule="changes-anothers",
    path="POST /tasks/bulk",
)
def bulk_with_version(folder: Path) -> Scan:
    return isolated(folder, BULK_WITH_VERSION)


LABELS_OF_ALL = """
from sqlalchemy import select
from task_api.store import labels
from task_core.schema import tasks
def held(connection, owner_id, label, after, limit):
    rows = connection.execute(select(tasks.c.id, tasks.c.labels).where(tasks.c.id > after))
    return {row.id: row.labels for row in rows if label in row.labels}
labels.held = held
"""


@canary(
    "dast/authorization",
    "a label is renamed in everybody's tasks",
    rule="changes-anothers",
    path="POST /labels/rename",
)
def labels_of_all(folder: Path) -> Scan:
    return isolated(folder, LABELS_OF_ALL)


READ_ONLY_OWNER = """
from msgspec import UNSET
from task_api.tasks import service
real = service.create
def create(connection, owner_id, new):
    return real(connection, owner_id if new.owner_id is UNSET else new.owner_id, new)
service.create = create
"""


@canary(
    "dast/authorization",
    "a read-only member decides whose task it is",
    rule="changes-anothers",
    path="POST /tasks",
)
def read_only_owner(folder: Path) -> Scan:
    return isolated(folder, READ_ONLY_OWNER)


BELIEVED_HEADER = """
import msgspec
from task_api.http import context
real = context._identify
def identify(here, accounts):
    refusal = real(here, accounts)
    named = here.request.headers.get("X-Account-Id", "")
    if here.account and named.isdecimal():
        here.account = msgspec.structs.replace(here.account, id=int(named))
    return refusal
context._identify = identify
"""


@canary(
    "dast/authorization",
    "a header that no document names decides who the caller is",
    rule="changes-anothers",
    path="POST /tasks",
)
def believed_header(folder: Path) -> Scan:
    return isolated(folder, BELIEVED_HEADER)


ANY_SCOPE = """
from task_api.http import context
real = context._authorize
def authorize(here, operation):
    here.scopes = None
    real(here, operation)
context._authorize = authorize
"""


@canary(
    "dast/authorization",
    "a personal token whose scopes nobody checks",
    rule="as-owner with tasks:read",
    path="POST /tasks",
)
def scope(folder: Path) -> Scan:
    return matrix(folder, ANY_SCOPE)


@canary(
    "dast/authorization",
    "a personal token that changes the account's password",
    rule="as-owner with tasks:write",
    path="POST /auth/password",
)
def scope_of_a_session(folder: Path) -> Scan:
    return matrix(folder, ANY_SCOPE)


ANY_ROLE = """
from task_api.http import context
real = context._authorize
context._authorize = lambda here, operation: None if operation.roles else real(here, operation)
"""


@canary(
    "dast/authorization",
    "an administrator's route that needs no role",
    rule="as-other",
    path="PATCH /admin/accounts/{account_id}",
)
def role(folder: Path) -> Scan:
    return matrix(folder, ANY_ROLE)


ANYBODYS_SESSION = """
from task_api.store import accounts
real = accounts.revoke_sessions_of
def revoke(connection, account_id, now, *, only=None, but=None):
    if only is None:
        return real(connection, account_id, now, but=but)
    accounts.revoke_session(connection, only, now)
    return 1
accounts.revoke_sessions_of = revoke
"""


@canary(
    "dast/authorization",
    "a session that others can end",
    rule="as-other",
    path="DELETE /auth/sessions/{session_id}",
)
def anybodys_session(folder: Path) -> Scan:
    return matrix(folder, ANYBODYS_SESSION)


@canary("dast/authorization", "a new route that cannot be tried", rule="untried", path="GET /auth/notes/{task_id}")
def untried(folder: Path) -> Scan:
    return matrix(folder, NEW_ROUTE.format(module="auth", path="/notes/<int:task_id>"))


@canary("dast/authorization", "an unreachable target", problem="cannot be reached")
def authorization_nowhere(_folder: Path) -> Scan:
    return authorization.Matrix(NOWHERE).scan()


@canary("dast/authorization", "a service that does not start", problem="ended with status 3")
def no_start(folder: Path) -> Scan:
    return matrix(folder, "raise SystemExit(3)")


NO_NOSNIFF = """
from service_kit.http import requests
requests.ALWAYS[:] = [header for header in requests.ALWAYS if header[0] != "X-Content-Type-Options"]
"""


@canary("dast/headers", "a missing header", rule="x-content-type-options", path="GET /tasks")
def header(folder: Path) -> Scan:
    with planted(folder, NO_NOSNIFF) as target:
        return headers.scan(target)


NO_NOSNIFF_WHERE_REFUSED = """
from service_kit.http import requests
real = requests._finish
def finish(environment, status, present):
    headers = real(environment, status, present)
    return [one for one in headers if status not in (429, 503) or one[0] != "X-Content-Type-Options"]
requests._finish = finish
"""


@canary("dast/headers", "a header missing from 429", rule="x-content-type-options", path="429 /")
def header_of_429(folder: Path) -> Scan:
    with planted(folder, NO_NOSNIFF_WHERE_REFUSED) as target:
        return headers.scan(target)


@canary("dast/headers", "a header missing from 503", rule="x-content-type-options", path="503 /auth/login")
def header_of_503(folder: Path) -> Scan:
    with planted(folder, NO_NOSNIFF_WHERE_REFUSED) as target:
        return headers.scan(target)


CORS = """
from flask import Flask
real = Flask.process_response
def process_response(self, response):
    response.headers["Access-Control-Allow-Origin"] = "*"
    return real(self, response)
Flask.process_response = process_response
"""


@canary("dast/headers", "every site's scripts may read answers", rule="foreign-origin", path="GET /auth/me")
def foreign_origin(folder: Path) -> Scan:
    with planted(folder, CORS) as target:
        return headers.scan(target)


ANY_PAGE = """
from task_api.http import cookies
cookies.sent_by_page = lambda request: True
"""


@canary("dast/headers", "a cookie's session for requests of any site", rule="cross-site", path="POST /session")
def cross_site(folder: Path) -> Scan:
    with planted(folder, ANY_PAGE) as target:
        return headers.scan(target)


VERSION_AS_NUMBER = """
from flask import request
from task_api.tasks import service
real = service.change
def change(*arguments):
    float(request.headers.get("X-Client-Version", "1"))
    return real(*arguments)
service.change = change
"""


@canary("dast/header_values", "a header that is taken for a number", rule="server-error", path="PUT /tasks/{task_id}")
def header_as_number(folder: Path) -> Scan:
    with planted(folder, VERSION_AS_NUMBER) as target:
        return header_values.scan(target, "/tasks")


LANGUAGE_AS_ASCII = """
from flask import request
from task_api.http import tasks
real = tasks.query
def query(kind):
    request.headers.get("Accept-Language", "").encode("ascii")
    return real(kind)
tasks.query = query
"""


@canary("dast/header_values", "a header that is taken for ASCII", rule="server-error", path="GET /tasks")
def header_as_ascii(folder: Path) -> Scan:
    with planted(folder, LANGUAGE_AS_ASCII) as target:
        return header_values.scan(target, "/tasks")


@canary("dast/header_values", "an unreachable target", problem="cannot be reached")
def header_values_nowhere(_folder: Path) -> Scan:
    return header_values.scan(NOWHERE)


LABELLED_BY_TASK = """
from service_kit.telemetry import metrics
from task_api.tasks import service
READ = metrics.Counter("tasks_read_total", "Reads.", ("task",))
real = service.get
def get(connection, owner_id, task_id, **more):
    READ.labels(task_id).inc()
    return real(connection, owner_id, task_id, **more)
service.get = get
"""


@canary("dast/series", "a metric labelled by the task's id", rule="unbounded-label", path="tasks_read_total")
def label_of_task(folder: Path) -> Scan:
    with planted(folder, LABELLED_BY_TASK) as target:
        return series.scan(target)


LABELLED_BY_PATH = """
from flask import request
from service_kit.telemetry import metrics
real = metrics.observe
def observe(endpoint, method, status, seconds, trace_id):
    real(request.path if status == 404 else endpoint, method, status, seconds, trace_id)
metrics.observe = observe
"""


@canary(
    "dast/series", "a metric labelled by the path that was requested", rule="unbounded-label", path="api_requests_total"
)
def label_of_path(folder: Path) -> Scan:
    with planted(folder, LABELLED_BY_PATH) as target:
        return series.scan(target)


KEPT_REQUESTS = """
from service_kit.http import requests
kept = []
real = requests._finish
def finish(environment, status, present):
    kept.append({**environment})
    return real(environment, status, present)
requests._finish = finish
"""


@canary("dast/memory", "every request is kept", rule="kept-for-ever", path="services/task_api")
def kept_requests(folder: Path) -> Scan:
    with planted(folder, KEPT_REQUESTS) as target:
        return memory.scan(target)


CACHE_WITHOUT_A_BOUND = """
from functools import cache
from service_kit.http import requests
answers = cache(lambda address: address * 100)
real = requests._finish
def finish(environment, status, present):
    answers(environment["PATH_INFO"] + "?" + environment["QUERY_STRING"])
    return real(environment, status, present)
requests._finish = finish
"""


@canary("dast/memory", "a cache without a bound", rule="kept-for-ever", path="services/task_api")
def boundless_cache(folder: Path) -> Scan:
    with planted(folder, CACHE_WITHOUT_A_BOUND) as target:
        return memory.scan(target)


@canary("dast/memory", "an unreachable target", problem="cannot be reached")
def memory_nowhere(_folder: Path) -> Scan:
    return memory.scan(NOWHERE)


@canary("dast/series", "an unreachable target", problem="cannot be reached")
def series_nowhere(_folder: Path) -> Scan:
    return series.scan(NOWHERE)


@canary("dast/headers", "an unreachable target", problem="cannot be reached")
def headers_nowhere(_folder: Path) -> Scan:
    return headers.scan(NOWHERE)


NO_FAULT_OF_OURS = """
from gunicorn.http import errors
from service_kit import gthread
gthread.PARSE_PROBLEMS[errors.ParseException] = (500, "planted")
"""


@canary("dast/raw_http", "a broken request is answered 500", rule="server-error", path="GET /tasks")
def broken_request(folder: Path) -> Scan:
    with planted(folder, NO_FAULT_OF_OURS) as target:
        return raw_http.scan(target, inputs=600)


REPEATS = """
from gunicorn.http import errors
from service_kit.gthread import Connection
real = Connection.read_head
def read_head(self, cfg):
    head = bytes(self.received)
    try:
        real(self, cfg)
    except errors.ParseException:
        self.sock.sendall(b"HTTP/1.1 400 Bad Request\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(head) + head)
        raise
Connection.read_head = read_head
"""


@canary("dast/raw_http", "a parser that repeats what it cannot read", rule="secret-in-answer", path="GET /tasks")
def repeating(folder: Path) -> Scan:
    with planted(folder, REPEATS) as target:
        return raw_http.scan(target, inputs=600)


@canary("dast/raw_http", "an unreachable target", problem="cannot be reached")
def raw_http_nowhere(_folder: Path) -> Scan:
    return raw_http.scan(NOWHERE)


BROKEN_LIST = """
from task_api.http import tasks
def pages(_cursor):
    raise RuntimeError("planted")
tasks._pages = pages
"""


@canary("dast/schemathesis", "a handler that answers 500", rule="not_a_server_error", path="GET /tasks")
def server_error(folder: Path) -> Scan:
    with planted(folder, BROKEN_LIST) as target:
        return schemathesis.scan(target, examples=1)


@canary("dast/schemathesis", "a target that goes away", problem="schemathesis")
def schemathesis_nowhere(folder: Path) -> Scan:
    with planted(folder) as target:
        gone = Target(NOWHERE.url, accounts=target.accounts)
        vars(gone)["document"] = target.document
    return schemathesis.scan(gone, examples=1)


@canary("dast/schemathesis", "a tool that crashes half-way", problem="did not reach its end")
def schemathesis_crashes(_folder: Path) -> Scan:
    return schemathesis.read(NOWHERE, [{"Initialize": {"schemathesis_version": "0"}}])


REFLECTING = """
from flask import Response, request
from task_api.http import tasks
from service_kit.http.openapi import Answers, documented

@tasks.blueprint.get("/greeting")
@documented(query=tasks.TaskQuery, answers=Answers(text=True))
def greeting():
    "A page that says what it was told."
    return Response(f"<p>{request.args.get('q', '')}</p>", content_type="text/html")
"""


@canary(
    "dast/wapiti", "a page that repeats its input", rule="Reflected Cross Site Scripting", path="GET /tasks/greeting"
)
def reflected(folder: Path) -> Scan:
    with planted(folder, REFLECTING) as target:
        return wapiti.scan(target)


@canary("dast/wapiti", "no page crawled, since the target is gone", problem="crawled no page")
def wapiti_nowhere(_folder: Path) -> Scan:
    gone = Target(NOWHERE.url)
    vars(gone)["document"] = {
        "openapi": "3.1.0",
        "info": {"title": "", "version": "1"},
        "paths": {"/": {"get": {"responses": {}}}},
    }
    return wapiti.attack(gone, "token", gone.document)


@canary("dast/wapiti", "a token that is not accepted", problem="its token was not accepted")
def wapiti_nobody(folder: Path) -> Scan:
    with planted(folder) as target:
        return wapiti.attack(target, "of nobody", target.document)


@canary("dast/wapiti", "values of Wapiti's own, which the service refuses", problem="its attacks reach nothing")
def wapiti_refused(folder: Path) -> Scan:
    with planted(folder) as target:
        return wapiti.attack(target, target.tokens(target.join("wapiti"))["access_token"], target.document)


@canary("dast/wapiti", "a tool that crashes", problem="left no report")
def wapiti_crashes(folder: Path) -> Scan:
    return wapiti.read(NOWHERE, folder / "report.json")


@canary("dast/log", "a handler that answers 500", rule="server-error", path="GET /tasks")
def logged_error(folder: Path) -> Scan:
    with planted(folder, BROKEN_LIST) as target:
        token = target.tokens(target.accounts["owner"])["access_token"]
        target.client.get("/tasks", headers=authorization.bearer(token))
        return log.scan(target)


TALKATIVE = """
from task_api.accounts.service import Accounts
from service_kit.telemetry.logs import log
real = Accounts.login
def login(self, credentials, address):
    log.info("login", password=credentials.password)
    return real(self, credentials, address)
Accounts.login = login
"""


@canary("dast/log", "a password in the log", rule="secret-in-log", path="log")
def logged_secret(folder: Path) -> Scan:
    with planted(folder, TALKATIVE) as target:
        target.tokens(target.accounts["owner"])
        return log.scan(target)


TALKATIVE_WHEN_DEBUGGED = """
from task_api.accounts.service import Accounts
from service_kit.telemetry.logs import log
real = Accounts.refresh
def refresh(self, token):
    log.debug(f"refresh of {token}: in time")
    return real(self, token)
Accounts.refresh = refresh
"""


@canary("dast/log", "a refresh token in a line of the level debug", rule="secret-in-log", path="log")
def logged_token(folder: Path) -> Scan:
    with planted(folder, TALKATIVE_WHEN_DEBUGGED) as target:
        token = target.tokens(target.accounts["owner"])["refresh_token"]
        target.client.post("/auth/refresh", json={"refresh_token": token})
        return log.scan(target)


@canary("dast/log", "a line that is not JSON", rule="broken-line", path="log")
def logged_plainly(folder: Path) -> Scan:
    with planted(folder, 'print("planted", flush=True)\n') as target:
        return log.scan(target)


@canary("dast/log", "no request in the log", problem="looked at nothing")
def logged_nothing(_folder: Path) -> Scan:
    return log.scan(NOWHERE)


def mapped(folder: Path, defect: str) -> Scan:
    """Hold the URL map of a service with a defect against its document."""
    with planted(folder, defect) as target:
        return routes.scan(target)


DEBUG_ROUTE = """
from task_api import cli
from task_api.http import app
real = app.create_app
def create_app(services):
    made = real(services)
    if services.settings.log_level == "debug":
        made.add_url_rule("/debug/settings", "debug", lambda: repr(services.settings))
    return made
app.create_app = create_app
"""


@canary(
    "dast/routes", "a route without documentation, at one log level", rule="undocumented", path="GET /debug/settings"
)
def debug_route(folder: Path) -> Scan:
    return mapped(folder, DEBUG_ROUTE)


VARIABLE_ROUTE = """
import os
from task_api.http import tasks
if os.environ.get("TASK_API_MAINTENANCE"):
    tasks.blueprint.post("/purge", endpoint="purge")(lambda: "gone")
"""


@canary(
    "dast/routes",
    "a route that a variable of the environment adds, which is no setting",
    rule="undocumented",
    path="POST /tasks/purge",
)
def variable_route(folder: Path) -> Scan:
    return mapped(folder, VARIABLE_ROUTE)


MIDDLEWARE_PATH = """
from flask import Flask
real = Flask.wsgi_app
def wsgi_app(self, environ, start_response):
    if environ["PATH_INFO"] == "/internal/status":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"all is well"]
    return real(self, environ, start_response)
Flask.wsgi_app = wsgi_app
"""


@canary("dast/routes", "a path that a middleware answers", rule="undocumented", path="GET /internal/status")
def middleware_path(folder: Path) -> Scan:
    return mapped(folder, MIDDLEWARE_PATH)


@canary("dast/routes", "an exception for a route that is no more", rule="undocumented", path="GET /gone")
def stale_exception(folder: Path) -> Scan:
    with planted(folder) as target:
        stale = replace(target.service, undocumented={**target.service.undocumented, "GET /gone": "a page"})
        return routes.scan(replace(target, service=stale))


@canary("dast/routes", "a service that lists no routes", problem="routes ended with status 3")
def routes_nothing(folder: Path) -> Scan:
    with planted(folder) as target:
        (folder / "planted.py").write_text("raise SystemExit(3)")
        return routes.scan(target)


PLAIN_ERRORS = """
from service_kit.http import openapi
openapi.CONTENT_TYPE = "application/json"
"""
LARGE_NUMBERS = """
from service_kit.http import openapi
openapi.LARGEST_INTEGER = 2**63 - 1
"""


@canary("dast/spectral", "errors that are no problem documents", rule="problem-details", path="/openapi.json")
def spectral_errors(folder: Path) -> Scan:
    with planted(folder, PLAIN_ERRORS) as target:
        return spectral.scan(target)


@canary("dast/spectral", "an integer that JavaScript rounds", rule="exact-integers", path="/openapi.json")
def spectral_integers(folder: Path) -> Scan:
    with planted(folder, LARGE_NUMBERS) as target:
        return spectral.scan(target)


@canary("dast/spectral", "a document without operations", problem="describes no operation")
def spectral_nothing(_folder: Path) -> Scan:
    return spectral.lint({"openapi": "3.1.0", "paths": {}}, "/openapi.json")


WITHOUT_PROJECT = """
from service_kit.http import openapi
real = openapi._document
def document(*arguments):
    made = real(*arguments)
    task = made["components"]["schemas"]["Task"]
    del task["properties"]["project"]
    task["required"].remove("project")
    return made
openapi._document = document
"""


@canary(
    "dast/compatibility", "a field less in a response", rule="response-required-property-removed", path="GET /tasks"
)
def field_of_response(folder: Path) -> Scan:
    with planted(folder, WITHOUT_PROJECT) as target:
        return compatibility.scan(target)


Change = Callable[[dict[str, Any], dict[str, Any]], object]
NEXT_VERSION: dict[str, tuple[str, str, Change]] = {
    "an optional field less in a response": (
        "response-optional-property-removed",
        "GET /tasks",
        lambda _, schemas: schemas["Task"]["properties"].pop("owner_id"),
    ),
    "an operation less": (
        "api-removed-without-deprecation",
        "DELETE /tasks/{task_id}",
        lambda paths, _: paths["/tasks/{task_id}"].pop("delete"),
    ),
    "a documented status less": (
        "response-non-success-status-removed",
        "POST /tasks",
        lambda paths, _: paths["/tasks"]["post"]["responses"].pop("409"),
    ),
    "a field that a body must have": (
        "request-property-became-required",
        "POST /tasks",
        lambda _, schemas: schemas["NewTask"]["required"].append("project"),
    ),
    "a field that one choice of a body must have": (
        "request-property-became-required",
        "POST /tasks/bulk",
        lambda _, schemas: schemas["Delete"]["required"].append("version"),
    ),
    "a value less of an enumeration": (
        "request-property-enum-value-removed",
        "POST /tasks",
        lambda _, schemas: schemas["NewTask"]["properties"]["priority"]["enum"].remove("low"),
    ),
    "a shorter text, in one choice of a field": (
        "request-property-max-length-decreased",
        "POST /tasks",
        lambda _, schemas: schemas["NewTask"]["properties"]["project"]["anyOf"][0].update(maxLength=50),
    ),
    "a parameter that a request must have": (
        "new-required-request-parameter",
        "GET /tasks",
        lambda paths, _: paths["/tasks"]["get"]["parameters"].append(
            {"name": "owner", "in": "query", "required": True, "schema": {"type": "string"}}
        ),
    ),
    "another type of a field in a response": (
        "response-property-type-changed",
        "GET /tasks",
        lambda _, schemas: schemas["Task"]["properties"].update(id={"type": "string"}),
    ),
    "another media type of a body": (
        "request-media-type-removed",
        "PATCH /tasks/{task_id}",
        lambda paths, _: paths["/tasks/{task_id}"]["patch"]["requestBody"].update(
            content={"application/json": {"schema": {}}}
        ),
    ),
    "a choice less of a parameter": (
        "request-parameter-choice-removed",
        "DELETE /tasks/{task_id}",
        lambda paths, _: paths["/tasks/{task_id}"]["delete"]["parameters"][1]["schema"]["anyOf"].pop(),
    ),
    "a link less": (
        "link-removed",
        "POST /tasks",
        lambda paths, _: paths["/tasks"]["post"]["responses"]["201"].pop("links"),
    ),
    "a field that is refused, which was ignored": (
        "ignored-field-refused",
        "NewTask",
        lambda _, schemas: schemas["NewTask"]["properties"].pop("id"),
    ),
}
"""What is changed in the released document, and the rule and the place of the finding."""


def next_version(change: Change, _folder: Path) -> Scan:
    before = compatibility.released(SERVICE)
    now = deepcopy(before)
    change(now["paths"], now["components"]["schemas"])
    return compatibility.compare(before, now)


for defect, (rule, path, change) in NEXT_VERSION.items():
    canary("dast/compatibility", defect, rule=rule, path=path)(partial(next_version, change))


@canary("dast/compatibility", "a service that has no release yet", problem="no release yet")
def unreleased(folder: Path) -> Scan:
    return compatibility.compare(compatibility.released(replace(SERVICE, folder=folder)), {})
