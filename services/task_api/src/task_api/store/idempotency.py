"""The results of requests, kept under the key that the client chose, so that a request sent twice is done once."""

import os
import secrets
import socket
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from task_core.schema import idempotency_keys as keys

KEPT = timedelta(hours=24)
CLAIM_LASTS = timedelta(seconds=60)
"""How long a claim without a result is believed to be in flight; longer than any request may take."""

NAME_LENGTH = 32
PROC = Path("/proc")


def claim(connection: Connection, owner_id: int, key: str, digest: bytes, name: str, now: datetime) -> Row[Any] | None:
    """Claim a key under a name from `claim_name`: return None when that succeeded, else the row that holds the key.

    A claim of a process that has died is void, where that can be known; others lapse after `CLAIM_LASTS`.
    """
    this_key = (keys.c.owner_id == owner_id, keys.c.key == key)
    abandoned = keys.c.response.is_(None) & (keys.c.claimed_at < now - CLAIM_LASTS)
    connection.execute(delete(keys).where(*this_key, abandoned | (keys.c.claimed_at < now - KEPT)))
    # A primary that was restarted shows commits that no standby has. This lock makes the transaction one that writes,
    # and its commit waits until a standby has what was before it, the holder's result too. The holder may go on.
    held = select(keys).where(*this_key).with_for_update(read=True, key_share=True)
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(keys).values(owner_id=owner_id, key=key, request_digest=digest, claim=name, claimed_at=now)
    new = new.on_conflict_do_nothing().returning(keys.c.key)
    if connection.execute(new).one_or_none() is not None:
        return None
    holder = connection.execute(held).one_or_none()
    if holder is None or holder.response is not None or not _died(holder.claim):
        return holder
    connection.execute(delete(keys).where(*this_key, keys.c.claim == holder.claim, keys.c.response.is_(None)))
    if connection.execute(new).one_or_none() is not None:
        return None
    return connection.execute(held).one_or_none()


def keep(connection: Connection, owner_id: int, key: str, name: str, result: bytes) -> bool:
    """Keep the result; False when the claim has meanwhile gone to another."""
    held = (keys.c.owner_id == owner_id, keys.c.key == key, keys.c.claim == name)
    return connection.execute(update(keys).where(*held).values(response=result)).rowcount == 1


def release(connection: Connection, owner_id: int, key: str, name: str) -> None:
    """Delete a claim whose work was not done."""
    held = (keys.c.owner_id == owner_id, keys.c.key == key, keys.c.claim == name, keys.c.response.is_(None))
    connection.execute(delete(keys).where(*held))


def claim_name() -> str:
    """Return a new name for a claim. It begins with the machine and the process, where the system reports them."""
    process = os.getpid()
    origin = f"{_place()}-{process:x}-{_started(process):x}-" if _place() else ""
    return origin + secrets.token_hex(NAME_LENGTH)[: NAME_LENGTH - len(origin)]


def _died(name: str) -> bool:
    """Return whether the process that made this claim has surely ended: it ran in this place, and no longer exists."""
    place, dash, rest = name.partition("-")
    if not dash or place != _place():
        return False
    process, started, _ = rest.split("-")
    return _start_of(int(process, 16)) != int(started, 16)


@lru_cache(1)
def _place() -> str:
    """Return a name for this machine since its start, and for the container in it: where process ids mean the same."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text()
        namespace = (PROC / "self/ns/pid").readlink()
    except OSError:
        return ""
    return sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:8]


@lru_cache(1)
def _started(process: int) -> int:
    return _start_of(process) or 0


def _start_of(process: int) -> int | None:
    """When a process started, in clock ticks since the system's start (proc_pid_stat(5)); None when there is none."""
    try:
        status = (PROC / str(process) / "stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[19])
