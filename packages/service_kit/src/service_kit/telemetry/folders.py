"""Folders of metrics where no setting names one: each goes with its service, or with the next one that starts."""

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "service-metrics-held-"
"""Folders without `held` are of a version that holds them only when it serves: one of them may be starting."""

made: set[str] = set()
"""Those of this process."""


def unnamed(folder: str | None) -> bool:
    """Return whether no setting names the folder: who starts a program leaves its own folder in the environment."""
    return folder is None or (Path(folder).name.startswith(PREFIX) and folder not in made)


def fresh() -> str:
    """Return a new folder that is held, and is removed when this process ends."""
    while hold(folder := Path(tempfile.mkdtemp(prefix=PREFIX))) is None:
        pass  # a service that starts has just taken it for one that is left
    made.add(str(folder))
    atexit.register(_remove, folder, os.getpid())
    return str(folder)


def hold(folder: Path) -> int | None:
    """Return a lock of the folder, or None where another process has it, or removes the folder.

    It lasts until the last process that has it ends: those that are forked have it too, other programs do not.
    """
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), folder.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def remove_left() -> None:
    """Remove this user's folders that no process holds: what had them was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another service that starts has just removed it
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and (lock := hold(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # workers inherit what their parent registered
        shutil.rmtree(folder, ignore_errors=True)
