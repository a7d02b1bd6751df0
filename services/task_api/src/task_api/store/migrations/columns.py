"""Column types as the migrations first used them: a change of the schema's own types must not rewrite history."""

import sqlalchemy as sa

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Instant = sa.DateTime(timezone=True).with_variant(sa.String(), "sqlite")
LOCAL_ACCOUNT = 0
