"""The reminders of a task, those that are still to go out, and those that are to be sent by mail.

The version before writes none, and what it changes of a task moves those that are there: a trigger sees to them.
A reminder that went out is an entry of `task_changes`, which that version takes for another change to the same version.
"""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations import online
from task_api.store.migrations.columns import Instant, Key

revision = "0016"
down_revision = "0015"

# What a relative reminder is due at moves with the due date. Those of the past do not go out again.
# One that is being put out is locked: what is missing after the wait has gone out, and its moment is in the past.
SCHEDULE_POSTGRESQL = """
CREATE FUNCTION schedule_task_reminders() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moments timestamptz[] := '{}';
BEGIN
    IF NEW.status <> 'completed' THEN
        moments := ARRAY(
            SELECT DISTINCT CASE jsonb_typeof(one)
                WHEN 'number' THEN NEW.due_at - make_interval(secs => one::text::integer)
                ELSE (one #>> '{}')::timestamptz
            END
            FROM jsonb_array_elements(NEW.reminders::jsonb) AS one
        );
    END IF;
    PERFORM FROM task_reminders WHERE task_id = NEW.id FOR UPDATE;
    DELETE FROM task_reminders WHERE task_id = NEW.id AND remind_at <> ALL (array_remove(moments, NULL));
    INSERT INTO task_reminders (task_id, remind_at)
    SELECT NEW.id, moment FROM unnest(moments) AS moment WHERE moment > clock_timestamp()
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""
HAS_REMINDERS = "NEW.reminders <> '[]'"
IS_CHANGED = """NEW.reminders <> OLD.reminders OR (
    NEW.reminders <> '[]' AND (NEW.due_at IS DISTINCT FROM OLD.due_at OR NEW.status <> OLD.status)
)"""

IS_CHANGED_SQLITE = IS_CHANGED.replace("IS DISTINCT FROM", "IS NOT")
MOMENTS_SQLITE = """SELECT CASE type
        WHEN 'integer' THEN strftime('%Y-%m-%d %H:%M:%f000+00:00', new.due_at, '-' || value || ' seconds')
        ELSE strftime('%Y-%m-%d %H:%M:%f000+00:00', value)
    END AS moment FROM json_each(new.reminders) WHERE new.status <> 'completed'"""
SCHEDULE_SQLITE = f"""BEGIN
    DELETE FROM task_reminders WHERE task_id = new.id
    AND remind_at NOT IN (SELECT moment FROM ({MOMENTS_SQLITE}) WHERE moment IS NOT NULL);
    INSERT INTO task_reminders (task_id, remind_at)
    SELECT new.id, moment FROM ({MOMENTS_SQLITE}) WHERE moment > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
    ON CONFLICT DO NOTHING;
    END"""

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
            CASE WHEN NEW.time_zone IS DISTINCT FROM OLD.time_zone THEN 'time_zone' END,
            CASE WHEN NEW.reminders <> OLD.reminders THEN 'reminders' END
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
        recurrence, time_zone, next_id, reminders, version, deleted_at
    )
    SELECT
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        recurrence, time_zone, next_id, reminders, version + 1, clock_timestamp()
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
    SCHEDULE_POSTGRESQL,
    f"""CREATE TRIGGER task_reminders_insert AFTER INSERT ON tasks
    FOR EACH ROW WHEN ({HAS_REMINDERS}) EXECUTE FUNCTION schedule_task_reminders()""",
    f"""CREATE TRIGGER task_reminders_update AFTER UPDATE ON tasks
    FOR EACH ROW WHEN ({IS_CHANGED}) EXECUTE FUNCTION schedule_task_reminders()""",
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
            || CASE WHEN new.time_zone IS NOT old.time_zone THEN 'time_zone ' ELSE '' END
            || CASE WHEN new.reminders <> old.reminders THEN 'reminders' ELSE '' END
        ),
        abs(random() % 2147483647)
    );
    DELETE FROM task_changes WHERE task_id = new.id AND version <= new.version - 1000;
    END""",
    "DROP TRIGGER task_changes_delete",
    """CREATE TRIGGER task_changes_delete AFTER DELETE ON tasks BEGIN
    INSERT INTO deleted_tasks (
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, project, labels,
        recurrence, time_zone, next_id, reminders, version, deleted_at
    )
    VALUES (
        old.id, old.title, old.description, old.status, old.created_at, old.updated_at, old.owner_id, old.priority,
        old.due_at, old.project, old.labels, old.recurrence, old.time_zone, old.next_id, old.reminders,
        old.version + 1, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
    );
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        old.id, old.owner_id, old.version + 1, 'deleted',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), old.owner_id, '', abs(random() % 2147483647)
    );
    END""",
    f"CREATE TRIGGER task_reminders_insert AFTER INSERT ON tasks WHEN {HAS_REMINDERS} {SCHEDULE_SQLITE}",
    f"CREATE TRIGGER task_reminders_update AFTER UPDATE ON tasks WHEN {IS_CHANGED_SQLITE} {SCHEDULE_SQLITE}",
)

WIDER = """ALTER TABLE task_changes
    -- squawk-ignore changing-column-type
    ALTER COLUMN fields TYPE varchar(100)"""
"""All names of fields have more than 80 characters. A longer limit rewrites no row, and the version before reads it."""


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in ("tasks", "deleted_tasks"):
        if not online.has_column(table, "reminders"):
            op.add_column(table, sa.Column("reminders", sa.Text, nullable=False, server_default="[]"))
    for table in ("task_changes", "webhook_dead_letters"):
        if not online.has_column(table, "remind_at"):
            op.add_column(table, sa.Column("remind_at", Instant))
    if not online.has_table("task_reminders"):
        op.create_table(
            "task_reminders",
            sa.Column("task_id", Key, nullable=False),
            sa.Column("remind_at", Instant, nullable=False),
            sa.PrimaryKeyConstraint("task_id", "remind_at", name="pk_task_reminders"),
            sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_reminders_task_id", ondelete="CASCADE"),
        )
        op.create_table(
            "reminder_mails",
            sa.Column("id", Key, nullable=False),
            sa.Column("owner_id", Key, nullable=False),
            sa.Column("task_id", Key, nullable=False),
            sa.Column("remind_at", Instant, nullable=False),
            sa.Column("put_out_at", Instant, nullable=False),
            sa.Column("next_attempt_at", Instant, nullable=False),
            sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),
            sa.PrimaryKeyConstraint("id", name="pk_reminder_mails"),
            sqlite_autoincrement=True,
        )
        for statement in SQLITE if sqlite else (*POSTGRESQL, WIDER):
            op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
    online.create_indexes(
        ix_task_reminders_remind_at="task_reminders (remind_at)",
        ix_reminder_mails_next_attempt_at="reminder_mails (next_attempt_at)",
    )
