"""Where device processes keep what they compile: the user's cache, if it can be written."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from assay import scratch

logger = logging.getLogger("assay.start")
# torch looks for these while it is imported and settles for /tmp, which gets lost and, in a
# container, may not be executed from; or it ends with a traceback.
_OURS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "extensions"}
# What others keep below the home, where that can't be written.
_OTHERS = {"TRITON_CACHE_DIR": "triton", "HF_MODULES_CACHE": "modules"}


@cache
def variables() -> dict[str, str]:
    """Return the variables that tell torch where to; folders that can't be written are replaced.

    A temporary one is gone with this process, which is logged.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    wanted = {
        name: os.environ.get(name) or str(home / "assay" / one) for name, one in _OURS.items()
    }
    lost = {name: path for name, path in wanted.items() if not _can_be_written(path)}
    if not lost:
        return wanted
    replaced = {name: str(scratch.folder() / _OURS[name]) for name in lost}
    if any(name not in os.environ for name in lost):  # it is the home's cache
        replaced |= {
            name: str(scratch.folder() / one)
            for name, one in _OTHERS.items()
            if name not in os.environ
        }
    logger.warning(
        "%s can't be written: what is compiled is kept in %s until this process ends, and compiled "
        "again at the next start; set %s to a folder that can be",
        " and ".join(lost.values()),
        scratch.folder(),
        " and ".join(lost),
    )
    return wanted | replaced


def _can_be_written(path: str) -> bool:
    if path.startswith("~"):  # nobody's home
        return False
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except (OSError, ValueError):
        return False
