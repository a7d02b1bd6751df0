"""What surrounds every request of every service: its id, its trace, its log line, its metrics and its headers."""

import re
import secrets
import time
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
    found: Service = current_app.extensions[EXTENSION]
    return found


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
    here.span = None
    here.trace_id = incoming_trace_id(headers.get("traceparent"))
    here.service = service()
    if here.service.tracer:
        here.span, here.trace_id = here.service.tracer.start(asked.method, asked.path, headers)
    about.set({"request_id": here.request_id, "trace_id": here.trace_id})
    if "HTTP_HOST" not in asked.environ and asked.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise Refusal(MALFORMED_REQUEST, "HTTP/1.1 asks for a Host header (RFC 9112, section 3.2)")
    here.service.admit(here)


def _finish(environment: Any, status: int, present: set[str]) -> list[tuple[str, str]]:
    """Count and log the response; return the headers that it has in addition to those in `present`."""
    here = g._get_current_object()  # noqa: SLF001
    seconds = time.perf_counter() - here.started
    asked = here.request
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    method = asked.method if asked.method in METHODS else "(other)"
    metrics.observe(route, method, status, seconds, here.trace_id)
    if here.span:
        here.service.tracer.finish(here.span, method, route, status)
    write = log.debug if route in QUIET else log.info
    duration = round(seconds * 1000, 3)
    write("request", method=method, route=route, status=status, duration_ms=duration, **here.service.log_fields(here))
    about.set({})
    return [
        *ALWAYS,
        *(header for header in UNLESS_GIVEN if header[0] not in present),
        *here.service.headers(here),
        *(HTTPS_ONLY if environment["wsgi.url_scheme"] == "https" else ()),
        ("X-Request-ID", here.request_id),
    ]
