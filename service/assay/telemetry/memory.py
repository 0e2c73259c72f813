"""What a process holds of the machine's memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path


def resident_bytes(pid: int | None) -> int | None:
    """Return a process's resident memory; None where it is gone, or no /proc tells."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def own_bytes() -> int:
    """Return this process's resident memory; 0 where no /proc tells."""
    return resident_bytes(os.getpid()) or 0


def give_back() -> None:
    """Return to the system what the allocator keeps of memory that was freed.

    It takes some milliseconds, without the interpreter. glibc alone has that.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
