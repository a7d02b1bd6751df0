"""Which texts may become SQL."""

import ast

import pytest

from tooling import sql

CONSTANT = [
    'text("SELECT 1")',
    'A = "a"\nB = f"SELECT {A}"\ntext(B)',
    "from schema import _COLUMN\nliteral_column(_COLUMN)",
    "literal_column(schema.COLUMN)",
    'A = {"sqlite": "BEGIN"}\nconnection.exec_driver_sql(A[dialect])',
    'for pragma in ("a", "b"):\n    connection.execute(f"PRAGMA {pragma}")',
    'command(connection, f"PRAGMA busy_timeout = {int(left)}")',
    "def command(connection, sql):\n    execute(sql)",
    "connection.execute(select(tasks).where(tasks.c.id == key))",
    'query = " ".join(words)\nconnection.execute(statement, {"query": query})',
]
ASSEMBLED = [
    "text(order)",
    'text("a" + b)',
    'text("a {}".format(b))',
    'text(" AND ".join(parts))',
    'text("a".replace("a", b))',
    'literal_column(f"tasks.{name}")',
    'tasks.c.title.op(operator)("a")',
    'connection.execute("SELECT %s" % a)',
    "connection.exec_driver_sql(sql)",
    'A = "SELECT 1"\nA += b\ntext(A)',
    'sql = "SELECT " + column\ncommand(connection, sql)',
    "for name in names:\n    text(name)",
    "from schema import column_of\nliteral_column(column_of)",
]


@pytest.mark.parametrize("source", CONSTANT)
def test_a_text_of_constants_may_become_sql(source: str) -> None:
    assert [ast.unparse(call) for call in sql.suspicious(ast.parse(source))] == []


@pytest.mark.parametrize("source", ASSEMBLED)
def test_a_text_that_is_put_together_or_comes_from_elsewhere_may_not(source: str) -> None:
    assert len(list(sql.suspicious(ast.parse(source)))) == 1
