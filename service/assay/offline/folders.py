"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def written(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside the output, which takes its place at the end.

    Raises:
        CheckpointError: There is something at the output, or it can't be written.
    """
    if output.exists() or output.is_symlink():
        raise CheckpointError(f"{output} is there already; name a new folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise CheckpointError(f"{output} can't be written: {error.strerror or error}") from error
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(output)
    except OSError as error:
        raise CheckpointError(f"{output} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
