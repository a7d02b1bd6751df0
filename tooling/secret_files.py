"""The installation's own secrets: made once, at random, into env files that git ignores and only their owner may read.

Compose reads them by `env_file`; deploying to a cluster of one's own makes Secrets of them.
"""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from tooling.project import ROOT

FOLDER = ROOT / ".secrets"
JWT_KEYS_KEPT = 2  # the one that signs, and the one whose tokens are still out


def ensure(folder: Path = FOLDER) -> dict[str, Path]:
    """Make the env files that are missing and give each by its name: postgres, task_api, grafana.

    What exists is never changed, so that a database and its password stay together.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    postgres = _once(folder / "postgres.env", {"POSTGRES_PASSWORD": secrets.token_urlsafe(24)})
    password = read(postgres)["POSTGRES_PASSWORD"]
    return {
        "postgres": postgres,
        "task_api": _once(
            folder / "task_api.env",
            {"DATABASE_URL": f"postgresql://task_api:{password}@postgres/tasks", "JWT_KEYS": _jwt_key()},
        ),
        "grafana": _once(folder / "grafana.env", {"GF_SECURITY_ADMIN_PASSWORD": secrets.token_urlsafe(18)}),
    }


def read(path: Path) -> dict[str, str]:
    """Give the names and values of an env file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def rotate(folder: Path = FOLDER) -> str:
    """Put a new JWT key first, so that it signs, and keep the one before it for its tokens; give the new key's id.

    The service takes it up when it starts next. Once every token of the older key has expired, rotating again drops it.
    """
    path = ensure(folder)["task_api"]
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
    """Write by renaming, so that a crash leaves the old file or the new one, and nobody else can ever read it."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    draft.replace(path)
