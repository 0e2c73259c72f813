"""A TOML file, read so that nothing that lies under its name hangs or breaks the reader.

Light to import: the sockets are opened by what stands in one.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 2**20


def content(path: Path | str, most_bytes: int = _MOST_BYTES) -> bytes:
    """Return what a file holds: a regular one, or /dev/null.

    Raises:
        OSError: It can't be read, or is larger than any such file. A pipe would be waited for, and
            a device has no end.
    """
    with open(path, "rb", opener=_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        is_nothing = os.path.samestat(status, os.stat(os.devnull))  # noqa: PTH116
        if not (stat.S_ISREG(status.st_mode) or is_nothing):
            raise OSError(errno.EINVAL, "it isn't a regular file")
        read = stream.read(most_bytes + 1)
    if len(read) > most_bytes:
        raise OSError(errno.EFBIG, f"it has over {most_bytes} bytes")
    return read


def parsed(text: str) -> dict[str, Any]:
    """Return what a text of TOML says.

    Raises:
        ValueError: It isn't TOML, nests too deep, or has a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
