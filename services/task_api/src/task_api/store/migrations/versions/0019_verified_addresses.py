"""When an address was confirmed by a mail to it.

The column is empty for all that are there, as nothing has what was confirmed. The version before passes over it.
"""

import sqlalchemy as sa
from alembic import op

from task_api.store.migrations.columns import Instant

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("verified_at", Instant))
