"""Numbers on their way between the host and a device, which a GPU copies while the host goes on.

Only a copy from or to pinned memory leaves the host free; any other waits until the device has done
all that it was told before. torch keeps pinned memory that was used, and gives a piece out again
once the copy that read it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOGETHER = 16  # an array on a device begins at a multiple of so many numbers, 64 bytes


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Return arrays of whole numbers on a device as int32, by one copy of all of them."""
    if device.type == "cpu":
        return [torch.from_numpy(np.ascontiguousarray(array, np.int32)) for array in arrays]
    sizes = [-(-array.size // _TOGETHER) * _TOGETHER for array in arrays]
    begins = (np.cumsum(sizes) - sizes).tolist()
    buffer = _pinned(sum(sizes), torch.int32, device)
    for array, begin in zip(arrays, begins, strict=True):
        buffer.numpy()[begin : begin + array.size] = array.ravel()
    there = buffer.to(device, non_blocking=True)
    return [
        there[begin : begin + array.size].view(array.shape)
        for array, begin in zip(arrays, begins, strict=True)
    ]


def to_host(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers as float64 on the host: once the device is done, which nobody waits for."""
    if numbers.device.type == "cpu":
        return numbers.double()
    there = numbers.double()
    here = _pinned(there.numel(), torch.float64, numbers.device).view(there.shape)
    return here.copy_(there, non_blocking=True)


def _pinned(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(count, dtype=dtype, pin_memory=device.type == "cuda")
