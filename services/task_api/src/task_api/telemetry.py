"""The metrics that this service has beside those of every service."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge

import service_kit.telemetry.metrics  # noqa: F401 - sets the folder that prometheus-client reads at its import
from task_api.store.clearing import Backlog

_auth_failures = Counter("api_auth_failures_total", "Requests refused for who sent them.", ("reason",))
_rate_limited = Counter("api_rate_limited_total", "Requests refused by the rate limit.")
_expired = Counter("db_expired_rows_deleted_total", "Rows deleted that had expired, or were too many.", ("table",))
_backlog = Gauge(
    "db_expired_rows_oldest_seconds",
    "For how long the oldest row has been expired that the last round of clearing could not delete.",
    ("table",),
    multiprocess_mode="livemax",
)
_key_created = Gauge(
    "api_signing_key_created_timestamp_seconds",
    "When the key that signs tokens was made.",
    ("kid",),
    multiprocess_mode="livemax",
)

auth_failed: Callable[[str], None] = lambda reason: _auth_failures.labels(reason).inc()  # noqa: E731
rate_limited = _rate_limited.inc


def cleared(backlogs: Iterable[Backlog]) -> None:
    """Publish what a round of clearing did."""
    for backlog in backlogs:
        _expired.labels(backlog.table).inc(backlog.deleted)
        _backlog.labels(backlog.table).set(backlog.seconds)


def signing_key(kid: str) -> None:
    """Publish the age of the key that signs tokens, where its id begins with a date, as in 20260131-4f2a."""
    try:
        created = datetime.strptime(kid[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return
    _key_created.labels(kid).set(created.timestamp())
