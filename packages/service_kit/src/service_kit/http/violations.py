"""All rules that a value breaks; msgspec stops at the first.

Each field is converted by itself, so that msgspec stays the only judge. This runs for invalid requests alone.
"""

from collections.abc import Iterator
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import quote

import msgspec

from service_kit.http.problems import Violation

MOST_REPORTED = 100
LONGEST_NAME = 100

Path = tuple[str | int, ...]


def body_violations(kind: Any, value: Any) -> list[Violation]:
    """Return the rules of the type that the body's decoded JSON breaks, with a JSON Pointer each."""
    broken = islice(_broken(kind, value, (), strict=True), MOST_REPORTED)
    return [Violation(pointer=_pointer(path), detail=detail) for path, detail in broken]


def query_violations(kind: Any, parameters: dict[str, Any]) -> list[Violation]:
    """Return the rules of the type that the query's parameters break, with the parameter's name each."""
    broken = islice(_broken(kind, parameters, (), strict=False), MOST_REPORTED)
    return [Violation(parameter=str(path[0])[:LONGEST_NAME] if path else "", detail=detail) for path, detail in broken]


def _pointer(path: Path) -> str:
    parts = (str(part)[:LONGEST_NAME].replace("~", "~0").replace("/", "~1") for part in path)
    return "#" + "".join(f"/{quote(part, safe='')}" for part in parts)


def _broken(kind: Any, value: Any, path: Path, *, strict: bool) -> Iterator[tuple[Path, str]]:
    """Yield the path and the detail of each broken rule; of nested values the innermost."""
    inner: Iterator[tuple[Path, str]] = iter(())
    struct, item = _struct_for(kind, value), item_of(kind)
    if struct is not None and isinstance(value, dict):
        inner = _broken_members(struct, value, path, strict=strict)
    elif item is not None and isinstance(value, list):
        inner = (
            broken for index, one in enumerate(value) for broken in _broken(item, one, (*path, index), strict=strict)
        )
    nested = False
    for broken in inner:
        nested = True
        yield broken
    if not nested:
        try:
            msgspec.convert(value, kind, strict=strict)
        except msgspec.ValidationError as error:
            yield path, str(error).partition(" - at `")[0]


def _broken_members(
    struct: type[msgspec.Struct], value: dict[str, Any], path: Path, *, strict: bool
) -> Iterator[tuple[Path, str]]:
    config = struct.__struct_config__
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name, field in fields.items():
        if name in value:
            yield from _broken(field.type, value[name], (*path, name), strict=strict)
        elif field.required:
            yield (*path, name), "is required"
    if config.forbid_unknown_fields:
        yield from (((*path, name), "is unknown") for name in value if name not in fields and name != config.tag_field)


def _structs(kind: Any) -> tuple[type[msgspec.Struct], ...]:
    """Return the structs that a value of the type may be."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return (kind,)
    parts = () if get_origin(kind) is list else get_args(kind)
    return tuple(struct for part in parts for struct in _structs(part))


def _struct_for(kind: Any, value: Any) -> type[msgspec.Struct] | None:
    """Return the struct that the value is meant to be: the only one, or the one of its tag."""
    structs = _structs(kind)
    if len(structs) == 1:
        return structs[0]
    for struct in structs:
        config = struct.__struct_config__
        if isinstance(value, dict) and value.get(config.tag_field) == config.tag:
            return struct
    return None


def item_of(kind: Any) -> Any:
    """Return the type of a list's items, also where it may be something else instead; None for what is no list."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return next((item for part in get_args(kind) if (item := item_of(part)) is not None), None)
    return get_args(kind)[0] if get_origin(kind) is list else None
