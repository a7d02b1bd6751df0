"""Webhooks' secrets encrypted, and the trace that a change is part of.

The columns are empty until they are used. The version before passes over them: it signs what it sends to a webhook
whose secret is encrypted with an empty one, and writes secrets that are not encrypted, which are the newest then.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("encrypted_secrets", sa.Text))
    op.add_column("task_changes", sa.Column("traceparent", sa.String(55)))
