"""What stands around every request: its id, the account, the rate limit, its log line and its metrics."""

import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, current_app, g, request
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
NOTHING_MAY_LOAD = "default-src 'none'; frame-ancestors 'none'"


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
    app.wsgi_app = _with_headers(app.wsgi_app)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(_finish)


def _with_headers(application: Any) -> Any:
    def answer(environment: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            return start_response(status, headers + ALWAYS, *failure)

        return application(environment, start)

    return answer


def _begin() -> None:
    here, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    here.started = time.perf_counter()
    metrics.in_flight.inc()
    headers = asked.headers
    given = headers.get("X-Request-ID", "")
    here.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    here.account = here.rate = here.span = None
    here.trace_id = incoming_trace_id(headers.get("traceparent"))
    around = services()
    if around.tracer:
        here.span, here.trace_id = around.tracer.start(asked.method, asked.path, headers)
    about.set({"request_id": here.request_id, "trace_id": here.trace_id})
    if asked.endpoint not in OUTSIDE_LIMITS:
        refusal = _identify(around.accounts)
        _limit(around.limiter)
        if refusal and asked.endpoint not in FOR_ANYBODY:
            raise refusal


def _identify(accounts: Accounts | None) -> Exception | None:
    """Set the request's account; gives why not, where there is a token and it is no good."""
    if accounts is None:
        g.account = LOCAL
        return None
    authorization = request.headers.get("Authorization")
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return Refusal(401, "the Authorization header has to be: Bearer, a space, and a token", bearer())
    try:
        g.account, g.session_id = accounts.authenticate(token.strip())
    except BadToken as error:
        return error
    return None


def _limit(limiter: RateLimiter | None) -> None:
    if limiter is None:
        return
    g.rate = limiter.hit(f"account:{g.account.id}" if g.account else f"address:{request.remote_addr}")
    if not g.rate.allowed:
        metrics.rate_limited()
        wait = str(g.rate.reset)
        raise Refusal(429, f"too many requests: try again in {wait} seconds", {"Retry-After": wait})


def _finish(response: Response) -> Response:
    here, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    seconds = time.perf_counter() - here.started
    metrics.in_flight.dec()
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    method = asked.method if asked.method in METHODS else "(other)"
    status = response.status_code
    metrics.observe(route, method, status, seconds, here.trace_id)
    headers = response.headers
    headers.setdefault("Content-Security-Policy", NOTHING_MAY_LOAD)
    headers.setdefault("Cache-Control", "no-store")
    headers["X-Request-ID"] = here.request_id
    if here.rate:
        headers.extend(here.rate.headers)
    if asked.is_secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    if here.span:
        services().tracer.finish(here.span, method, route, status)  # type: ignore[union-attr]
    write = log.debug if route in QUIET else log.info
    account_id = here.account.id if here.account else None
    duration = round(seconds * 1000, 3)
    write("request", method=method, route=route, status=status, duration_ms=duration, account=account_id)
    about.set({})
    return response
