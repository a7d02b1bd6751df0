"""Settings by environment, checked in one place: every bad value is reported at once, with what to set instead."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigurationError(Exception):
    """Settings are wrong. `problems` has one line for each fault, which begins with the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def custom(
    *, parse: Callable[[str], Any] | None = None, show: Callable[[Any], str] | None = None, secret: bool = False
) -> Meta:
    """Return an annotation for a field whose text msgspec does not convert by itself, or whose value must not be shown.

    `parse` reads the variable's text and raises ValueError; `show` returns what may be displayed; the text of a
    `secret` is in no error message.
    """
    return Meta(extra={"parse": parse, "show": show, "secret": secret})


def masked_url(url: str) -> str:
    """Return `url` without its passwords."""
    without = re.sub(r"^([^:/?#]+://[^:/@]*:).*@", r"\1…@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1…", without)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every service. The environment variable is the field's name in capitals."""

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
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="largest request body")] = 1 << 20
    trusted_proxies: Annotated[
        int, Meta(ge=0, le=10, description="proxies in front, whose X-Forwarded-* headers are believed")
    ] = 0
    prometheus_multiproc_dir: Annotated[
        str, Meta(description="folder for the workers' metrics; a fresh one if unset")
    ] = ""
    otel_exporter_otlp_endpoint: Annotated[
        str, Meta(description="where traces go by OTLP over HTTP; none if unset"), custom(show=masked_url, secret=True)
    ] = ""
    revision: Annotated[str, Meta(description="source revision, shown as build information")] = "unknown"

    @property
    def weaker(self) -> list[str]:
        """What these settings make less safe than it could be, one line each; logged at start."""
        return []

    @property
    def conflicts(self) -> list[str]:
        """Faults that no single variable shows, one line each, which begins with a variable's name."""
        endpoint = self.otel_exporter_otlp_endpoint
        if endpoint and not re.match(r"https?://.+", endpoint):
            return ["OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host:4318 or https://…"]
        return []


S = TypeVar("S", bound=Settings)


def _metas(field: msgspec.structs.FieldInfo) -> list[Meta]:
    return [meta for meta in get_args(field.type) if isinstance(meta, Meta)]


def _custom(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    return next((meta.extra for meta in _metas(field) if meta.extra), {})


def load(kind: type[S], environment: Mapping[str, str] = os.environ) -> S:
    """Settings of this kind from the environment. Raises ConfigurationError that lists every fault."""
    values: dict[str, Any] = {}
    problems = []
    for field in msgspec.structs.fields(kind):
        text = environment.get(field.name.upper(), "").strip()
        if not text:
            continue
        own = _custom(field)
        try:
            values[field.name] = own["parse"](text) if own.get("parse") else _converted(text, field.type)
        except ValueError as error:  # msgspec.ValidationError is one
            shown = "" if own.get("secret") else f" (it is {text!r})"
            problems.append(f"{field.name.upper()}: {error}{shown}")
    settings = kind(**values)
    known = {problem.partition(":")[0] for problem in problems}
    problems += [conflict for conflict in settings.conflicts if conflict.partition(":")[0] not in known]
    if problems:
        raise ConfigurationError(problems)
    return settings


def _converted(text: str, kind: Any) -> Any:
    choices = get_args(get_args(kind)[0]) if get_origin(get_args(kind)[0]) is Literal else ()
    if choices and text.lower() not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}")
    return msgspec.convert(text.lower() if choices else text, kind, strict=False)


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """(variable, value, meaning) of every setting, secrets masked."""
    rows = []
    for field in msgspec.structs.fields(type(settings)):
        value = getattr(settings, field.name)
        show = _custom(field).get("show") or str
        meaning = next(meta.description for meta in _metas(field) if meta.description)
        rows.append((field.name.upper(), "off" if value is None else show(value), meaning))
    return rows
