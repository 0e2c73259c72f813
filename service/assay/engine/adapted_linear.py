"""Linear layers of a base with several LoRA adapters: one weight, and what each adapter adds.

The pass under way says whose rows are where (`over`); a layer multiplies all rows by the base's
weight, and each adapter's by its own two small ones. Not here: which rows these are
(`adapter_rows`), and how adapters are read (`shared_base`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

from assay.engine import compilation, operator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from assay.engine.adapter_rows import Span

_spans: ContextVar[list[Sequence[Span]]] = ContextVar("spans")


@contextmanager
def over(spans: Sequence[Span]) -> Iterator[None]:
    """Let the layers called inside see rows of these adapters; see `narrow`."""
    token = _spans.set([spans])
    try:
        yield
    finally:
        _spans.reset(token)


def narrow(spans: Sequence[Span]) -> None:
    """From now on in this pass, let layers see these rows instead."""
    _spans.get()[:] = [spans]


class AdaptedLinear(torch.nn.Module):
    """A linear layer of a base, with what each adapter adds to it.

    `layers` are an adapter's two factors by its number, (rank, in) and (out, rank); those that
    leave the layer as it is have none.
    """

    def __init__(
        self,
        base: torch.nn.Linear | compilation.PrepackedLinear,
        layers: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
        count: int,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias  # the base's own, not copies
        none = next(iter(layers.values()))[0].new_empty(0, 0)
        pairs = [layers.get(number, (none, none)) for number in range(count)]
        # On a CPU a row keeps its bits, whatever its company, by oneDNN's kernel in float32 for the
        # long sums over a state, and by torch's own, twice as fast, for the short ones over a rank.
        wide = torch.float32 if none.device.type == "cpu" else none.dtype
        self.down = [compilation.laid_out(down.to(wide)) for down, _ in pairs]  # (rank, in)
        self.up = [up.T.contiguous() for _, up in pairs]  # (rank, out)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return state (1, rows, in) @ weight.T + bias, and of each row what its adapter adds."""
        product: torch.Tensor = torch.ops.assay.adapted_linear(
            state, self.weight, self.bias, self.down, self.up
        )
        return product


def _multiply(
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: list[torch.Tensor],
    up: list[torch.Tensor],
) -> torch.Tensor:
    product = compilation.multiply(state, weight, bias)
    rows, states = product.view(-1, product.shape[-1]), state.reshape(-1, state.shape[-1])
    (spans,) = _spans.get()
    if spans[-1].end != len(rows):
        raise RuntimeError("the rows of an adapted layer aren't those of the pass")
    for span in spans:
        if up[span.adapter].numel():
            own = states[span.begin : span.end].to(down[span.adapter].dtype)
            small = compilation.multiply(own, down[span.adapter], None).to(state.dtype)
            rows[span.begin : span.end].addmm_(small, up[span.adapter])
    return product


def _shape(
    state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: list[torch.Tensor]
) -> torch.Tensor:
    del bias
    return state.new_empty(*state.shape[:-1], weight.shape[0])


operator.define(
    "adapted_linear(Tensor state, Tensor weight, Tensor? bias, Tensor[] down, Tensor[] up)"
    " -> Tensor",
    _multiply,
    _shape,
)
