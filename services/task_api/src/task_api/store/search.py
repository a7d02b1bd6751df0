"""Full-text search over title and description: FTS5 in SQLite, tsvector in PostgreSQL.

A word is a run of letters and digits, case aside; a task matches when it has every word of the query. On what else is
part of a word the databases differ (marks, such as vowel signs; numbers other than 0 to 9, such as ² and ٣; symbols
younger than Unicode 6.1): each splits the query as it splits the text, and so a task matches whatever its text has
between spaces. The exception is a word of nothing but New Tai Lue's vowel signs, which SQLite still takes for marks.
"""

import unicodedata
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, bindparam, column, func, literal_column, or_, table

from task_core.schema import tasks

_TEXT = "title || ' ' || description"
_NO_WORD = "'[^[:alnum:]]+', ' ', 'g'"
POSTGRESQL_DOCUMENT = f"to_tsvector('simple'::regconfig, regexp_replace({_TEXT}, {_NO_WORD}))"

index = table("tasks_search", column("rowid", Integer), column("tasks_search"))
"""SQLite's index. A column with the table's own name is FTS5's syntax for a match of the whole row."""


def query(dialect: str, text: str) -> dict[str, str]:
    """Return the bind parameters of `matching`: `words`, and `exact` where PostgreSQL may drop a part of the text."""
    text = text.replace("\0", " ")
    if dialect == "sqlite":
        apart = "".join(" " if _parts_words(char) else char for char in text)
        return {"words": " ".join(f'"{word}"' for word in apart.split())}
    runs = ["".join(run) for caseless, run in groupby(text, _caseless) if caseless]
    exact = [f"%{run}%" for run in runs if not run.isalpha()]
    return {"words": text, "exact": " ".join(exact)} if exact else {"words": text}


def _parts_words(char: str) -> bool:
    """Return whether the character separates words in every version of FTS5, which takes unknown ones for letters."""
    categories = (unicodedata.category, unicodedata.ucd_3_2_0.category)
    return char.isspace() or all(category(char)[0] in "PSZ" for category in categories)


def _caseless(char: str) -> bool:
    """Return whether the character can be part of a word and has no upper and lower case."""
    category = unicodedata.category(char)
    return not char.isascii() and (category[0] in "LMN" or category == "Co") and char.lower() == char.upper()


def matching(dialect: str, *, exact: bool) -> tuple[Any, ColumnElement[bool], ColumnElement[int]]:
    """Return the tables to select from, the condition on the values of `query`, and the id to sort and page by."""
    words = bindparam("words", type_=String)
    if dialect == "sqlite":
        return index.join(tasks, tasks.c.id == index.c.rowid), index.c.tasks_search.op("MATCH")(words), index.c.rowid
    split = func.regexp_replace(words, literal_column(_NO_WORD))
    searched = func.plainto_tsquery(literal_column("'simple'::regconfig"), split)
    matches: ColumnElement[bool] = literal_column(POSTGRESQL_DOCUMENT).op("@@")(searched)
    if exact:
        runs = func.string_to_array(bindparam("exact", type_=String), literal_column("' '"))
        matches = or_(matches, func.numnode(searched) == 0) & literal_column(f"({_TEXT})").like(func.all(runs))
    return tasks, matches, tasks.c.id
