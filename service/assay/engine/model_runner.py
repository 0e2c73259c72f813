"""One model's forward pass: a batch of runs in, its heads' numbers out.

Packed wherever the trunk uses transformers' attention interface; otherwise padded to buckets of
`BUCKET` tokens. Which of the two, and how, `verification` decides.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from assay.cards.card import Card
from assay.engine import bounds, checkpoint, device_events, packing, readout, transfer
from assay.engine.attention import interface
from assay.engine.sample import Sample
from assay.worker_protocol import Inputs, PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import transformers

    from assay.engine.attention.pattern import LayerKind
    from assay.engine.block_cache import BlockCache
    from assay.engine.device_events import Event
    from assay.engine.graphs import Graphs
    from assay.engine.last_layer import LastLayer
    from assay.engine.packing import PackedBatch
    from assay.engine.quantization import Change
    from assay.engine.readout import Readout

Forward = Literal["packed", "padded"]
BUCKET = 64
_FEWEST_COMPILED = 20_000_000  # parameters


class ModelRunner:
    """A loaded model with the path that computes it."""

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        readout: Readout,
        *,
        forward: Forward | None = None,
        position: readout.Position | None = None,
    ) -> None:
        """Take a model and its readout.

        If the card says so, `forward` is the only way it may run, and `position` where it is read
        once it is verified, instead of where its own class reads.
        """
        self.model = model
        self.device = model.device
        self.dtype = model.base_model.dtype
        self.readout = readout
        self.forward: Forward = "packed"
        self.attention = "eager"
        self.shares_prefixes = False  # whether a run may continue another one's tokens
        self.block_cache: BlockCache | None = None  # what stays on the device between batches
        self.is_compiled = False
        self.quantized: Change | None = None  # where its linear layers are
        self.last_layer: LastLayer | None = None  # where it computes what is read alone
        self.graphs: Graphs | None = None  # of its small passes
        self.warnings = _slow_dtype(self.device, self.dtype)  # for the operator
        self.card_forward = forward
        self.card_position = position
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._first_position = bounds.first_position(model)
        self.segments = _segments(model)
        self.layers = 0  # that attend, once it has run
        self.kinds: set[LayerKind] = set()  # of these
        self.unheard: set[int] = set()  # tokens that a mask lets see, and no layer asked for
        self.adapters = 1  # that lie on it, each with its own scores of the same tokens
        self.expected: torch.Tensor | None = None  # these of the sample, where they are known

    @property
    def is_worth_compiling(self) -> bool:
        """Whether a longer start pays: on CPU, and large enough. Elsewhere it wasn't measured."""
        return (
            self.device.type == "cpu"
            and self.forward == "packed"
            and self.parameters >= _FEWEST_COMPILED
        )

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence the trunk has positions for; None where it has no bound."""
        return bounds.max_tokens(self.model)

    @property
    def inputs(self) -> Inputs:
        """What it reads; a policy knows no more ids than it has an output for."""
        rows, head = _rows(self.model), self.readout.head
        if isinstance(head, readout.NextToken):
            rows = min(rows, head.vocabulary.size)
        is_own = isinstance(head, readout.OwnHead | readout.HeadBeside)
        passes_over = is_own and self.readout.position == "last"
        padding = self.model.config.get_text_config().pad_token_id if passes_over else None
        return Inputs(rows, self.segments, padding)

    @property
    def outputs(self) -> dict[str, int]:
        """How many numbers each head gives."""
        return bounds.outputs(self.model, self.readout)

    def event(self) -> Event:
        """Return the point that the device's work has now; see `launch`."""
        return device_events.record(self.device)

    @torch.inference_mode()
    def launch(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        """Return the heads' numbers, (items or rows, outputs), which may still be computed.

        A GPU runs behind: nothing here waits for it. `on_ending` is called once, when a part of the
        layers is launched; a padded pass calls it first.

        Raises:
            ValueError: A run continues another, and `shares_prefixes` is false.
        """
        if self.forward == "packed":
            return self._score_packed(batch, on_ending, part)
        on_ending()
        return self._score_padded(batch)

    def score(self, batch: PrefixBatch) -> np.ndarray:
        """Return the heads' numbers, (items or rows, outputs) float64; see `launch`."""
        return self.launch(batch).double().cpu().numpy()

    def padded_tokens(self, batch: PrefixBatch) -> int:
        """Return how many tokens of padding a batch computes."""
        if self.forward == "packed":
            rows = self.captured_rows(batch)
            return rows - batch.tokens if rows else -batch.tokens % packing.ROWS
        return int((-batch.lengths % BUCKET).sum())

    def sample(self) -> Sample:
        """Return what it is tried on."""
        return Sample.of(self.model, max_tokens=self.max_tokens, segments=self.segments)

    def install(self) -> None:
        """Put into the layers what isn't in them yet, once they are laid out: here nothing."""

    def attend(self) -> None:
        """Let the model attend as `attention` says.

        Raises:
            interface.UnsupportedAttention: Its class can't.
        """
        name = self.attention
        if self.model.config._attn_implementation != name:  # noqa: SLF001  has no public name
            self.model.set_attn_implementation(name)
        if self.model.config._attn_implementation != name:  # noqa: SLF001
            raise interface.UnsupportedAttention

    def token_types(self, segments: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the argument of a forward pass that says segments, where the trunk reads any.

        They are (tokens,) of one row, or (rows, tokens).
        """
        if self.segments <= 1:
            return {}
        return {"token_type_ids": segments.long().view(-1, segments.shape[-1])}

    def _score_packed(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        packed = packing.pack(batch)
        read, positions = self._rows_read(batch, packed), self._positions(packed)
        rows = self.captured_rows(batch)
        if self.graphs is not None and read is not None and rows:
            on_ending()
            states = self.graphs.states(rows, packed, read, positions)
            (next_ids,) = transfer.to_device([batch.next_ids], self.device)
        else:
            arrays = _arrays(read, positions) | {"next_ids": batch.next_ids}
            next_ids = packed.on(self.device, **arrays)["next_ids"]
            states = self.states(packed, read, positions, self._on_layer(on_ending, part))
        if read is None:
            states = self.readout.gather(states, packed.first_rows, packed.last_rows)
        return self.readout.score(states.float(), next_ids if len(next_ids) else None)

    def states(
        self,
        packed: PackedBatch,
        read: np.ndarray | None,
        positions: np.ndarray,
        on_layer: Callable[[int], None] = lambda _: None,
    ) -> torch.Tensor:
        """Return the trunk's states in the rows that are read, or, where none are named, in all.

        They are (read rows, hidden), or (rows, hidden). `on_layer` is called as `interface.over`
        says.
        """
        there = packed.on(self.device, **_arrays(read, positions))
        narrowed = None if self.last_layer is None else read
        with interface.over(packed, self.block_cache, on_layer, narrowed) as under_way:
            hidden: torch.Tensor = self.model.base_model(
                input_ids=there["ids"].long()[None],
                position_ids=there["positions"].long()[None],
                **self.token_types(there["segments"]),
            ).last_hidden_state[0]
        self.layers, self.kinds = under_way.layers, under_way.kinds
        self.unheard = under_way.masks - under_way.windows
        if read is None:
            return hidden
        return (hidden if narrowed is not None else hidden[there["read_rows"]])[: len(read)]

    def captured_rows(self, batch: PrefixBatch) -> int:
        """Return the rows of the captured pass that computes a batch; 0 where there is none."""
        return 0 if self.graphs is None else self.graphs.rows(batch, self.block_cache)

    def _on_layer(self, on_ending: Callable[[], None], part: float) -> Callable[[int], None]:
        """Return what hears each layer's number, to tell when a part of them is launched."""
        ending = int(part * self.model.config.get_text_config().num_hidden_layers)
        return lambda number: on_ending() if number == ending else None

    def _rows_read(self, batch: PrefixBatch, packed: PackedBatch) -> np.ndarray | None:
        """Return the rows that a head reads, in its order, (read rows,) int32; of means none."""
        if batch.read_rows is not None:
            return batch.read_rows.astype(np.int32)
        if self.readout.position == "mean":
            return None
        rows = packed.last_rows if self.readout.position == "last" else packed.first_rows
        return rows.astype(np.int32)

    def _positions(self, packed: PackedBatch) -> np.ndarray:
        """Return each row's position, (rows,); RoBERTa's kind counts what isn't padding.

        Padding has the position before a sequence's first one, wherever it stands.
        """
        first = self._first_position
        if not first or packed.is_shared or packed.held:
            return packed.positions + first
        counts = packed.ids != first - 1
        running = np.cumsum(counts)
        before = (running - counts)[packed.starts]
        positions = np.zeros_like(packed.positions)
        total = int(packed.lengths.sum())
        positions[:total] = running[:total] - np.repeat(before, packed.lengths)
        return np.where(counts, positions, 0) + first - 1

    def _score_padded(self, batch: PrefixBatch) -> torch.Tensor:
        """Run sequences of one bucket together, filled up on the right behind a mask."""
        if (batch.parents >= 0).any():
            raise ValueError("a padded forward pass can't continue another run's tokens")
        sequences, segments = batch.runs(), batch.segment_runs()
        starts = np.cumsum(batch.lengths) - batch.lengths
        places, read_runs = batch.read_rows, None
        if places is not None:
            read_runs = np.searchsorted(starts, places, side="right") - 1  # the run of each row
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, ids in enumerate(sequences):
            buckets[-(-len(ids) // BUCKET) * BUCKET].append(index)
        reads: list[torch.Tensor] = []
        order: list[np.ndarray] = []  # of runs, or of read rows
        for width, members in sorted(buckets.items()):
            limit = min(width, self.max_tokens or width)
            ids = np.zeros((len(members), limit), dtype=np.int64)
            mask, types = np.zeros_like(ids), np.zeros_like(ids)
            for row, index in enumerate(members):
                ids[row, : len(sequences[index])] = sequences[index]
                mask[row, : len(sequences[index])] = 1
                types[row, : len(sequences[index])] = segments[index]
            row_ids, seen, segments_there = transfer.to_device([ids, mask, types], self.device)
            hidden = self.model.base_model(
                input_ids=row_ids.long(),
                attention_mask=seen.long(),
                **self.token_types(segments_there),
            ).last_hidden_state  # (members, limit, hidden)
            first = np.arange(len(members)) * limit
            if read_runs is None or places is None:
                last = first + mask.sum(1) - 1
                reads.append(self.readout.gather(hidden.flatten(0, 1), first, last))
                order.append(np.array(members))
                continue
            row_of = dict(zip(members, first.tolist(), strict=True))
            chosen = np.flatnonzero(np.isin(read_runs, members))
            rows = places[chosen] - starts[read_runs[chosen]]
            rows += np.array([row_of[run] for run in read_runs[chosen].tolist()], np.int64)
            reads.append(readout.rows_of(hidden.flatten(0, 1), rows))
            order.append(chosen)
        back = np.argsort(np.concatenate(order))
        if read_runs is None:
            back = back[batch.reads]
        places_read, next_ids = transfer.to_device([back, batch.next_ids], self.device)
        return self.readout.score(
            torch.cat(reads)[places_read], next_ids if len(next_ids) else None
        )


def _arrays(read: np.ndarray | None, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a pass indexes by beside its batch."""
    arrays = {"positions": positions}
    return arrays if read is None else arrays | {"read_rows": packing.filled(read)}


def load(
    folder: Path,
    card: Card | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    base: Path | None = None,
) -> ModelRunner:
    """Return a checkpoint's trunk and heads, not yet verified; `base` is that of an adapter."""
    card = card or Card()
    model, head = checkpoint.load(folder, card, device=device, dtype=dtype, base=base)
    runner = ModelRunner(model, head, forward=card.trunk.attention, position=card_position(card))
    runner.warnings += checkpoint.notes(folder, base)
    return runner


def card_position(card: Card) -> readout.Position | None:
    """Return where a card reads the head of transformers' own class, if it says so."""
    if card.has_reward_head or card.policy is not None or card.read is None:
        return None
    at = card.read.at
    return at if at in ("last", "first", "mean") else None


def _slow_dtype(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return a warning where float32 wastes a GPU: its fast products take 16 bits."""
    if device.type != "cuda" or dtype != torch.float32:
        return []
    slower = f"it runs in float32 on {device}, about fifteen times slower than in bfloat16"
    return [f"{slower}; set dtype = bfloat16, or trunk.dtype in its card"]


def _rows(model: transformers.PreTrainedModel) -> int:
    """Return how many ids a model has an embedding for; of own code, as its config says."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        table = None
    weight = getattr(table, "weight", None)
    return int(model.config.get_text_config().vocab_size if weight is None else weight.shape[0])


def _segments(model: transformers.PreTrainedModel) -> int:
    """Return how many segments the trunk tells apart by an embedding of their ids."""
    for name, module in model.base_model.named_modules():
        if name.split(".")[-1] == "token_type_embeddings" and isinstance(
            module, torch.nn.Embedding
        ):
            return module.num_embeddings
    return 0
