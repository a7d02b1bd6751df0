"""Planted migrations for the session previous_version: what the version before cannot live with."""

import shutil
import subprocess
from pathlib import Path

from task_core.schema import REVISIONS
from tooling import previous_version, tools
from tooling.canaries import canary
from tooling.canaries.fixtures import plant
from tooling.findings import Scan
from tooling.project import ROOT, service

SERVICE = service("task-api")
TESTS = f"{SERVICE.path}/tests/test_tasks.py"
ONE_TEST = "test_a_task_is_created_with_the_defaults"
MIGRATION = """
from alembic import op
revision = "9999"
down_revision = {before!r}
def upgrade():
    op.execute({statement!r})
"""


def newer(folder: Path, statement: str) -> Path:
    """Write a checkout with one more migration into a folder, and return it."""
    for kind in ("packages", "services"):
        shutil.copytree(ROOT / kind, folder / "newer" / kind, ignore=shutil.ignore_patterns("__pycache__"))
    versions = f"newer/{SERVICE.path}/src/{SERVICE.package}/store/migrations/versions"
    plant(folder, f"{versions}/9999_planted.py", MIGRATION.format(before=REVISIONS[-1], statement=statement))
    return folder / "newer"


def older(folder: Path) -> Path:
    """Write the last commit's files into a folder, and return it."""
    return tools.checkout(ROOT, "HEAD", folder / "older")


def migrated(folder: Path, statement: str, kind: str) -> Scan:
    """Run a test of the last commit on the schema after one more migration, on a kind of database."""
    words = f"{ONE_TEST} and {kind}"
    return previous_version.on_newer_schema(SERVICE, older(folder), newer(folder, statement), "-k", words)


RENAME = "ALTER TABLE tasks RENAME COLUMN title TO name"


@canary("previous_version/older-tests", "a renamed column, on SQLite", rule="fails-on-newer-schema", path=TESTS)
def renamed_column(folder: Path) -> Scan:
    return migrated(folder, RENAME, "sqlite")


@canary("previous_version/older-tests", "a renamed column, on PostgreSQL", rule="fails-on-newer-schema", path=TESTS)
def renamed_column_of_postgresql(folder: Path) -> Scan:
    return migrated(folder, RENAME, "postgresql")


@canary("previous_version/older-tests", "a column NOT NULL without a default", rule="fails-on-newer-schema", path=TESTS)
def column_without_default(folder: Path) -> Scan:
    return migrated(folder, "ALTER TABLE tasks ADD COLUMN label text NOT NULL", "postgresql")


@canary("previous_version/older-tests", "tests that fail on any schema", problem="fail on their own schema too")
def broken_tests(folder: Path) -> Scan:
    with (older(folder) / TESTS).open("a") as file:
        file.write(f"\n\ndef {ONE_TEST}():\n    raise AssertionError\n")
    return previous_version.on_newer_schema(SERVICE, folder / "older", newer(folder, "SELECT 1"), "-k", ONE_TEST)


@canary("previous_version/older-tests", "a history that ends before the last release", problem="git fetch --unshallow")
def shallow_clone(folder: Path) -> Scan:
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", folder / "clone"], check=True)
    return previous_version.on_newer_schema(SERVICE, Path(previous_version.last_release(folder / "clone")), ROOT)


@canary("previous_version/newer-tests", "a renamed column", rule="fails-on-newer-schema", path=TESTS)
def renamed_column_for_newer_tests(folder: Path) -> Scan:
    mixed = previous_version.with_tests_of(ROOT, older(folder), SERVICE, folder / "mixed")
    words = f"{ONE_TEST} and sqlite"
    return previous_version.on_newer_schema(SERVICE, mixed, newer(folder, RENAME), "-k", words, tool="newer-tests")
