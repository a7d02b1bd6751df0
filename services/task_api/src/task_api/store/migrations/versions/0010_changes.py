"""What happened to each task, recorded by triggers: whoever writes, no change is missing. Deleted tasks are kept.

The version before deletes rows of `tasks` as it always did; the trigger keeps what it deletes.
"""

import secrets

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations.columns import Instant, Key

revision = "0010"
down_revision = "0009"

POSTGRESQL = (
    """
CREATE FUNCTION record_task_change() RETURNS trigger LANGUAGE plpgsql AS $$
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
            CASE WHEN NEW.due_at IS DISTINCT FROM OLD.due_at THEN 'due_at' END
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
CREATE FUNCTION record_task_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deleted_tasks
        (id, title, description, status, created_at, updated_at, owner_id, priority, due_at, version, deleted_at)
    SELECT
        id, title, description, status, created_at, updated_at, owner_id, priority, due_at, version + 1,
        clock_timestamp()
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
    """
CREATE FUNCTION mark_changes_of_gone_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tasks WHERE id = OLD.id) THEN
        UPDATE task_changes SET gone_at = clock_timestamp() WHERE task_id = OLD.id;
    END IF;
    RETURN NULL;
END $$
""",
    """
CREATE FUNCTION move_change_floors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO change_floors (owner_id, transaction_id, change_id)
    SELECT DISTINCT ON (owner_id) owner_id, transaction_id, id FROM old_rows
    WHERE NOT EXISTS (
        SELECT FROM task_changes AS later WHERE later.task_id = old_rows.task_id AND later.version > old_rows.version
    )
    ORDER BY owner_id, transaction_id DESC, id DESC
    ON CONFLICT (owner_id) DO UPDATE SET transaction_id = excluded.transaction_id, change_id = excluded.change_id
    WHERE (change_floors.transaction_id, change_floors.change_id) < (excluded.transaction_id, excluded.change_id);
    RETURN NULL;
END $$
""",
    """CREATE TRIGGER task_changes_write AFTER INSERT OR UPDATE ON tasks
    FOR EACH ROW EXECUTE FUNCTION record_task_change()""",
    """CREATE TRIGGER task_changes_delete AFTER DELETE ON tasks REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION record_task_deletions()""",
    """CREATE TRIGGER task_changes_gone AFTER DELETE ON deleted_tasks
    FOR EACH ROW EXECUTE FUNCTION mark_changes_of_gone_task()""",
    """CREATE TRIGGER change_floors AFTER DELETE ON task_changes REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION move_change_floors()""",
)

SQLITE = (
    """CREATE TRIGGER task_changes_insert AFTER INSERT ON tasks BEGIN
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        new.id, new.owner_id, new.version,
        CASE WHEN EXISTS (SELECT 1 FROM deleted_tasks WHERE id = new.id) THEN 'restored' ELSE 'created' END,
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), new.owner_id, '', abs(random() % 2147483647)
    );
    DELETE FROM deleted_tasks WHERE id = new.id;
    END""",
    """CREATE TRIGGER task_changes_update AFTER UPDATE ON tasks BEGIN
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        new.id, new.owner_id, new.version, 'updated',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), new.owner_id,
        rtrim(
            CASE WHEN new.title <> old.title THEN 'title ' ELSE '' END
            || CASE WHEN new.description <> old.description THEN 'description ' ELSE '' END
            || CASE WHEN new.status <> old.status THEN 'status ' ELSE '' END
            || CASE WHEN new.priority <> old.priority THEN 'priority ' ELSE '' END
            || CASE WHEN new.due_at IS NOT old.due_at THEN 'due_at' ELSE '' END
        ),
        abs(random() % 2147483647)
    );
    DELETE FROM task_changes WHERE task_id = new.id AND version <= new.version - 1000;
    END""",
    """CREATE TRIGGER task_changes_delete AFTER DELETE ON tasks BEGIN
    INSERT INTO deleted_tasks
        (id, title, description, status, created_at, updated_at, owner_id, priority, due_at, version, deleted_at)
    VALUES (
        old.id, old.title, old.description, old.status, old.created_at, old.updated_at, old.owner_id, old.priority,
        old.due_at, old.version + 1, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
    );
    INSERT INTO task_changes (task_id, owner_id, version, kind, changed_at, actor_id, fields, mark) VALUES (
        old.id, old.owner_id, old.version + 1, 'deleted',
        strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), old.owner_id, '', abs(random() % 2147483647)
    );
    END""",
    """CREATE TRIGGER task_changes_gone AFTER DELETE ON deleted_tasks
    WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = old.id) BEGIN
    UPDATE task_changes SET gone_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now') WHERE task_id = old.id;
    END""",
    """CREATE TRIGGER change_floors AFTER DELETE ON task_changes
    WHEN NOT EXISTS (SELECT 1 FROM task_changes WHERE task_id = old.task_id AND version > old.version) BEGIN
    INSERT INTO change_floors (owner_id, transaction_id, change_id) VALUES (old.owner_id, 0, old.id)
    ON CONFLICT (owner_id) DO UPDATE SET change_id = max(change_id, excluded.change_id);
    END""",
)


def upgrade() -> None:
    op.create_table(
        "deleted_tasks",
        sa.Column("id", Key, nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.Column("owner_id", Key, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("due_at", Instant),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("deleted_at", Instant, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deleted_tasks"),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name="fk_deleted_tasks_owner_id", ondelete="CASCADE"),
    )
    op.create_index("ix_deleted_tasks_owner_id_id", "deleted_tasks", ["owner_id", "id"])
    op.create_index("ix_deleted_tasks_deleted_at", "deleted_tasks", ["deleted_at"])
    op.create_table(
        "task_changes",
        sa.Column("id", Key, nullable=False),
        sa.Column("transaction_id", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("task_id", Key, nullable=False),
        sa.Column("owner_id", Key, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
        sa.Column("actor_id", Key, nullable=False),
        sa.Column("fields", sa.String(80), nullable=False),
        sa.Column("mark", sa.Integer, nullable=False),
        sa.Column("gone_at", Instant),
        sa.PrimaryKeyConstraint("id", name="pk_task_changes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_task_changes_transaction_id_id", "task_changes", ["transaction_id", "id"])
    op.create_index("ix_task_changes_owner_id_transaction_id_id", "task_changes", ["owner_id", "transaction_id", "id"])
    op.create_index("ix_task_changes_task_id_version", "task_changes", ["task_id", "version"])
    gone = sa.text("gone_at IS NOT NULL")
    op.create_index("ix_task_changes_gone_at", "task_changes", ["gone_at"], postgresql_where=gone, sqlite_where=gone)
    feed = op.create_table(
        "change_feed",
        sa.Column("generation", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("generation", name="pk_change_feed"),
    )
    op.bulk_insert(feed, [{"generation": secrets.token_hex(8)}])
    op.create_table(
        "change_floors",
        sa.Column("owner_id", Key, nullable=False),
        sa.Column("transaction_id", sa.BigInteger, nullable=False),
        sa.Column("change_id", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", name="pk_change_floors"),
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
