"""Triggers find rows by an index, however few rows a table had when their connection began.

PostgreSQL keeps the plan of a trigger's query for as long as the connection has the same statistics. A plan that was
made while a table was all but empty reads the whole table, and goes on to for each of many rows.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

POSTGRESQL = (
    "ALTER FUNCTION record_task_change() SET enable_seqscan = off",
    "ALTER FUNCTION mark_changes_of_gone_task() SET enable_seqscan = off",
    # EXECUTE plans the join each time: with sequential scans off, an old plan reads an index whole instead.
    """
CREATE OR REPLACE FUNCTION move_change_floors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE '
    INSERT INTO change_floors (owner_id, transaction_id, change_id)
    SELECT DISTINCT ON (owner_id) owner_id, transaction_id, id FROM old_rows
    WHERE NOT EXISTS (
        SELECT FROM task_changes AS later WHERE later.task_id = old_rows.task_id AND later.version > old_rows.version
    )
    ORDER BY owner_id, transaction_id DESC, id DESC
    ON CONFLICT (owner_id) DO UPDATE SET transaction_id = excluded.transaction_id, change_id = excluded.change_id
    WHERE (change_floors.transaction_id, change_floors.change_id) < (excluded.transaction_id, excluded.change_id)';
    RETURN NULL;
END $$
""",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for statement in POSTGRESQL:
            op.execute(statement)
