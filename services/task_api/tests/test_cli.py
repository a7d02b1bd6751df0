import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from task_api import cli
from task_api.config import Settings
from task_core.schema import REVISIONS

from .conftest import KEY

GUARDED = {"AUTH": "on", "JWT_KEYS": f"k1:{KEY.secret}"}


@pytest.fixture
def environment(empty_settings: Settings) -> dict[str, str]:
    return {"DB_PATH": empty_settings.db_path, "DATABASE_URL": empty_settings.database_url}


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli.main, arguments, **options)


def test_the_settings_are_shown_with_secrets_masked(tmp_path: Path) -> None:
    shown = run("check-config", env={**GUARDED, "DB_PATH": str(tmp_path / "t.db")})
    assert shown.exit_code == 0
    assert "JWT_KEYS" in shown.output
    assert KEY.secret not in shown.output


@pytest.mark.parametrize("command", ["serve", "check-config", "migrate", "export", "healthcheck"])
def test_bad_settings_are_all_named_and_exit_with_2(command: str) -> None:
    refused = run(command, env={"PORT": "x", "HOST": "0.0.0.0"})
    assert refused.exit_code == 2
    assert "task-api: PORT:" in refused.output
    assert "task-api: AUTH:" in refused.output


def test_weaker_settings_are_logged_at_start(tmp_path: Path) -> None:
    assert "note: AUTH=off" in run("check-config", env={"DB_PATH": str(tmp_path / "t.db")}).output


def test_a_database_is_migrated_filled_exported_and_imported_from_the_command_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert run("migrate", env=environment).output == f"the schema was at nothing and is at {REVISIONS[-1]}\n"
    admin = run("create-admin", "root@example.org", env={**environment, "ADMIN_PASSWORD": "a long enough one"})
    assert (admin.exit_code, admin.output) == (0, "account 1, root@example.org, is an administrator\n")
    exported = tmp_path / "export.jsonl"
    assert run("export", str(exported), env=environment).exit_code == 0
    assert [json.loads(line)["type"] for line in exported.read_text().splitlines()] == ["account", "account", "end"]
    imported = run("import", str(exported), env=environment)
    assert (imported.exit_code, imported.output) == (0, "2 accounts and 0 tasks are here\n")


def test_migrate_leaves_the_schema_of_a_newer_version_and_ends_with_0(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    run("migrate", env={"DB_PATH": str(file)})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    left = run("migrate", env={"DB_PATH": str(file)})
    assert (left.exit_code, left.output) == (0, "the schema is at 9999, of a newer version, and stays there\n")


def test_an_import_that_fails_reports_the_reason_and_exits_with_1(environment: dict[str, str], tmp_path: Path) -> None:
    run("migrate", env=environment)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")
    refused = run("import", str(broken), env=environment)
    assert refused.exit_code == 1
    assert "task-api: line 1:" in refused.output


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_database_that_is_not_migrated_or_missing_is_reported_and_exits_with_1(
    environment: dict[str, str], command: str
) -> None:
    for database, message in (
        (environment, f"the schema is at nothing and {REVISIONS[-1]} is needed: run `task-api migrate`"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}, "connection"),
    ):
        refused = run(command, env=database)
        assert (refused.exit_code, type(refused.exception)) == (1, SystemExit)
        assert "task-api: " in refused.output
        assert message in refused.output


@pytest.mark.parametrize(("email", "password"), [("nobody", "a long enough one"), ("root@example.org", "short")])
def test_an_administrator_needs_an_address_and_a_good_password(
    environment: dict[str, str], email: str, password: str
) -> None:
    run("migrate", env=environment)
    refused = run("create-admin", email, env={**environment, "ADMIN_PASSWORD": password})
    assert refused.exit_code == 1
    assert "task-api:" in refused.output


def test_an_administrator_needs_a_schema(environment: dict[str, str]) -> None:
    refused = run("create-admin", "r@example.org", env={**environment, "ADMIN_PASSWORD": "a long enough one"})
    assert refused.exit_code == 1
    assert "run `task-api migrate`" in refused.output


def test_an_administrator_is_made_once(environment: dict[str, str]) -> None:
    run("migrate", env=environment)
    made = [
        run("create-admin", "r@example.org", env={**environment, "ADMIN_PASSWORD": "a long enough one"}) for _ in "12"
    ]
    assert [result.exit_code for result in made] == [0, 1]


@pytest.mark.parametrize("command", ["serve", "export", "migrate"])
@pytest.mark.parametrize("path", ["file/tasks.db", "file"])
def test_what_can_be_no_database_is_named_and_exits_with_1(command: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, but longer than the head that one would have" * 20)
    refused = run(command, env={"DB_PATH": str(tmp_path / path), "PORT": "0"})
    assert refused.exit_code == 1
    assert refused.output.startswith("task-api: DB_PATH")


def test_a_database_server_that_is_not_there_is_named_and_exits_with_1() -> None:
    refused = run("migrate", "--wait", "0.1", env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"})
    assert refused.exit_code == 1
    assert "connection" in refused.output


@pytest.mark.parametrize(("host", "address"), [("::1", "::1"), ("::", "::1"), ("0.0.0.0", "127.0.0.1")])
def test_the_health_check_connects_to_where_the_service_listens(host: str, address: str) -> None:
    @Request.application
    def answer(_: Request) -> Response:
        return Response("alive")

    server = make_server(address, 0, answer)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    assert run("healthcheck", env={**GUARDED, "HOST": host, "PORT": str(server.server_port)}).exit_code == 0
    thread.join()
    server.server_close()


def test_the_health_check_fails_where_nothing_listens() -> None:
    assert run("healthcheck", env={"PORT": "9"}).exit_code == 1


def test_a_service_that_lives_without_its_database_is_healthy_but_not_ready() -> None:
    @Request.application
    def answer(request: Request) -> Response:
        return Response(status={"/livez": 200, "/readyz": 503}[request.path])

    server = make_server("127.0.0.1", 0, answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    alive, ready = (run("healthcheck", *flags, env={"PORT": str(server.server_port)}) for flags in ((), ("--ready",)))
    server.shutdown()
    thread.join()
    server.server_close()
    assert alive.exit_code == 0
    assert ready.exit_code == 1
    assert "503" in ready.output


def test_progress_of_a_long_import_is_reported(tmp_path: Path) -> None:
    environment = {"DB_PATH": str(tmp_path / "tasks.db")}
    run("migrate", env=environment)
    task = {
        "type": "task",
        "title": "t",
        "description": "",
        "status": "pending",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "owner_id": 0,
        "priority": 1,
        "due_at": None,
        "version": 1,
    }
    file = tmp_path / "many.jsonl"
    with file.open("w") as lines:
        for number in range(1, 10_002):
            lines.write(json.dumps({**task, "id": number}) + "\n")
        lines.write('{"type":"end","accounts":0,"tasks":10001}\n')
    done = run("import", str(file), env=environment)
    assert done.output.splitlines() == ["10000 lines", "0 accounts and 10001 tasks are here"]


def test_an_export_is_its_owners_alone_also_where_the_file_was_there(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run("migrate", env=environment)
    new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    old.touch(mode=0o644)
    for file in (new, old):
        assert run("export", str(file), env=environment).exit_code == 0
        assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_an_export_that_cannot_be_written_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    run("migrate", env=environment)
    for file, reason in (("/dev/full", "No space left"), (str(tmp_path / "no" / "f"), "No such file")):
        refused = run("export", file, env=environment)
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
        assert refused.output.startswith("task-api: export: ")
        assert reason in refused.output


def test_settings_are_shown_in_any_encoding(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "task_api", "check-config"]
    settings = {**GUARDED, "DB_PATH": str(tmp_path / "t.db"), "PYTHONIOENCODING": "iso-8859-1"}
    shown = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, check=True)
    assert b"JWT_KEYS" in shown.stdout
