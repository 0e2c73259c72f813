"""Where device processes keep what they compile, and load again: the user's cache.

Folders are made for this user alone. One that can't be written, is somebody else's or may be
written by others isn't used.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from assay import ownership, scratch

logger = logging.getLogger("assay.start")
# torch looks for these while it is imported and settles for /tmp, which gets lost and, in a
# container, may not be executed from; or it ends with a traceback.
_OURS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "extensions"}
# What others keep below the home, where that can't be written.
_OTHERS = {"TRITON_CACHE_DIR": "triton", "HF_MODULES_CACHE": "modules"}


@cache
def variables() -> dict[str, str]:
    """Return the variables that tell torch where to; folders that can't be used are replaced.

    A temporary one is gone with this process, which is logged.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    paths = {
        name: os.environ.get(name) or str(home / "assay" / subfolder)
        for name, subfolder in _OURS.items()
    }
    obstacles = {name: _obstacle(name, path) for name, path in paths.items()}
    lost = {name: why for name, why in obstacles.items() if why}
    if not lost:
        return paths
    replaced = {name: str(scratch.folder() / _OURS[name]) for name in lost}
    if any(name not in os.environ for name in lost):  # it is the home's cache
        replaced |= {
            name: str(scratch.folder() / subfolder)
            for name, subfolder in _OTHERS.items()
            if name not in os.environ
        }
    for why in dict.fromkeys(lost.values()):
        names = [name for name in lost if lost[name] == why]
        logger.warning(
            "%s %s: what is compiled is kept in %s until this process ends, and compiled again at "
            "the next start; set %s to a folder that this user can write and others can't",
            " and ".join(paths[name] for name in names),
            why,
            scratch.folder(),
            " and ".join(names),
        )
    return paths | replaced


def _obstacle(name: str, path: str) -> str:
    """Return why a folder can't be used, nothing where it can; it is made if there is none."""
    if path.startswith("~"):  # nobody's home
        return "can't be written"
    folder = Path(path)
    try:
        ownership.make(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        above = "" if os.environ.get(name) else ownership.doubt(folder.parent)  # it is ours, too
        return f"lies in a folder that {above}" if above else ownership.doubt(folder)
    except (OSError, ValueError):
        return "can't be written"
