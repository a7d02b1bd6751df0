"""The settings of the services that share the database."""

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from service_kit import config
from service_kit.config import custom, masked_url

SHORTEST_SECRET = 32
EXAMPLE_WORDS = re.compile(
    r"change.?me|change.?this|example|placeholder|your.?secret|insecure|default.?secret", re.IGNORECASE
)
FEWEST_DISTINCT_CHARACTERS = 10
MAKE_KEY = "make one with: python3 -c 'import secrets; print(\"k1:\" + secrets.token_urlsafe(32))'"


class SecretKey(msgspec.Struct, frozen=True):
    """A secret that keys are made of, and the `kid` that names it (RFC 7515)."""

    kid: str
    secret: str

    def __repr__(self) -> str:
        return f"SecretKey(kid={self.kid!r}, secret=...)"


def parse_keys(text: str) -> tuple[SecretKey, ...]:
    """`kid:secret[,kid:secret…]`: the first makes what is new, all are valid. Raises ValueError for a weak secret."""
    keys = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kid, colon, secret = part.partition(":")
        if not (colon and re.fullmatch(r"[A-Za-z0-9._-]{1,32}", kid)):
            raise ValueError(
                f'expected "kid:secret[,kid:secret]" with a kid of letters, digits, ".", "_" or "-"; {MAKE_KEY}'
            )
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret of key {kid!r} is shorter than {SHORTEST_SECRET} characters; {MAKE_KEY}")
        if not secret.isprintable():  # neither is a byte that is no UTF-8 (PEP 383), of which no key can be made
            raise ValueError(f"the secret of key {kid!r} has a character that cannot be printed; {MAKE_KEY}")
        if EXAMPLE_WORDS.search(secret) or len(set(secret)) < FEWEST_DISTINCT_CHARACTERS:
            raise ValueError(f"the secret of key {kid!r} is an example or easily guessed; {MAKE_KEY}")
        keys.append(SecretKey(kid, secret))
    if len({key.kid for key in keys}) < len(keys):
        raise ValueError("each kid may stand once")
    return tuple(keys)


URL_TEXT = custom(show=masked_url, secret=True)
KEYS_TEXT = custom(parse=parse_keys, show=lambda keys: ",".join(f"{key.kid}:…" for key in keys), secret=True)


class Settings(config.Settings, frozen=True, kw_only=True):
    """Where the tasks are, and by which server mail is sent."""

    database_url: Annotated[str, Meta(description="PostgreSQL that has the tasks: postgresql://…"), URL_TEXT] = ""
    db_pool_size: Annotated[int, Meta(ge=1, le=100, description="database connections of each process")] = 5
    db_wait_seconds: Annotated[
        float,
        Meta(ge=0, le=30, description="how long a request waits for a database that changes hands; 0: not at all"),
    ] = 5.0
    smtp_url: Annotated[
        str,
        Meta(description="smtp[s]://user:password@host:port, by which mail is sent; none if unset"),
        URL_TEXT,
    ] = ""
    encryption_keys: Annotated[
        tuple[SecretKey, ...],
        Meta(description="kid:secret[,kid:secret] for secrets in the database; the first encrypts"),
        KEYS_TEXT,
    ] = ()
    mail_from: Annotated[str, Meta(description="sender of mails, such as tasks@example.org")] = ""

    @property
    def postgresql(self) -> bool:
        """Whether the data is in PostgreSQL, else in SQLite."""
        return bool(self.database_url)

    @property
    def sqlite_path(self) -> str:
        """The file of the database without DATABASE_URL; empty for a service that needs PostgreSQL."""
        return ""

    @property
    def application_name(self) -> str:
        """What `pg_stat_activity` shows of connections whose URL has no name of its own; empty for nothing."""
        return ""

    @property
    def conflicts(self) -> list[str]:
        """Faults that no single variable shows."""
        problems = super().conflicts
        if self.smtp_url and not _smtp_url(self.smtp_url):
            problems.append("SMTP_URL: expected smtp://user:password@host:port (STARTTLS) or smtps://…, or unset it")
        if self.smtp_url and not re.fullmatch(r"[^@\s]+@[^@\s]+", self.mail_from):
            problems.append("MAIL_FROM: SMTP_URL needs the address that mails come from, such as tasks@example.org")
        if self.database_url and not _database_url(self.database_url):
            problems.append(
                "DATABASE_URL: expected postgresql://user:password@host:port/database with the password's special"
                " characters escaped (such as %2F for /)"
            )
        return problems


def _smtp_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return False
    plain = not (parts.path.strip("/") or parts.query or parts.fragment)
    return parts.scheme in {"smtp", "smtps", "smtp+insecure"} and bool(parts.hostname) and plain


def _database_url(url: str) -> bool:
    """Return whether `url` is a PostgreSQL URL in which no special character of the password is left unescaped.

    The fault is not named further: any part of the URL may be one of the password.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return False
    scheme = parts.scheme in {"postgresql", "postgres", "postgresql+psycopg", "postgres+psycopg"}
    return scheme and parts.path.strip("/") != "" and "@" not in f"{parts.path}{parts.query}{parts.fragment}"
