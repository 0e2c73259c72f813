"""`calibration.toml` as a file: where it may be, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from assay.errors import InvalidField

if TYPE_CHECKING:
    from assay.cards.calibration import Calibration


def check(path: Path) -> None:
    """Find that a file can be written, before anything is scored.

    Raises:
        InvalidField: It can't.
    """
    if path.exists() and not path.is_file():
        raise InvalidField(f"{path} isn't a regular file; name another with --output")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".calibration-"):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write(calibration: Calibration, path: Path) -> None:
    """Write a calibration; who reads it meanwhile finds the old file or the new one.

    Raises:
        InvalidField: It can't be written; the old file is as it was.
    """
    text = tomli_w.dumps(calibration.model_dump(mode="json", exclude_none=True))
    beside = ""
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".calibration-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException as error:
        if beside:
            Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> InvalidField:
    return InvalidField(
        f"{path} can't be written ({error.strerror or error}); name another with --output, and "
        "serve it by the setting 'calibrations'"
    )
