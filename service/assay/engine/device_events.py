"""When a device has come to a point of its work, which lies behind the host's on a GPU."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


class Event(Protocol):
    """A point of a device's work: all that it was told before."""

    def is_reached(self) -> bool:
        """Return whether that is done. Raises what the device failed with."""
        ...

    def wait(self) -> None:
        """Return once that is done. Raises what the device failed with."""
        ...

    def seconds_since(self, earlier: Any) -> float:
        """Return how long the device took from an earlier event of it; both must be reached."""
        ...


class HostEvent:
    """Of a device that computes while the host waits: reached as soon as it is recorded."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def is_reached(self) -> bool:
        """Return that it is."""
        return True

    def wait(self) -> None:
        """Return at once."""

    def seconds_since(self, earlier: HostEvent) -> float:
        """Return the host's time between both."""
        return self._at - earlier._at


class CudaEvent:
    """A GPU's, on the stream that computes."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def is_reached(self) -> bool:
        """Return whether the stream has come there."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Return once the stream has come there."""
        self._event.synchronize()

    def seconds_since(self, earlier: CudaEvent) -> float:
        """Return the device's time between both."""
        return float(earlier._event.elapsed_time(self._event)) * 1e-3


def record(device: torch.device) -> Event:
    """Return the point that a device's work has now."""
    return CudaEvent() if device.type == "cuda" else HostEvent()
