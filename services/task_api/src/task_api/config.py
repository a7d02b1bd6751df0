"""The settings that this service has beside those of every service."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from service_kit.config import LOOPBACK, custom
from task_core import config
from task_core.config import KEYS_TEXT, MAKE_KEY, SecretKey

RATE = re.compile(r"(?P<limit>[1-9]\d{0,8})/(?P<count>[1-9]\d{0,3})?(?P<unit>second|minute|hour|day)s?")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class Rate(msgspec.Struct, frozen=True):
    """At most `limit` requests in each window of `seconds`."""

    limit: int
    seconds: int


def parse_rate(text: str) -> Rate | None:
    """`100/minute`, `10/15minutes`, or `off` for none. Raises ValueError for anything else."""
    if text == "off":
        return None
    match = RATE.fullmatch(text)
    if not match:
        raise ValueError('expected "off" or a rate such as "600/minute" or "10/15minutes"')
    return Rate(int(match["limit"]), int(match["count"] or 1) * SECONDS[match["unit"]])


def parse_origins(text: str) -> tuple[str, ...]:
    """`https://a.example,https://b.example`. Raises ValueError for what is not an origin (RFC 6454)."""
    origins = tuple(filter(None, (piece.strip() for piece in text.split(","))))
    for origin in origins:
        if not re.fullmatch(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?", origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example")
    return origins


def _show_rate(rate: Rate) -> str:
    return f"{rate.limit}/{rate.seconds}seconds"


RATE_TEXT = custom(parse=parse_rate, show=_show_rate)
ORIGINS_TEXT = custom(parse=parse_origins, show=",".join)


class Settings(config.Settings, frozen=True, kw_only=True):
    """Every setting of the service."""

    db_path: Annotated[str, Meta(min_length=1, description="SQLite file, without DATABASE_URL")] = "data/tasks.db"
    auth: Annotated[Literal["on", "off"], Meta(description="accounts; off listens on loopback alone")] = "off"
    registration: Annotated[Literal["open", "closed"], Meta(description="whether anybody may register")] = "open"
    jwt_keys: Annotated[
        tuple[SecretKey, ...], Meta(description="kid:secret[,kid:secret]; the first signs"), KEYS_TEXT
    ] = ()
    access_token_seconds: Annotated[int, Meta(ge=10, le=86400, description="life of an access token")] = 900
    refresh_token_seconds: Annotated[int, Meta(ge=60, le=31536000, description="life of a refresh token")] = 1209600
    session_seconds: Annotated[
        int, Meta(ge=60, le=31536000, description="life of a session, however often it is refreshed")
    ] = 7776000
    rate_limit: Annotated[Rate | None, Meta(description="requests of one client, or off"), RATE_TEXT] = Rate(6000, 60)
    login_limit: Annotated[
        Rate | None,
        Meta(description="failed logins of an account from one network, or off; others follow from it"),
        RATE_TEXT,
    ] = Rate(10, 900)
    registration_limit: Annotated[
        Rate | None, Meta(description="registrations from one network, or off"), RATE_TEXT
    ] = Rate(20, 3600)
    quota_tasks: Annotated[int, Meta(ge=0, description="tasks that one account may keep; 0: no limit")] = 100_000
    quota_bytes: Annotated[
        int, Meta(ge=0, description="bytes of all texts of its tasks that one account may keep; 0: no limit")
    ] = 100 << 20
    quota_webhooks: Annotated[int, Meta(ge=1, le=1000, description="webhooks that one account may have")] = 10
    streams: Annotated[int, Meta(ge=0, le=1000, description="open streams of one account in each process; 0: none")] = (
        20
    )
    mail_link: Annotated[str, Meta(description="page that mails lead to, with the token after #; optional")] = ""
    webhooks: Annotated[
        Literal["off", "on", "insecure"],
        Meta(description="deliver changes to addresses that accounts name; insecure is for tests: any address, no TLS"),
    ] = "off"
    webhook_delivery: Annotated[
        Literal["workers", "notifier"],
        Meta(description="who delivers: this service's workers, or the service notifier, which needs PostgreSQL"),
    ] = "workers"
    cors_origins: Annotated[tuple[str, ...], Meta(description="origins that browsers may call from"), ORIGINS_TEXT] = ()

    @property
    def sqlite_path(self) -> str:
        """The file of the database without DATABASE_URL."""
        return self.db_path

    @property
    def application_name(self) -> str:
        """What `pg_stat_activity` shows of connections whose URL has no name of its own."""
        return "task-api"

    @property
    def weaker(self) -> list[str]:
        """What these settings make less safe than it could be, one line each; logged at start."""
        notes = super().weaker
        if self.auth == "off":
            notes.append("AUTH=off: anybody who reaches this port on this machine can read and change every task")
        if self.rate_limit is None:
            notes.append("RATE_LIMIT=off: one client can use up the service")
        if self.auth == "on" and not (self.quota_tasks and self.quota_bytes):
            notes.append("QUOTA_TASKS=0 or QUOTA_BYTES=0: one account can fill the disk")
        if self.auth == "on" and not self.encryption_keys:
            notes.append(f"ENCRYPTION_KEYS: without one, secrets of second factors are stored in clear; {MAKE_KEY}")
        if self.auth == "on" and self.login_limit is None:
            notes.append("LOGIN_LIMIT=off: passwords can be guessed without limit")
        if self.auth == "on" and self.registration == "open" and self.registration_limit is None:
            notes.append("REGISTRATION_LIMIT=off: one client can register any number of accounts")
        if self.smtp_url.startswith("smtp+insecure:"):
            notes.append("SMTP_URL=smtp+insecure://…: mails with tokens, and the password, are sent without TLS")
        if self.webhooks == "insecure":
            notes.append("WEBHOOKS=insecure: whoever registers a webhook has this service send to any address")
        return notes

    @property
    def conflicts(self) -> list[str]:
        """Faults that no single variable shows."""
        problems = super().conflicts
        if self.auth == "off" and self.host not in LOOPBACK:
            problems.append(
                f"AUTH: without accounts the service listens on loopback alone, and HOST is {self.host!r}:"
                " set AUTH=on and JWT_KEYS, or HOST=127.0.0.1"
            )
        if self.auth == "on" and not self.jwt_keys:
            problems.append(f"JWT_KEYS: AUTH=on needs a signing key; {MAKE_KEY}")
        if self.mail_link and not re.fullmatch(r"https?://[^/\s#][^\s#]*", self.mail_link):
            problems.append("MAIL_LINK: expected a page without #, such as https://app.example/account")
        if self.webhooks != "off" and not self.encryption_keys:
            problems.append(
                f"ENCRYPTION_KEYS: WEBHOOKS={self.webhooks} needs a key for the webhooks' secrets; {MAKE_KEY}"
            )
        if self.webhooks != "off" and self.webhook_delivery == "notifier" and not self.database_url:
            problems.append("WEBHOOK_DELIVERY: the notifier reads PostgreSQL: set DATABASE_URL, or workers")
        if not self.database_url and self.db_path == ":memory:":
            problems.append("DB_PATH: each process would have a ':memory:' of its own: name a file")
        if not self.database_url and Path(self.db_path).is_dir():
            problems.append(f"DB_PATH: {self.db_path!r} is a folder; name a file in it")
        folder = self.prometheus_multiproc_dir
        if folder and not self.database_url and Path(folder).resolve() == Path(self.db_path).parent.resolve():
            problems.append("PROMETHEUS_MULTIPROC_DIR: name a folder of its own: this one holds the database, DB_PATH")
        return problems
