"""A trunk's activation functions, with the same bits however many threads share a batch.

torch's elementwise kernels on CPU cut a tensor into one piece a thread and compute what doesn't
fill a vector register by other code, whose exponential may differ in the last place. Where a piece
ends depends on the size of the batch, and so would a score. Here every piece fills its registers.
"""

from __future__ import annotations

import torch
from transformers.activations import ACT2CLS

# at::internal::GRAIN_SIZE: no thread is given fewer elements.
_GRAIN = 32_768
# Two registers of the narrowest dtype: 64 bytes each, two bytes an element.
_REGISTERS = 64


def steady(trunk: torch.nn.Module) -> None:
    """Replace a CPU trunk's activation functions by ones that are split evenly, in place."""
    kinds = tuple(kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values())
    for module in list(trunk.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kinds):
                setattr(module, name, SteadyActivation(child))


class SteadyActivation(torch.nn.Module):
    """An activation function in at most two calls, which threads can split evenly."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return the function of each number; any shape."""
        result: torch.Tensor
        # Inductor steps by whole registers; a size that decides here is a program of its own.
        if torch.compiler.is_compiling():
            result = self.activation(state)
            return result
        whole = evenly_split(state.numel(), torch.get_num_threads())
        if whole in {0, state.numel()}:
            result = self.activation(state)
            return result
        flat = state.reshape(-1)
        pieces = [self.activation(flat[:whole]), self.activation(flat[whole:])]
        return torch.cat(pieces).view_as(state)


def evenly_split(count: int, threads: int) -> int:
    """Return how many of `count` elements torch splits among its threads by whole registers.

    What is left over is less than a thread's share, so that one thread does it.
    """
    used = min(threads, -(-count // _GRAIN))
    if used <= 1 or count % (used * _REGISTERS) == 0:
        return count
    step = threads * _REGISTERS if count >= threads * _GRAIN else _GRAIN
    return count // step * step
