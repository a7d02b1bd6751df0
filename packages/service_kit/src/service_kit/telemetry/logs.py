"""Logs: one JSON object a line on standard output, whoever writes them (the service, gunicorn, a library)."""

import contextlib
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from structlog.types import EventDict, WrappedLogger

FIRST = ("time", "level", "message")
_encode = msgspec.json.Encoder(enc_hook=str).encode


about: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 - it is never changed, only replaced
"""What each line of the current request holds beside its own: set when it begins."""


def render(_logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """One line of JSON, the usual fields first. JSON's escapes keep every value within its line.

    One function does what could be a chain of structlog's processors: each would cost every request a call and a copy.
    """
    message = event.pop("event", "")
    line = {**dict.fromkeys(FIRST), **event}
    for name, value in about.get().items():
        line.setdefault(name, value)
    line["time"], line["level"], line["message"] = datetime.now(UTC), level, message
    if "exc_info" in line:
        line = dict(structlog.processors.format_exc_info(None, level, line))
    try:
        return _encode(line)
    except (UnicodeEncodeError, msgspec.MsgspecError, TypeError):  # lone surrogates, unusual keys
        usual = {name: line.pop(name) for name in FIRST}
        return _encode({**usual, "message": repr(message), "fields": repr(line)})


class JsonLines(logging.Handler):
    """Renders what libraries log by the standard library, without the formatter's detours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            _write(render(None, record.levelname.lower(), event))
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
        processors=[render],
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
