"""Secrets of second factors encrypted.

The column is empty until it is used. The version before passes over it. `totp_secret` is random where the secret is
encrypted: that version refuses the authenticator's codes then, and takes recovery codes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("encrypted_totp_secret", sa.Text))
