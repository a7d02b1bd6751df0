"""The audit log: what was done to accounts, when, and by whom."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from task_core.schema import audit_log


def record(connection: Connection, actor: str, action: str, account_id: int, details: str = "") -> None:
    """Add an entry in the transaction of what it records, so that neither is there without the other."""
    values = {"at": datetime.now(UTC), "actor": actor, "action": action, "account_id": account_id, "details": details}
    connection.execute(insert(audit_log), values)


def page(
    connection: Connection, before: int | None, limit: int, *, account_id: int | None = None
) -> Sequence[Row[Any]]:
    """Return at most `limit` entries whose ids are less than `before`, the newest first; of one account, or of all."""
    which = [audit_log.c.id < before] if before is not None else []
    which += [audit_log.c.account_id == account_id] if account_id is not None else []
    return connection.execute(select(audit_log).where(*which).order_by(audit_log.c.id.desc()).limit(limit)).all()
