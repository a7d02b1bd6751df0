"""The secrets of one installation: generated once, into env files that Git ignores and only their owner may read.

Compose reads them by `env_file`; a deploy to a local cluster makes Secrets of them.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tooling.project import ROOT, service, services

FOLDER = ROOT / ".secrets"
DROPPED = "dropped_encryption_keys.env"
JWT_KEYS_KEPT = 2  # the one that signs, and the one whose tokens are still out


def ensure(folder: Path = FOLDER) -> dict[str, Path]:
    """Write the env files that are missing; return each by its name: postgres, grafana, the services' packages.

    A service has one when it has a database or accounts. A value that exists never changes, so that a database and its
    password stay together; one that a newer checkout needs is added.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    postgres = _complete(folder / "postgres.env", {"POSTGRES_PASSWORD": secrets.token_urlsafe(24)})
    password = read(postgres)["POSTGRES_PASSWORD"]
    files = {
        "postgres": postgres,
        "grafana": _complete(folder / "grafana.env", {"GF_SECURITY_ADMIN_PASSWORD": secrets.token_urlsafe(18)}),
    }
    sharing = [one for one in services() if one.database == service().database]  # the data, and what decrypts it
    kept = [_read_if_there(folder / f"{one.package}.env").get("ENCRYPTION_KEYS") for one in sharing]
    encryption_keys = next(filter(None, kept), None) or _key()
    for one in services():
        values = {"JWT_KEYS": _key()} if one.accounts else {}
        if one.database:
            values["DATABASE_URL"] = f"postgresql://{service().package}:{password}@postgres/{one.database}"
        if one in sharing:
            values["ENCRYPTION_KEYS"] = encryption_keys
        if values:
            files[one.package] = _complete(folder / f"{one.package}.env", values)
    return files


def read(path: Path) -> dict[str, str]:
    """Return the names and values of an env file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def _read_if_there(path: Path) -> dict[str, str]:
    return read(path) if path.exists() else {}


def rotate(folder: Path = FOLDER) -> str:
    """Put a new JWT key first, so that it signs, keep the previous one for its tokens, and return the new key's id.

    The default service reads it at its next start. Rotate again, once every token of the older key has expired, to
    drop that key.
    """
    path = ensure(folder)[service().package]
    values = read(path)
    new = _key()
    values["JWT_KEYS"] = ",".join([new, *values["JWT_KEYS"].split(",")][:JWT_KEYS_KEPT])
    _write(path, values)
    return new.split(":")[0]


def rotate_encryption(folder: Path = FOLDER) -> str:
    """Put a new key first, which encrypts what is new, keep those before it, and return the new key's id.

    The command `encrypt-secrets` uses it for what there is; then `drop_old_encryption` drops the others.
    """
    new = _key()
    _set_encryption(folder, lambda keys: [new, *keys])
    return new.split(":")[0]


def drop_old_encryption(folder: Path = FOLDER) -> str:
    """Drop all keys but the one that encrypts, and return its id.

    The others are kept in `DROPPED`: older dumps need them, and so does the database until `encrypt-secrets` has run.
    """

    def drop(keys: list[str]) -> list[str]:
        dropped = folder / DROPPED
        before = _read_if_there(dropped).get("ENCRYPTION_KEYS", "").split(",")
        if kept := list(filter(None, [*keys[1:], *before])):
            _write(dropped, {"ENCRYPTION_KEYS": ",".join(kept)})
        return keys[:1]

    return _set_encryption(folder, drop)[0].split(":")[0]


def _set_encryption(folder: Path, change: Callable[[list[str]], list[str]]) -> list[str]:
    files = ensure(folder)
    changed = change(read(files[service().package])["ENCRYPTION_KEYS"].split(","))
    for path in files.values():
        values = read(path)
        if "ENCRYPTION_KEYS" in values:
            _write(path, {**values, "ENCRYPTION_KEYS": ",".join(changed)})
    return changed


def _key() -> str:
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}:{secrets.token_urlsafe(48)}"


def _complete(path: Path, values: dict[str, str]) -> Path:
    """Write the values that the file has not yet."""
    there = _read_if_there(path)
    if values.keys() - there.keys():
        _write(path, {**values, **there})
    return path


def _write(path: Path, values: dict[str, str]) -> None:
    """Write by renaming: after a crash the old file or the new one is there, and nobody else can ever read it."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    draft.replace(path)
