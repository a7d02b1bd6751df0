"""What the tests of the image and of the stack share."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tooling.images import build
from tooling.project import service


@pytest.fixture(scope="session")
def image() -> str:
    """Return the image of this checkout."""
    return build.build(service())


@pytest.fixture(scope="session")
def sign_up() -> Callable[[str], dict[str, str]]:
    """Return a function that registers an account and returns its email and password, for `log_in`."""

    def register(address: str) -> dict[str, str]:
        account = {"email": f"{secrets.token_hex(6)}@example.org", "password": secrets.token_urlsafe(24)}
        httpx.post(f"{address}/auth/register", json=account, timeout=10).raise_for_status()
        return account

    return register


@pytest.fixture
def log_in() -> Iterator[Callable[[str, dict[str, str]], httpx.Client]]:
    """Yield a function that returns a client logged in to an account."""
    clients: list[httpx.Client] = []

    def client(address: str, account: dict[str, str]) -> httpx.Client:
        token = httpx.post(f"{address}/auth/login", json=account, timeout=10).raise_for_status().json()["access_token"]
        clients.append(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=30))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


@pytest.fixture
def all_tasks() -> Callable[[httpx.Client], list[dict[str, Any]]]:
    """Read every task, page by page."""

    def read(client: httpx.Client) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = []
        page: str | None = "/tasks?limit=100"
        while page:
            response = client.get(page).raise_for_status()
            tasks += response.json()
            page = response.links.get("next", {}).get("url")
        return tasks

    return read
