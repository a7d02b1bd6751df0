"""The settings that this service has beside those of every service."""

from typing import Annotated, Literal

from msgspec import Meta

from service_kit.config import LOOPBACK
from task_core import config
from task_core.config import MAKE_KEY


class Settings(config.Settings, frozen=True, kw_only=True):
    """Every setting of the service."""

    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 5001
    webhooks: Annotated[
        Literal["on", "insecure"],
        Meta(description="where requests may go: the public internet; insecure is for tests: any address, no TLS"),
    ] = "on"

    @property
    def application_name(self) -> str:
        """What `pg_stat_activity` shows of connections whose URL has no name of its own."""
        return "notifier"

    @property
    def weaker(self) -> list[str]:
        """What these settings make less safe than it could be, one line each; logged at start."""
        notes = super().weaker
        if self.webhooks == "insecure":
            notes.append("WEBHOOKS=insecure: whoever registers a webhook has this service send to any address")
        if self.host not in LOOPBACK:
            notes.append("HOST: without accounts, anybody who reaches this port may read how much is to be delivered")
        return notes

    @property
    def conflicts(self) -> list[str]:
        """Faults that no single variable shows."""
        problems = super().conflicts
        if not self.database_url:
            problems.append(
                "DATABASE_URL: name the Task API's database, postgresql://user:password@host:port/database;"
                " on SQLite the Task API delivers itself"
            )
        if not self.encryption_keys:
            problems.append(f"ENCRYPTION_KEYS: set those of the Task API; {MAKE_KEY}")
        return problems
