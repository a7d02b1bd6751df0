"""Accounts, their sessions and refresh tokens; every task has an owner."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online
from task_api.store.migrations.columns import LOCAL_ACCOUNT, Instant, Key

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    if not online.has_table("accounts"):
        _create_accounts()
    online.validate("tasks", "fk_tasks_owner_id")
    online.create_indexes(
        ix_tasks_owner_id_id="tasks (owner_id, id)",
        ix_tasks_owner_id_status_id="tasks (owner_id, status, id)",
        ix_tasks_owner_id_updated_at_id="tasks (owner_id, updated_at, id)",
    )


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", Key, primary_key=True),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("role", sa.String(16), nullable=False, server_default="user"),
        sa.Column("created_at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("email", name="uq_accounts_email"),
        sa.CheckConstraint("role IN ('user', 'admin')", name=op.f("ck_accounts_role")),
        sqlite_autoincrement=True,
    )
    now = datetime.now(UTC).isoformat(" ", "microseconds")  # the text that SQLite keeps, and PostgreSQL understands
    op.execute(f"INSERT INTO accounts (id, email, created_at) VALUES ({LOCAL_ACCOUNT}, 'local', '{now}')")
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("account_id", Key, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("revoked_at", Instant),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_sessions_account_id", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_account_id", "sessions", ["account_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("session_id", sa.String(32), nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.Column("spent_at", Instant),
        sa.PrimaryKeyConstraint("digest", name="pk_refresh_tokens"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_refresh_tokens_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.add_column(sa.Column("owner_id", Key, nullable=False, server_default=sa.text(str(LOCAL_ACCOUNT))))
        tasks.create_foreign_key("fk_tasks_owner_id", "accounts", ["owner_id"], ["id"], postgresql_not_valid=True)
