"""Whether kernels in Triton run on a device, and how they are started there.

A GPU runs them, NVIDIA's or AMD's, and Triton's interpreter on a CPU, for tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from typing import Any

import torch

_DTYPES = {torch.bfloat16, torch.float16, torch.float32}


def obstacle(device: torch.device, dtype: torch.dtype, name: str) -> str:
    """Return why Triton can't run a kernel of such a `name` here; nothing where it may."""
    interprets = os.environ.get("TRITON_INTERPRET") == "1"  # kernels, on the CPU, very slowly
    if device.type != "cuda" and not (device.type == "cpu" and interprets):
        return f"{name} runs on a GPU, not on {device.type}"
    if dtype not in _DTYPES:
        return f"{name} takes bfloat16, float16 and float32, not {dtype}"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "Triton's interpreter has no products of bfloat16"
    if importlib.util.find_spec("triton") is None:
        return f"{name} needs Triton, which isn't installed"
    if not interprets and not any(shutil.which(compiler) for compiler in _compilers()):
        return f"{name} needs a C compiler, by which Triton starts kernels"
    return ""


def _compilers() -> tuple[str, ...]:
    """Return the C compilers that Triton would take."""
    named = os.environ.get("CC")
    return ("gcc", "clang") if named is None else (named,)


def launch(kernel: Any, programs: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run a kernel in so many programs; what Triton fails at is told as torch tells it.

    Raises:
        RuntimeError: Triton can't compile the kernel, or the device is too small for it.
    """
    import triton  # noqa: PLC0415  isn't everywhere, and imports slowly

    try:
        kernel[programs](*args, **constants)
    except (triton.TritonError, subprocess.SubprocessError, OSError) as error:
        name = getattr(kernel, "__name__", "kernel")
        raise RuntimeError(f"Triton can't run the kernel '{name}': {error}") from error
