"""One model's forward pass: a batch of runs in, its heads' numbers out.

Packed wherever the trunk uses transformers' attention interface; otherwise padded to buckets of
`BUCKET` tokens. Which of the two, through which attention, whether runs may share a prefix and
whether its blocks are compiled is decided once, by comparing each with the model's own eager
forward pass on a sample: a path that disagrees is never used, and a model that none can compute is
refused.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from assay.cards.card import Card
from assay.engine import (
    activations,
    bounds,
    checkpoint,
    compilation,
    faults,
    last_layer,
    packing,
    readout,
)
from assay.engine.attention import interface
from assay.engine.block_cache import BlockCache
from assay.errors import CheckpointError
from assay.worker_protocol import BLOCK_TOKENS, Attention, Inputs, PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import transformers

    from assay.engine.packing import PackedBatch
    from assay.engine.readout import Readout

Forward = Literal["packed", "padded"]
BUCKET = 64
SAMPLE_TOKENS = (5, 33, 150)
_SHARED_TOKENS = 37  # of the sample's last sequence, by one more that leaves it there
_LARGEST_SAMPLED_WINDOW = 1024
# The sample's scores may differ by rounding only: a few units in the last place of the dtype,
# through every layer. A wrong mask, position or head is off by orders of magnitude more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}
_MOST_BLOCKS = 32_768  # each costs the front some memory, too
_FEWEST_COMPILED = 20_000_000  # parameters
_TOLERANCE_OF_ITSELF = 1e-5  # in float32, between a trunk and the same one run another way


class ModelRunner:
    """A loaded model with the path that computes it."""

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        readout: Readout,
        *,
        wanted: Forward | None = None,
        position: readout.Position | None = None,
    ) -> None:
        """Take a model and its readout.

        If the card says so, `wanted` is the only way it may run, and `position` where it is read
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
        self.last_layer: last_layer.LastLayer | None = None  # where it computes what is read alone
        self.warnings: list[str] = _slow_dtype(
            self.device, self.dtype
        )  # why it is slower than it could be, for the operator
        self._obstacle = ""
        self._wanted = wanted
        self._position = position
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._first_position = bounds.first_position(model)
        self._segments = _segments(model)
        self._layers = 0  # that attend, once it has run
        self._unheard: set[int] = set()  # tokens that a mask lets see, and no layer asked for
        self._longest = 0  # tokens of the sample, which tells of shorter windows

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
        passes_over = isinstance(head, readout.OwnHead) and self.readout.position == "last"
        padding = self.model.config.get_text_config().pad_token_id if passes_over else None
        return Inputs(rows, self._segments, padding)

    @property
    def outputs(self) -> dict[str, int]:
        """How many numbers each head gives."""
        return bounds.outputs(self.model, self.readout)

    @property
    def runs_behind(self) -> bool:
        """Whether the device still computes when `launch` returns."""
        return bool(self.device.type == "cuda")

    @torch.inference_mode()
    def launch(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        """Return the heads' numbers, (items or rows, outputs), which may still be computed.

        `on_ending` is called once, when a part of its layers is done; a padded pass calls it first.

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
            return -batch.tokens % packing.ROWS
        return int((-batch.lengths % BUCKET).sum())

    @torch.inference_mode()
    def verify(self, *, compiled: bool = False, attention: Attention = "auto") -> None:
        """Choose the path that equals the model's own eager forward pass on a sample.

        With `compiled` what a C++ compiler must make first may be used. `attention` says the only
        way in which it may attend, unless its card wants it padded.

        Raises:
            CheckpointError: No path does, or the one that was asked for doesn't.
        """
        sample = self._sample()
        self._longest = max(map(len, sample))
        expected = self._expected(sample)
        if not expected.isfinite().all():
            raise CheckpointError(
                f"{type(self.model).__name__}: the model's own forward pass gives NaN or infinity; "
                f"its weights are damaged, or {str(self.dtype).removeprefix('torch.')} is too "
                "narrow for them"
            )
        if self.device.type == "cpu":
            compilation.prepack(self.model.base_model)
            activations.steady(self.model.base_model)
        gap = self._choose(sample, expected, attention, compiled=compiled)
        class_position = self.readout.position
        if self._position is not None:
            self.readout = replace(self.readout, position=self._position)
        if self.forward == "packed":
            is_last = class_position == self.readout.position == "last"
            self.shares_prefixes = is_last and self._may_share(sample, expected, gap)
            self._narrow(sample)

    def _choose(
        self,
        sample: Sequence[np.ndarray],
        expected: torch.Tensor,
        wanted: Attention,
        *,
        compiled: bool,
    ) -> float:
        """Take the first path whose scores are those expected; return by how much they differ.

        Raises:
            CheckpointError: There is none.
        """
        is_told = wanted != "auto" and self._wanted != "padded"
        gaps: dict[str, float] = {}
        obstacles: list[str] = []
        for attention in self._attentions(wanted, compiled=compiled):
            self.forward = "padded" if attention == "eager" else "packed"
            self.attention = attention
            gaps[attention] = self._gap(self._in_segments(sample), expected)
            if gaps[attention] <= self._tolerance(expected):
                break
            why = self._obstacle or f"its scores would differ by {gaps[attention]:.2g}"
            obstacles.append(f"not {attention.removeprefix('assay-')}: {why}")
        else:
            if is_told:
                raise CheckpointError(
                    f"{type(self.model).__name__} can't run as attention = '{wanted}' says "
                    f"({'; '.join(obstacles)}); set it to auto, and what can is chosen"
                )
            raise self._unserved(gaps)
        if not is_told and self._wanted != "padded":
            obstacles[:0] = interface.missing(
                self.device, self.dtype, self.attention, compiled=compiled
            )
        if obstacles:
            name = self.attention.removeprefix("assay-")
            self.warnings.append(f"attention runs as {name}, slower: {'; '.join(obstacles)}")
        return gaps[self.attention]

    def _unserved(self, gaps: dict[str, float]) -> CheckpointError:
        """Return why no path serves the model, by how much the scores of each differ."""
        tried = ", ".join(f"{name} by {gap:.2g}" for name, gap in gaps.items())
        if self._wanted is not None:
            return CheckpointError(
                f"{type(self.model).__name__} can't run as the card's trunk.attention = "
                f"'{self._wanted}' says ({tried}); leave it out, and what can is chosen"
            )
        return CheckpointError(
            f"{type(self.model).__name__}: scores differ from the model's own forward pass "
            f"({tried}); this architecture can't be served correctly yet"
        )

    def _may_share(self, sample: Sequence[np.ndarray], expected: torch.Tensor, gap: float) -> bool:
        """Return whether the sample's scores stay what they are where it shares a prefix.

        `gap` is by how much they differ from what is expected where it doesn't.
        """
        bound = gap + self._tolerance_of_itself(expected)
        # A run is known by its ids alone.
        is_known = self.readout.head.joined == 1 and self._segments <= 1
        return is_known and self._gap(_shared(sample), expected) <= bound

    def _narrow(self, sample: Sequence[np.ndarray]) -> None:
        """Compute of the last layer what is read, if scores stay what they are."""
        if self.readout.position == "mean":
            return
        batches = [self._in_segments(sample)]
        if self.shares_prefixes:
            batches.append(_shared(sample))
        before = [torch.from_numpy(self.score(batch)).float() for batch in batches]
        bound = self._tolerance_of_itself(torch.cat(before))
        for drops_queries in (True, False):
            with contextlib.suppress(interface.UnsupportedAttention):
                self.last_layer = last_layer.LastLayer(
                    self.model.base_model, self._layers, drops_queries=drops_queries
                )
            if self.last_layer is None:
                continue
            self.last_layer.install()
            gaps = [self._gap(*pair) for pair in zip(batches, before, strict=True)]
            if max(gaps) <= bound:
                return
            self.last_layer.remove()
            self.last_layer = None

    def _attentions(self, chosen: Attention, *, compiled: bool) -> list[str]:
        """Return the ways to try, the fastest first: packed ones, then padded, as the card says.

        Raises:
            CheckpointError: The one that was asked for doesn't run here.
        """
        if chosen != "auto" and self._wanted != "padded":
            if why := interface.obstacle(chosen, self.device, self.dtype, compiled=compiled):
                raise CheckpointError(f"attention = '{chosen}' can't be had: {why}")
            return [f"assay-{chosen}"]
        packed = interface.names(self.device, self.dtype, compiled=compiled)
        both = {"packed": packed, "padded": ["eager"]}
        return [*packed, "eager"] if self._wanted is None else both[self._wanted]

    @torch.inference_mode()
    def compile(self) -> None:
        """Compile the trunk's blocks, if their scores stay what they are."""
        sample = self._in_segments(self._sample())
        before = torch.from_numpy(self.score(sample)).float()
        compilation.compile_blocks(self.model.base_model)
        gap = self._gap(sample, before.to(self.device), doing="compile its blocks")
        self.is_compiled = gap <= self._tolerance_of_itself(before)
        if not self.is_compiled:
            compilation.restore_blocks(self.model.base_model)
            why = self._obstacle or f"its scores would move by {gap:.2g}"
            self.warnings.append(f"it runs uncompiled: {why}")

    @torch.inference_mode()
    def keep_prefixes(self, memory: int) -> None:
        """Keep what batches begin with in at most so many bytes, if scores stay what they are."""
        *_, sequence, branch = self._sample()
        count = min(_SHARED_TOKENS, len(sequence) - 1, len(branch) - 1) // BLOCK_TOKENS
        if not self.shares_prefixes or not count:
            return
        before = torch.from_numpy(self.score(PrefixBatch.unshared([sequence, branch]))).float()
        first, then = _continued(sequence, branch, count)
        tried = self.block_cache = BlockCache(count)
        self.score(first)
        gap = self._gap(then, before.to(self.device))
        self.block_cache = None
        if gap > self._tolerance_of_itself(before):
            why = self._obstacle or f"its scores would move by {gap:.2g}"
            self.warnings.append(f"it keeps no prefixes: {why}")
        elif blocks := min(memory // tried.block_bytes, _MOST_BLOCKS):
            self.block_cache = BlockCache(blocks)

    def _tolerance(self, expected: torch.Tensor) -> float:
        return _TOLERANCE.get(self.dtype, 1e-1) * max(1.0, float(expected.abs().max()))

    def _tolerance_of_itself(self, before: torch.Tensor) -> float:
        """Return by how much the trunk's own scores may move when it shares, keeps or compiles."""
        return _TOLERANCE_OF_ITSELF if self.dtype == torch.float32 else self._tolerance(before)

    def _gap(self, batch: PrefixBatch, expected: torch.Tensor, *, doing: str = "run") -> float:
        """Return the largest difference to the reference; infinity where the path can't run.

        `_obstacle` then says that it couldn't do so, and the kind of error that kept it from it.
        A device that breaks or has no memory left raises what it raised.
        """
        self._obstacle = ""
        try:
            self._use_attention()
            run = self._score_packed if self.forward == "packed" else self._score_padded
            scores = run(batch)
        except (
            interface.UnsupportedAttention,
            *(ValueError, TypeError, RuntimeError, LookupError, AttributeError, OSError),
        ) as error:
            if faults.is_fault(error):  # of the device, whatever the path
                raise
            self._obstacle = f"couldn't {doing}: {type(error).__name__}"
            return float("inf")
        beyond = [size for size in self._unheard if size > self._longest]
        if self.forward == "packed" and beyond:
            self._obstacle = f"no layer asks for the {min(beyond)} tokens that its mask lets see"
            return float("inf")
        gap = float((scores - expected.to(scores.device)).abs().max())
        return gap if np.isfinite(gap) else float("inf")

    def _use_attention(self) -> None:
        attention = self.attention
        if self.model.config._attn_implementation != attention:  # noqa: SLF001  has no public name
            self.model.set_attn_implementation(attention)
        if self.model.config._attn_implementation != attention:  # noqa: SLF001
            raise interface.UnsupportedAttention

    def _sample(self) -> list[np.ndarray]:
        """Return sequences of random ids, one longer than any small sliding window.

        The last one begins as the one before it does.
        """
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or 0
        longest = window + 20 if window <= _LARGEST_SAMPLED_WINDOW else 0
        limit = min(self.max_tokens or 1 << 30, getattr(config, "max_position_embeddings", 1 << 30))
        random = np.random.default_rng(0)
        usable = np.setdiff1d(np.arange(min(config.vocab_size, 50_000)), [config.pad_token_id or 0])
        sequences = [
            random.choice(usable, size=min(length, limit)).astype(np.int32)
            for length in (*SAMPLE_TOKENS, longest)
            if length
        ]
        tail = random.choice(usable, size=min(SAMPLE_TOKENS[0], limit)).astype(np.int32)
        branch = np.concatenate([sequences[-1][:_SHARED_TOKENS], tail])[:limit]
        return [*sequences, branch]

    def _in_segments(self, sample: Sequence[np.ndarray]) -> PrefixBatch:
        """Return a batch of sequences, the second half of each in the last segment."""
        halves = [self._halves(ids) for ids in sample]
        return replace(PrefixBatch.unshared(sample), segments=np.concatenate(halves))

    def _halves(self, ids: np.ndarray) -> np.ndarray:
        last = max(0, self._segments - 1)
        return np.where(np.arange(len(ids)) < len(ids) // 2, 0, last).astype(np.int32)

    def _token_types(self, segments: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the argument of a forward pass that says segments, where the trunk reads any.

        They are (tokens,) of one row, or (rows, tokens).
        """
        if self._segments <= 1:
            return {}
        rows = torch.from_numpy(np.atleast_2d(segments)).long()
        return {"token_type_ids": rows.to(self.device)}

    def _expected(self, sample: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the model's own scores: eager, each sequence alone, no padding."""
        # The head is float32 and the trunk need not be: lift what crosses between them.
        lifts = [
            module.register_forward_pre_hook(_in_float32)
            for module in checkpoint.head_modules(self.model)
        ]
        try:
            scores = [self._alone(ids) for ids in sample]
        finally:
            for lift in lifts:
                lift.remove()
        # The readout has the pooler; the trunk would run it on every forward pass for nothing.
        if getattr(self.model.base_model, "pooler", None) is not None:
            self.model.base_model.pooler = None
        numbers = torch.stack(scores)
        return numbers if self.model.base_model is not self.model else self.readout.score(numbers)

    def _alone(self, ids: np.ndarray) -> torch.Tensor:
        """Return transformers' own scores of one sequence, or what a card's heads would read."""
        row = torch.from_numpy(ids)[None].long().to(self.device)
        segments = self._token_types(self._halves(ids))
        outcome = self.model(input_ids=row, attention_mask=torch.ones_like(row), **segments)
        if self.model.base_model is not self.model:
            logits: torch.Tensor = outcome.logits[0]
            return logits
        ends = np.zeros(1, np.int64), np.array([row.shape[1] - 1])
        return self.readout.gather(outcome.last_hidden_state[0], *ends)[0]

    def _score_packed(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        packed = packing.pack(batch)
        ending = int(part * self.model.config.get_text_config().num_hidden_layers)

        def on_layer(number: int) -> None:
            if number == ending:
                on_ending()

        rows = None if self.last_layer is None else self._rows_read(batch, packed)
        with interface.over(packed, self.block_cache, on_layer, rows) as under_way:
            hidden = self.model.base_model(
                input_ids=self._row(packed.ids),
                position_ids=self._row(self._positions(packed)),
                **self._token_types(packed.segments),
            ).last_hidden_state[0]  # (rows, hidden)
        self._layers = under_way.layers
        self._unheard = under_way.masks - under_way.windows
        if rows is not None:
            return self.readout.score(hidden[: len(rows)].float(), batch.next_ids)
        if batch.read_rows is not None:
            return self.readout.score(readout.rows_of(hidden, batch.read_rows), batch.next_ids)
        return self.readout.score(self.readout.gather(hidden, packed.first_rows, packed.last_rows))

    def _rows_read(self, batch: PrefixBatch, packed: PackedBatch) -> np.ndarray:
        """Return the rows that a head reads, in its order, (read rows,) int32."""
        if batch.read_rows is not None:
            return batch.read_rows.astype(np.int32)
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

    def _row(self, numbers: np.ndarray) -> torch.Tensor:
        """Return (1, rows) on the device."""
        row = torch.from_numpy(numbers)[None]
        if self.device.type == "cuda":
            return row.pin_memory().to(self.device, non_blocking=True)
        return row

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
            hidden = self.model.base_model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                **self._token_types(types),
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
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        read = torch.cat(reads)[back.to(self.device)]
        if read_runs is not None:
            return self.readout.score(read, batch.next_ids)
        return self.readout.score(read[torch.from_numpy(batch.reads).long().to(self.device)])


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
    runner = ModelRunner(model, head, wanted=card.trunk.attention, position=_position(card))
    runner.warnings += checkpoint.notes(folder, base)
    return runner


def _position(card: Card) -> readout.Position | None:
    """Return where a card reads the head of transformers' own class, if it says so."""
    if card.heads or card.policy is not None or card.read is None:
        return None
    at = card.read.at
    return at if at in ("last", "first", "mean") else None


def _slow_dtype(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return a warning where float32 wastes a GPU: its fast products take 16 bits."""
    if device.type != "cuda" or dtype != torch.float32:
        return []
    slower = f"it runs in float32 on {device}, about fifteen times slower than in bfloat16"
    return [f"{slower}; set dtype = bfloat16, or trunk.dtype in its card"]


def _shared(sample: Sequence[np.ndarray]) -> PrefixBatch:
    """Return the sample as a batch whose last two sequences share what they have in common."""
    *alone, trunk, branch = sample
    common = min(_SHARED_TOKENS, len(trunk) - 1, len(branch) - 1)
    runs = [*alone, trunk[:common], trunk[common:], branch[common:]]
    whole = PrefixBatch.unshared(runs)
    parents, stem = whole.parents, len(alone)
    parents[[stem + 1, stem + 2]] = stem
    return replace(whole, reads=np.delete(whole.reads, stem))


def _continued(
    sequence: np.ndarray, branch: np.ndarray, blocks: int
) -> tuple[PrefixBatch, PrefixBatch]:
    """Return a batch that leaves so many blocks of a sequence, and both sequences without them."""
    held = blocks * BLOCK_TOKENS
    numbers = np.arange(blocks, dtype=np.int32)
    first = replace(
        PrefixBatch.unshared([sequence]),
        new_blocks=numbers,
        new_rows=np.arange(held, dtype=np.int32),
    )
    then = PrefixBatch(
        ids=np.concatenate([sequence[held:], branch[held:]]),
        lengths=np.array([held, len(sequence) - held, len(branch) - held], np.int32),
        parents=np.array([-1, 0, 0], np.int32),
        reads=np.array([1, 2], np.int32),
        held=1,
        cached_blocks=numbers,
    )
    return first, then


def _in_float32(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Lift a head module's inputs, as a forward pre-hook."""
    return tuple(state.float() for state in inputs)


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
