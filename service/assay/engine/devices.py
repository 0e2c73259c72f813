"""How many GPUs torch sees here: `python -m assay.engine.devices` prints it.

A process of its own, since the front has no torch.
"""

from __future__ import annotations

import torch


def count() -> int:
    """Return how many GPUs this process may use; no context is made on any."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    print(count())  # noqa: T201  to the process that asks
