"""Connections to SQLite, and the file that they must all be of."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from task_core.config import Settings
from task_core.errors import Unusable

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
"""`secure_delete`, which is Debian's default too, overwrites what was replaced: it may have been a secret."""

BUSY_SECONDS = 10
"""How long a write waits for the writers before it, those of this process and of others together."""

LEAST_FREE_BYTES = 8 << 20
"""SQLite's log takes 4 MiB before it is written back to the file, which may grow by as much."""


class DatabaseFile:
    """The file as it was when this service first opened it, before its workers were forked."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._identity: tuple[int, int] | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        """Create the file for its owner alone where it is missing. Raises Unusable when it has been replaced."""
        if self._identity is not None:
            self.check()
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise Unusable(f"DB_PATH: {error.strerror}: {str(self.path)!r}") from None
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._identity = (status.st_dev, status.st_ino)

    def check(self) -> None:
        """Raise Unusable when the file is no longer the one that was opened: what is written would be lost."""
        if self._identity is None:
            return
        try:
            status = self.path.stat()
        except OSError as error:
            raise Unusable(f"DB_PATH: {error.strerror}: {str(self.path)!r} was there at start; {_REMEDY}") from None
        if self._identity != (status.st_dev, status.st_ino):
            raise Unusable(f"DB_PATH: {str(self.path)!r} is another file than at start; {_REMEDY}")

    def check_space(self) -> None:
        """Raise Unusable when the disk has no room for SQLite's log."""
        disk = os.statvfs(self.path)
        free = (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize
        if free < LEAST_FREE_BYTES:
            raise Unusable(
                f"DB_PATH: the disk of {str(self.path)!r} has {free >> 10} KiB left: free some,"
                f" {LEAST_FREE_BYTES >> 20} MiB are needed"
            )

    @property
    def readable_by_others(self) -> bool:
        """Whether users other than the owner may read the file."""
        return bool(self.path.stat().st_mode & 0o077)


_REMEDY = "put it back, or restart the service to go on with what is there now"


def engine(settings: Settings, file: DatabaseFile) -> Engine:
    """Return an engine for the file that DB_PATH names."""
    made = create_engine(
        URL.create("sqlite+pysqlite", database=settings.sqlite_path),
        hide_parameters=True,  # errors are logged, and hold what people wrote
        paramstyle="named",
        connect_args={
            "timeout": BUSY_SECONDS,
            "isolation_level": None,
            "check_same_thread": False,
            "cached_statements": 512,
        },
        pool_size=max(settings.db_pool_size, settings.threads),
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
    )

    @event.listens_for(made, "do_connect")
    def identify(*_: Any) -> None:
        file.open()

    @event.listens_for(made, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return made
