"""A temporary folder that only this user can read, and that is gone with this process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from assay.errors import SettingsError


@cache
def folder() -> Path:
    """Return it; it is made when it is first asked for, with mode 0700.

    Raises:
        SettingsError: No temporary folder can be written either.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix="assay-"))
    except OSError as error:
        raise SettingsError(
            f"no temporary folder can be written ({error.strerror or error}); set TMPDIR to one "
            "that can"
        ) from error
    atexit.register(remove)
    return made


def remove() -> None:
    """Remove it, before a process ends in a way that runs no such handlers."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)
        folder.cache_clear()
