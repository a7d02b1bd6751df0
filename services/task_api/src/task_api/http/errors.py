"""How this service's own exceptions are answered, as problem details (RFC 9457)."""

from collections.abc import Callable
from typing import Any

from flask import Response
from sqlalchemy.exc import ProgrammingError

from service_kit.http.problems import RETRY_SECONDS, respond, unforeseen
from service_kit.telemetry.logs import log
from task_api.accounts.model import BadToken, EmailTaken, LoginFailed, Overloaded, Throttled
from task_api.store.database import UNAVAILABLE, SchemaBehind, Unusable
from task_api.tasks.model import BadCursor, TaskNotFound, VersionConflict
from task_api.tasks.service import BulkFailure


def bearer(error: str = "", **more: str) -> dict[str, str]:
    """The WWW-Authenticate header (RFC 6750)."""
    parameters = {"realm": "task-api", **({"error": error} if error else {}), **more}
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())}


def _unavailable(error: Exception) -> Response:
    log.error("database unavailable", error=str(getattr(error, "orig", None) or error))
    detail = "the database cannot be written to" if isinstance(error, Unusable) else "the database does not answer"
    return respond(503, f"{detail}: try again", {"Retry-After": str(RETRY_SECONDS)})


def _statement_failed(error: ProgrammingError) -> Response:
    """A table or column that is missing comes with the migration: that is worth another try."""
    missing = getattr(error.orig, "sqlstate", "") in {"42P01", "42703"}
    return _unavailable(error) if missing else unforeseen(error)


ANSWERS: dict[type[Exception], Callable[[Any], Response]] = {
    BadCursor: lambda error: respond(400, str(error)),
    TaskNotFound: lambda error: respond(404, str(error)),
    VersionConflict: lambda error: respond(412, str(error), {"ETag": f'"{error.held.version}"'}),
    BulkFailure: lambda error: respond(412 if isinstance(error.cause, VersionConflict) else 404, str(error)),
    EmailTaken: lambda error: respond(409, str(error)),
    LoginFailed: lambda error: respond(401, str(error), bearer()),
    Throttled: lambda error: respond(429, str(error), {"Retry-After": str(error.retry_after)}),
    Overloaded: lambda error: respond(503, str(error), {"Retry-After": str(error.retry_after)}),
    BadToken: lambda error: respond(401, str(error), bearer("invalid_token", error_description=str(error))),
    **dict.fromkeys((*UNAVAILABLE, SchemaBehind), _unavailable),
    ProgrammingError: _statement_failed,
}
"""How each kind of exception is answered; the nearest of its classes counts."""
