"""The labels of a task, whose bytes count for the quota."""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online

revision = "0013"
down_revision = "0012"

POSTGRESQL = (
    """
CREATE OR REPLACE FUNCTION record_task_change() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    kind text := 'updated';
    fields text := '';
BEGIN
    IF TG_OP = 'INSERT' THEN
        DELETE FROM deleted_tasks WHERE id = NEW.id;
        kind := CASE WHEN FOUND THEN 'restored' ELSE 'created' END;
    ELSE
        fields := concat_ws(
            ' ',
            CASE WHEN NEW.title <> OLD.title THEN 'title' END,
            CASE WHEN NEW.description <> OLD.description THEN 'description' END,
            CASE WHEN NEW.status <> OLD.status THEN 'status' END,
            CASE WHEN NEW.priority <> OLD.priority THEN 'priority' END,
            CASE WHEN NEW.due_at IS DISTINCT FROM OLD.due_at THEN 'due_at' END,
            CASE WHEN NEW.project IS DISTINCT FROM OLD.project THEN 'project' END,
            CASE WHEN NEW.labels <> OLD.labels THEN 'labels' END
        );
        IF NEW.version > 1000 THEN
            DELETE FROM task_changes WHERE task_id = NEW.id AND version <= NEW.version - 1000;
        END IF;
    END IF;
    INSERT INTO task_changes
        (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark, transaction_id)
    VALUES (
        NEW.id, NEW.owner_id, NEW.version, kind, clock_timestamp(), NEW.owner_id, fields,
        (random() * 2147483647)::integer, pg_current_xact_id()::text::bigint
    );
    RETURN NULL;
END $$
""",
    """
CREATE OR REPLACE FUNCTION record_task_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deleted_tasks (
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels, version,
        deleted_at
    )
    SELECT
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        version + 1, clock_timestamp()
    FROM old_rows;
    INSERT INTO task_changes
        (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark, transaction_id)
    SELECT
        id, owner_id, version + 1, 'deleted', clock_timestamp(), owner_id, '',
        (random() * 2147483647)::integer, pg_current_xact_id()::text::bigint
    FROM old_rows ORDER BY id;
    RETURN NULL;
END $$
""",
    # Without labels, a row has as many bytes as it was counted with before there were any.
    """
CREATE OR REPLACE FUNCTION count_account_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE account_usage AS usage SET tasks = usage.tasks - gone.tasks, bytes = usage.bytes - gone.bytes
        FROM (
            SELECT owner_id, count(*) AS tasks,
                sum(octet_length(title) + octet_length(description) + octet_length(labels) - 2) AS bytes
            FROM old_rows GROUP BY owner_id
        ) AS gone WHERE usage.owner_id = gone.owner_id;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, count(*), sum(octet_length(title) + octet_length(description) + octet_length(labels) - 2)
        FROM new_rows GROUP BY owner_id ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    ELSE
        INSERT INTO account_usage AS usage (owner_id, tasks, bytes)
        SELECT owner_id, sum(tasks), sum(bytes) FROM (
            SELECT owner_id, 1 AS tasks,
                octet_length(title) + octet_length(description) + octet_length(labels) - 2 AS bytes
            FROM new_rows
            UNION ALL
            SELECT owner_id, -1, 2 - octet_length(title) - octet_length(description) - octet_length(labels)
            FROM old_rows
        ) AS changed GROUP BY owner_id HAVING sum(tasks) <> 0 OR sum(bytes) <> 0 ORDER BY owner_id
        ON CONFLICT (owner_id) DO UPDATE
        SET tasks = usage.tasks + excluded.tasks, bytes = usage.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$
""",
)

BYTES = "length(CAST({0}.title AS BLOB)) + length(CAST({0}.description AS BLOB)) + length(CAST({0}.labels AS BLOB)) - 2"
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
    f"""CREATE TRIGGER account_usage_update AFTER UPDATE OF title, description, labels, owner_id ON tasks
    BEGIN {SUBTRACT} {ADD} END""",
    "DROP TRIGGER task_changes_update",
    """CREATE TRIGGER task_changes_update AFTER UPDATE ON tasks BEGIN
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        new.id, new.owner_id, new.version, 'updated',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), new.owner_id,
        rtrim(
            CASE WHEN new.title <> old.title THEN 'title ' ELSE '' END
            || CASE WHEN new.description <> old.description THEN 'description ' ELSE '' END
            || CASE WHEN new.status <> old.status THEN 'status ' ELSE '' END
            || CASE WHEN new.priority <> old.priority THEN 'priority ' ELSE '' END
            || CASE WHEN new.due_at IS NOT old.due_at THEN 'due_at ' ELSE '' END
            || CASE WHEN new.project IS NOT old.project THEN 'project ' ELSE '' END
            || CASE WHEN new.labels <> old.labels THEN 'labels' ELSE '' END
        ),
        abs(random() % 2147483647)
    );
    DELETE FROM task_changes WHERE task_id = new.id AND version <= new.version - 1000;
    END""",
    "DROP TRIGGER task_changes_delete",
    """CREATE TRIGGER task_changes_delete AFTER DELETE ON tasks BEGIN
    INSERT INTO deleted_tasks (
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels, version,
        deleted_at
    )
    VALUES (
        old.id, old.title, old.description, old.status, old.created_at, old.updated_at, old.owner_id, old.priority,
        old.due_at, old.project, old.labels, old.version + 1, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
    );
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        old.id, old.owner_id, old.version + 1, 'deleted',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), old.owner_id, '', abs(random() % 2147483647)
    );
    END""",
)


def upgrade() -> None:
    for table in ("tasks", "deleted_tasks"):
        if not online.has_column(table, "labels"):
            op.add_column(table, sa.Column("labels", sa.Text, nullable=False, server_default="[]"))
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
    online.create_indexes(ix_tasks_labelled="tasks (owner_id, id) WHERE labels <> '[]'")
