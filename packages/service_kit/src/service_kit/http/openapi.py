"""The OpenAPI 3.1 document, made from the types that the handlers decode and encode."""

import copy
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from flask import current_app

from service_kit.http.problems import CONTENT_TYPE, Problem
from service_kit.http.requests import service
from service_kit.service import Service

sys.modules["offapi"] = None  # type: ignore[assignment]  # whose scripts spectree would read at each start, for no use
try:
    from spectree import Response as Declared
    from spectree import SpecTree
    from spectree.model_adapter import get_msgspec_model_adapter
    from spectree.plugins.flask_plugin import FlaskPlugin
finally:
    del sys.modules["offapi"]

View = TypeVar("View", bound=Callable[..., Any])
BEARER = "bearer"
PERSONAL = "personal_token"
LARGEST_ID = 2**63 - 1
BY_ID = {"task_id": "$response.body#/id"}

HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": 'Only if the task still has this entity tag, such as "3" (RFC 9110).',
        "schema": {"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]+"(, (W/)?"[!#-~]+")*)$'},
    },
    "If-None-Match": {"description": "Answer 304 if nothing changed (RFC 9110).", "schema": {"type": "string"}},
    "Idempotency-Key": {
        "description": "Do this once, however often it is sent; kept for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-~]([ -~]*[!-~])?$"},
    },
    "ETag": {"description": "Entity tag (RFC 9110).", "schema": {"type": "string"}},
    "Location": {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": "The next page, as long as there is one (RFC 8288).", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to authenticate (RFC 6750).", "schema": {"type": "string"}},
    "Allow": {"description": "The methods there are.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {"description": "true where this answer was given before.", "schema": {"type": "string"}},
}

LINKS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("create_task", "201"): {
        operation: {"operationId": operation, "parameters": BY_ID}
        for operation in ("get_task", "put_task", "patch_task", "delete_task")
    },
    ("get_task", "200"): {
        operation: {"operationId": operation, "parameters": BY_ID}
        for operation in ("put_task", "patch_task", "delete_task")
    },
    ("put_task", "200"): {"get_task": {"operationId": "get_task", "parameters": BY_ID}},
    ("patch_task", "200"): {"get_task": {"operationId": "get_task", "parameters": BY_ID}},
    ("delete_task", "200"): {"get_task": {"operationId": "get_task", "parameters": BY_ID}},
    ("list_tasks", "200"): {"get_task": {"operationId": "get_task", "parameters": {"task_id": "$response.body#/0/id"}}},
    ("register_account", "201"): {
        "change_account": {"operationId": "change_account", "parameters": {"account_id": "$response.body#/id"}}
    },
    ("create_personal_token", "201"): {
        "delete_personal_token": {
            "operationId": "delete_personal_token",
            "parameters": {"token_id": "$response.body#/id"},
        }
    },
    ("list_sessions", "200"): {
        "end_session": {"operationId": "end_session", "parameters": {"session_id": "$response.body#/0/id"}}
    },
    ("login", "200"): {
        "refresh": {"operationId": "refresh", "requestBody": {"refresh_token": "$response.body#/refresh_token"}}
    },
    ("refresh", "200"): {
        "refresh": {"operationId": "refresh", "requestBody": {"refresh_token": "$response.body#/refresh_token"}}
    },
}


class Answers(msgspec.Struct, kw_only=True):
    """What an operation may answer, beside what every operation may (see `_common`)."""

    ok: Any = None
    created: Any = None
    no_content: bool = False
    text: bool = False
    media: str = "text/plain"
    """The media type of `text`."""
    not_modified: bool = False
    entity_tag: bool = False
    problems: tuple[int, ...] = ()

    def declared(self) -> Declared:
        """The same, as spectree takes it."""
        models: dict[str, Any] = {f"HTTP_{status}": Problem for status in self.problems}
        if self.ok is not None:
            models["HTTP_200"] = self.ok
        if self.created is not None:
            models["HTTP_201"] = self.created
        codes = {"HTTP_204": self.no_content, "HTTP_304": self.not_modified, "HTTP_200": self.text}
        return Declared(*(code for code, given in codes.items() if given), **models)


class Operation(msgspec.Struct, kw_only=True):
    """What the document says of an operation beyond its types."""

    answers: Answers
    public: bool
    idempotent: bool
    if_match: bool
    roles: tuple[str, ...]
    """The roles of which an account needs one; any account may where there is none."""
    scopes: tuple[str, ...]
    """The scopes that a personal token needs, all of them; where there is none, no personal token may."""
    personal: bool
    """Whether even an administrator reaches only what is their own."""


class _DocumentsOnly(FlaskPlugin):
    """The handlers decode by themselves, in one pass; the request takes no way around."""

    def validate(self, func: Callable[..., Any], *arguments: Any, **path: Any) -> Any:  # noqa: ARG002
        return func(**path)


_api = SpecTree(
    backend=_DocumentsOnly,
    model_adapter=get_msgspec_model_adapter(),
    naming_strategy=lambda model: getattr(model, "__name__", None) or model.__metadata__[0].title,
    nested_naming_strategy=lambda _parent, child: child,
    validation_error_status=400,
    validation_error_model=Problem,
    annotations=False,
    mode="strict",
)
_operations: dict[str, Operation] = {}


def documented(
    *,
    answers: Answers,
    query: Any = None,
    json: Any = None,
    path: dict[str, str] | None = None,
    public: bool = False,
    idempotent: bool = False,
    if_match: bool = False,
    roles: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    personal: bool = False,
    tag: str = "",
) -> Callable[[View], View]:
    """Put a handler into the document, under its function's name and docstring."""

    def decorate(view: View) -> View:
        _operations[view.__name__] = Operation(
            answers=answers,
            public=public,
            idempotent=idempotent,
            if_match=if_match,
            roles=roles,
            scopes=scopes,
            personal=personal,
        )
        decorated: View = _api.validate(
            query=query,
            json=json,
            resp=answers.declared(),
            tags=[tag or view.__module__.rpartition(".")[2]],
            operation_id=view.__name__,
            path_parameter_descriptions=path,
            skip_validation=True,
        )(view)
        return decorated

    return decorate


def declared(endpoint: str | None) -> Operation | None:
    """Return what is declared about the operation of one of Flask's endpoints."""
    return _operations.get((endpoint or "").rpartition(".")[2])


def document() -> dict[str, Any]:
    """The document of the application that answers now."""
    cache = current_app.extensions.setdefault("openapi", {})
    if not cache:
        own = copy.copy(_api)
        own.models = copy.deepcopy(_api.models)  # spectree takes its models apart when it makes the document
        cache.update(_completed(copy.deepcopy(own.spec), service()))
    return dict(cache)


def _completed(spec: dict[str, Any], about: Service) -> dict[str, Any]:
    spec["info"] = {"title": about.title, "version": about.version, "description": about.description}
    components = spec["components"]
    components["headers"] = {
        name: header for name, header in HEADERS.items() if not name.startswith(("If-", "Idempotency-Key"))
    }
    if about.authenticates:
        components["securitySchemes"] = {
            BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A session's token."},
            PERSONAL: {"type": "http", "scheme": "bearer", "description": "A personal token that has these scopes."},
        }
        spec["security"] = [{BEARER: []}]
    else:
        spec.pop("security")
    for path in spec["paths"].values():
        for operation in path.values():
            extra = _operations[operation["operationId"]]
            _common(operation, extra, about)
            _parameters(operation, extra)
            _responses(operation, extra)
    return spec


def _common(operation: dict[str, Any], extra: Operation, about: Service) -> None:
    """What every operation may answer, and who may ask."""

    def problem(description: str) -> dict[str, Any]:
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        return {"description": description, "content": content}

    responses = operation["responses"]
    if about.authenticates and extra.public:
        operation["security"] = []
    if about.authenticates and not extra.public:
        responses.setdefault("401", problem("No token, or one that is not valid"))
        responses.setdefault("403", problem("The token has not the role or the scope that this needs"))
        operation["security"] = [{BEARER: list(extra.roles)}]
        if extra.personal:
            operation["x-personal"] = True
        if extra.scopes:
            operation["security"].append({PERSONAL: list(extra.scopes)})
    if "operations" not in operation["tags"]:
        for status, description in about.common_problems.items():
            responses.setdefault(str(status), problem(description))
    responses["500"] = problem("An unexpected error")


def _parameters(operation: dict[str, Any], extra: Operation) -> None:
    for parameter in operation["parameters"]:
        if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
            parameter["schema"] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": LARGEST_ID}
    wanted = {
        "If-Match": extra.if_match,
        "If-None-Match": extra.answers.not_modified,
        "Idempotency-Key": extra.idempotent,
    }
    operation["parameters"] += [
        {"name": name, "in": "header", **HEADERS[name]} for name, given in wanted.items() if given
    ]
    if operation["operationId"] == "patch_task":
        content = operation["requestBody"]["content"]
        content["application/merge-patch+json"] = content.pop("application/json")


def _responses(operation: dict[str, Any], extra: Operation) -> None:
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if int(status) >= 400:  # noqa: PLR2004
            content[CONTENT_TYPE] = content.pop("application/json")
        if extra.answers.text and status == "200":
            response["content"] = {extra.answers.media: {"schema": {"type": "string"}}}
        names = {
            "ETag": status in {"200", "201", "304"}
            and (extra.answers.entity_tag or extra.answers.not_modified or (status == "201" and extra.idempotent)),
            "Location": status == "201",
            "Link": status == "200" and operation["operationId"] == "list_tasks",
            "Retry-After": status in {"429", "503"},
            "WWW-Authenticate": status == "401",
            "Idempotency-Replayed": extra.idempotent and status in {"200", "201"},
        }
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name, given in names.items() if given}
        if headers:
            response["headers"] = headers
        if links := LINKS.get((operation["operationId"], status)):
            response["links"] = links
