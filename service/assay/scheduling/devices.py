"""Which devices the setting `device` means: `auto` is every GPU that is visible, else the CPU.

No torch here: a process of its own counts, and only where a driver of a GPU shows at all.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("assay.devices")
AUTO = "auto"
# Of NVIDIA's driver, of the one that Windows lends to Linux, and of AMD's.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_PATIENCE_S = 120.0


def expand(devices: Iterable[str], count: Callable[[], int] | None = None) -> tuple[str, ...]:
    """Return the devices to use, with every visible GPU that isn't named for `auto`; slow.

    Where there is none, `auto` stays what it is: the worker takes the CPU.
    """
    named = tuple(devices)
    if AUTO not in named:
        return named
    every = [f"cuda:{index}" for index in range((count or gpus)())] or [AUTO]
    others = [device for device in every if device not in named]
    expanded = [device for name in named for device in (others if name == AUTO else [name])]
    return tuple(expanded) or named


def has_driver() -> bool:
    """Whether this machine shows a driver of a GPU."""
    return any(Path(path).exists() for path in _DRIVERS)


def gpus() -> int:
    """Return how many GPUs torch sees on this machine; 0 where that can't be told."""
    if not has_driver():
        return 0
    command = [sys.executable, "-m", "assay.engine.devices"]
    try:
        said = subprocess.run(  # noqa: S603  this interpreter, and a module of ours
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
        return int(said.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        logger.warning(
            "the GPUs can't be counted (%s); device = auto takes one, name them to use several",
            type(error).__name__,
        )
        return 0
