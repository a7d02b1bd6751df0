"""The secrets of one installation: generated once, into env files that Git ignores and only their owner may read.

Compose reads them by `env_file`; a deploy to a local cluster makes Secrets of them.
"""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from tooling.project import ROOT, service, services

FOLDER = ROOT / ".secrets"
JWT_KEYS_KEPT = 2  # the one that signs, and the one whose tokens are still out


def ensure(folder: Path = FOLDER) -> dict[str, Path]:
    """Write the env files that are missing; return each by its name: postgres, grafana, the services' packages.

    A service has one when it has a database or accounts. A file that exists never changes, so that a database and its
    password stay together.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    postgres = _once(folder / "postgres.env", {"POSTGRES_PASSWORD": secrets.token_urlsafe(24)})
    password = read(postgres)["POSTGRES_PASSWORD"]
    files = {
        "postgres": postgres,
        "grafana": _once(folder / "grafana.env", {"GF_SECURITY_ADMIN_PASSWORD": secrets.token_urlsafe(18)}),
    }
    for one in services():
        values = {"JWT_KEYS": _jwt_key()} if one.accounts else {}
        if one.database:
            values["DATABASE_URL"] = f"postgresql://{service().package}:{password}@postgres/{one.database}"
        if values:
            files[one.package] = _once(folder / f"{one.package}.env", values)
    return files


def read(path: Path) -> dict[str, str]:
    """Return the names and values of an env file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def rotate(folder: Path = FOLDER) -> str:
    """Put a new JWT key first, so that it signs, keep the previous one for its tokens, and return the new key's id.

    The default service reads it at its next start. Rotate again, once every token of the older key has expired, to
    drop that key.
    """
    path = ensure(folder)[service().package]
    values = read(path)
    new = _jwt_key()
    values["JWT_KEYS"] = ",".join([new, *values["JWT_KEYS"].split(",")][:JWT_KEYS_KEPT])
    _write(path, values)
    return new.split(":")[0]


def _jwt_key() -> str:
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}:{secrets.token_urlsafe(48)}"


def _once(path: Path, values: dict[str, str]) -> Path:
    if not path.exists():
        _write(path, values)
    return path


def _write(path: Path, values: dict[str, str]) -> None:
    """Write by renaming: after a crash the old file or the new one is there, and nobody else can ever read it."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    draft.replace(path)
