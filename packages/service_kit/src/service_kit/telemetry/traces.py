"""Traces by OTLP over HTTP, when an endpoint is set; OpenTelemetry is not even imported when not."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def incoming_trace_id(traceparent: str | None) -> str | None:
    """Return the trace id of a W3C traceparent header, None where there is none or it is malformed."""
    match = TRACEPARENT.fullmatch(traceparent or "")
    return match[1] if match else None


class Tracer:
    """Starts a span for each request and each SQL statement, by OpenTelemetry's semantic conventions."""

    def __init__(self, service: str, version: str) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        os.environ.setdefault("OTEL_SERVICE_NAME", service)
        self._provider = TracerProvider(resource=Resource.create({"service.version": version}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(service, version)
        self._context, self._trace = context, trace
        self._extract = propagate.extract
        self._trace_context = TraceContextTextMapPropagator()

    def start(self, method: str, path: str, headers: Any) -> tuple[Any, str]:
        """(span, trace id) of a request, within the caller's trace where its headers name one."""
        context = self._extract({name.lower(): value for name, value in headers.items()})
        attributes = {"http.request.method": method, "url.path": path, "url.scheme": "http"}
        span = self._tracer.start_span(method, context, self._trace.SpanKind.SERVER, attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        return (span, token), format(span.get_span_context().trace_id, "032x")

    def finish(self, started: Any, method: str, route: str, status: int) -> None:
        """End a request's span. A 5xx is an error of the server's (semantic conventions for HTTP)."""
        span, token = started
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:  # noqa: PLR2004
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()
        self._context.detach(token)

    def traceparent(self) -> str | None:
        """Return the W3C traceparent of the current span; None where none is recorded."""
        carrier: dict[str, str] = {}
        if self._trace.get_current_span().is_recording():
            self._trace_context.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def delivery(self, system: str, queue: str, message_id: str, traceparent: str | None) -> Iterator[Any]:
        """Yield the span of an attempt to deliver a message of a system's queue (semantic conventions for messaging).

        It is a trace of its own, as a message may be tried for a day, with a link to the span that made the message.
        """
        origin = self._trace_context.extract(
            {"traceparent": traceparent} if traceparent else {}, self._context.Context()
        )
        made_by = self._trace.get_current_span(origin).get_span_context()
        attributes = {
            "messaging.system": system,
            "messaging.destination.name": queue,
            "messaging.operation.name": "deliver",
            "messaging.operation.type": "process",
            "messaging.message.id": message_id,
        }
        with self._tracer.start_as_current_span(
            f"deliver {queue}",
            self._context.Context(),
            self._trace.SpanKind.CONSUMER,
            attributes,
            [self._trace.Link(made_by)] if made_by.is_valid else [],
        ) as span:
            yield span

    def close(self) -> None:
        """Send what is waiting."""
        self._provider.shutdown()

    def watch(self, engine: Any) -> None:
        """Start a span for each statement of an engine (SQLAlchemy's)."""
        from sqlalchemy import event  # noqa: PLC0415 - a service without a database has no SQLAlchemy

        tracer, kind = self._tracer, self._trace.SpanKind.CLIENT
        system = {"postgresql": "postgresql", "sqlite": "sqlite"}[engine.dialect.name]

        @event.listens_for(engine, "before_cursor_execute")
        def begin(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
            if context is not None:
                attributes = {"db.system.name": system, "db.query.text": statement}
                context.span = tracer.start_span(statement.split(None, 1)[0], kind=kind, attributes=attributes)

        @event.listens_for(engine, "after_cursor_execute")
        def end(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
            if context is not None:
                context.span.end()

        @event.listens_for(engine, "handle_error")
        def fail(failure: Any) -> None:
            span = getattr(failure.execution_context, "span", None)
            if span is not None:
                span.record_exception(failure.original_exception)
                span.set_status(self._trace.StatusCode.ERROR)
                span.end()
