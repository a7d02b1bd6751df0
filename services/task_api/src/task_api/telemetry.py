"""The metrics that this service has beside those of every service."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge

import service_kit.telemetry.metrics  # noqa: F401 - sets the folder that prometheus-client reads at its import
from task_api.store.clearing import Backlog

_auth_failures = Counter("api_auth_failures_total", "Requests refused for who sent them.", ("reason",))
_rate_limited = Counter("api_rate_limited_total", "Requests refused by the rate limit.")
_connections = Gauge("db_pool_connections", "Database connections.", ("state",), multiprocess_mode="livesum")
_pool_size = Gauge("db_pool_size", "Database connections at most.", multiprocess_mode="livesum")
_expired = Counter("db_expired_rows_deleted_total", "Rows deleted that had expired, or were too many.", ("table",))
_backlog = Gauge(
    "db_expired_rows_oldest_seconds",
    "For how long the oldest row has been expired that the last round of clearing could not delete.",
    ("table",),
    multiprocess_mode="livemax",
)
_up = Gauge(
    "db_up",
    "Whether the database answered the last check of readiness.",
    ("dialect",),  # a gauge without labels would be 0 before the first check
    multiprocess_mode="livemostrecent",
)
_key_created = Gauge(
    "api_signing_key_created_timestamp_seconds",
    "When the key that signs tokens was made.",
    ("kid",),
    multiprocess_mode="livemax",
)

_deliveries = Counter("webhook_deliveries_total", "Attempts to deliver a change to a webhook.", ("result",))
_undelivered = Gauge(
    "webhook_oldest_undelivered_seconds",
    "How old the oldest change is that is to be delivered to an active webhook; 0 where none is.",
    multiprocess_mode="livemostrecent",
)
_waiting = Gauge("webhooks_waiting", "Active webhooks with something to deliver.", multiprocess_mode="livemostrecent")
_disabled = Gauge("webhooks_disabled", "Webhooks that are disabled.", multiprocess_mode="livemostrecent")

auth_failed: Callable[[str], None] = lambda reason: _auth_failures.labels(reason).inc()  # noqa: E731
rate_limited = _rate_limited.inc


def sample_pool(pool: Any) -> None:
    """Publish how many connections of a pool (SQLAlchemy's QueuePool) are in use."""
    _pool_size.set(pool.size())
    _connections.labels("in_use").set(pool.checkedout())
    _connections.labels("idle").set(pool.checkedin())


def cleared(backlogs: Iterable[Backlog]) -> None:
    """Publish what a round of clearing did."""
    for backlog in backlogs:
        _expired.labels(backlog.table).inc(backlog.deleted)
        _backlog.labels(backlog.table).set(backlog.seconds)


def database_answers(dialect: str, answers: bool) -> None:
    """Publish whether the database answered the last check of readiness."""
    _up.labels(dialect).set(answers)


def signing_key(kid: str) -> None:
    """Publish the age of the key that signs tokens, where its id begins with a date, as in 20260131-4f2a."""
    try:
        created = datetime.strptime(kid[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return
    _key_created.labels(kid).set(created.timestamp())


def delivered(result: str) -> None:
    """Count an attempt to deliver a change."""
    _deliveries.labels(result).inc()


def undelivered(seconds: float, waiting: int, disabled: int) -> None:
    """Publish what is to be delivered: the age of the oldest change, and how many webhooks wait or are disabled."""
    _undelivered.set(seconds)
    _waiting.set(waiting)
    _disabled.set(disabled)
