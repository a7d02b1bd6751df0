"""Settings by environment, checked in one place: every bad value is told at once, with what to set instead."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SHORTEST_SECRET = 32
EXAMPLE_WORDS = re.compile(
    r"change.?me|change.?this|example|placeholder|your.?secret|insecure|default.?secret", re.IGNORECASE
)
FEWEST_DISTINCT_CHARACTERS = 10
RATE = re.compile(r"(?P<limit>[1-9]\d{0,8})/(?P<count>[1-9]\d{0,3})?(?P<unit>second|minute|hour|day)s?")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class Rate(msgspec.Struct, frozen=True):
    """At most `limit` requests in each window of `seconds`."""

    limit: int
    seconds: int


class SigningKey(msgspec.Struct, frozen=True):
    """A secret for HMAC-SHA-256 and the `kid` that names it (RFC 7515)."""

    kid: str
    secret: str

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, secret=...)"


def parse_rate(text: str) -> Rate | None:
    """`100/minute`, `10/15minutes`, or `off` for none. Raises ValueError for anything else."""
    if text == "off":
        return None
    match = RATE.fullmatch(text)
    if not match:
        raise ValueError('expected "off" or a rate such as "600/minute" or "10/15minutes"')
    return Rate(int(match["limit"]), int(match["count"] or 1) * SECONDS[match["unit"]])


def parse_keys(text: str) -> tuple[SigningKey, ...]:
    """`kid:secret[,kid:secret…]`: the first signs, all verify. Raises ValueError for a short or example secret."""
    make = "make one with: python3 -c 'import secrets; print(\"k1:\" + secrets.token_urlsafe(32))'"
    keys = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kid, colon, secret = part.partition(":")
        if not (colon and re.fullmatch(r"[A-Za-z0-9._-]{1,32}", kid)):
            raise ValueError(
                f'expected "kid:secret[,kid:secret]" with a kid of letters, digits, ".", "_" or "-"; {make}'
            )
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret of key {kid!r} is shorter than {SHORTEST_SECRET} characters; {make}")
        if EXAMPLE_WORDS.search(secret) or len(set(secret)) < FEWEST_DISTINCT_CHARACTERS:
            raise ValueError(f"the secret of key {kid!r} is an example or easily guessed; {make}")
        keys.append(SigningKey(kid, secret))
    if len({key.kid for key in keys}) < len(keys):
        raise ValueError("each kid may stand once")
    return tuple(keys)


def parse_origins(text: str) -> tuple[str, ...]:
    """`https://a.example,https://b.example`. Raises ValueError for what is not an origin (RFC 6454)."""
    origins = tuple(filter(None, (piece.strip() for piece in text.split(","))))
    for origin in origins:
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example")
    return origins


PARSERS = {Rate: parse_rate, SigningKey: parse_keys, tuple: parse_origins}
"""How a field is read whose type is not one that msgspec converts from text by itself."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of the service. The environment variable is the field's name in capitals."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 5000
    workers: Annotated[int, Meta(ge=1, le=64, description="processes")] = 2
    threads: Annotated[int, Meta(ge=1, le=64, description="threads of each process")] = 4
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level logged")] = "info"
    drain_seconds: Annotated[
        float, Meta(ge=0, le=300, description="between SIGTERM, when readiness falls, and closing the port")
    ] = 0
    idle_seconds: Annotated[
        int,
        Meta(
            ge=1, le=3600, description="seconds an idle connection is kept: longer than a load balancer before it does"
        ),
    ] = 75
    graceful_timeout: Annotated[int, Meta(ge=1, le=300, description="seconds for requests in flight to finish")] = 30
    db_path: Annotated[str, Meta(min_length=1, description="SQLite file, made if missing")] = "data/tasks.db"
    database_url: Annotated[str, Meta(description="postgresql://… instead of SQLite")] = ""
    db_pool_size: Annotated[int, Meta(ge=1, le=100, description="database connections of each process")] = 5
    auth: Annotated[Literal["on", "off"], Meta(description="accounts; off listens on loopback alone")] = "off"
    registration: Annotated[Literal["open", "closed"], Meta(description="whether anybody may register")] = "open"
    jwt_keys: Annotated[tuple[SigningKey, ...], Meta(description="kid:secret[,kid:secret]; the first signs")] = ()
    access_token_seconds: Annotated[int, Meta(ge=10, le=86400, description="life of an access token")] = 900
    refresh_token_seconds: Annotated[int, Meta(ge=60, le=31536000, description="life of a refresh token")] = 1209600
    rate_limit: Annotated[Rate | None, Meta(description="requests of one client, or off")] = Rate(6000, 60)
    login_limit: Annotated[
        Rate | None, Meta(description="failed logins of one account; one address has five times that")
    ] = Rate(10, 900)
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="largest request body")] = 1 << 20
    cors_origins: Annotated[tuple[str, ...], Meta(description="origins that browsers may call from")] = ()
    trusted_proxies: Annotated[
        int, Meta(ge=0, le=10, description="proxies in front, whose X-Forwarded-* headers are believed")
    ] = 0
    prometheus_multiproc_dir: Annotated[
        str, Meta(description="folder for the workers' metrics; a fresh one if unset")
    ] = ""
    otel_exporter_otlp_endpoint: Annotated[
        str, Meta(description="where traces go by OTLP over HTTP; none if unset")
    ] = ""
    revision: Annotated[str, Meta(description="source revision, shown as build information")] = "unknown"

    @property
    def postgresql(self) -> bool:
        """Whether the data is in PostgreSQL, else in SQLite."""
        return bool(self.database_url)

    @property
    def weaker(self) -> list[str]:
        """What is less safe than it could be by these settings, to be said at start."""
        notes = []
        if self.auth == "off":
            notes.append("AUTH=off: anybody who reaches this port on this machine can read and change every task")
        if self.rate_limit is None:
            notes.append("RATE_LIMIT=off: one client can use up the service")
        if self.auth == "on" and self.login_limit is None:
            notes.append("LOGIN_LIMIT=off: passwords can be guessed without limit")
        return notes


class ConfigurationError(Exception):
    """The settings do not stand. `problems` has one line a fault, each beginning with the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _convert(text: str, kind: Any) -> Any:
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    candidates = [plain, get_origin(plain), *get_args(plain)]
    for special in (SigningKey, Rate, tuple):
        if special in candidates:
            return PARSERS[special](text)
    return msgspec.convert(text, kind, strict=False)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings. Raises ConfigurationError that lists every fault."""
    values: dict[str, Any] = {}
    problems = []
    for field in msgspec.structs.fields(Settings):
        text = environment.get(field.name.upper(), "").strip()
        if not text:
            continue
        try:
            values[field.name] = _convert(text, field.type)
        except ValueError as error:  # msgspec.ValidationError is one
            shown = "" if field.name in {"jwt_keys", "database_url"} else f" (it is {text!r})"
            problems.append(f"{field.name.upper()}: {error}{shown}")
    problems += _conflicts(Settings(**values), {problem.partition(":")[0] for problem in problems})
    if problems:
        raise ConfigurationError(problems)
    return Settings(**values)


def _conflicts(settings: Settings, known: set[str]) -> list[str]:
    problems = []
    if settings.auth == "off" and settings.host not in LOOPBACK:
        problems.append(
            f"AUTH: without accounts the service listens on loopback alone, and HOST is {settings.host!r}:"
            " set AUTH=on and JWT_KEYS, or HOST=127.0.0.1"
        )
    if settings.auth == "on" and not settings.jwt_keys and "JWT_KEYS" not in known:
        problems.append(
            "JWT_KEYS: AUTH=on needs a signing key;"
            " make one with: python3 -c 'import secrets; print(\"k1:\" + secrets.token_urlsafe(32))'"
        )
    if settings.database_url and not re.match(r"postgres(ql)?(\+psycopg)?://[^/]*/.+", settings.database_url):
        problems.append(
            "DATABASE_URL: expected postgresql://user:password@host:port/database, or unset it to use SQLite"
        )
    try:
        urlsplit(settings.database_url).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        problems.append(f"DATABASE_URL: {error}")
    if settings.otel_exporter_otlp_endpoint and not re.match(r"https?://.+", settings.otel_exporter_otlp_endpoint):
        problems.append("OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host:4318 or https://…")
    if not settings.database_url and Path(settings.db_path).is_dir():
        problems.append(f"DB_PATH: {settings.db_path!r} is a folder; name a file in it")
    folder = settings.prometheus_multiproc_dir
    if folder and not settings.database_url and Path(folder).resolve() == Path(settings.db_path).parent.resolve():
        problems.append("PROMETHEUS_MULTIPROC_DIR: name a folder of its own: this one holds the database, DB_PATH")
    return problems


def _masked(url: str) -> str:
    without = re.sub(r"(//[^:/@]*:)[^@]*@", r"\1…@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1…", without)


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """(variable, value, what it is for) of every setting, secrets masked."""
    rows = []
    for field in msgspec.structs.fields(Settings):
        value = getattr(settings, field.name)
        if isinstance(value, Rate):
            text = f"{value.limit}/{value.seconds}seconds"
        elif field.name == "jwt_keys":
            text = ",".join(f"{key.kid}:…" for key in value)
        elif field.name in {"database_url", "otel_exporter_otlp_endpoint"}:
            text = _masked(value)
        elif isinstance(value, tuple):
            text = ",".join(value)
        else:
            text = "off" if value is None else str(value)
        meaning = next(meta.description for meta in get_args(field.type) if isinstance(meta, Meta))
        rows.append((field.name.upper(), text, meaning or ""))
    return rows
