"""What people manage about their accounts: sessions, second factor, personal tokens; mail tokens; the audit log."""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations.columns import Instant, Key

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("disabled_at", Instant))
    op.add_column("accounts", sa.Column("totp_secret", sa.String(64)))
    op.add_column("accounts", sa.Column("totp_step", sa.BigInteger))
    op.add_column("sessions", sa.Column("refreshed_at", Instant))
    op.add_column("sessions", sa.Column("user_agent", sa.String(200)))
    op.add_column("sessions", sa.Column("address", sa.String(64)))
    op.create_table(
        "personal_tokens",
        sa.Column("id", Key, primary_key=True),
        sa.Column("account_id", Key, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_personal_tokens"),
        sa.UniqueConstraint("digest", name="uq_personal_tokens_digest"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_personal_tokens_account_id", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_personal_tokens_account_id", "personal_tokens", ["account_id"])
    op.create_index("ix_personal_tokens_expires_at", "personal_tokens", ["expires_at"])
    op.create_table(
        "mail_tokens",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_mail_tokens"),
    )
    op.create_index("ix_mail_tokens_email", "mail_tokens", ["email"])
    op.create_index("ix_mail_tokens_expires_at", "mail_tokens", ["expires_at"])
    op.create_table(
        "audit_log",
        sa.Column("id", Key, primary_key=True),
        sa.Column("at", Instant, nullable=False),
        sa.Column("actor", sa.String(254), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("account_id", Key, nullable=False),
        sa.Column("details", sa.String(500), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_account_id", "audit_log", ["account_id"])
