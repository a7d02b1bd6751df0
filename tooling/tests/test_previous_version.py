"""Which version is the last release; the canaries of previous_version show what its gates report."""

import subprocess
from pathlib import Path

import pytest

from tooling import previous_version, tools
from tooling.findings import NotAssessed
from tooling.previous_version import last_release
from tooling.project import Service

VERSIONS = "services/clock/src/clock/store/migrations/versions"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, path: str) -> str:
    """Add a file in a commit of its own; return the commit."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(path)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", path)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "README.md")
    return tmp_path


def test_without_a_tag_it_is_the_commit_before_the_newest_migration(repository: Path) -> None:
    with pytest.raises(NotAssessed, match="no commit comes before a migration"):
        last_release(repository)
    commit(repository, f"{VERSIONS}/0001_a.py")
    before = commit(repository, "services/clock/src/clock/app.py")
    commit(repository, f"{VERSIONS}/0002_b.py")
    commit(repository, "docs/a.md")
    assert last_release(repository) == before
    (repository / VERSIONS / "0001_a.py").write_text("changed")
    git(repository, "commit", "--quiet", "--all", "--message", "a migration that is changed is no new one")
    assert last_release(repository) == before


def test_it_is_the_newest_tag_before_this_commit(repository: Path) -> None:
    commit(repository, f"{VERSIONS}/0001_a.py")
    git(repository, "tag", "v1.0.0")
    git(repository, "tag", "nightly")
    commit(repository, f"{VERSIONS}/0002_b.py")
    assert last_release(repository) == "v1.0.0"
    git(repository, "tag", "v1.1.0")
    assert last_release(repository) == "v1.0.0", "a release is compared with the one before it"
    commit(repository, "docs/a.md")
    assert last_release(repository) == "v1.1.0"


def test_without_a_history_nothing_is_assessed_and_the_remedy_is_named(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit(repository, f"{VERSIONS}/0001_a.py")
    clone = tmp_path_factory.mktemp("clones") / "shallow"
    git(repository, "clone", "--quiet", "--depth=1", f"file://{repository}", str(clone))
    with pytest.raises(NotAssessed, match="run `git fetch --unshallow --tags`"):
        last_release(clone)
    with pytest.raises(NotAssessed, match="clone it instead"):
        last_release(tmp_path_factory.mktemp("archive"))


def test_a_checkout_has_the_files_of_its_commit_and_the_tests_of_a_newer_one(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = Service(folder=repository / "services" / "clock", name="clock")
    for file in ("conftest.py", "test_old.py"):
        old = commit(repository, f"services/clock/tests/{file}")
    commit(repository, "services/clock/src/new.py")
    git(repository, "mv", "services/clock/tests/test_old.py", "services/clock/tests/test_new.py")
    folder = tmp_path_factory.mktemp("checkouts")
    older = tools.checkout(repository, old, folder / "older")
    assert not (older / "services/clock/src").exists()
    mixed = previous_version.with_tests_of(repository, older, service, folder / "mixed")
    assert sorted(file.name for file in (mixed / "services/clock/tests").iterdir()) == ["conftest.py", "test_new.py"]


def test_a_service_without_the_plugin_is_not_assessed(tmp_path: Path) -> None:
    service = Service(folder=tmp_path / "services" / "clock", name="clock")
    with pytest.raises(NotAssessed, match=r"services/clock/tests/newer_schema\.py is missing"):
        previous_version.on_newer_schema(service, tmp_path, tmp_path)
