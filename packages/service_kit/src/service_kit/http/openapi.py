"""The OpenAPI 3.1 document, made from the types that the handlers decode and encode."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from flask import Flask, current_app
from werkzeug.http import http_date
from werkzeug.routing import Rule

from service_kit.http.messages import prepare
from service_kit.http.problems import CONTENT_TYPE, Problem
from service_kit.http.requests import deprecated, service
from service_kit.http.streams import EVENTS
from service_kit.service import Service

View = TypeVar("View", bound=Callable[..., Any])
BEARER = "bearer"
PERSONAL = "personal_token"
JSON = "application/json"
REFERENCE = "#/components/{}/{}"
LARGEST_INTEGER = 2**53 - 1
"""The greatest integer that every JSON parser reads exactly (RFC 8259, section 6)."""
LARGEST_INT32 = 2**31 - 1
ECMASCRIPT = "x-ecmascript-pattern"
"""A key for `extra_json_schema`: the pattern in the syntax of JSON Schema, where Python's has another meaning there."""
VARIABLE = re.compile(r"<(?:(\w+):)?(\w+)>")

IF_MATCH = re.compile(
    r'^(?:\*|(?:,[ \t,]*)?(?:W/)?"[!#-~\x80-\xff]*"(?:[ \t]*,[ \t,]*(?:W/)?"[!#-~\x80-\xff]*")*(?:[ \t,]*,)?)$'
)
"""What If-Match may hold: `*`, or entity tags with commas between them, of which some may have none (RFC 9110,
sections 5.6.1, 8.8.3 and 13.1.1)."""

REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": 'Only if the resource still has this entity tag, such as "3" (RFC 9110).',
        # Schemathesis makes no text in quotes for a header (4.32): without the first choice it sends 0 as valid.
        "schema": {"type": "string", "anyOf": [{"const": "*"}, {"pattern": IF_MATCH.pattern}]},
    },
    "If-None-Match": {"description": "Answer 304 if nothing changed (RFC 9110).", "schema": {"type": "string"}},
    "Last-Event-ID": {
        "description": "The id of the last event of a stream, which goes on behind it (WHATWG HTML, section 9.2).",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "Do this once, however often it is sent; kept for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-~]([ -~]*[!-~])?$"},
    },
}
RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "Entity tag (RFC 9110).", "schema": {"type": "string"}},
    "Location": {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": "Such as the next page, as long as there is one (RFC 8288).", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to authenticate (RFC 6750).", "schema": {"type": "string"}},
    "Content-Encoding": {
        "description": "gzip where the response is large and Accept-Encoding allows it (RFC 9110).",
        "schema": {"const": "gzip"},
    },
    "Vary": {"description": "Request headers that the response depends on (RFC 9110).", "schema": {"type": "string"}},
    "Deprecation": {
        "description": "Since when the operation is deprecated: @ and Unix time (RFC 9745).",
        "schema": {"type": "string", "pattern": "^@[0-9]+$"},
    },
    "Sunset": {"description": "When the operation is expected to end (RFC 8594).", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "true where this is an earlier answer again.",
        "schema": {"type": "string"},
    },
}


class Link(msgspec.Struct, frozen=True):
    """An operation that a response's values lead to, by expressions such as `$response.body#/id` (OpenAPI's Link)."""

    operation: str
    parameters: Mapping[str, str] = {}
    body: Mapping[str, str] = {}


class Answers(msgspec.Struct, kw_only=True):
    """What an operation may answer, beside what every operation may."""

    ok: Any = None
    alternatives: Mapping[str, Any] = {}
    """What a client gets in the place of `ok` by naming a media type in Accept, by that media type."""
    created: Any = None
    no_content: bool = False
    text: bool = False
    media: str = "text/plain"
    """The media type of `text`."""
    not_modified: bool = False
    entity_tag: bool = False
    paged: bool = False
    compressed: bool = False
    """Whether the handler passes its response to `compressed`."""
    problems: tuple[int, ...] = ()
    links: tuple[Link, ...] = ()


class Deprecation(msgspec.Struct, frozen=True):
    """Since when an operation is deprecated, when it is expected to end, and where to read what replaces it."""

    since: datetime
    sunset: datetime | None = None
    guide: str = ""
    """A URI reference, such as `/docs`."""

    def __post_init__(self) -> None:
        if any(moment and moment.tzinfo is None for moment in (self.since, self.sunset)):
            raise ValueError("a deprecation's times need an offset, such as tzinfo=UTC")
        if self.sunset and self.sunset < self.since:
            raise ValueError("an operation may not end before it is deprecated (RFC 9745, section 4)")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers Deprecation (RFC 9745), Sunset (RFC 8594) and Link of every response of the operation."""
        result = [("Deprecation", f"@{int(self.since.timestamp())}")]
        if self.sunset:
            result.append(("Sunset", http_date(self.sunset)))
        if self.guide:
            result.append(("Link", f'<{self.guide}>; rel="deprecation"'))
        return result


class Operation(msgspec.Struct, kw_only=True):
    """What the document declares of an operation."""

    name: str
    summary: str
    description: str
    tag: str
    answers: Answers
    query: Any
    json: Any
    content_type: str
    path: dict[str, str]
    public: bool
    idempotent: bool
    if_match: bool
    roles: tuple[str, ...]
    """The roles of which an account needs one; any account may where there is none."""
    scopes: tuple[str, ...]
    """The scopes that a personal token needs, all of them; where there is none, no personal token may."""
    personal: bool
    """Whether even an administrator reaches only what is their own."""
    deprecation: Deprecation | None


_operations: dict[str, Operation] = {}


def documented(
    *,
    answers: Answers,
    query: Any = None,
    json: Any = None,
    content_type: str = JSON,
    path: dict[str, str] | None = None,
    public: bool = False,
    idempotent: bool = False,
    if_match: bool = False,
    roles: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    personal: bool = False,
    deprecation: Deprecation | None = None,
    tag: str = "",
) -> Callable[[View], View]:
    """Put a handler into the document, under its function's name and docstring.

    Who checks tokens learns from `declared` whether an operation is public, and which role or scope it needs. With
    `deprecation`, every response of the operation has its headers.
    """
    prepare(query=query, json=json)

    def decorate(view: View) -> View:
        summary, _, description = (inspect.getdoc(view) or "").partition("\n")
        _operations[view.__name__] = Operation(
            name=view.__name__,
            summary=summary.removesuffix("."),
            description=description.strip() or summary,
            tag=tag or view.__module__.rpartition(".")[2],
            answers=answers,
            query=query,
            json=json,
            content_type=content_type,
            path=path or {},
            public=public,
            idempotent=idempotent,
            if_match=if_match,
            roles=roles,
            scopes=scopes,
            personal=personal,
            deprecation=deprecation,
        )
        if deprecation:
            deprecated[view.__name__] = deprecation.headers
        return view

    return decorate


def declared(endpoint: str | None) -> Operation | None:
    """Return what is declared about the operation of an endpoint of this application."""
    view = current_app.view_functions.get(endpoint or "")
    return _operations.get(view.__name__) if view else None


def document() -> dict[str, Any]:
    """Return the document of the application that answers now."""
    cache: dict[str, Any] = current_app.extensions.setdefault("openapi", {})
    if not cache:
        cache.update(_document(current_app, service()))
    return cache


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Yield the method, the path and the operation's name of every route; no name where the document lacks it."""
    for rule, operation in _rules(app):
        for method in _methods(rule):
            yield method, VARIABLE.sub(r"{\2}", rule.rule), operation.name if operation else ""


def _methods(rule: Rule) -> list[str]:
    return sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})


def _rules(app: Flask) -> Iterator[tuple[Rule, Operation | None]]:
    for rule in app.url_map.iter_rules():
        yield rule, _operations.get(app.view_functions[rule.endpoint].__name__)


def _document(app: Flask, about: Service) -> dict[str, Any]:
    operations = [(rule, operation) for rule, operation in _rules(app) if operation]
    schemas = _Schemas([operation for _, operation in operations])
    paths: dict[str, Any] = {}
    for rule, operation in operations:
        path = VARIABLE.sub(r"{\2}", rule.rule)
        for method in _methods(rule):
            paths.setdefault(path, {})[method.lower()] = _operation(rule, operation, schemas, about)
    used = {
        name
        for path in paths.values()
        for operation in path.values()
        for response in operation["responses"].values()
        for name in response.get("headers", ())
    }
    headers = {name: described for name, described in RESPONSE_HEADERS.items() if name in used}
    components = {"schemas": schemas.components, "headers": headers}
    result = {
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": about.version, "description": about.description},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for _, operation in operations)],
        "paths": paths,
        "components": components,
    }
    if about.authenticates:
        components["securitySchemes"] = {
            BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A session's token."},
            PERSONAL: {"type": "http", "scheme": "bearer", "description": "A personal token that has these scopes."},
        }
        result["security"] = [{BEARER: []}]
    _complete(result)
    return result


class _Schemas:
    """The JSON Schemas of all types that operations take and return."""

    def __init__(self, operations: list[Operation]) -> None:
        kinds = [Problem]
        for one in operations:
            bodies = (one.json, one.query, one.answers.ok, one.answers.created, *one.answers.alternatives.values())
            kinds += [kind for kind in bodies if kind is not None]
        made, self.components = msgspec.json.schema_components(
            kinds, ref_template=REFERENCE.format("schemas", "{name}")
        )
        self._kinds, self._made = kinds, made
        for one in operations:
            if one.query is not None:
                self.components.pop(one.query.__name__, None)
        self._queries = {
            one.query: msgspec.json.schema_components([one.query])[1][one.query.__name__]
            for one in operations
            if one.query is not None
        }

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type."""
        return self._made[self._kinds.index(kind)]

    def parameters(self, kind: Any) -> list[dict[str, Any]]:
        """Return the query parameters that a type stands for."""
        schema = self._queries[kind]
        return [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": dict(one)}
            for name, one in schema["properties"].items()
        ]


def _operation(rule: Rule, operation: Operation, schemas: _Schemas, about: Service) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": [operation.tag],
        "parameters": list(_parameters(rule, operation, schemas)),
        "responses": dict(sorted(_responses(rule, operation, schemas, about))),
    }
    if operation.json is not None:
        content = {operation.content_type: {"schema": schemas.of(operation.json)}}
        result["requestBody"] = {"required": True, "content": content}
    if operation.deprecation:
        result["deprecated"] = True
    if about.authenticates:
        result["security"] = _security(operation)
        if operation.personal:
            result["x-personal"] = True
    return result


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    if operation.public:
        return []
    personal = [{PERSONAL: list(operation.scopes)}] if operation.scopes else []
    return [{BEARER: list(operation.roles)}, *personal]


def _parameters(rule: Rule, operation: Operation, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for converter, name in VARIABLE.findall(rule.rule):
        schema = {"type": "integer", "minimum": 0} if converter == "int" else {"type": "string", "minLength": 1}
        described = {"description": operation.path.get(name, name.replace("_", " "))}
        yield {"name": name, "in": "path", "required": True, "schema": schema, **described}
    if operation.query is not None:
        yield from schemas.parameters(operation.query)
    wanted = {
        "If-Match": operation.if_match,
        "If-None-Match": operation.answers.not_modified,
        "Last-Event-ID": EVENTS in operation.answers.alternatives,
        "Idempotency-Key": operation.idempotent,
    }
    yield from ({"name": name, "in": "header", **REQUEST_HEADERS[name]} for name, wants in wanted.items() if wants)


def _responses(
    rule: Rule, operation: Operation, schemas: _Schemas, about: Service
) -> Iterator[tuple[str, dict[str, Any]]]:
    answers = operation.answers
    bodies = {200: answers.ok, 201: answers.created}
    for status, kind in bodies.items():
        if kind is not None:
            media = {JSON: kind, **(answers.alternatives if status == HTTPStatus.OK else {})}
            yield _response(operation, status, {name: {"schema": schemas.of(one)} for name, one in media.items()})
    if answers.text:
        yield _response(operation, 200, {answers.media: {"schema": {"type": "string"}}})
    for status, wanted in ((204, answers.no_content), (304, answers.not_modified)):
        if wanted:
            yield _response(operation, status, {})
    common = dict.fromkeys(about.common_problems) if operation.tag != "operations" else {}
    token = {401: None, 403: None} if about.authenticates and not operation.public else {}
    condition = {400: None, 412: None} if operation.if_match else {}
    texts = [name for converter, name in VARIABLE.findall(rule.rule) if converter != "int"]
    long = {414: None} if texts or operation.query is not None else {}
    for status in {**dict.fromkeys(answers.problems), **common, **token, **condition, **long, 500: None}:
        description = about.common_problems.get(status, "")
        yield _response(operation, status, {CONTENT_TYPE: {"schema": schemas.of(Problem)}}, description)


def _response(
    operation: Operation, status: int, content: dict[str, Any], description: str = ""
) -> tuple[str, dict[str, Any]]:
    answers = operation.answers
    description = description or HTTPStatus(status).phrase
    tagged = answers.entity_tag or answers.not_modified
    announced = dict(operation.deprecation.headers) if operation.deprecation else {}
    wanted = {
        "ETag": (tagged and status in {200, 304}) or (status == HTTPStatus.CREATED and operation.idempotent),
        "Location": status == HTTPStatus.CREATED,
        "Link": (status == HTTPStatus.OK and answers.paged) or "Link" in announced,
        "Retry-After": status in {429, 503},
        "Content-Encoding": status == HTTPStatus.OK and answers.compressed,
        "Vary": status in {200, 304} and answers.compressed,
        "WWW-Authenticate": status == HTTPStatus.UNAUTHORIZED,
        "Deprecation": "Deprecation" in announced,
        "Sunset": "Sunset" in announced,
        "Idempotency-Replayed": operation.idempotent and status in {200, 201},
    }
    headers = {name: {"$ref": REFERENCE.format("headers", name)} for name, wants in wanted.items() if wants}
    links = {link.operation: _link(link) for link in answers.links} if status in {200, 201} else {}
    parts = {"content": content, "headers": headers, "links": links}
    return str(status), {"description": description, **{name: part for name, part in parts.items() if part}}


def _link(link: Link) -> dict[str, Any]:
    parts = {"parameters": dict(link.parameters), "requestBody": dict(link.body)}
    return {"operationId": link.operation, **{name: part for name, part in parts.items() if part}}


def _complete(part: Any) -> None:
    """Set the format of every integer, by its maximum (OpenAPI Format Registry), and the patterns for ECMAScript."""
    if isinstance(part, dict):
        if ECMASCRIPT in part:
            part["pattern"] = part.pop(ECMASCRIPT)
        if part.get("type") == "integer":
            part.setdefault("maximum", LARGEST_INTEGER)
            part["format"] = "int32" if part["maximum"] <= LARGEST_INT32 else "int64"
        for one in part.values():
            _complete(one)
    elif isinstance(part, list):
        for one in part:
            _complete(one)
