"""The stack of compose.yaml, as a second one beside a person's own: other names, other ports, other volumes."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from task_core.schema import REVISIONS
from tooling import compose
from tooling.project import ROOT

pytestmark = pytest.mark.docker

PORTS = ["TASK_API_PORT", "NOTIFIER_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT"]
LONG_RUNNING = {"task-api", "notifier", "postgres", "prometheus", "alertmanager", "alert-receiver"}


def docker_compose(*arguments: str) -> str:
    """Run docker compose and return its output."""
    done = subprocess.run(["docker", "compose", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def psql(command: str, database: str = "postgres") -> str:
    """Run an SQL command in the stack's PostgreSQL and return its output."""
    options = ["--username=task_api", f"--dbname={database}", "--tuples-only", "--no-align", f"--command={command}"]
    return docker_compose("exec", "--no-TTY", "postgres", "psql", *options).strip()


def containers() -> dict[str, dict[str, Any]]:
    """What the engine knows of each container, by the service's name."""
    names = docker_compose("ps", "--all", "--quiet").split()
    running = json.loads(subprocess.run(["docker", "inspect", *names], capture_output=True, check=True).stdout)
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in running}


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether `condition` becomes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


@pytest.fixture(scope="module")
def stack() -> Iterator[dict[str, str]]:
    """The addresses of the running stack, without Grafana."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", "task-api-test")
        for port in PORTS:
            patch.setenv(port, "0")
        compose.down(volumes=True)
        try:
            yield compose.up(grafana=False)
        finally:
            compose.down(volumes=True)


@pytest.fixture
def prometheus(stack: dict[str, str]) -> Iterator[Callable[[str], Any]]:
    """Query Prometheus' API."""
    with httpx.Client(base_url=f"{stack['prometheus']}/api/v1", timeout=10) as client:
        yield lambda path: client.get(path).raise_for_status().json()["data"]


@pytest.mark.usefixtures("stack")
def test_everything_is_healthy_and_the_schema_was_migrated_first() -> None:
    running = containers()
    assert running.keys() == LONG_RUNNING | {"migrate"}
    assert {name: running[name]["State"]["Health"]["Status"] for name in LONG_RUNNING} == dict.fromkeys(
        LONG_RUNNING, "healthy"
    )
    assert running["migrate"]["State"]["ExitCode"] == 0
    assert running["migrate"]["State"]["FinishedAt"] < running["task-api"]["State"]["StartedAt"]


@pytest.mark.usefixtures("stack")
def test_no_port_is_open_beyond_this_machine() -> None:
    bound = [
        binding["HostIp"]
        for container in containers().values()
        for bindings in container["HostConfig"]["PortBindings"].values()
        for binding in bindings
    ]
    assert len(bound) == len(PORTS)
    assert set(bound) == {"127.0.0.1"}


@pytest.mark.usefixtures("stack")
def test_every_container_is_without_rights_it_does_not_need() -> None:
    for name, container in containers().items():
        assert container["HostConfig"]["CapDrop"] == ["ALL"], name
        assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"], name
        assert container["HostConfig"]["ReadonlyRootfs"] or name == "postgres"


def test_prometheus_scrapes_every_target_each_ten_seconds_and_keeps_fifteen_days(
    prometheus: Callable[[str], Any],
) -> None:
    assert prometheus("/status/flags")["storage.tsdb.retention.time"] == "15d"
    assert wait_for(lambda: {one["health"] for one in prometheus("/targets")["activeTargets"]} == {"up"}, 30)
    targets = prometheus("/targets")["activeTargets"]
    assert {one["labels"]["job"] for one in targets} == {"task-api", "notifier", "prometheus", "alertmanager"}
    assert {one["scrapeInterval"] for one in targets} == {"10s"}


@pytest.mark.usefixtures("stack")
def test_the_service_is_unhealthy_while_its_database_is_away() -> None:
    def health() -> str:
        return str(containers()["task-api"]["State"]["Health"]["Status"])

    docker_compose("stop", "postgres")
    try:
        assert wait_for(lambda: health() == "unhealthy", 120)
    finally:
        docker_compose("start", "postgres")
    assert wait_for(lambda: health() == "healthy", 60)


@pytest.mark.usefixtures("stack")
def test_an_alert_goes_all_the_way_to_the_receiver() -> None:
    # Prometheus drops alerts until it has discovered Alertmanager, and sends them again after a minute.
    assert wait_for(lambda: "Watchdog" in docker_compose("logs", "--no-log-prefix", "alert-receiver"), 150)


def test_a_lost_database_comes_back_from_its_backup(
    stack: dict[str, str],
    tmp_path: Path,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
    all_tasks: Callable[[httpx.Client], list[dict[str, Any]]],
) -> None:
    account = sign_up(stack["task-api"])
    client = log_in(stack["task-api"], account)
    operations = [{"op": "create", "task": {"title": f"task {number}"}} for number in range(250)]
    for start in range(0, len(operations), 50):
        client.post("/tasks/bulk", json={"operations": operations[start : start + 50]}).raise_for_status()
    before = all_tasks(client)
    assert len(before) == len(operations)
    saved = compose.backup(tmp_path / "tasks.dump")
    assert saved.stat().st_mode & 0o077 == 0, "it holds everybody's tasks"
    client.post("/tasks", json={"title": "after the backup"}).raise_for_status()

    compose.down(volumes=True)
    stack.update(compose.up(grafana=False))
    assert httpx.post(f"{stack['task-api']}/auth/login", json=account, timeout=10).status_code == 401, "nobody is known"

    compose.restore(saved)
    stack.update(compose.addresses())
    assert all_tasks(log_in(stack["task-api"], account)) == before


def test_a_restore_ends_the_sessions_that_are_open(
    stack: dict[str, str],
    tmp_path: Path,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
) -> None:
    account = sign_up(stack["task-api"])
    log_in(stack["task-api"], account).post("/tasks", json={"title": "saved"}).raise_for_status()
    saved = compose.backup(tmp_path / "tasks.dump")
    sleep = ["--dbname=tasks", "--command=SELECT pg_sleep(600)"]
    docker_compose("exec", "--detach", "postgres", "psql", "--username=task_api", *sleep)
    assert wait_for(lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1", 30)
    compose.restore(saved)
    stack.update(compose.addresses())
    tasks = log_in(stack["task-api"], account).get("/tasks").raise_for_status().json()
    assert [task["title"] for task in tasks] == ["saved"]
    assert psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "0"


def test_no_service_uses_the_database_while_a_restore_replaces_it(
    stack: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = compose.backup(tmp_path / "tasks.dump")
    connected: list[str] = []
    sql = compose._sql

    def watched(*statements: str) -> None:
        if "BEGIN" in statements:
            sessions = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tasks' AND backend_type = 'client backend'"
            )
            connected.append(psql(sessions))
        sql(*statements)

    monkeypatch.setattr(compose, "_sql", watched)
    compose.restore(saved)
    stack.update(compose.addresses())
    assert connected == ["0"]
    assert all(containers()[name]["State"]["Health"]["Status"] == "healthy" for name in LONG_RUNNING)


def test_a_backup_of_an_older_schema_is_migrated(stack: dict[str, str], tmp_path: Path) -> None:
    older, newest = REVISIONS[-2:]
    psql("DROP SCHEMA public CASCADE", "tasks")
    psql("CREATE SCHEMA public", "tasks")
    program = (
        "from service_kit.config import load; from task_api.config import Settings;"
        " from task_core.database import Database; from task_api.store.migrations import migrate;"
        f" migrate(Database(load(Settings)), {older!r})"
    )
    docker_compose("run", "--rm", "--no-deps", "--entrypoint", "/usr/bin/python3", "migrate", "-c", program)
    assert psql("SELECT version_num FROM alembic_version", "tasks") == older
    compose.restore(compose.backup(tmp_path / "tasks.dump"))
    stack.update(compose.addresses())
    assert psql("SELECT version_num FROM alembic_version", "tasks") == newest


def test_a_restore_that_fails_at_the_last_step_reports_it_and_the_service_runs_on_what_was_there(
    stack: dict[str, str],
    tmp_path: Path,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = sign_up(stack["task-api"])
    saved = compose.backup(tmp_path / "tasks.dump")
    log_in(stack["task-api"], account).post("/tasks", json={"title": "after the backup"}).raise_for_status()
    run = compose._run

    def interfered(*arguments: str, **options: Any) -> int:
        if arguments[0] == "stop":
            psql("ALTER DATABASE tasks_restored RENAME TO tasks_elsewhere")
        return run(*arguments, **options)

    monkeypatch.setattr(compose, "_run", interfered)
    with pytest.raises(compose.ComposeError, match="untouched; the service runs on it again"):
        compose.restore(saved)
    psql("DROP DATABASE tasks_elsewhere")
    stack.update(compose.addresses())
    tasks = log_in(stack["task-api"], account).get("/tasks").raise_for_status().json()
    assert [task["title"] for task in tasks] == ["after the backup"]


def test_a_damaged_backup_is_refused_and_changes_nothing(
    stack: dict[str, str],
    tmp_path: Path,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
) -> None:
    client = log_in(stack["task-api"], sign_up(stack["task-api"]))
    client.post("/tasks", json={"title": "still here"}).raise_for_status()
    damaged = compose.backup(tmp_path / "tasks.dump")
    os.truncate(damaged, damaged.stat().st_size - 200)  # of the data, behind the table of contents
    with pytest.raises(compose.ComposeError, match="untouched"):
        compose.restore(damaged)
    assert [task["title"] for task in client.get("/tasks").raise_for_status().json()] == ["still here"]
    (tmp_path / "notes.txt").write_text("not a backup")
    with pytest.raises(compose.ComposeError, match="is not a backup"):
        compose.restore(tmp_path / "notes.txt")


def test_a_backup_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "task-api-not-running")
    with pytest.raises(compose.ComposeError, match="no backup was written"):
        compose.backup(tmp_path / "tasks.dump")
    assert list(tmp_path.iterdir()) == []
