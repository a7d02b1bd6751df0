"""The metrics of the services that share the database: of their connections, and of the delivery to webhooks."""

from collections.abc import Collection
from typing import Any

from prometheus_client import Counter, Gauge

import service_kit.telemetry.metrics  # noqa: F401 - sets the folder that prometheus-client reads at its import
from task_core.delivery import Backlog
from task_core.reminders import Put

_connections = Gauge("db_pool_connections", "Database connections.", ("state",), multiprocess_mode="livesum")
_pool_size = Gauge("db_pool_size", "Database connections at most.", multiprocess_mode="livesum")
_up = Gauge(
    "db_up",
    "Whether the database answered the last check of readiness.",
    ("dialect",),  # a gauge without labels would be 0 before the first check
    multiprocess_mode="livemostrecent",
)
_deliveries = Counter(
    "webhook_deliveries_total",
    "Attempts to deliver a change, dead letters, and webhooks that were disabled.",
    ("result",),
)
_due = Gauge(
    "webhook_due_seconds",
    "For how long an attempt to deliver has been due; 0 where none is.",
    multiprocess_mode="livemostrecent",
)
_undelivered = Gauge(
    "webhook_oldest_undelivered_seconds",
    "How old the oldest change is that is to be delivered to an active webhook; 0 where none is.",
    multiprocess_mode="livemostrecent",
)
_waiting = Gauge("webhooks_waiting", "Active webhooks with something to deliver.", multiprocess_mode="livemostrecent")
_disabled = Gauge("webhooks_disabled", "Webhooks that are disabled.", multiprocess_mode="livemostrecent")

_reminders = Counter(
    "reminders_total",
    "Reminders that went out, or were dropped as the account is disabled, and attempts to mail them.",
    ("result", "late"),
)
_reminder_due = Gauge(
    "reminder_due_seconds",
    "For how long the oldest reminder has been due that did not go out, or is not mailed; 0 where none is.",
    ("stage",),
    multiprocess_mode="livemostrecent",
)


def sample_pool(pool: Any) -> None:
    """Publish how many connections of a pool (SQLAlchemy's QueuePool) are in use."""
    _pool_size.set(pool.size())
    _connections.labels("in_use").set(pool.checkedout())
    _connections.labels("idle").set(pool.checkedin())


def database_answers(dialect: str, answers: bool) -> None:
    """Publish whether the database answered the last check of readiness."""
    _up.labels(dialect).set(answers)


def delivered(result: str, count: int = 1) -> None:
    """Count what became of a delivery."""
    _deliveries.labels(result).inc(count)


def undelivered(backlog: Backlog) -> None:
    """Publish what is to be delivered."""
    _due.set(backlog.due_seconds)
    _undelivered.set(backlog.oldest_seconds)
    _waiting.set(backlog.waiting)
    _disabled.set(backlog.disabled)


def reminded(result: str, late: bool, count: int = 1) -> None:
    """Count what became of reminders."""
    _reminders.labels(result, str(late).lower()).inc(count)


def put_out(puts: Collection[Put]) -> None:
    """Count reminders that went out or were dropped, and those that are not mailed as there were too many."""
    for one in puts:
        reminded("dropped" if one.dropped else "put_out", one.late)
        if one.limited:
            reminded("mail_limited", one.late)


def reminders_due(stage: str, seconds: float) -> None:
    """Publish for how long the oldest reminder has been due that did not pass `stage`: outbox or mail."""
    _reminder_due.labels(stage).set(seconds)
