"""What went wrong with the device itself, told from what a model or a path can't do.

A path that a model doesn't fit is passed over for another; a device that broke, or that has no
memory left, says nothing about the model and is told as what it is.
"""

from __future__ import annotations

import traceback

import torch

_ACCELERATOR_ERROR: type[Exception] | None = getattr(torch, "AcceleratorError", None)
# How torch and CUDA's libraries say it where they don't raise OutOfMemoryError. cuBLAS can't be
# initialized where its workspace finds no room.
_NO_MEMORY = (
    *("can't allocate memory", "bad_alloc", "out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUSPARSE_STATUS_ALLOC_FAILED"),
    "CUBLAS_STATUS_NOT_INITIALIZED",
)


def is_fault(error: BaseException) -> bool:
    """Return whether an error is the device's: it broke, or its memory ran out."""
    return is_out_of_memory(error) or loses_the_device(error)


def loses_the_device(
    error: BaseException, kind: type[Exception] | None = _ACCELERATOR_ERROR
) -> bool:
    """Return whether each further call fails, too, as after an index out of range on a GPU.

    torch before 2.8 has no class for it. What libraries report by their own status passes, and so
    does a lack of memory.
    """
    if is_out_of_memory(error):
        return False
    if kind is not None and isinstance(error, kind):
        return True
    text = str(error)
    return (
        kind is None
        and type(error) is RuntimeError
        and text.startswith("CUDA error: ")
        and "_STATUS_" not in text
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; on a CPU torch raises a bare `RuntimeError` then."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def free_memory(error: BaseException) -> None:
    """Give a GPU back what a call held that failed: its frames hold all tensors it made."""
    failure: BaseException | None = error
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
