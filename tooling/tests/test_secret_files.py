from pathlib import Path

from tooling import secret_files
from tooling.project import services


def test_secrets_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = {name: path.read_text() for name, path in secret_files.ensure(folder).items()}
    assert {name: path.read_text() for name, path in secret_files.ensure(folder).items()} == first
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    own = {f"{one.package}.env" for one in services() if one.database or one.accounts}
    assert {path.name for path in folder.iterdir()} == {"postgres.env", "grafana.env"} | own


def test_no_two_installations_share_a_secret(tmp_path: Path) -> None:
    here, there = secret_files.ensure(tmp_path / "here"), secret_files.ensure(tmp_path / "there")
    for name in here:
        assert not set(secret_files.read(here[name]).values()) & set(secret_files.read(there[name]).values())


def test_a_lost_file_is_made_again_around_the_password_the_database_already_has(tmp_path: Path) -> None:
    files = secret_files.ensure(tmp_path)
    files["task_api"].unlink()
    password = secret_files.read(files["postgres"])["POSTGRES_PASSWORD"]
    assert f":{password}@" in secret_files.read(secret_files.ensure(tmp_path)["task_api"])["DATABASE_URL"]


def test_rotation_signs_with_a_new_key_and_still_knows_the_one_before(tmp_path: Path) -> None:
    path = secret_files.ensure(tmp_path)["task_api"]
    before = secret_files.read(path)
    kid = secret_files.rotate(tmp_path)
    after = secret_files.read(path)
    new, old = after["JWT_KEYS"].split(",")
    assert new.startswith(f"{kid}:")
    assert old == before["JWT_KEYS"]
    assert len(new.split(":")[1]) >= 32
    assert after["DATABASE_URL"] == before["DATABASE_URL"]
    secret_files.rotate(tmp_path)
    assert secret_files.read(path)["JWT_KEYS"].split(",")[1] == new
