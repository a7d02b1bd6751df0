"""An index for the deletion of expired refresh tokens."""

from task_api.store.migrations import online

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    online.create_indexes(ix_refresh_tokens_expires_at="refresh_tokens (expires_at)")
