"""How many tasks each account has and how many bytes they take, kept by triggers: whoever writes, the numbers hold."""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online
from task_api.store.migrations.columns import Key

revision = "0008"
down_revision = "0007"

FUNCTION = """
CREATE OR REPLACE FUNCTION count_account_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE account_usage AS usage SET tasks = usage.tasks - gone.tasks, bytes = usage.bytes - gone.bytes
        FROM (
            SELECT owner_id, count(*) AS tasks, sum(octet_length(title) + octet_length(description)) AS bytes
            FROM old_rows GROUP BY owner_id
        ) AS gone WHERE usage.owner_id = gone.owner_id;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, count(*), sum(octet_length(title) + octet_length(description))
        FROM new_rows GROUP BY owner_id ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    ELSE
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, sum(tasks), sum(bytes) FROM (
            SELECT owner_id, 1 AS tasks, octet_length(title) + octet_length(description) AS bytes FROM new_rows
            UNION ALL
            SELECT owner_id, -1, -octet_length(title) - octet_length(description) FROM old_rows
        ) AS changed GROUP BY owner_id HAVING sum(tasks) <> 0 OR sum(bytes) <> 0 ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$
"""

ROWS = {
    "INSERT": "NEW TABLE AS new_rows",
    "UPDATE": "NEW TABLE AS new_rows OLD TABLE AS old_rows",
    "DELETE": "OLD TABLE AS old_rows",
}

COUNT_EACH = """
DO $$
DECLARE account bigint;
BEGIN
    FOR account IN SELECT id FROM accounts ORDER BY id LOOP
        INSERT INTO account_usage (owner_id, tasks, bytes) VALUES (account, 0, 0) ON CONFLICT DO NOTHING;
        PERFORM 1 FROM account_usage WHERE owner_id = account FOR UPDATE;
        UPDATE account_usage SET (tasks, bytes) = (
            SELECT count(*), coalesce(sum(octet_length(title) + octet_length(description)), 0)
            FROM tasks WHERE tasks.owner_id = account
        ) WHERE owner_id = account;
        COMMIT;
    END LOOP;
END $$
"""
"""Counts one account after the other, so that only the writers of one account wait at a time."""

NEW = "length(CAST(new.title AS BLOB)) + length(CAST(new.description AS BLOB))"
OLD = "length(CAST(old.title AS BLOB)) + length(CAST(old.description AS BLOB))"
ADD = f"""INSERT INTO account_usage (owner_id, tasks, bytes) VALUES (new.owner_id, 1, {NEW})
ON CONFLICT (owner_id) DO UPDATE SET tasks = tasks + 1, bytes = bytes + excluded.bytes;"""
SUBTRACT = f"UPDATE account_usage SET tasks = tasks - 1, bytes = bytes - ({OLD}) WHERE owner_id = old.owner_id;"
SQLITE = (
    f"CREATE TRIGGER account_usage_insert AFTER INSERT ON tasks BEGIN {ADD} END",
    f"CREATE TRIGGER account_usage_delete AFTER DELETE ON tasks BEGIN {SUBTRACT} END",
    f"""CREATE TRIGGER account_usage_update AFTER UPDATE OF title, description, owner_id ON tasks
    BEGIN {SUBTRACT} {ADD} END""",
    """INSERT INTO account_usage (owner_id, tasks, bytes)
    SELECT owner_id, count(*), sum(length(CAST(title AS BLOB)) + length(CAST(description AS BLOB)))
    FROM tasks GROUP BY owner_id""",
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if not online.has_table("account_usage"):
        _create_table()
        for statement in SQLITE if sqlite else _triggers():
            op.execute(statement)
    if not sqlite:
        with op.get_context().autocommit_block():
            op.get_bind().exec_driver_sql(COUNT_EACH, execution_options={"no_parameters": True})


def _create_table() -> None:
    op.create_table(
        "account_usage",
        sa.Column("owner_id", Key, nullable=False),
        sa.Column("tasks", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", name="pk_account_usage"),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name="fk_account_usage_owner_id", ondelete="CASCADE"),
    )


def _triggers() -> tuple[str, ...]:
    return (
        FUNCTION,
        *(
            f"CREATE TRIGGER account_usage_{event.lower()} AFTER {event} ON tasks"
            f" REFERENCING {rows} FOR EACH STATEMENT EXECUTE FUNCTION count_account_usage()"
            for event, rows in ROWS.items()
        ),
    )
