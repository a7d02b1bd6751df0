"""The labels of an account's tasks. Every function works in the transaction of the connection that is passed."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    cast,
    column,
    func,
    literal,
    select,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB

from task_api.store.tasks import HAS_LABELS
from task_core.schema import Instant, Key, Labels, labelled, tasks

_NAME: dict[str, ColumnElement[str]] = {
    "sqlite": func.json_each(tasks.c.labels).table_valued("value", joins_implicitly=True).c.value,
    "postgresql": func.jsonb_array_elements_text(cast(tasks.c.labels, JSONB)).column_valued(joins_implicitly=True),
}
_BY_CODE_POINT = {"sqlite": "BINARY", "postgresql": "C"}


def page(connection: Connection, owner_id: int, after: str, limit: int) -> Sequence[Row[str, int]]:
    """Return at most `limit` labels behind `after`, in the order of their code points, with their numbers of tasks."""
    name = _NAME[connection.dialect.name]
    key = name.collate(_BY_CODE_POINT[connection.dialect.name])
    counted = select(name, func.count()).select_from(tasks).where(tasks.c.owner_id == owner_id, labelled, key > after)
    return connection.execute(counted.group_by(name).order_by(key).limit(limit)).all()


def held(connection: Connection, owner_id: int, label: str, after: int, limit: int) -> dict[int, list[str]]:
    """Return the labels of at most `limit` tasks of an account that have this one, by id; lock the tasks.

    They are the first whose ids are greater than `after`, in that order.
    """
    which = (tasks.c.owner_id == owner_id, tasks.c.id > after, labelled, HAS_LABELS[connection.dialect.name])
    query = select(tasks.c.id, tasks.c.labels).where(*which).order_by(tasks.c.id).limit(limit).with_for_update()
    return {row.id: row.labels for row in connection.execute(query, {"labels": [label]})}


def change(connection: Connection, changed: Mapping[int, list[str]], now: datetime) -> None:
    """Set the labels of tasks that this transaction holds, each at its next version."""
    new = values(column("id", Key), column("labels", Labels)).data(list(changed.items())).cte("changed")
    moment = literal(now, Instant)
    connection.execute(
        update(tasks)
        .where(tasks.c.id == new.c.id)
        .values(
            labels=new.c.labels,
            version=tasks.c.version + 1,
            updated_at=case((tasks.c.updated_at > moment, tasks.c.updated_at), else_=moment),
        )
    )
