"""Logs: one JSON object a line on standard output, whoever writes them (the service, gunicorn, a library)."""

import contextlib
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec
import structlog
from structlog.types import EventDict, WrappedLogger

FIRST = ("time", "level", "message")
_encode = msgspec.json.Encoder(enc_hook=str).encode


def render(_logger: WrappedLogger, _name: str, event: EventDict) -> bytes:
    """One line of JSON, the usual fields first. JSON's escapes keep every value within its line."""
    event["message"] = event.pop("event", "")
    ordered = {name: event.pop(name) for name in FIRST if name in event}
    try:
        return _encode({**ordered, **event})
    except (UnicodeEncodeError, msgspec.MsgspecError, TypeError):  # lone surrogates, unusual keys
        return _encode({**ordered, "message": repr(ordered.get("message")), "fields": repr(event)})


about: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 - it is never changed, only replaced
"""What each line of the current request holds beside its own: set when it begins."""


def _merge(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for name, value in about.get().items():
        event.setdefault(name, value)
    return event


_SHARED: list[Any] = [
    _merge,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,
]


class JsonLines(logging.Handler):
    """Renders what libraries log by the standard library, without the formatter's detours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for process in (_SHARED[0], *_SHARED[2:]):
                event = process(None, "", event)
            _write(bytes(render(None, "", event)))
        except Exception:  # noqa: BLE001 - the standard library's contract: a handler never raises
            self.handleError(record)


def _write(line: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # a service goes on when nobody reads its logs any more
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


class _Lines:
    """What structlog hands its rendered lines to, under the name of their level."""

    debug = info = warning = error = critical = exception = staticmethod(_write)


def configure(level: str) -> None:
    """Send all logs of at least this level to standard output as JSON lines. Once a process, before any fork."""
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[*_SHARED, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [JsonLines()]
    root.setLevel(max(threshold, logging.INFO))
    for chatty in ("alembic", "urllib3", "opentelemetry"):
        logging.getLogger(chatty).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


log: Any = structlog.get_logger()
