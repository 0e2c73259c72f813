"""A temporary folder that only this user can read, and that is gone with this process.

The processes that it starts use the same one: whoever is killed leaves nothing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from assay.errors import SettingsError

_GIVEN = "ASSAY_SCRATCH"


@cache
def folder() -> Path:
    """Return it; where it isn't given, it is made when it is first asked for, with mode 0700.

    Raises:
        SettingsError: No temporary folder can be written either.
    """
    if configured := os.environ.get(_GIVEN):
        return Path(configured)
    try:
        path = Path(tempfile.mkdtemp(prefix="assay-"))
    except OSError as error:
        raise SettingsError(
            f"no temporary folder can be written ({error.strerror or error}); set TMPDIR to one "
            "that can"
        ) from error
    atexit.register(remove)
    return path


def variables() -> dict[str, str]:
    """Return what gives the folder to another process; nothing where none can be written."""
    try:
        return {_GIVEN: str(folder())}
    except SettingsError:
        return {}


def remove() -> None:
    """Remove it, before a process ends in a way that runs no such handlers."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)
        folder.cache_clear()
