"""The metrics of the services that share the database: of their connections, and of the delivery to webhooks."""

from typing import Any

from prometheus_client import Counter, Gauge

import service_kit.telemetry.metrics  # noqa: F401 - sets the folder that prometheus-client reads at its import

_connections = Gauge("db_pool_connections", "Database connections.", ("state",), multiprocess_mode="livesum")
_pool_size = Gauge("db_pool_size", "Database connections at most.", multiprocess_mode="livesum")
_up = Gauge(
    "db_up",
    "Whether the database answered the last check of readiness.",
    ("dialect",),  # a gauge without labels would be 0 before the first check
    multiprocess_mode="livemostrecent",
)
_deliveries = Counter("webhook_deliveries_total", "Attempts to deliver a change to a webhook.", ("result",))
_undelivered = Gauge(
    "webhook_oldest_undelivered_seconds",
    "How old the oldest change is that is to be delivered to an active webhook; 0 where none is.",
    multiprocess_mode="livemostrecent",
)
_waiting = Gauge("webhooks_waiting", "Active webhooks with something to deliver.", multiprocess_mode="livemostrecent")
_disabled = Gauge("webhooks_disabled", "Webhooks that are disabled.", multiprocess_mode="livemostrecent")


def sample_pool(pool: Any) -> None:
    """Publish how many connections of a pool (SQLAlchemy's QueuePool) are in use."""
    _pool_size.set(pool.size())
    _connections.labels("in_use").set(pool.checkedout())
    _connections.labels("idle").set(pool.checkedin())


def database_answers(dialect: str, answers: bool) -> None:
    """Publish whether the database answered the last check of readiness."""
    _up.labels(dialect).set(answers)


def delivered(result: str) -> None:
    """Count an attempt to deliver a change."""
    _deliveries.labels(result).inc()


def undelivered(seconds: float, waiting: int, disabled: int) -> None:
    """Publish what is to be delivered: the age of the oldest change, and how many webhooks wait or are disabled."""
    _undelivered.set(seconds)
    _waiting.set(waiting)
    _disabled.set(disabled)
