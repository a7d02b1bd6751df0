"""What a run has to hold, and the file that declares it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from locust_verdict import VerdictError


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one endpoint, or all together, have to hold; the README has the units."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p95_ratio: float | None = None
    server_p95_ms: float | None = None
    error_percent: float | None = None
    min_per_second: float | None = None
    min_requests: int = 100


class Yardstick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The endpoint that distinguishes a slow machine from a slow service; beyond `useless_p95_ms` nothing can.

    That is twenty times `slow_p95_ms` unless set.
    """

    endpoint: str
    slow_p95_ms: float
    useless_p95_ms: float | None = None

    @property
    def useless(self) -> float:
        """Where a run is inconclusive, in milliseconds."""
        return 20 * self.slow_p95_ms if self.useless_p95_ms is None else self.useless_p95_ms


class GeneratorLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the load generator counts as saturated."""

    cpu_percent: float = 90
    lag_p95_ms: float = 10


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file of objectives."""

    all: Limits
    endpoints: dict[str, Limits] = {}
    warmup_seconds: float = 5
    yardstick: Yardstick | None = None
    generator: GeneratorLimits = GeneratorLimits()

    def __post_init__(self) -> None:
        if self.all.error_percent is None:
            raise ValueError("`all` needs error_percent: without it a service that only fails would pass")
        if self.all.p95_ratio or self.all.server_p95_ms:
            raise ValueError("p95_ratio and server_p95_ms belong to an endpoint, not to `all`")
        if self.yardstick is None and any(limits.p95_ratio for limits in self.endpoints.values()):
            raise ValueError("p95_ratio needs a yardstick")


class BadObjectivesError(VerdictError):
    """The file of objectives cannot be used; the message is the reason."""


def load_objectives(path: Path) -> Objectives:
    """Read a file of objectives. Raises BadObjectivesError, with the line and column of the mistake."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise BadObjectivesError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise BadObjectivesError(" ".join(f"{path}: {error}".split())) from error
    if not isinstance(root, yaml.MappingNode):
        raise BadObjectivesError(f"{path}: it has to hold a mapping with the key `all`")
    _refuse_twice(path, root)
    endpoints = next((value for key, value in root.value if key.value == "endpoints"), None)
    if isinstance(endpoints, yaml.MappingNode):  # each by itself, as msgspec does not name the key of a mistake
        for _, node in endpoints.value:
            _convert(path, node, Limits)
    return _convert(path, root, Objectives)


T = TypeVar("T")


def _convert(path: Path, node: yaml.Node, kind: type[T]) -> T:
    try:
        return msgspec.convert(yaml.load(yaml.serialize(node), Loader=yaml.CSafeLoader), kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        unknown = re.search(r"unknown field `(.+)`", message)
        mark = _place(node, [*re.findall(r"\.(\w+)", where), *([unknown[1]] if unknown else [])])
        if unknown:
            message = f"unknown key `{unknown[1]}`"
        raise BadObjectivesError(f"{path}:{mark.line + 1}:{mark.column + 1}: {message}") from error


def _place(node: yaml.Node, keys: Sequence[str]) -> yaml.Mark:
    """Return where the last of the keys, each within the one before, begins."""
    mark = node.start_mark
    for name in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key, value in pairs:
            if key.value == name:
                mark, node = key.start_mark, value
    return mark


def _refuse_twice(path: Path, node: yaml.Node) -> None:
    """Refuse a key that is there twice: YAML would drop the first one's limits."""
    seen: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.value in seen:
            mark = key.start_mark
            raise BadObjectivesError(f"{path}:{mark.line + 1}:{mark.column + 1}: `{key.value}` is there twice")
        seen.add(key.value)
        _refuse_twice(path, value)
