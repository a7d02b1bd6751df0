"""How much of a rate limit's window each client has used, in memory that the workers of one machine share."""

import fcntl
import mmap
import os
import struct
import tempfile
import weakref
from threading import Lock

SLOT = struct.Struct("=QII")
"""A client's hash, the end of its window in Unix seconds, and how much of it is used."""

SLOTS_OF_A_BUCKET = 8
BUCKETS = 8192
SIZE = BUCKETS * SLOTS_OF_A_BUCKET * SLOT.size  # 1 MiB


def _memory_file() -> int:
    """Return a file in memory. It serves as the lock too: the system frees that when a process dies with it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rate-windows")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedWindows:
    """A hash table of fixed size, to be made before the workers are forked.

    They share its memory and the seed of Python's hashes. In a full bucket the window that ended first is replaced,
    then the least used one: a flood of addresses frees none that is used up.
    """

    def __init__(self) -> None:
        self._file = _memory_file()
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, SIZE)
        self._memory = mmap.mmap(self._file, SIZE)
        self._lock = Lock()  # the file's lock is the process', whichever of its threads takes it

    def take(self, client: str, ends_at: int, limit: int, share: int) -> tuple[int, int]:
        """Take a part of what is left of the client's window, as `rates.take` does."""
        key = hash(client) & 0xFFFF_FFFF_FFFF_FFFF
        start = key % BUCKETS * SLOTS_OF_A_BUCKET * SLOT.size
        offsets = range(start, start + SLOTS_OF_A_BUCKET * SLOT.size, SLOT.size)
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                slots = {offset: SLOT.unpack_from(self._memory, offset) for offset in offsets}
                own = next((offset for offset, slot in slots.items() if slot[0] == key), None)
                used = slots[own][2] if own is not None and slots[own][1] == ends_at else 0
                if used >= limit:
                    return 0, used
                taken = max(1, (limit - used) // share)
                place = own if own is not None else min(slots, key=lambda offset: slots[offset][1:])
                SLOT.pack_into(self._memory, place, key, ends_at, used + taken)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        return taken, used + taken
