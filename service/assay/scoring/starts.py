"""How long starts took, remembered from one process to the next: what callers are told meanwhile.

Kept in the user's cache. Where that can't be read or written nothing is remembered, and the time is
guessed from the size of the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from assay import ownership

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 200  # starts that are remembered
_BYTES_PER_S = 200e6  # of weights that nobody has read yet
_BESIDES_S = 8.0  # to import, verify and warm up


def name(*facts: object) -> str:
    """Return what a start is remembered by: what was served, where and how."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def recall(key: str) -> float | None:
    """Return how many seconds such a start took last time; None where that isn't known."""
    return _read().get(key)


def remember(seconds: dict[str, float]) -> None:
    """Keep how long starts took, by their names; the latest of them."""
    with contextlib.suppress(OSError, RuntimeError):
        remembered = _read()
        for key, value in seconds.items():
            remembered.pop(key, None)
            remembered[key] = round(value, 3)
        file = _file()
        ownership.make(file.parent)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(dict(list(remembered.items())[-_MOST:])), encoding="utf-8")
        draft.replace(file)


def guess(folders: Iterable[Path]) -> float:
    """Return how many seconds a start may take that is the first: by the bytes to read."""
    size = 0
    with contextlib.suppress(OSError):
        size = sum(
            file.stat().st_size for folder in folders for file in folder.glob("*.safetensors")
        )
    return _BESIDES_S + size / _BYTES_PER_S


def _file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "assay" / "starts.json"


def _read() -> dict[str, float]:
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: float(seconds) for key, seconds in content.items() if isinstance(seconds, int | float)
    }
