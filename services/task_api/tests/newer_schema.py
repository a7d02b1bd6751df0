"""A pytest plugin for the tests of an older checkout: their databases have the schema of a newer one.

`./dev previous_version` loads it. `NEWER_SOURCES` are the folders of the newer code, which migrates in a process of its
own. The older fixtures know nothing of newer tables: so a PostgreSQL database is emptied here, of whatever it has.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, insert, text

first_rows: dict[str, tuple[MetaData, dict[str, list[dict[str, Any]]]]] = {}
"""By the database's URL: its tables, and the rows that migrations leave in them."""


def pytest_plugin_registered(plugin: object) -> None:
    """Replace how the older fixtures migrate and empty a database; tests of migrations keep their own."""
    if Path(getattr(plugin, "__file__", None) or "").name == "conftest.py" and hasattr(plugin, "migrate"):
        own = vars(plugin)["empty"]
        vars(plugin).update(migrate=migrate, empty=partial(empty, own))


def migrate(database: Any) -> None:
    """Bring a database to the newer schema."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = {"DB_PATH": database.engine.url.database}
    if database.dialect == "postgresql":
        settings = {"DATABASE_URL": url.replace("postgresql+psycopg:", "postgresql:")}
    command = [sys.executable, "-m", "task_api", "migrate"]
    environment = {**os.environ, "PYTHONPATH": os.environ["NEWER_SOURCES"], **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if database.dialect == "postgresql":
        tables = MetaData()
        with database.engine.connect() as connection:
            tables.reflect(connection)
            rows = {
                one.name: [dict(row) for row in connection.execute(one.select()).mappings()]
                for one in tables.sorted_tables
            }
        first_rows[url] = tables, rows


def empty(own: Callable[[Any], None], database: Any) -> None:
    """Bring each table to the rows that migrations leave, and begin at id 1 again; SQLite's as the older code does."""
    if database.dialect == "sqlite":  # a copy for each test, which few empty in between
        own(database)
        return
    tables, rows = first_rows[database.engine.url.render_as_string(hide_password=False)]
    with database.write() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no trigger, no foreign key
        for table in tables.sorted_tables:
            connection.execute(table.delete())
            if rows[table.name]:
                connection.execute(insert(table), rows[table.name])
        connection.execute(text("SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences"))
