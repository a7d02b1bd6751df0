"""What the database layer raises when the database cannot serve."""

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class SchemaBehind(Exception):
    """The database is at an older revision than the service needs."""


class TableInUse(Exception):
    """Others held a table so long that it could not be migrated."""


class Unusable(Exception):
    """The database answers but cannot take a write. The message contains the reason and what to do."""


UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, Unusable)
"""Raised when the database cannot be reached, does not answer or cannot take a write: a later try may succeed."""
