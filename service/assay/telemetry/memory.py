"""What a process holds of the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes(pid: int | None) -> int | None:
    """Return a process's resident memory; None where it is gone, or no /proc tells."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
