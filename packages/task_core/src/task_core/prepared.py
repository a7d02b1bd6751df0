"""Statements of SQLAlchemy Core that nearly every request runs: compiled once, executed by the driver's own cursor.

`Connection.execute` returns the same, but takes a third of a request's CPU time. All other statements use it.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import ClauseElement

Row = tuple[Any, ...]
Processor = Callable[[Any], Any]
WATCHED = "watched"
"""The execution option of an engine with event listeners, such as traces: `Connection.execute` calls them."""


class _Compiled(NamedTuple):
    sql: str
    constants: dict[str, Any]
    binds: dict[str, Processor]
    columns: list[tuple[int, Processor]]


@lru_cache(maxsize=1024)
def _compile(statement: Any, dialect: Dialect, names: tuple[str, ...]) -> _Compiled:
    compiled = statement.compile(dialect=dialect, column_keys=names)
    binds = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()}
    columns = [
        column.type.dialect_impl(dialect).result_processor(dialect, None)
        for column in getattr(statement, "exported_columns", ())
    ]
    return _Compiled(
        compiled.string,
        {name: value for name, value in compiled.params.items() if value is not None},
        {name: processor for name, processor in binds.items() if processor},
        [(index, processor) for index, processor in enumerate(columns) if processor],
    )


def rows(connection: Connection, statement: ClauseElement, parameters: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a statement that is a constant of its module: what is compiled stays in a cache.

    `parameters` holds a value for every bind parameter, and for the columns that an INSERT or UPDATE sets. Raises what
    `Connection.execute` raises.
    """
    if connection.get_execution_options().get(WATCHED):
        result: Any = connection.execute(statement, parameters)  # type: ignore[call-overload]
        return [tuple(row) for row in result] if result.returns_rows else []
    sql, constants, binds, columns = _compile(statement, connection.dialect, tuple(parameters))
    values = {**constants, **parameters}
    for name, process in binds.items():
        values[name] = process(values[name])
    result = _run(connection, sql, values)
    return [_processed(row, columns) for row in result] if columns else result


def command(connection: Connection, sql: str) -> None:
    """Run `sql`, a text without parameters that returns no rows, such as COMMIT."""
    if connection.get_execution_options().get(WATCHED):
        connection.exec_driver_sql(sql)
    else:
        _run(connection, sql, None)


def _run(connection: Connection, sql: str, values: Mapping[str, Any] | None) -> list[Row]:
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    try:
        cursor = driver.execute(sql, values) if values else driver.execute(sql)
        return cursor.fetchall() if cursor.description else []
    except dialect.loaded_dbapi.Error as error:
        lost = dialect.is_disconnect(error, driver, None)
        if lost:
            connection.invalidate(error)
        base = dialect.loaded_dbapi.Error
        raise DBAPIError.instance(sql, None, error, base, connection_invalidated=lost, dialect=dialect) from error


def _processed(row: Row, columns: list[tuple[int, Processor]]) -> Row:
    values = list(row)
    for index, process in columns:
        values[index] = process(values[index])
    return tuple(values)
