"""One model's forward pass: a batch of runs in, scores out.

Packed wherever the trunk uses transformers' attention interface; otherwise padded to buckets of
`BUCKET` tokens. Which of the two is decided once, by comparing each with the model's own eager
forward pass on a sample: a path that disagrees is never used, and a model that neither path can
compute is refused.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from assay.engine import checkpoint, forest, readout
from assay.engine.attention import PackedAttention, Segment, UnsupportedAttention
from assay.engine.messages import Forest
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import transformers

Forward = Literal["packed", "padded"]
BUCKET = 64
SAMPLE_TOKENS = (5, 33, 150)
_LARGEST_SAMPLED_WINDOW = 1024
# The sample's scores may differ by rounding only: a few units in the last place of the dtype,
# through every layer. A wrong mask, position or head is off by orders of magnitude more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}


class Trunk:
    """A loaded model with the path that computes it."""

    def __init__(self, model: transformers.PreTrainedModel, name: str) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.base_model.dtype
        self.readout = readout.of(model)
        self.forward: Forward = "packed"
        # A name with a slash would be taken for a kernel on the hub.
        self._attention = PackedAttention(f"assay-{name}".replace("/", "-"))
        self._first_position = _first_position(model)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def shares_prefixes(self) -> bool:
        """Whether a run may continue another one's tokens."""
        return False

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence the trunk has positions for; None where it has no such table."""
        table = _position_table(self.model)
        return None if table is None else table.num_embeddings - self._first_position

    @torch.inference_mode()
    def score(self, batch: Forest) -> np.ndarray:
        """Return the raw scores, (items,) float64.

        Raises:
            ValueError: A run continues another, and `shares_prefixes` is false.
        """
        scores = (
            self._score_packed(batch) if self.forward == "packed" else self._score_padded(batch)
        )
        return scores.double().cpu().numpy()

    def padded_tokens(self, batch: Forest) -> int:
        """Return how many tokens of padding a batch computes."""
        if self.forward == "packed":
            return -batch.tokens % forest.ROWS
        return int((-batch.lengths % BUCKET).sum())

    @torch.inference_mode()
    def verify(self) -> None:
        """Choose the path that equals the model's own eager forward pass on a sample.

        Raises:
            CheckpointError: Neither path does.
        """
        sample = self._sample()
        expected = self._expected(sample)
        gaps: dict[str, float] = {}
        for path in ("packed", "padded"):
            gap = self._gap(path, sample, expected)
            scale = max(1.0, float(expected.abs().max()))
            if gap <= _TOLERANCE.get(self.dtype, 1e-1) * scale:
                self.forward = path
                self._use_attention(path)
                return
            gaps[path] = gap
        raise CheckpointError(
            f"{type(self.model).__name__}: scores differ from the model's own forward pass "
            f"(packed by {gaps['packed']:.2g}, padded by {gaps['padded']:.2g}); this architecture "
            "can't be served correctly yet"
        )

    def _gap(self, path: Forward, sample: Sequence[np.ndarray], expected: torch.Tensor) -> float:
        """Return the largest difference to the reference; infinity where the path can't run."""
        try:
            self._use_attention(path)
            run = self._score_packed if path == "packed" else self._score_padded
            scores = run(Forest.unshared(sample))
        except (UnsupportedAttention, ValueError, TypeError, RuntimeError, KeyError):
            return float("inf")
        gap = float((scores - expected).abs().max())
        return gap if np.isfinite(gap) else float("inf")

    def _use_attention(self, path: Forward) -> None:
        wanted = self._attention.name if path == "packed" else "eager"
        if self.model.config._attn_implementation != wanted:  # noqa: SLF001  has no public name
            self.model.set_attn_implementation(wanted)
        if self.model.config._attn_implementation != wanted:  # noqa: SLF001
            raise UnsupportedAttention

    def _sample(self) -> list[np.ndarray]:
        """Return sequences of random ids, one longer than any small sliding window."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or 0
        longest = window + 20 if window <= _LARGEST_SAMPLED_WINDOW else 0
        limit = min(self.max_tokens or 1 << 30, getattr(config, "max_position_embeddings", 1 << 30))
        random = np.random.default_rng(0)
        usable = np.setdiff1d(np.arange(min(config.vocab_size, 50_000)), [config.pad_token_id or 0])
        return [
            random.choice(usable, size=min(length, limit)).astype(np.int64)
            for length in (*SAMPLE_TOKENS, longest)
            if length
        ]

    def _expected(self, sample: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the model's own scores: eager, each sequence alone, no padding."""
        # The head is float32 and the trunk need not be: lift what crosses between them.
        lifts = [
            module.register_forward_pre_hook(_in_float32)
            for module in checkpoint.head_modules(self.model)
        ]
        try:
            rows = [torch.from_numpy(ids)[None].to(self.device) for ids in sample]
            scores = [
                self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0]
                for row in rows
            ]
        finally:
            for lift in lifts:
                lift.remove()
        # The readout has the pooler; the trunk would run it on every forward pass for nothing.
        if getattr(self.model.base_model, "pooler", None) is not None:
            self.model.base_model.pooler = None
        return torch.stack(scores)

    def _score_packed(self, batch: Forest) -> torch.Tensor:
        packed = forest.pack(batch)
        self._attention.segments = packed.segments
        hidden = self.model.base_model(
            input_ids=torch.from_numpy(packed.ids)[None].to(self.device),
            position_ids=torch.from_numpy(packed.positions + self._first_position)[None].to(
                self.device
            ),
        ).last_hidden_state[0]  # (rows, hidden)
        return self.readout.score(self.readout.gather(hidden, packed.items))

    def _score_padded(self, batch: Forest) -> torch.Tensor:
        """Run sequences of one bucket together, filled up on the right behind a mask."""
        if (batch.parents >= 0).any():
            raise ValueError("a padded forward pass can't continue another run's tokens")
        sequences = batch.runs()
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, ids in enumerate(sequences):
            buckets[-(-len(ids) // BUCKET) * BUCKET].append(index)
        scores = torch.empty(len(sequences), dtype=torch.float32)
        for width, members in sorted(buckets.items()):
            limit = min(width, self.max_tokens or width)
            ids = np.zeros((len(members), limit), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(members):
                ids[row, : len(sequences[index])] = sequences[index]
                mask[row, : len(sequences[index])] = 1
            hidden = self.model.base_model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
            ).last_hidden_state  # (members, limit, hidden)
            items = [
                Segment(row * limit, len(sequences[index])) for row, index in enumerate(members)
            ]
            read = self.readout.gather(hidden.flatten(0, 1), items)
            scores[torch.tensor(members)] = self.readout.score(read).cpu()
        return scores[torch.from_numpy(batch.reads).long()]


def load(folder: Path, name: str, *, device: torch.device, dtype: torch.dtype | None) -> Trunk:
    """Return a checkpoint's trunk, not yet verified."""
    return Trunk(checkpoint.load(folder, device=device, dtype=dtype), name)


def _in_float32(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Lift a head module's inputs, as a forward pre-hook."""
    return tuple(one.float() for one in inputs)


def _position_table(model: transformers.PreTrainedModel) -> torch.nn.Embedding | None:
    """Return the table of learned absolute positions, where the trunk has one."""
    for name, module in model.base_model.named_modules():
        if name.split(".")[-1] in {"position_embeddings", "wpe"} and isinstance(
            module, torch.nn.Embedding
        ):
            return module
    return None


def _first_position(model: transformers.PreTrainedModel) -> int:
    """Return the position of a sequence's first token: RoBERTa counts from its padding index."""
    table = _position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1
