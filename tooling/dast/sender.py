"""Requests that an operation accepts, sent as an account of their own where the service has accounts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tooling.dast.isolation import SAFE, Client
from tooling.dast.samples import NoSampleError, Sampler, value_at
from tooling.dast.target import Operation, Target
from tooling.findings import NotAssessed


@dataclass(frozen=True)
class Sender:
    """Prepares and sends the requests of operations."""

    target: Target
    client: Client | None

    @classmethod
    def of(cls, target: Target, name: str) -> "Sender":
        """Return a sender with a new account of that name, or without one."""
        return cls(target, Client(target, name) if target.service.accounts else None)

    def send(self, operation: Operation, path: str, headers: Mapping[str, bytes], **request: Any) -> httpx.Response:
        """Return the response to a request, of the account where there is one."""
        token = {"Authorization": f"Bearer {self.client.token}".encode()} if self.client else {}
        content_type = {"Content-Type": request.pop("content_type").encode()} if "content_type" in request else {}
        together = {name.lower(): value for name, value in {**token, **content_type, **headers}.items()}
        try:
            answer = self.target.patiently(operation.method, path, headers=list(together.items()), **request)
        except httpx.HTTPError as error:
            raise NotAssessed(f"{operation.label} was not answered: {error}") from error
        if self.client and operation.method not in SAFE:
            self.client.go_on()
        return answer

    def prepared(self, operation: Operation) -> dict[str, Any]:
        """Return a request that the operation accepts: its path and body."""
        values = self.target.credentials(operation, self.client.account) if self.client else {}
        path = operation.path
        maker, expression = self.target.maker(operation)
        try:
            if maker:
                made = self.send(maker, maker.path, {}, **self.body(maker, values))
                values["id"] = value_at(made.json(), expression)
            body = self.body(operation, values)
        except (NoSampleError, ValueError):
            body = {}
        return {"path": re.sub(r"\{[^}]*\}", str(values.get("id", 1)), path), **body}

    def body(self, operation: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the least body that an operation accepts, with its content type."""
        content_type, body = next(operation.bodies(Sampler(self.target.document, values)))
        return {} if content_type is None else {"content_type": content_type, "content": json.dumps(body)}
