"""How this service's own exceptions are answered, as problem details (RFC 9457)."""

from collections.abc import Callable
from typing import Any

from flask import Response
from sqlalchemy.exc import IntegrityError, ProgrammingError

from service_kit.http.problems import RETRY_SECONDS, UNAVAILABLE, Violation, problem_type, respond, unforeseen
from service_kit.mail import QueueFull
from service_kit.outbound import Refused
from service_kit.telemetry.logs import log
from task_api.accounts.model import (
    AccountNotFound,
    AnothersToken,
    BadMailToken,
    BadPassword,
    BadToken,
    EmailTaken,
    LoginFailed,
    NotAllowed,
    Overloaded,
    PersonalTokenNotFound,
    SecondFactorNeeded,
    SessionNotFound,
    Throttled,
    WrongCode,
    WrongPassword,
)
from task_api.tasks.model import (
    BadCursor,
    BadFeedToken,
    BadReminders,
    BadSchedule,
    CalendarTooLarge,
    FeedGone,
    TaskNotFound,
    VersionConflict,
)
from task_api.tasks.quota import QuotaExceeded
from task_api.tasks.service import BulkFailure
from task_api.webhooks.model import WebhookNotFound
from task_core import errors as store

TASK_NOT_FOUND = problem_type("task-not-found", 404, "No such task", "List the tasks: this one is gone or another's.")
VERSION_CONFLICT = problem_type(
    "version-conflict", 412, "The task has changed", "Read the task again and repeat the change on what it is now."
)
CURSOR_INVALID = problem_type(
    "cursor-invalid", 400, "Cursor of another listing", "Begin again with the first page, with the same filters."
)
FEED_TOKEN_INVALID = problem_type(
    "feed-token-invalid", 400, "Not a token of the feed", "Send `next` of the page before, or begin anew."
)
FEED_GONE = problem_type(
    "feed-gone",
    410,
    "The feed cannot be continued",
    "Begin anew without `since`, with an empty copy.",
)
CALENDAR_TOO_LARGE = problem_type(
    "calendar-too-large", 403, "Too much for a calendar", "Delete tasks that are done, or read them by GET /tasks."
)
RECURRENCE_INVALID = problem_type("recurrence-invalid", 422, "The task cannot recur so", "Change what `errors` lists.")
REMINDERS_INVALID = problem_type(
    "reminders-invalid", 422, "The task cannot remind so", "Set `due_at`, or send moments (`at`)."
)
ENTITY_TAG_MALFORMED = problem_type(
    "entity-tag-malformed", 400, "Malformed entity tag", "Send the ETag of the task as it was received (RFC 9110)."
)
KEY_MALFORMED = problem_type("idempotency-key-malformed", 400, "Malformed Idempotency-Key", "Send a UUID, for example.")
KEY_REUSED = problem_type(
    "idempotency-key-reused", 422, "Idempotency-Key of another request", "Use a new key for a new request."
)
KEY_IN_FLIGHT = problem_type(
    "idempotency-key-in-flight", 409, "The first request is in flight", "Send the same request again later."
)
CREATED_TASK_DELETED = problem_type(
    "created-task-deleted", 410, "The created task is gone", "Use a new key to create another."
)
QUOTA_EXCEEDED = problem_type(
    "quota-exceeded", 403, "The account's quota is used up", "Delete tasks, or ask an administrator for more."
)
EMAIL_TAKEN = problem_type("email-taken", 409, "The address has an account", "Log in, or use another address.")
REGISTRATION_CLOSED = problem_type(
    "registration-closed", 403, "Registration is closed", "Ask an administrator for an account."
)
LOGIN_FAILED = problem_type("login-failed", 401, "Wrong address or password", "Let the user type both again.")
LOGIN_THROTTLED = problem_type(
    "login-throttled", 429, "Too many attempts", "Wait for Retry-After seconds before the next attempt."
)
OVERLOADED = problem_type("overloaded", 429, "Too many logins at once", "Send it again after Retry-After seconds.")
MAIL_QUEUE_FULL = problem_type(
    "mail-queue-full", 429, "Too many mails wait to be sent", "Send it again after Retry-After seconds."
)
RATE_LIMITED = problem_type("rate-limited", 429, "Too many requests", "Wait for Retry-After seconds.")
TOO_MANY_STREAMS = problem_type(
    "too-many-streams", 429, "Too many open streams", "Close streams, or read the feed page by page."
)
TOKEN_MISSING = problem_type(
    "token-missing", 401, "A token is needed", "Log in, and send Authorization: Bearer with the access token."
)
ROLE_MISSING = problem_type("role-missing", 403, "Another role is needed", "Ask an administrator.")
SCOPE_MISSING = problem_type(
    "scope-missing", 403, "The token may not do this", "Create a personal token with the scope, or log in."
)
NOT_THE_PAGE = problem_type(
    "not-the-page", 403, "For the service's own page", "Log in at /auth/login, and send the token."
)
PASSWORD_REFUSED = problem_type("password-refused", 400, "The password is easily guessed", "Choose another one.")
MAIL_TOKEN_INVALID = problem_type(
    "mail-token-invalid", 400, "The token from the mail is not valid", "Have another mail sent."
)
PASSWORD_WRONG = problem_type("password-wrong", 403, "Wrong password", "Let the user type the password again.")
SECOND_FACTOR_NEEDED = problem_type(
    "second-factor-needed", 401, "A code is needed too", "Ask the user for a code, and send the login again with it."
)
CODE_WRONG = problem_type("code-wrong", 403, "Wrong code", "Let the user type the next code, or a recovery code.")
NOT_ALLOWED = problem_type("not-allowed", 409, "A rule of accounts forbids this", "Do first what `detail` names.")
ACCOUNT_NOT_FOUND = problem_type("account-not-found", 404, "No such account", "List the accounts.")
SESSION_NOT_FOUND = problem_type("session-not-found", 404, "No such session", "List the sessions: it has ended.")
PERSONAL_TOKEN_NOT_FOUND = problem_type(
    "personal-token-not-found", 404, "No such personal token", "List the personal tokens: it is gone."
)
WEBHOOK_NOT_FOUND = problem_type("webhook-not-found", 404, "No such webhook", "List the webhooks: it is gone.")
WEBHOOK_REFUSED = problem_type(
    "webhook-refused", 422, "The address is not allowed", "Use an https address of the public internet."
)
TOKEN_PROBLEMS = {
    "invalid": problem_type("token-invalid", 401, "The token is invalid", "Log in again."),
    "expired": problem_type("token-expired", 401, "The token has expired", "Refresh it, or log in again."),
    "revoked": problem_type("token-revoked", 401, "The session has ended", "Log in again."),
    "reused": problem_type(
        "token-reused", 401, "The refresh token was used before", "Log in again: the session has ended for everybody."
    ),
}


def bearer(error: str = "", **more: str) -> dict[str, str]:
    """Return the WWW-Authenticate header (RFC 6750)."""
    parameters = {"realm": "task-api", **({"error": error} if error else {}), **more}
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())}


def _unavailable(error: Exception) -> Response:
    log.error("database unavailable", error=str(getattr(error, "orig", None) or error))
    detail = (
        "the database cannot be written to" if isinstance(error, store.Unusable) else "the database does not answer"
    )
    return respond(UNAVAILABLE, f"{detail}: try again", {"Retry-After": str(RETRY_SECONDS)})


def _statement_failed(error: ProgrammingError) -> Response:
    """Return the problem of a missing table or column, which comes with the migration: a later try may succeed."""
    missing = getattr(error.orig, "sqlstate", "") in {"42P01", "42703"}
    return _unavailable(error) if missing else unforeseen(error)


def _bad_schedule(error: BadSchedule, detail: str = "", at: str = "#") -> Response:
    kind = REMINDERS_INVALID if isinstance(error, BadReminders) else RECURRENCE_INVALID
    faults = [Violation(pointer=f"{at}/{name}", detail=fault) for name, fault in error.faults.items()]
    return respond(kind, detail or str(error), errors=faults)


def _bulk_failed(error: BulkFailure) -> Response:
    if isinstance(error.cause, BadSchedule):
        return _bad_schedule(error.cause, str(error), f"#/operations/{error.index}/{error.member}")
    kind = VERSION_CONFLICT if isinstance(error.cause, VersionConflict) else TASK_NOT_FOUND
    operation = Violation(pointer=f"#/operations/{error.index}", detail=str(error.cause))
    return respond(kind, str(error), errors=[operation])


def _bad_token(error: BadToken) -> Response:
    headers = bearer("invalid_token", error_description=str(error))
    return respond(TOKEN_PROBLEMS[error.reason], str(error), headers)


def _row_refused(error: IntegrityError) -> Response:
    """Return 401 where a row refers to an account that was deleted while this replica still knew its session."""
    return _bad_token(BadToken("revoked")) if store.refers_to_nothing(error) else unforeseen(error)


ANSWERS: dict[type[Exception], Callable[[Any], Response]] = {
    BadCursor: lambda error: respond(CURSOR_INVALID, str(error)),
    BadFeedToken: lambda error: respond(FEED_TOKEN_INVALID, str(error)),
    FeedGone: lambda error: respond(FEED_GONE, str(error)),
    CalendarTooLarge: lambda error: respond(CALENDAR_TOO_LARGE, str(error)),
    TaskNotFound: lambda error: respond(TASK_NOT_FOUND, str(error)),
    VersionConflict: lambda error: respond(VERSION_CONFLICT, str(error), {"ETag": f'"{error.held.version}"'}),
    BadSchedule: _bad_schedule,
    BulkFailure: _bulk_failed,
    QuotaExceeded: lambda error: respond(QUOTA_EXCEEDED, str(error)),
    EmailTaken: lambda error: respond(EMAIL_TAKEN, str(error)),
    LoginFailed: lambda error: respond(LOGIN_FAILED, str(error), bearer()),
    Throttled: lambda error: respond(LOGIN_THROTTLED, str(error), {"Retry-After": str(error.retry_after)}),
    Overloaded: lambda error: respond(OVERLOADED, str(error), {"Retry-After": str(error.retry_after)}),
    QueueFull: lambda error: respond(MAIL_QUEUE_FULL, str(error), {"Retry-After": str(error.retry_after)}),
    BadMailToken: lambda error: respond(MAIL_TOKEN_INVALID, str(error)),
    BadPassword: lambda error: respond(PASSWORD_REFUSED, str(error)),
    WrongPassword: lambda error: respond(PASSWORD_WRONG, str(error)),
    SecondFactorNeeded: lambda error: respond(SECOND_FACTOR_NEEDED, str(error), bearer()),
    WrongCode: lambda error: respond(CODE_WRONG, str(error)),
    NotAllowed: lambda error: respond(NOT_ALLOWED, str(error)),
    AccountNotFound: lambda error: respond(ACCOUNT_NOT_FOUND, str(error)),
    SessionNotFound: lambda error: respond(SESSION_NOT_FOUND, str(error)),
    PersonalTokenNotFound: lambda error: respond(PERSONAL_TOKEN_NOT_FOUND, str(error)),
    WebhookNotFound: lambda error: respond(WEBHOOK_NOT_FOUND, str(error)),
    Refused: lambda error: respond(WEBHOOK_REFUSED, str(error)),
    BadToken: _bad_token,
    AnothersToken: lambda error: respond(TOKEN_PROBLEMS["invalid"], str(error), bearer()),
    **dict.fromkeys((*store.UNAVAILABLE, store.SchemaBehind), _unavailable),
    ProgrammingError: _statement_failed,
    IntegrityError: _row_refused,
}
"""How each kind of exception is answered; the nearest of its classes counts."""
