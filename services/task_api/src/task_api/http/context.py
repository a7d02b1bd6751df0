"""What stands around every request: its id, the account, the rate limit, its log line and its metrics."""

import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, current_app, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from task_api.accounts.model import Account, BadToken
from task_api.accounts.service import Accounts
from task_api.config import LOOPBACK, Settings
from task_api.http.problems import Refusal, bearer
from task_api.http.rate_limit import RateLimiter
from task_api.store.database import Database
from task_api.store.schema import LOCAL_ACCOUNT
from task_api.telemetry import metrics
from task_api.telemetry.logs import about, log
from task_api.telemetry.traces import Tracer, incoming_trace_id

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
LOCAL = Account(LOCAL_ACCOUNT, "local", "user", datetime.fromtimestamp(0, UTC))
FOR_ANYBODY = frozenset({"auth.login", "auth.register_account", "auth.refresh"})
OUTSIDE_LIMITS = frozenset({"health", "livez", "readyz", "metrics"})
UNMATCHED = "(unmatched)"
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

ALWAYS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
UNLESS_GIVEN = [
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
]
HTTPS_ONLY = [("Strict-Transport-Security", "max-age=31536000")]


class Services:
    """What the handlers of one application work with."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.accounts = Accounts(settings, database, metrics.auth_failed) if settings.auth == "on" else None
        self.limiter = RateLimiter(settings.rate_limit, database) if settings.rate_limit else None
        self.tracer: Tracer | None = None
        self.draining: Callable[[], bool] = lambda: False


def services() -> Services:
    """Those of the application that answers now."""
    found: Services = current_app.extensions["task_api"]
    return found


def database() -> Database:
    """The database of the application that answers now."""
    return services().database


def account() -> Account:
    """Who is asking. Raises Refusal 401 where that has to be known and is not."""
    known: Account | None = g.account
    if known is None:
        raise Refusal(401, "a token is needed: send Authorization: Bearer with one from /auth/login", bearer())
    return known


def install(app: Flask, settings: Settings) -> None:
    """Put all of it around the application's requests."""
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
    if settings.auth == "off":
        # a web page must not reach us by a name of its own (DNS rebinding)
        app.config["TRUSTED_HOSTS"] = [*LOOPBACK, "[::1]"]
    app.wsgi_app = _finished(app.wsgi_app)  # type: ignore[method-assign]
    app.before_request(_begin)


def _finished(application: Any) -> Any:
    """The WSGI application, each of whose answers is finished on its way out, whatever made it."""

    def answer(environment: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            more = _finish(environment, int(status[:3]), {name for name, _ in headers})
            return start_response(status, headers + more, *failure)

        with metrics.in_flight():
            return application(environment, start)

    return answer


def _begin() -> None:
    here, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    here.request = asked
    here.started = time.perf_counter()
    headers = asked.headers
    given = headers.get("X-Request-ID", "")
    here.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    here.account = here.rate = here.span = None
    here.trace_id = incoming_trace_id(headers.get("traceparent"))
    around = here.services = services()
    if around.tracer:
        here.span, here.trace_id = around.tracer.start(asked.method, asked.path, headers)
    about.set({"request_id": here.request_id, "trace_id": here.trace_id})
    if "HTTP_HOST" not in asked.environ and asked.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise Refusal(400, "HTTP/1.1 asks for a Host header (RFC 9112, section 3.2)")
    if asked.endpoint not in OUTSIDE_LIMITS:
        refusal = _identify(here, around.accounts)
        if around.limiter:
            _limit(here, around.limiter)
        if refusal and asked.endpoint not in FOR_ANYBODY:
            raise refusal


def _identify(here: Any, accounts: Accounts | None) -> Exception | None:
    """Set the request's account; gives why not, where there is a token and it is no good."""
    if accounts is None:
        here.account = LOCAL
        return None
    authorization = here.request.headers.get("Authorization")
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return Refusal(401, "the Authorization header has to be: Bearer, a space, and a token", bearer())
    try:
        here.account, here.session_id = accounts.authenticate(token.strip())
    except BadToken as error:
        return error
    return None


def _limit(here: Any, limiter: RateLimiter) -> None:
    here.rate = limiter.hit(f"account:{here.account.id}" if here.account else f"address:{here.request.remote_addr}")
    if not here.rate.allowed:
        metrics.rate_limited()
        wait = str(here.rate.reset)
        raise Refusal(429, f"too many requests: try again in {wait} seconds", {"Retry-After": wait})


def _finish(environment: Any, status: int, given: set[str]) -> list[tuple[str, str]]:
    """Count and log the request's answer; gives the headers that it has beside those given."""
    here = g._get_current_object()  # noqa: SLF001
    seconds = time.perf_counter() - here.started
    asked = here.request
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    method = asked.method if asked.method in METHODS else "(other)"
    metrics.observe(route, method, status, seconds, here.trace_id)
    if here.span:
        here.services.tracer.finish(here.span, method, route, status)
    write = log.debug if route in QUIET else log.info
    account_id = here.account.id if here.account else None
    duration = round(seconds * 1000, 3)
    write("request", method=method, route=route, status=status, duration_ms=duration, account=account_id)
    about.set({})
    return [
        *ALWAYS,
        *(header for header in UNLESS_GIVEN if header[0] not in given),
        *(here.rate.headers if here.rate else ()),
        *(HTTPS_ONLY if environment["wsgi.url_scheme"] == "https" else ()),
        ("X-Request-ID", here.request_id),
    ]
