"""Full-text search on title and description."""

from alembic import op

from task_api.store.migrations import online

revision = "0004"
down_revision = "0003"

FORGET_OLD = (
    "INSERT INTO tasks_search(tasks_search, rowid, title, description)"
    " VALUES ('delete', old.id, old.title, old.description);"
)
ADD_NEW = "INSERT INTO tasks_search(rowid, title, description) VALUES (new.id, new.title, new.description);"
SQLITE = (
    """CREATE VIRTUAL TABLE tasks_search
    USING fts5(title, description, content='tasks', content_rowid='id', tokenize="unicode61 remove_diacritics 0")""",
    "INSERT INTO tasks_search(tasks_search) VALUES ('rebuild')",
    f"CREATE TRIGGER tasks_search_insert AFTER INSERT ON tasks BEGIN {ADD_NEW} END",
    f"CREATE TRIGGER tasks_search_delete AFTER DELETE ON tasks BEGIN {FORGET_OLD} END",
    f"""CREATE TRIGGER tasks_search_update AFTER UPDATE OF title, description ON tasks
    WHEN old.title <> new.title OR old.description <> new.description BEGIN {FORGET_OLD} {ADD_NEW} END""",
)
DOCUMENT = "to_tsvector('simple'::regconfig, regexp_replace(title || ' ' || description, '[^[:alnum:]]+', ' ', 'g'))"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE:
            op.execute(statement)
    else:
        online.create_indexes(search_tasks_text=f"tasks USING gin (({DOCUMENT}))")
