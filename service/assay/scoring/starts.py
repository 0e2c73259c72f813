"""How long starts took, remembered from one process to the next: what callers are told meanwhile.

Where nothing is remembered the time is guessed from the size of the weights.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from assay.notebook import Notebook

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NOTEBOOK = Notebook("starts.json")
_BYTES_PER_S = 200e6  # of weights that nobody has read yet
_BESIDES_S = 8.0  # to import, verify and warm up


def recall(key: str) -> float | None:
    """Return how many seconds such a start took last time; None where that isn't known."""
    seconds = _NOTEBOOK.recall(key)
    return float(seconds) if isinstance(seconds, int | float) else None


def remember(seconds: dict[str, float]) -> None:
    """Keep how long starts took, by their names; the latest of them."""
    _NOTEBOOK.keep({key: round(value, 3) for key, value in seconds.items()})


def guess(folders: Iterable[Path]) -> float:
    """Return how many seconds a start may take that is the first: by the bytes to read."""
    size = 0
    with contextlib.suppress(OSError):
        size = sum(
            file.stat().st_size for folder in folders for file in folder.glob("*.safetensors")
        )
    return _BESIDES_S + size / _BYTES_PER_S
