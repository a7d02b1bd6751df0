"""Full-text search over title and description: FTS5 in SQLite, tsvector in PostgreSQL, with one meaning.

A word is a run of letters and digits, case aside; a task matches when it has every word asked for.
"""

import re
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, bindparam, column, func, literal_column, table

from task_api.store.schema import tasks

WORD = re.compile(r"[^\W_]+")

POSTGRESQL_DOCUMENT = (
    "to_tsvector('simple'::regconfig, regexp_replace(title || ' ' || description, '[^[:alnum:]]+', ' ', 'g'))"
)

index = table("tasks_search", column("rowid", Integer), column("tasks_search"))
"""SQLite's index; its own name as a column is how FTS5 is asked to match."""

_FORGET_OLD = (
    "INSERT INTO tasks_search(tasks_search, rowid, title, description)"
    " VALUES ('delete', old.id, old.title, old.description);"
)
_LEARN_NEW = "INSERT INTO tasks_search(rowid, title, description) VALUES (new.id, new.title, new.description);"
_CREATE = """CREATE VIRTUAL TABLE tasks_search
USING fts5(title, description, content='tasks', content_rowid='id', tokenize="unicode61 remove_diacritics 0")"""
_ON_UPDATE = """CREATE TRIGGER tasks_search_update AFTER UPDATE OF title, description ON tasks
WHEN old.title <> new.title OR old.description <> new.description"""

INDEX_SQLITE = (
    _CREATE,
    "INSERT INTO tasks_search(tasks_search) VALUES ('rebuild')",
    f"CREATE TRIGGER tasks_search_insert AFTER INSERT ON tasks BEGIN {_LEARN_NEW} END",
    f"CREATE TRIGGER tasks_search_delete AFTER DELETE ON tasks BEGIN {_FORGET_OLD} END",
    f"{_ON_UPDATE} BEGIN {_FORGET_OLD} {_LEARN_NEW} END",
)

INDEX_POSTGRESQL = (f"CREATE INDEX search_tasks_text ON tasks USING gin (({POSTGRESQL_DOCUMENT}))",)


def query(dialect: str, text: str) -> str:
    """The text as the database's full-text search takes it: every word of it."""
    words = WORD.findall(text)
    return " ".join(f'"{word}"' for word in words) if dialect == "sqlite" else " & ".join(words)


def matching(dialect: str) -> tuple[Any, ColumnElement[bool], ColumnElement[int]]:
    """What to select from, the condition that `words` (see `query`) match, and the id to sort and page by."""
    words = bindparam("words", type_=String)
    if dialect == "sqlite":
        return index.join(tasks, tasks.c.id == index.c.rowid), index.c.tasks_search.op("MATCH")(words), index.c.rowid
    searched = func.to_tsquery(literal_column("'simple'::regconfig"), words)
    return tasks, literal_column(POSTGRESQL_DOCUMENT).op("@@")(searched), tasks.c.id
