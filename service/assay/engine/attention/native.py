"""Attention on CPU by `native.cpp`, compiled for this machine on first use and kept on disk."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine.attention.pattern import Pattern
from assay.engine.forest import pack
from assay.engine.messages import Forest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.engine.forest import Packed
    from assay.engine.pages import Layer

logger = logging.getLogger("assay.attention")
_SOURCE = Path(__file__).with_name("native.cpp")
_DTYPES = {torch.float32, torch.bfloat16}


def is_at_hand(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernel runs here; the first call compiles it, for ten seconds or so."""
    return device.type == "cpu" and dtype in _DTYPES and _build() and _multiplies(dtype)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: Packed,
    pattern: Pattern,
    layer: Layer | None = None,
) -> torch.Tensor:
    """Attend all runs in one call; see `pattern.Backend`."""
    mixed: torch.Tensor = torch.ops.assay.forest_attention(
        query,
        key,
        value,
        layer.keys if layer else None,
        layer.values if layer else None,
        torch.from_numpy(packed.held_slots),
        torch.from_numpy(packed.lengths),
        torch.from_numpy(packed.parents),
        packed.held,
        pattern.scale,
        pattern.window or 0,
        pattern.softcap or 0.0,
        pattern.causal,
    )
    return mixed


@cache
def _build() -> bool:
    """Compile and load the kernel; return whether that worked."""
    from torch.utils import cpp_extension  # noqa: PLC0415  slow, and needed by CPU workers only

    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in {"AVX2", "AVX512"}:
        return False
    version = torch.__version__.replace(".", "_").replace("+", "_")
    name = f"assay_forest_attention_{version}_{capability.lower()}"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    try:
        with _alone_in(Path(root) / name) as folder:
            cpp_extension.load(
                name,
                [str(_SOURCE)],
                # No contraction: a fused multiply-add rounds once, torch's own kernels round twice.
                extra_cflags=[
                    *("-O3", "-std=c++20", "-march=native", "-ffp-contract=off", "-fno-math-errno"),
                    "-fopenmp",  # without it, torch's parallel_for runs on one thread
                    f"-DCPU_CAPABILITY={capability}",
                    f"-DCPU_CAPABILITY_{capability}",
                ],
                extra_ldflags=["-fopenmp"],
                build_directory=str(folder),
                is_python_module=False,
            )
    except (RuntimeError, OSError, ImportError) as error:
        logger.warning(
            "the CPU attention kernel can't be compiled (%s); using torch's products, which are "
            "slower",
            str(error).splitlines()[0],
        )
        return False
    return True


@cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Return whether this processor has the kernel's products: those of bfloat16 want AVX-512."""
    row = torch.zeros(1, 16, 16, dtype=dtype)
    token = pack(Forest.unshared([np.zeros(1, np.int32)]))
    try:
        attend(row, row, row, token, Pattern(scale=1.0, causal=True))
    except RuntimeError:
        return False
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[Path]:
    """Let one process at a time build in a folder.

    torch's own lock is a file: a process that is killed while it compiles leaves it behind, and all
    others would wait for ever. The kernel takes this one back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield folder
