"""What the database layer raises when the database cannot serve."""

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class SchemaBehind(Exception):
    """The database is at an older revision than the service needs."""


class TableInUse(Exception):
    """Others held a table so long that it could not be migrated."""


class Unusable(Exception):
    """The database answers but cannot take a write. The message contains the reason and what to do."""


class Unanswered(Unusable):
    """The database left a request without an answer a moment ago; this one was not sent to it."""


def down(error: Exception) -> bool:
    """Return whether the error means that PostgreSQL takes no connections or does not answer.

    An error with an SQLSTATE is an answer of the server's, such as a lock that is held too long.
    """
    if isinstance(error, DBAPIError):
        return not getattr(error.orig, "sqlstate", None)
    return isinstance(error, Unanswered)


def refers_to_nothing(error: IntegrityError) -> bool:
    """Return whether a row refers to a row that does not exist: the violation of a foreign key."""
    violation = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return violation in {"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"}


UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, Unusable)
"""Raised when the database cannot be reached, does not answer or cannot take a write: a later try may succeed."""
