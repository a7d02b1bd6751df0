"""The tables as they are now, and the chain of migrations that leads to them (a test holds the two together)."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from task_core.reminder import Reminder, duration, seconds

REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
    "0017",
    "0018",
    "0019",
    "0020",
)
"""Every migration, oldest first. The service is ready at the last one, and at any that it does not know."""

LARGEST_KEY = 2**63 - 1
"""The largest integer that both databases accept in a query."""

NO_LABELS = NO_REMINDERS = "[]"

TOTP_SECRET, TOTP_PLACEHOLDER = 32, 64
"""The lengths of the secret of a second factor, and of what is in its place where it is encrypted."""

LOCAL_ACCOUNT = 0
"""The account that all requests act as with AUTH=off. It has no password, so nobody can log in as it."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Key = BigInteger().with_variant(Integer, "sqlite")


class _Rfc3339(String):
    """SQLite's instants: text in UTC that sorts as time does, and that datetime reads without a detour."""

    def bind_processor(self, _dialect: Dialect) -> Any:
        return lambda value: value and value.astimezone(UTC).isoformat(" ", "microseconds")

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        return lambda value: value and datetime.fromisoformat(value)


class Instant(TypeDecorator[datetime]):
    """A point in time, aware and in UTC on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return _Rfc3339() if dialect.name == "sqlite" else super().load_dialect_impl(dialect)


class Labels(TypeDecorator[list[str]]):
    """Labels in JSON: a text that is the same on both databases for the same labels in the same order."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, _dialect: Dialect) -> str | None:
        return value if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, _dialect: Dialect) -> list[str] | None:
        if value is None:
            return None
        return msgspec.json.decode(value) if value != NO_LABELS else []


class Reminders(TypeDecorator[list[Reminder]]):
    """Reminders in JSON, as the triggers read them: a moment as text, a time before the due date in seconds."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[Reminder] | None, _dialect: Dialect) -> str | None:
        if value is None:
            return None
        kept = [seconds(one.before) if isinstance(one.before, str) else one.at for one in value]
        return msgspec.json.encode(kept).decode()

    def process_result_value(self, value: str | None, _dialect: Dialect) -> list[Reminder] | None:
        if value is None or value == NO_REMINDERS:
            return None if value is None else []
        kept = msgspec.json.decode(value, type=list[int | datetime])
        return [Reminder(before=duration(one)) if isinstance(one, int) else Reminder(at=one) for one in kept]


accounts = Table(
    "accounts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", Text),
    Column("role", String(16), nullable=False, server_default="user"),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
    Column("totp_secret", String(64)),
    Column("totp_step", BigInteger),
    Column("recovery_codes", String(1000)),
    Column("encrypted_totp_secret", Text),
    Column("verified_at", Instant),
    CheckConstraint("role IN ('user', 'admin')", name="role"),
    sqlite_autoincrement=True,
)
"""`totp_secret` is empty where there is no second factor. Where it has TOTP_SECRET characters, it is the secret in
clear: the version before wrote it, or this one without a key. Else the secret is in `encrypted_totp_secret`, and
`totp_secret` is random: the version before computes codes with it, which no authenticator shows.

`verified_at` is when a token from a mail to the address came back last; the service mails nothing else to others.
"""

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("revoked_at", Instant),
    Column("refreshed_at", Instant),
    Column("user_agent", String(200)),
    Column("address", String(64)),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("session_id", String(32), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("spent_at", Instant),
)

personal_tokens = Table(
    "personal_tokens",
    metadata,
    Column("id", Key, primary_key=True),
    Column("account_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", String(100), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    sqlite_autoincrement=True,
)

mail_tokens = Table(
    "mail_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("email", String(254), nullable=False, index=True),
    Column("expires_at", Instant, nullable=False, index=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Key, primary_key=True),
    Column("at", Instant, nullable=False, index=True),
    Column("actor", String(254), nullable=False),
    Column("action", String(40), nullable=False),
    Column("account_id", Key, nullable=False, index=True),
    Column("details", String(500), nullable=False),
    sqlite_autoincrement=True,
)
"""What was done to accounts, and by whom. Entries outlive the accounts, so `account_id` refers to no row."""

tasks = Table(
    "tasks",
    metadata,
    Column("id", Key, primary_key=True),
    Column("title", String(200), nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("status", String(16), nullable=False, server_default="pending"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("owner_id", Key, ForeignKey("accounts.id"), nullable=False, server_default=text("0")),
    Column("priority", SmallInteger, nullable=False, server_default=text("1")),
    Column("due_at", Instant),
    Column("project", String(100)),
    Column("labels", Labels, nullable=False, server_default=NO_LABELS),
    Column("recurrence", String(255)),
    Column("time_zone", String(64)),
    Column("next_id", Key),
    Column("reminders", Reminders, nullable=False, server_default=NO_REMINDERS),
    Column("version", Integer, nullable=False, server_default=text("1")),
    CheckConstraint("status IN ('pending', 'in_progress', 'completed')", name="status"),
    CheckConstraint("priority IN (0, 1, 2)", name="priority"),
    sqlite_autoincrement=True,
)
"""`next_id` is the task that completing this one has created, also where that is deleted since."""

deleted_tasks = Table(
    "deleted_tasks",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=False),
    Column("title", String(200), nullable=False),
    Column("description", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("owner_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", Instant),
    Column("project", String(100)),
    Column("labels", Labels, nullable=False, server_default=NO_LABELS),
    Column("recurrence", String(255)),
    Column("time_zone", String(64)),
    Column("next_id", Key),
    Column("reminders", Reminders, nullable=False, server_default=NO_REMINDERS),
    Column("version", Integer, nullable=False),
    Column("deleted_at", Instant, nullable=False, index=True),
)
"""Tasks as they were when they were deleted, but for `version`, which counts the deletion. A trigger writes them."""

Index(None, deleted_tasks.c.owner_id, deleted_tasks.c.id)

task_changes = Table(
    "task_changes",
    metadata,
    Column("id", Key, primary_key=True),
    Column("transaction_id", BigInteger, nullable=False, server_default=text("0")),
    Column("task_id", Key, nullable=False),
    Column("owner_id", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("actor_id", Key, nullable=False),
    Column("fields", String(100).with_variant(String(80), "sqlite"), nullable=False),  # SQLite ignores the length
    Column("mark", Integer, nullable=False),
    Column("gone_at", Instant),
    Column("remind_at", Instant),
    Column("traceparent", String(55)),
    sqlite_autoincrement=True,
)
"""What happened to tasks, without their content. Triggers write it. Entries outlive tasks and accounts.

Those with the moment `remind_at` are reminders, and no changes: they are for webhooks alone, in order with the changes.
Each is of the version that the task had then.

`transaction_id` is PostgreSQL's, and 0 on SQLite. `mark` is random, which distinguishes an entry from another that has
the same id after a restore. `gone_at` is when the deleted task was removed for good.
`traceparent` names the span of the request where that is traced (W3C Trace Context).
"""

Index(None, task_changes.c.transaction_id, task_changes.c.id)
Index(None, task_changes.c.owner_id, task_changes.c.transaction_id, task_changes.c.id)
Index(None, task_changes.c.task_id, task_changes.c.version)
_gone = task_changes.c.gone_at.is_not(None)
Index(None, task_changes.c.gone_at, postgresql_where=_gone, sqlite_where=_gone)

change_feed = Table(
    "change_feed",
    metadata,
    Column("generation", String(32), primary_key=True),
)
"""One row: a random name of this feed."""

change_floors = Table(
    "change_floors",
    metadata,
    Column("owner_id", Key, primary_key=True, autoincrement=False),
    Column("transaction_id", BigInteger, nullable=False),
    Column("change_id", BigInteger, nullable=False),
)
"""The last change of each account behind which one is missing: the last one of its task was deleted. A trigger writes
it."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Key, primary_key=True),
    Column("owner_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("url", String(2000), nullable=False),
    Column("secret", String(100), nullable=False),
    Column("previous_secret", String(100)),
    Column("previous_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
    Column("disabled_reason", String(300)),
    Column("transaction_id", BigInteger, nullable=False),
    Column("change_id", BigInteger, nullable=False),
    Column("next_attempt_at", Instant, nullable=False, index=True),
    Column("lease", String(32)),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("failing_since", Instant),
    Column("last_error", String(300)),
    Column("dead_in_a_row", Integer, nullable=False, server_default=text("0")),
    Column("encrypted_secrets", Text),
    sqlite_autoincrement=True,
)
"""Where an account has its changes delivered to.

`transaction_id` and `change_id` are the position in the order of changes: what is behind it is not delivered yet. Who
delivers holds `lease`, until `next_attempt_at`. `failures` and `failing_since` are of the change that is next.
`encrypted_secrets` has the secret, and the one before it after a space; `secret` is empty then. Where it is not,
`secret` and `previous_secret` have them as they are, whatever is encrypted: the version before wrote them.
"""

webhook_dead_letters = Table(
    "webhook_dead_letters",
    metadata,
    Column("id", Key, primary_key=True),
    Column("webhook_id", Key, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("transaction_id", BigInteger, nullable=False),
    Column("change_id", BigInteger, nullable=False),
    Column("mark", Integer, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("task_id", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("failed_at", Instant, nullable=False),
    Column("error", String(300), nullable=False),
    Column("requested_at", Instant),
    Column("remind_at", Instant),
    sqlite_autoincrement=True,
)
"""Changes that could not be delivered, without the tasks' content. `requested_at` is when a replay was requested."""

Index(None, webhook_dead_letters.c.webhook_id, webhook_dead_letters.c.id)

task_reminders = Table(
    "task_reminders",
    metadata,
    Column("task_id", Key, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("remind_at", Instant, primary_key=True, index=True),
)
"""The reminders of tasks that are not completed which are still to go out. A trigger writes them.

One is written where its moment is in the future, whenever the task's reminders, due date or status change.
"""

reminder_mails = Table(
    "reminder_mails",
    metadata,
    Column("id", Key, primary_key=True),
    Column("owner_id", Key, nullable=False),
    Column("task_id", Key, nullable=False),
    Column("remind_at", Instant, nullable=False),
    Column("put_out_at", Instant, nullable=False),
    Column("next_attempt_at", Instant, nullable=False, index=True),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    sqlite_autoincrement=True,
)
"""Reminders that went out and are to be sent by mail. Who sends one holds it until `next_attempt_at`.

`owner_id` is no foreign key: who puts reminders out would wait for an account that is being deleted, whose deletion
waits for the reminders. A mail whose account is gone is dropped.
"""

LAST_INSTANT = "'9999-12-31 23:59:59.999999+00:00'"
due_order: dict[str, ColumnElement[datetime]] = {
    "sqlite": func.coalesce(tasks.c.due_at, literal_column(LAST_INSTANT), type_=Instant),
    "postgresql": func.coalesce(tasks.c.due_at, literal_column(f"TIMESTAMPTZ {LAST_INSTANT}"), type_=Instant),
}
"""What `due_at` is sorted by: tasks without one come last. Literal, so that the indexes of migration 0003 serve it."""

Index(None, tasks.c.owner_id, tasks.c.id)
Index(None, tasks.c.owner_id, tasks.c.status, tasks.c.id)
Index(None, tasks.c.owner_id, tasks.c.priority, tasks.c.id)
Index(None, tasks.c.owner_id, tasks.c.updated_at, tasks.c.id)
_grouped = tasks.c.project.is_not(None)
Index(None, tasks.c.owner_id, tasks.c.project, tasks.c.id, postgresql_where=_grouped, sqlite_where=_grouped)
labelled = tasks.c.labels != literal_column(f"'{NO_LABELS}'")
"""The condition that a task has a label. Literal, so that the index of it serves."""
Index("ix_tasks_labelled", tasks.c.owner_id, tasks.c.id, postgresql_where=labelled, sqlite_where=labelled)

account_usage = Table(
    "account_usage",
    metadata,
    Column("owner_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("tasks", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner_id", Key, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", LargeBinary(32), nullable=False),
    Column("claim", String(32), nullable=False),
    Column("claimed_at", Instant, nullable=False, index=True),
    Column("response", LargeBinary),
)

rate_windows = Table(
    "rate_windows",
    metadata,
    Column("client", String(128), primary_key=True),
    Column("ends_at", BigInteger, nullable=False, index=True),
    Column("used", Integer, nullable=False),
)
