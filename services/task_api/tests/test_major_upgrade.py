"""PostgreSQL's next major version: a backup of the one that ships is restored into it, and nothing is lost."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from task_api import cli
from task_api.config import Settings
from task_api.store.migrations import migrate
from task_core.database import Database
from tooling.postgres import SHIPPED, Server, postgres_server
from tooling.project import ROOT

from .conftest import KEY, Client, client_of, log_in

PROGRAMS = ROOT / "k8s" / "base"


def settings_of(server: Server) -> Settings:
    return Settings(database_url=server.url, auth="on", jwt_keys=(KEY,), rate_limit=None)


def run(program: str, server: Server, client: Server, backups: Path) -> None:
    """Run a program of the cluster's backups on a server, with the client programs of another one."""
    text = (PROGRAMS / program).read_text()
    assert "/backups" in text
    environment = {**os.environ, "DATABASE_URL": server.url, "PATH": f"{client.programs}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", text.replace("/backups", str(backups))], env=environment, check=True)


def exported(server: Server) -> str:
    environment = {"DATABASE_URL": server.url, "AUTH": "on", "JWT_KEYS": f"k1:{KEY.secret}"}
    done = CliRunner().invoke(cli.main, ["export"], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def write(client: Client) -> dict[str, Any]:
    """Leave something in each table that people write, and return a task."""
    ada = log_in(client)
    more = {"labels": ["flat", "\u017bar"], "project": "House", "priority": "high"}
    repeated = {"due_at": "2026-12-01T08:00:00Z", "recurrence": "FREQ=WEEKLY", "time_zone": "Europe/Berlin"}
    for title in ("Malt den Zaun", "\u0436\u0438\u0437\u043d\u044c \U0001f600", "Gone"):
        task = client.post("/tasks", json={"title": title, **more, **repeated}, headers=ada).json
    client.delete(f"/tasks/{task['id']}", headers=ada)
    kept: dict[str, Any] = client.get("/tasks?q=zaun", headers=ada).json[0]
    client.put(f"/tasks/{kept['id']}", json={"status": "completed"}, headers=ada)
    return kept


@pytest.mark.parametrize("major", [SHIPPED + 1])
def test_a_backup_is_restored_into_the_next_major_version(major: int, tmp_path: Path) -> None:
    with postgres_server() as old, postgres_server(major) as new:
        before = Database(settings_of(old))
        migrate(before)
        task = write(client_of(settings_of(old), before))
        before.engine.dispose()
        run("backup.sh", old, new, tmp_path)
        run("restore.sh", new, new, tmp_path)
        after = Database(settings_of(new))
        migrate(after)
        assert exported(new) == exported(old)

        client = client_of(settings_of(new), after)
        ada = log_in(client)
        assert [one["title"] for one in client.get("/tasks?q=zaun", headers=ada).json] == ["Malt den Zaun"] * 2
        history = client.get(f"/tasks/{task['id']}/history", headers=ada).json
        assert [entry["kind"] for entry in history] == ["updated", "created"]
        gone = client.post("/tasks/3/restore", headers=ada)
        assert (gone.status_code, gone.json["title"]) == (200, "Gone")
        created = client.post("/tasks", json={"title": "After"}, headers=ada)
        assert created.status_code == 201
        assert created.json["id"] > task["id"] + 2  # no id comes twice
        changes = client.get("/tasks/changes", headers=ada).json
        assert {one["id"] for one in changes["changes"]} >= {task["id"], created.json["id"]}
        after.engine.dispose()
