"""The digests of an account's recovery codes, which replace its second factor once each."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("recovery_codes", sa.String(1000)))
