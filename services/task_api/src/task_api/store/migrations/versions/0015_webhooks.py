"""Webhooks: where each account has its changes delivered to, and what could not be delivered."""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations.columns import Instant, Key

revision = "0015"
down_revision = "0014"


NOTIFY = (
    """CREATE OR REPLACE FUNCTION notify_task_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Commits that notify take turns: those of accounts without a webhook do not.
    IF EXISTS (SELECT FROM webhooks WHERE owner_id = NEW.owner_id AND disabled_at IS NULL) THEN
        PERFORM pg_notify('task_changes', '');
    END IF;
    RETURN NULL;
END $$""",
    """CREATE TRIGGER task_changes_notify AFTER INSERT ON task_changes
    FOR EACH ROW EXECUTE FUNCTION notify_task_changes()""",
)


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", Key, nullable=False),
        sa.Column("owner_id", Key, nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("secret", sa.String(100), nullable=False),
        sa.Column("previous_secret", sa.String(100)),
        sa.Column("previous_until", Instant),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("disabled_at", Instant),
        sa.Column("disabled_reason", sa.String(300)),
        sa.Column("transaction_id", sa.BigInteger, nullable=False),
        sa.Column("change_id", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", Instant, nullable=False),
        sa.Column("lease", sa.String(32)),
        sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failing_since", Instant),
        sa.Column("last_error", sa.String(300)),
        sa.Column("dead_in_a_row", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name="fk_webhooks_owner_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhooks_owner_id", "webhooks", ["owner_id"])
    op.create_index("ix_webhooks_next_attempt_at", "webhooks", ["next_attempt_at"])
    op.create_table(
        "webhook_dead_letters",
        sa.Column("id", Key, nullable=False),
        sa.Column("webhook_id", Key, nullable=False),
        sa.Column("transaction_id", sa.BigInteger, nullable=False),
        sa.Column("change_id", sa.BigInteger, nullable=False),
        sa.Column("mark", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("task_id", Key, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
        sa.Column("failed_at", Instant, nullable=False),
        sa.Column("error", sa.String(300), nullable=False),
        sa.Column("requested_at", Instant),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_dead_letters"),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name="fk_webhook_dead_letters_webhook_id", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_dead_letters_webhook_id_id", "webhook_dead_letters", ["webhook_id", "id"])
    if op.get_bind().dialect.name == "postgresql":
        for statement in NOTIFY:
            op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
