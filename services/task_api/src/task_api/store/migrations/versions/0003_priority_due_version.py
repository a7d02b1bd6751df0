"""Priority, due date, and the version that entity tags are made of."""

import sqlalchemy as sa
from alembic import op

from task_api.store.schema import Instant, due_order

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.add_column(sa.Column("priority", sa.SmallInteger, nullable=False, server_default=sa.text("1")))
        tasks.add_column(sa.Column("due_at", Instant))
        tasks.add_column(sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")))
        tasks.create_check_constraint(op.f("ck_tasks_priority"), "priority IN (0, 1, 2)")
    op.create_index("ix_tasks_owner_id_priority_id", "tasks", ["owner_id", "priority", "id"])
    due = due_order[op.get_bind().dialect.name].compile(dialect=op.get_bind().dialect)
    op.execute(f"CREATE INDEX search_tasks_due ON tasks (owner_id, ({str(due).replace('tasks.', '')}), id)")
