"""What surrounds every request of every service: its id, its trace, its log line, its metrics and its headers."""

import re
import secrets
import time
from threading import get_ident
from typing import Any

from flask import Flask, current_app, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from service_kit.http.problems import MALFORMED_REQUEST, Refusal
from service_kit.service import Service
from service_kit.telemetry import metrics
from service_kit.telemetry.logs import about, log
from service_kit.telemetry.traces import incoming_trace_id

EXTENSION = "service_kit"
"""Where Flask's `extensions` hold the application's service."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
deprecated: dict[str, list[tuple[str, str]]] = {}
"""The headers of each deprecated operation, by the name of its function; `documented` fills it."""

UNMATCHED = "(unmatched)"
PROBES = ("health", "livez", "readyz", "metrics")
"""The endpoints of probes and scrapes, which are no user's request; their paths have the same names."""

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


def service() -> Service:
    """Return the service of the application that answers now."""
    service: Service = current_app.extensions[EXTENSION]
    return service


def install(app: Flask, own: Service) -> None:
    """Put all of it around the application's requests."""
    app.extensions[EXTENSION] = own
    if count := own.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
    app.wsgi_app = _finished(app.wsgi_app)  # type: ignore[method-assign]
    app.before_request(_begin)


def _finished(application: Any) -> Any:
    """Return the WSGI application with each response counted, logged and completed, whatever made it."""

    def answer(environment: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            more = _finish(environment, int(status[:3]), {name for name, _ in headers})
            return start_response(status, headers + more, *failure)

        if host := environment.get("HTTP_HOST"):
            environment["HTTP_HOST"] = host.lower()  # names of hosts have no case (RFC 3986, section 3.2.2)
        thread = get_ident()
        metrics.answering.add(thread)
        try:
            return application(environment, start)
        finally:
            metrics.answering.discard(thread)

    return answer


def _begin() -> None:
    context, incoming = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    context.request = incoming
    context.started = time.perf_counter()
    environment = incoming.environ  # which is read without the detours of `headers`
    received = environment.get("HTTP_X_REQUEST_ID", "")
    context.request_id = received if REQUEST_ID.fullmatch(received) else secrets.token_hex(16)
    context.span = None
    context.trace_id = incoming_trace_id(environment.get("HTTP_TRACEPARENT"))
    context.service = own = service()
    if own.tracer:
        context.span, context.trace_id = own.tracer.start(incoming.method, incoming.path, incoming.headers)
    about.set({"request_id": context.request_id, "trace_id": context.trace_id})
    if "HTTP_HOST" not in environment and environment["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise Refusal(MALFORMED_REQUEST, "HTTP/1.1 requires a Host header (RFC 9112, section 3.2)")
    own.admit(context)


def _finish(environment: Any, status: int, present: set[str]) -> list[tuple[str, str]]:
    """Count and log the response; return the headers that it has in addition to those in `present`."""
    context = g._get_current_object()  # noqa: SLF001
    seconds = time.perf_counter() - context.started
    incoming = context.request
    route = incoming.url_rule.rule if incoming.url_rule else UNMATCHED
    method = incoming.method if incoming.method in METHODS else "(other)"
    metrics.observe(route, method, status, seconds, context.trace_id)
    if context.span:
        context.service.tracer.finish(context.span, method, route, status)
    write = log.debug if route in QUIET else log.info
    duration = round(seconds * 1000, 3)
    write(
        "request",
        method=method,
        route=route,
        status=status,
        duration_ms=duration,
        **context.service.log_fields(context),
    )
    about.set({})
    return [
        *ALWAYS,
        *(header for header in UNLESS_GIVEN if header[0] not in present),
        *context.service.headers(context),
        *(_deprecation(incoming.endpoint) if deprecated else ()),
        *(HTTPS_ONLY if environment["wsgi.url_scheme"] == "https" else ()),
        ("X-Request-ID", context.request_id),
    ]


def _deprecation(endpoint: str | None) -> list[tuple[str, str]]:
    view = current_app.view_functions.get(endpoint or "")
    return deprecated.get(view.__name__, []) if view else []
