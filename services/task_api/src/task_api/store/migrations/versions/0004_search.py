"""Full-text search on title and description."""

from alembic import op

from task_api.store.search import INDEX_POSTGRESQL, INDEX_SQLITE

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statement in INDEX_SQLITE if op.get_bind().dialect.name == "sqlite" else INDEX_POSTGRESQL:
        op.execute(statement)
