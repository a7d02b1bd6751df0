"""Every text of a task counts for the quota: its project, recurrence, time zone and reminders too.

The version before reads what the triggers count, and counts nothing itself.
"""

from alembic import op

revision = "0020"
down_revision = "0019"

SIZE = """octet_length(title) + octet_length(description) + octet_length(labels) - 2 + octet_length(reminders) - 2
        + octet_length(concat(project, recurrence, time_zone))"""
"""Of a row. A list without an entry, `[]`, has no bytes."""

# Who writes tasks has this lock until its transaction ends: so none of them has counted by the old function, and not
# committed yet, when the new one begins.
POSTGRESQL = (
    "LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE",
    f"""
CREATE OR REPLACE FUNCTION count_account_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE account_usage AS usage SET tasks = usage.tasks - gone.tasks, bytes = usage.bytes - gone.bytes
        FROM (
            SELECT owner_id, count(*) AS tasks, sum({SIZE}) AS bytes FROM old_rows GROUP BY owner_id
        ) AS gone WHERE usage.owner_id = gone.owner_id;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, count(*), sum({SIZE}) FROM new_rows GROUP BY owner_id ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    ELSE
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, sum(tasks), sum(bytes) FROM (
            SELECT owner_id, 1 AS tasks, {SIZE} AS bytes FROM new_rows
            UNION ALL
            SELECT owner_id, -1, -({SIZE}) FROM old_rows
        ) AS changed GROUP BY owner_id HAVING sum(tasks) <> 0 OR sum(bytes) <> 0 ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$
""",
)

RECOUNT_EACH = f"""
DO $$
DECLARE account bigint;
BEGIN
    FOR account IN SELECT owner_id FROM account_usage ORDER BY owner_id LOOP
        PERFORM 1 FROM account_usage WHERE owner_id = account FOR UPDATE;
        UPDATE account_usage SET (tasks, bytes) = (
            SELECT count(*), coalesce(sum({SIZE}), 0) FROM tasks WHERE tasks.owner_id = account
        ) WHERE owner_id = account;
        COMMIT;
    END LOOP;
END $$
"""
"""Counts one account after the other, so that only the writers of one account wait at a time.

Every writer holds the row of `account_usage` that it changes until it commits: the count has what it wrote, and who
comes later adds to the count.
"""

BYTES = """length(CAST({0}.title || {0}.description || {0}.labels || {0}.reminders AS BLOB)) - 4
    + length(CAST(coalesce({0}.project, '') || coalesce({0}.recurrence, '') || coalesce({0}.time_zone, '') AS BLOB))"""
ADD = f"""INSERT INTO account_usage (owner_id, tasks, bytes) VALUES (new.owner_id, 1, {BYTES.format("new")})
ON CONFLICT (owner_id) DO UPDATE SET tasks = tasks + 1, bytes = bytes + excluded.bytes;"""
SUBTRACT = f"""UPDATE account_usage SET tasks = tasks - 1, bytes = bytes - ({BYTES.format("old")})
WHERE owner_id = old.owner_id;"""
SQLITE = (
    "DROP TRIGGER account_usage_insert",
    f"CREATE TRIGGER account_usage_insert AFTER INSERT ON tasks BEGIN {ADD} END",
    "DROP TRIGGER account_usage_delete",
    f"CREATE TRIGGER account_usage_delete AFTER DELETE ON tasks BEGIN {SUBTRACT} END",
    "DROP TRIGGER account_usage_update",
    f"""CREATE TRIGGER account_usage_update
    AFTER UPDATE OF title, description, labels, reminders, project, recurrence, time_zone, owner_id ON tasks
    BEGIN {SUBTRACT} {ADD} END""",
    f"""UPDATE account_usage SET (tasks, bytes) = (
        SELECT count(*), coalesce(sum({BYTES.format("tasks")}), 0) FROM tasks
        WHERE tasks.owner_id = account_usage.owner_id
    )""",
)


def upgrade() -> None:
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    for statement in SQLITE if sqlite else POSTGRESQL:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    if not sqlite:
        with op.get_context().autocommit_block():
            op.get_bind().exec_driver_sql(RECOUNT_EACH, execution_options={"no_parameters": True})
