"""The cluster's backup and restore: k8s/base/backup.sh and restore.sh, in the image that they run in."""

import re
import secrets
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from task_api.config import Settings
from task_api.store.migrations import migrate
from task_core.database import Database
from task_core.schema import REVISIONS
from tooling.project import ROOT

pytestmark = pytest.mark.docker

PROGRAMS = ROOT / "k8s" / "base"
IMAGE = re.findall(r" image: (\S+)", (PROGRAMS / "backup.yaml").read_text())[0]
ACCOUNTS = "SELECT id, email, created_at FROM accounts"
SCHEMA = """
    SELECT nspowner::regrole::text, nspacl::text, relname::text, relowner::regrole::text
    FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid WHERE nspname = 'public' ORDER BY relname
"""
FILL = "CREATE TABLE filling AS SELECT n, sha512(n::text::bytea) AS noise FROM generate_series(1, 3000) AS n"
"""About 200 kB that cannot be compressed."""


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


class Server:
    """PostgreSQL whose database belongs to a user without other rights, and a volume of 1 MiB for backups."""

    def __init__(self, container: str, password: str) -> None:
        self.container = container
        port = docker("port", container, "5432/tcp").stdout.splitlines()[0].rpartition(":")[2]
        self.inside = f"postgresql://task_api:{password}@127.0.0.1/tasks"
        self.outside = self.inside.replace("127.0.0.1", f"127.0.0.1:{port}")

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the server, as the user that the jobs have."""
        environment = [f"--env={name}={value}" for name, value in settings.items()]
        return docker("exec", "--user=999:999", *environment, self.container, *command)

    def shell(self, script: str) -> list[str]:
        """Return the lines that a script prints, which must succeed."""
        done = self.run("bash", "-ceu", script)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def job(self, name: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the program of one of the cluster's jobs."""
        return self.run("bash", "-c", (PROGRAMS / f"{name}.sh").read_text(), DATABASE_URL=self.inside, **settings)

    def migrate(self, revision: str) -> None:
        """Bring the database from its revision to a later one."""
        database = Database(Settings(database_url=self.outside))
        try:
            migrate(database, revision)
        finally:
            database.engine.dispose()

    def query(self, query: str) -> list[tuple[object, ...]]:
        """Return a query's rows."""
        with psycopg.connect(self.outside) as connection:
            return connection.execute(query).fetchall()

    def execute(self, statement: str) -> None:
        """Execute a statement that has no rows."""
        with psycopg.connect(self.outside) as connection:
            connection.execute(statement)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """Run one server for all tests of this module."""
    password = secrets.token_hex(16)
    options = ["--publish=127.0.0.1::5432", "--tmpfs=/backups:size=1m,uid=999,gid=999,mode=700"]
    started = docker("run", "--detach", *options, f"--env=POSTGRES_PASSWORD={password}", IMAGE)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        server = Server(container, password)
        server.shell("for _ in {1..300}; do pg_isready --quiet --host=127.0.0.1 && exit; sleep 0.1; done; exit 1")
        server.shell(f"psql --username=postgres --command=\"CREATE ROLE task_api LOGIN PASSWORD '{password}'\"")
        yield server
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.fixture
def server(running: Server) -> Server:
    """The server with an empty database, and no backup."""
    running.shell("dropdb --username=postgres --force --if-exists tasks; rm -f /backups/*")
    running.shell("createdb --username=postgres --owner=task_api tasks")
    return running


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_a_backup_of_any_revision_takes_the_place_of_the_newest(server: Server, revision: str) -> None:
    server.migrate(revision)
    saved = server.job("backup")
    assert saved.returncode == 0, saved.stderr
    before, schema = server.query(ACCOUNTS), server.query(SCHEMA)
    server.migrate(REVISIONS[-1])
    server.execute("UPDATE accounts SET email = 'after the backup'")

    restored = server.job("restore", BACKUP="")
    assert restored.returncode == 0, restored.stderr
    assert (server.query(ACCOUNTS), server.query(SCHEMA)) == (before, schema)
    server.migrate(REVISIONS[-1])
    assert server.query(ACCOUNTS) == before


@pytest.mark.parametrize("lost", [100, 50_000, 150_000])
def test_a_backup_that_breaks_off_changes_nothing(server: Server, lost: int) -> None:
    server.migrate(REVISIONS[-1])
    server.execute(FILL)
    assert server.job("backup").returncode == 0
    server.shell(f"truncate --size=-{lost} /backups/*.dump")
    server.execute("UPDATE accounts SET email = 'after the backup'")
    before, schema = server.query(ACCOUNTS), server.query(SCHEMA)

    restored = server.job("restore", BACKUP="")
    assert restored.returncode != 0
    assert "end of file" in restored.stderr
    assert (server.query(ACCOUNTS), server.query(SCHEMA)) == (before, schema)
    assert server.query("SELECT count(*) FROM filling") == [(3000,)]


def test_a_full_volume_is_freed_of_what_is_old_before_the_dump(server: Server) -> None:
    server.execute(FILL)
    server.shell(
        'cd /backups; file() { head -c $3 /dev/zero > $1; touch --date="$2 ago" $1; }\n'
        "file 2020-01-01T021700Z.dump '20 days' 300000\n"
        "file 2020-01-02T021700Z.dump '2 days' 100000\n"
        "file 2020-01-03T021700Z.dump.partial '1 day' 500000\n"
        "file 2020-01-04T021700Z.dump.partial '5 minutes' 10000"
    )
    saved = server.job("backup")
    assert saved.returncode == 0, saved.stderr
    *kept, new = server.shell("cd /backups; ls")
    assert kept == ["2020-01-02T021700Z.dump", "2020-01-04T021700Z.dump.partial"], "another job may be at the second"
    assert f"/backups/{new} " in saved.stdout


def test_a_dump_that_fails_leaves_the_last_good_one_and_nothing_else(server: Server) -> None:
    server.execute(FILL)
    server.shell("head -c 900000 /dev/zero > /backups/last.dump; touch --date='20 days ago' /backups/last.dump")
    failed = server.job("backup")
    assert failed.returncode != 0
    assert "No space left on device" in failed.stderr
    assert server.shell("ls /backups") == ["last.dump"]
