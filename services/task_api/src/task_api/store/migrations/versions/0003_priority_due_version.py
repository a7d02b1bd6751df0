"""Priority, due date, and the version that entity tags are made of."""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online
from task_api.store.migrations.columns import Instant

revision = "0003"
down_revision = "0002"

LAST = "'9999-12-31 23:59:59.999999+00:00'"
DUE_ORDER = {
    "sqlite": f"coalesce(due_at, {LAST})",
    "postgresql": f"coalesce(due_at, TIMESTAMPTZ {LAST})",
}


def upgrade() -> None:
    if not online.has_column("tasks", "version"):
        with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
            tasks.add_column(sa.Column("priority", sa.SmallInteger, nullable=False, server_default=sa.text("1")))
            tasks.add_column(sa.Column("due_at", Instant))
            tasks.add_column(sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")))
            tasks.create_check_constraint(op.f("ck_tasks_priority"), "priority IN (0, 1, 2)", postgresql_not_valid=True)
    online.validate("tasks", "ck_tasks_priority")
    online.create_indexes(
        ix_tasks_owner_id_priority_id="tasks (owner_id, priority, id)",
        search_tasks_due=f"tasks (owner_id, ({DUE_ORDER[op.get_bind().dialect.name]}), id)",
    )
