"""The whole stack under traffic of every kind, so that every metric has data."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg

from monitoring.stack import Page, Stack, cluster_metrics, running, serving
from tooling import service
from tooling.postgres import postgres

ROUND_SECONDS = 1.0


@contextmanager
def lively() -> Iterator[tuple[str, Stack]]:
    """Run service, PostgreSQL, Prometheus and Alertmanager under traffic; yield the service's address and the stack.

    Accounts are on. Each second has responses of every class: success, 400, 401, 404, 429 and server errors. A sample
    stands in for kube-state-metrics.
    """
    settings = {"AUTH": "on", "JWT_KEYS": f"20260101-4f2a1c:{secrets.token_urlsafe(48)}", "RATE_LIMIT": "60/second"}
    with (
        postgres() as database,
        service.running({"DATABASE_URL": database, **settings}) as url,
        serving(Page(cluster_metrics())) as cluster,
        running(
            {"task-api": url.removeprefix("http://"), "kube-state-metrics": cluster.removeprefix("http://")},
            hurry=True,
        ) as stack,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        stop = threading.Event()
        thread = threading.Thread(target=traffic, args=(url, connection, stop), daemon=True)
        thread.start()
        try:
            yield url, stack
        finally:
            stop.set()
            thread.join()


def traffic(url: str, connection: psycopg.Connection, stop: threading.Event) -> None:
    """Send a round of requests each second until `stop` is set."""
    account = {"email": "user@example.com", "password": secrets.token_urlsafe(24)}
    with httpx.Client(base_url=url, timeout=30) as client:
        client.post("/auth/register", json=account).raise_for_status()
        token = client.post("/auth/login", json=account).raise_for_status().json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        while not stop.wait(ROUND_SECONDS):
            created = client.post("/tasks", json={"title": "a task"})
            for path in ("/tasks", "/tasks?status=pending", "/auth/me", "/tasks/999999999", "/nowhere", "/readyz"):
                client.get(path)
            if created.is_success:
                client.patch(
                    created.headers["Location"],
                    json={"status": "completed"},
                    headers={"Content-Type": "application/merge-patch+json"},
                )
            client.post("/tasks", json={"title": ""})
            client.get("/tasks", headers={"Authorization": "Bearer forged"})
            for table, path in (("tasks", "/tasks"), ("alembic_version", "/readyz")):
                connection.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
                client.get(path)
                connection.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
            for _ in range(60):
                if client.get("/tasks?limit=1").status_code == httpx.codes.TOO_MANY_REQUESTS:
                    break
