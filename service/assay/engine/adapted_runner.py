"""Several LoRA adapters on one base, in one forward pass: each row with its own adapter's products.

The base's weights are there once. Layers below the first one that any adapter changes compute what
adapters have in common once (`adapter_rows.spread`); there the rows are spread, and from there on
each adapter has its own. Kept blocks, heads and what is read are each adapter's own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.engine import adapted_linear, adapter_rows, packing
from assay.engine.adapted_linear import AdaptedLinear
from assay.engine.attention import interface
from assay.engine.compilation import repeated_blocks
from assay.engine.layer_rows import RowArguments, rows_of
from assay.engine.model_runner import ModelRunner
from assay.errors import CheckpointError
from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import transformers

    from assay.engine.adapter import Factors
    from assay.engine.adapter_rows import Span
    from assay.engine.layer_rows import Arguments
    from assay.engine.packing import PackedBatch
    from assay.engine.readout import Position, Reader, Readout
    from assay.engine.sample import Sample
    from assay.worker_protocol import PrefixBatch


class AdaptedRunner(ModelRunner):
    """A base with its adapters, by number; it runs packed or not at all.

    `layers` has what each adapter adds to the linear layers that it changes, by their names in the
    model, `heads` its head, and `expected` its own scores of the sample, each of these in turn.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        readout: Readout,
        *,
        position: Position | None,
        layers: Sequence[Mapping[str, Factors]],
        heads: Sequence[Reader],
        expected: torch.Tensor,
    ) -> None:
        super().__init__(model, readout, forward="packed", position=position)
        self.adapters = len(layers)
        self.expected = expected
        self._layers = layers
        self._heads = heads
        self._blocks = _blocks_of(model, {name for names in layers for name in names})
        self._first = 0  # of the blocks that an adapter changes
        self._origins = np.empty(0, np.int64)  # of kept blocks: equal where they were one
        self._computed = 0  # rows, so far
        self._spreading: _Spreading | None = None

    def sample(self) -> Sample:
        """Return what it is tried on: the same for each adapter, in one batch."""
        return replace(super().sample(), adapters=self.adapters)

    def install(self) -> None:
        """Put the adapters into the layers, and spread rows where the first of them is."""
        names = sorted({name for names in self._layers for name in names})
        for name in names:
            parent, _, last = name.rpartition(".")
            module = self.model.get_submodule(parent)
            layers = {number: own[name] for number, own in enumerate(self._layers) if name in own}
            adapted = AdaptedLinear(getattr(module, last), layers, self.adapters)
            setattr(module, last, adapted)
        self._layers = []
        changed = [
            any(isinstance(module, AdaptedLinear) for module in block.modules())
            for block in self._blocks
        ]
        self._first = changed.index(True)
        for number, block in enumerate(self._blocks[self._first :], self._first):
            block.register_forward_pre_hook(
                partial(self._spread, RowArguments(block), number), with_kwargs=True
            )

    def padded_tokens(self, batch: PrefixBatch) -> int:
        """Return how many tokens of padding a batch computes."""
        _, spans = adapter_rows.aligned(batch)
        return spans[-1].end - batch.tokens

    def _spread(
        self,
        arguments: RowArguments,
        number: int,
        _: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Arguments | None:
        """Give a layer the rows of all adapters, where those below had what they share."""
        if (spreading := self._spreading) is None:
            return None
        if number == self._first:
            interface.go_on(spreading.packed)

        def change(name: str, value: torch.Tensor) -> torch.Tensor:
            is_spread = name == "hidden_states" and number > self._first
            return value if is_spread else spreading.of(value)

        return arguments.changed(args, kwargs, change)

    def _score_packed(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        batch, spans = adapter_rows.aligned(batch)
        packed = packing.pack(batch)
        below = self._shared(batch, packed, spans)
        rows = self._rows_read(batch, packed)
        parts = adapter_rows.by_adapter(packed.last_rows if rows is None else rows, spans)
        is_narrowed = rows is not None and self.last_layer is not None
        read_rows, read_spans = adapter_rows.filled(parts)
        first = below or packed
        there = first.on(self.device, positions=self._positions(first))
        with (
            adapted_linear.over(spans),
            interface.over(
                *(packed, self.block_cache, self._on_layer(on_ending, part)),
                read_rows if is_narrowed else None,
                first=below,
                on_narrowed=partial(adapted_linear.narrow, read_spans),
            ) as under_way,
        ):
            hidden = self.model.base_model(
                input_ids=there["ids"].long()[None],
                position_ids=there["positions"].long()[None],
                **self.token_types(there["segments"]),
            ).last_hidden_state[0]  # (rows, hidden)
        self._spreading = None
        self.layers, self.kinds = under_way.layers, under_way.kinds
        self.unheard = under_way.masks - under_way.windows
        more = packed.on(self.device, read_rows=read_rows, next_ids=batch.next_ids)
        if rows is None:
            read = self.readout.gather(hidden, packed.first_rows, packed.last_rows)
        else:
            read = hidden if is_narrowed else hidden[more["read_rows"]]
        begins = [span.begin for span in read_spans]
        if rows is None:
            begins = np.cumsum([0, *(len(part) for _, part in parts)]).tolist()
        numbers: list[torch.Tensor] = []
        ids, done = (more["next_ids"] if len(batch.next_ids) else None), 0
        for (adapter, own), begin in zip(parts, begins, strict=False):
            head = replace(self.readout, head=self._heads[adapter])
            own_ids = None if ids is None else ids[done : done + len(own)]
            numbers.append(head.score(read[begin : begin + len(own)].float(), own_ids))
            done += len(own)
        return torch.cat(numbers)

    def _shared(
        self, batch: PrefixBatch, packed: PackedBatch, spans: Sequence[Span]
    ) -> PackedBatch | None:
        """Return what the layers below the first adapted one compute, where that is less."""
        self._spreading = None
        if self.block_cache is not None and len(self._origins) != self.block_cache.count:
            self._origins = np.zeros(self.block_cache.count, np.int64)
        may_share = self._first and len(spans) > 1
        shared = adapter_rows.spread(batch, self._origins) if may_share else None
        rows = np.arange(len(packed.ids)) if shared is None else shared.rows
        new = batch.new_rows[::BLOCK_TOKENS]
        self._origins[batch.new_blocks] = self._computed + rows[new]
        self._computed += len(rows)
        if shared is None:
            return None
        self._spreading = _Spreading(packed, shared.rows, self.device)
        return packing.pack(shared.batch)


class _Spreading:
    """Rows that are to be spread in the pass under way."""

    def __init__(self, packed: PackedBatch, rows: np.ndarray, device: torch.device) -> None:
        self.packed = packed
        self._index = packed.on(device, spread_rows=rows)["spread_rows"]
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """Return a layer's argument with the rows of all adapters; what layers share, once."""
        if id(value) not in self._known:
            self._known[id(value)] = value, rows_of(value, self._index)
        return self._known[id(value)][1]


def _blocks_of(model: transformers.PreTrainedModel, names: set[str]) -> torch.nn.ModuleList:
    """Return the repeated blocks that hold all adapted layers.

    Raises:
        CheckpointError: Some layer is in none of them.
    """
    modules = dict(model.named_modules())
    changed = {id(modules[name]) for name in names}
    for blocks in repeated_blocks(model.base_model):
        if changed <= {id(module) for module in blocks.modules()}:
            return blocks
    raise CheckpointError("an adapter changes what is outside of the model's repeated layers")
