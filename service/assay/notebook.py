"""What one process tells later ones on this machine: names with a value each, in the user's cache.

Where that can't be read or written nothing is remembered, and nobody fails over it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import ownership

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 200  # entries; the latest stay


class Notebook:
    """A JSON file of that cache."""

    def __init__(self, file: str) -> None:
        self._name = file

    @staticmethod
    def name(*facts: object) -> str:
        """Return the name of what goes by these facts."""
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]

    def recall(self, key: str) -> Any:
        """Return what was kept last under a name, as JSON has it; None where nothing was."""
        return self._read().get(key)

    def keep(self, entries: Mapping[str, Any]) -> None:
        """Keep values that JSON has by their names, in place of those that were there."""
        with contextlib.suppress(OSError, RuntimeError):
            kept = self._read()
            for key, value in entries.items():
                kept.pop(key, None)
                kept[key] = value
            file = self._file
            ownership.make(file.parent)
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(json.dumps(dict(list(kept.items())[-_MOST:])), encoding="utf-8")
            draft.replace(file)

    @property
    def _file(self) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "assay" / self._name

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RuntimeError):
            return {}
        return content if isinstance(content, dict) else {}
