"""The recurrence of a task, and which task completing it has created."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online
from task_api.store.migrations.columns import Key

revision = "0014"
down_revision = "0013"

COLUMNS: dict[str, Any] = {"recurrence": sa.String(255), "time_zone": sa.String(64), "next_id": Key}

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
            CASE WHEN NEW.labels <> OLD.labels THEN 'labels' END,
            CASE WHEN NEW.recurrence IS DISTINCT FROM OLD.recurrence THEN 'recurrence' END,
            CASE WHEN NEW.time_zone IS DISTINCT FROM OLD.time_zone THEN 'time_zone' END
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
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        recurrence, time_zone, next_id, version, deleted_at
    )
    SELECT
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        recurrence, time_zone, next_id, version + 1, clock_timestamp()
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
)

SQLITE = (
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
            || CASE WHEN new.labels <> old.labels THEN 'labels ' ELSE '' END
            || CASE WHEN new.recurrence IS NOT old.recurrence THEN 'recurrence ' ELSE '' END
            || CASE WHEN new.time_zone IS NOT old.time_zone THEN 'time_zone' ELSE '' END
        ),
        abs(random() % 2147483647)
    );
    DELETE FROM task_changes WHERE task_id = new.id AND version <= new.version - 1000;
    END""",
    "DROP TRIGGER task_changes_delete",
    """CREATE TRIGGER task_changes_delete AFTER DELETE ON tasks BEGIN
    INSERT INTO deleted_tasks (
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        recurrence, time_zone, next_id, version, deleted_at
    )
    VALUES (
        old.id, old.title, old.description, old.status, old.created_at, old.updated_at, old.owner_id, old.priority,
        old.due_at, old.project, old.labels, old.recurrence, old.time_zone, old.next_id, old.version + 1,
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
    );
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        old.id, old.owner_id, old.version + 1, 'deleted',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), old.owner_id, '', abs(random() % 2147483647)
    );
    END""",
)


def upgrade() -> None:
    for table in ("tasks", "deleted_tasks"):
        for name, kind in COLUMNS.items():
            if not online.has_column(table, name):
                op.add_column(table, sa.Column(name, kind))
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
