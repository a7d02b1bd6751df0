"""The service under attack: the real one, on loopback, with accounts, on PostgreSQL where there is one."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

import httpx

from tooling.dast.samples import Sampler
from tooling.findings import NotAssessed
from tooling.postgres import postgres
from tooling.service import ServiceError, environment, running
from tooling.tools import MissingTool

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
TASK_API = (sys.executable, "-m", "task_api")


@dataclass(frozen=True)
class Account:
    """Somebody who can log in."""

    email: str
    role: str = "user"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document."""

    method: str
    path: str
    declared: dict[str, Any]
    roles: frozenset[str] | None
    """None: for everybody. Empty: for whoever is logged in. Else: for these roles."""

    @property
    def label(self) -> str:
        """Its method and path template."""
        return f"{self.method} {self.path}"

    def parameters(self, place: str) -> list[dict[str, Any]]:
        """Its required parameters in PLACE: path, query or header."""
        found = self.declared.get("parameters", [])
        return [parameter for parameter in found if parameter["in"] == place and parameter.get("required")]

    @property
    def content(self) -> dict[str, Any]:
        """What its body may be, by content type; empty where it takes none."""
        found: dict[str, Any] = self.declared.get("requestBody", {}).get("content", {})
        return found

    def bodies(self, sampler: Sampler) -> Iterator[tuple[str | None, Any]]:
        """Give each body that is to be tried, with its content type; one of None where it takes none."""
        if not self.content:
            yield None, None
        for content_type, media in self.content.items():
            for body in sampler.alternatives(media["schema"]):
                yield content_type, body


@dataclass(frozen=True)
class Target:
    """A service that can be attacked, and what the attacker's owner knows of it."""

    url: str
    database: str = ""
    key: str = field(default="", repr=False)
    log: Path = Path(os.devnull)
    accounts: dict[str, Account] = field(default_factory=dict)

    @cached_property
    def client(self) -> httpx.Client:
        """A client of the service that follows no redirect."""
        return httpx.Client(base_url=self.url, timeout=30)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document. Raises `NotAssessed` where it cannot be had."""
        try:
            answer = self.client.get("/openapi.json").raise_for_status()
        except httpx.HTTPError as error:
            raise NotAssessed(f"{self.url} cannot be reached: {error}") from error
        document: dict[str, Any] = answer.json()
        return document

    @cached_property
    def operations(self) -> list[Operation]:
        """Every operation of the document."""
        found = []
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if declared := item.get(method):
                    security = declared.get("security", self.document.get("security", []))
                    everybody = not security or {} in security
                    roles = None if everybody else frozenset(chain.from_iterable(chain(*map(dict.values, security))))
                    found.append(Operation(method.upper(), path, declared, roles))
        if not found:
            raise NotAssessed("the OpenAPI document has no operation")
        return found

    def place(self, method: str, path: str) -> str:
        """Name a request by its operation (`GET /tasks/{task_id}`), or as it is where none has such a path."""
        for template in sorted(self.document["paths"], key=lambda known: "{" in known):
            if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path):
                return f"{method} {template}"
        return f"{method} {path}"

    def tokens(self, account: Account) -> dict[str, str]:
        """Log in and give the answer: access_token, refresh_token and more. Raises `NotAssessed`."""
        login = {"email": account.email, "password": account.password}
        answer = self.client.post("/auth/login", json=login)
        if answer.status_code != HTTPStatus.OK:
            raise NotAssessed(f"{account.email} cannot log in: {answer.status_code} {answer.text[:200]}")
        tokens: dict[str, str] = answer.json()
        return tokens

    def credentials(self, operation: Operation, known: Account) -> dict[str, Any]:
        """Give what an operation for everybody may ask for: of the account KNOWN, or new where it makes one."""
        if operation.roles is not None:
            return {}
        makes = "201" in operation.declared["responses"]
        account = Account(f"new-{secrets.token_hex(4)}@example.com") if makes else known
        given = {"email": account.email, "password": account.password}
        resolve = Sampler(self.document, {}).resolve
        if "refresh_token" in json.dumps([resolve(media["schema"]) for media in operation.content.values()]):
            given["refresh_token"] = self.tokens(known)["refresh_token"]
        return given

    def maker(self, operation: Operation) -> tuple[Operation | None, str]:
        """Give the operation that makes what this one is about, and the link's expression for its id.

        A link of the document says so; for an operation without one, a link from what its path is under does.
        """
        nearest: tuple[Operation | None, str] = (None, "")
        for maker in self.operations:
            for link in maker.declared["responses"].get("201", {}).get("links", {}).values():
                for expression in link.get("parameters", {}).values():
                    if link["operationId"] == operation.declared["operationId"]:
                        return maker, expression
                    if f"{operation.path}/".startswith(f"{maker.path}/") and maker.roles is not None:
                        nearest = maker, expression
        return nearest

    def join(self, name: str) -> Account:
        """Register a new account."""
        account = Account(f"{name}-{secrets.token_hex(4)}@example.com")
        answer = self.client.post("/auth/register", json={"email": account.email, "password": account.password})
        if answer.status_code != HTTPStatus.CREATED:
            raise NotAssessed(f"no account can be made: {answer.status_code} {answer.text[:200]}")
        return account


def database(stack: ExitStack, folder: Path, *, embedded: bool) -> dict[str, str]:
    """Give the settings of an empty database: PostgreSQL until STACK closes, or SQLite in FOLDER."""
    if not embedded:
        with suppress(MissingTool):
            return {"DATABASE_URL": stack.enter_context(postgres())}
    return {"DB_PATH": str(folder / "tasks.db")}


@contextmanager
def attacked(folder: Path, *, program: Sequence[str] = TASK_API, embedded: bool = False) -> Iterator[Target]:
    """Run the service to be attacked: an owner, another user and an administrator have accounts there.

    EMBEDDED takes SQLite also where PostgreSQL could be had. PROGRAM stands in for `task-api`.
    Raises `NotAssessed` where the service does not start.
    """
    key, log = secrets.token_urlsafe(32), folder / "service.log"
    settings = {
        "AUTH": "on",
        "JWT_KEYS": f"dast:{key}",
        "RATE_LIMIT": "100000000/minute",
        "LOGIN_LIMIT": "100000000/minute",
        "REGISTRATION_LIMIT": "100000000/minute",
    }
    with ExitStack() as stack:
        try:
            settings |= database(stack, folder, embedded=embedded)
            url = stack.enter_context(running(settings, log=log, program=program))
        except ServiceError as error:
            raise NotAssessed(str(error)) from error
        admin = Account("administrator@example.com", "admin")
        made = subprocess.run(
            [*program, "create-admin", admin.email],
            env=environment({**settings, "ADMIN_PASSWORD": admin.password}),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise NotAssessed(f"task-api create-admin ended with status {made.returncode}: {made.stderr[-1000:]}")
        kind = "PostgreSQL" if "DATABASE_URL" in settings else "SQLite"
        target = Target(url, kind, key, log)
        target.accounts.update(owner=target.join("owner"), other=target.join("other"), admin=admin)
        yield target
        target.client.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Give the service's log lines; one that is not a JSON object is given as its `message`, marked `unparsed`."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            decoded = json.loads(line)
        except json.JSONDecodeError:
            decoded = None
        lines.append(decoded if isinstance(decoded, dict) else {"message": line, "unparsed": True})
    return lines
