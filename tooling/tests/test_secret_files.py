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


def test_services_that_share_a_database_share_what_decrypts_it(tmp_path: Path) -> None:
    files = secret_files.ensure(tmp_path)
    (keys,) = {
        secret_files.read(files[one.package])["ENCRYPTION_KEYS"] for one in services() if one.database == "tasks"
    }
    for name in ("notifier", "task_api"):
        files[name].unlink()
        assert secret_files.read(secret_files.ensure(tmp_path)[name])["ENCRYPTION_KEYS"] == keys


def test_what_a_newer_checkout_needs_is_added_to_the_files_that_there_are(tmp_path: Path) -> None:
    files = secret_files.ensure(tmp_path)
    before = {name: secret_files.read(path) for name, path in files.items()}
    for path in files.values():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("ENCRYPTION_KEYS=")))
    after = {name: secret_files.read(path) for name, path in secret_files.ensure(tmp_path).items()}
    added = [values.pop("ENCRYPTION_KEYS") for values in after.values() if "ENCRYPTION_KEYS" in values]
    for values in before.values():
        values.pop("ENCRYPTION_KEYS", None)
    assert after == before
    assert len(set(added)) == 1


def test_the_key_that_encrypts_is_renewed_and_the_old_ones_are_dropped_later(tmp_path: Path) -> None:
    def keys() -> list[str]:
        files = secret_files.ensure(tmp_path)
        (same,) = {secret_files.read(files[name])["ENCRYPTION_KEYS"] for name in ("task_api", "notifier")}
        return same.split(",")

    (old,) = keys()
    kid = secret_files.rotate_encryption(tmp_path)
    new, before = keys()
    assert (new.split(":")[0], before) == (kid, old)
    assert secret_files.drop_old_encryption(tmp_path) == kid
    assert keys() == [new]

    dropped = tmp_path / secret_files.DROPPED
    assert secret_files.read(dropped)["ENCRYPTION_KEYS"] == old
    assert dropped.stat().st_mode & 0o777 == 0o600
    secret_files.drop_old_encryption(tmp_path)  # once more: there is nothing to drop, and nothing is lost
    secret_files.rotate_encryption(tmp_path)
    secret_files.drop_old_encryption(tmp_path)
    assert secret_files.read(dropped)["ENCRYPTION_KEYS"].split(",") == [new, old]


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
