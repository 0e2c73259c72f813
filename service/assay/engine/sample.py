"""What a model is tried on while it is loaded: sequences of random ids, alike on every machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from assay.joined_batch import join
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

if TYPE_CHECKING:
    import transformers

LENGTHS = (5, 33, 150)
_SHARED_TOKENS = 37  # of the last sequence but one, by the last, which leaves it there
_LARGEST_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """Sequences, one longer than any small sliding window; the last two begin alike.

    `segments` is how many the trunk tells apart, by an embedding of their ids. A batch has the same
    for each of so many `adapters`.
    """

    sequences: tuple[np.ndarray, ...]  # (tokens,) int32 each
    segments: int
    adapters: int = 1

    @classmethod
    def of(
        cls, model: transformers.PreTrainedModel, *, max_tokens: int | None, segments: int
    ) -> Self:
        """Return the sample for a model that has positions for `max_tokens`."""
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or 0
        longest = window + 20 if window <= _LARGEST_WINDOW else 0
        limit = min(max_tokens or 1 << 30, getattr(config, "max_position_embeddings", 1 << 30))
        random = np.random.default_rng(0)
        usable = np.setdiff1d(np.arange(min(config.vocab_size, 50_000)), [config.pad_token_id or 0])
        sequences = [
            random.choice(usable, size=min(length, limit)).astype(np.int32)
            for length in (*LENGTHS, longest)
            if length
        ]
        tail = random.choice(usable, size=min(LENGTHS[0], limit)).astype(np.int32)
        branch = np.concatenate([sequences[-1][:_SHARED_TOKENS], tail])[:limit]
        return cls((*sequences, branch), segments)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: it tells of windows that are shorter."""
        return max(map(len, self.sequences))

    @property
    def blocks(self) -> int:
        """Whole blocks that the last two sequences share."""
        return self._common // BLOCK_TOKENS

    def halves(self, ids: np.ndarray) -> np.ndarray:
        """Return a sequence's segments, (tokens,) int32: its second half is in the last one."""
        last = max(0, self.segments - 1)
        return np.where(np.arange(len(ids)) < len(ids) // 2, 0, last).astype(np.int32)

    def alone(self) -> PrefixBatch:
        """Return a batch of the sequences, none of which shares anything."""
        segments = np.concatenate([self.halves(ids) for ids in self.sequences])
        return self._for_each(replace(PrefixBatch.unshared(self.sequences), segments=segments))

    def shared(self) -> PrefixBatch:
        """Return a batch whose last two sequences share what they have in common."""
        *others, trunk, branch = self.sequences
        common, stem = self._common, len(self.sequences) - 2
        runs = [*others, trunk[:common], trunk[common:], branch[common:]]
        whole = PrefixBatch.unshared(runs)
        parents = whole.parents
        parents[[stem + 1, stem + 2]] = stem
        return self._for_each(replace(whole, reads=np.delete(whole.reads, stem)))

    def pair(self) -> PrefixBatch:
        """Return a batch of the two sequences that begin alike, neither of which shares."""
        return self._for_each(PrefixBatch.unshared(self.sequences[-2:]))

    def continued(self) -> tuple[PrefixBatch, PrefixBatch]:
        """Return a batch that leaves the shared blocks on the device, and the pair without them."""
        trunk, branch = self.sequences[-2:]
        held = self.blocks * BLOCK_TOKENS
        numbers = np.arange(self.blocks, dtype=np.int32)
        first = replace(
            PrefixBatch.unshared([trunk]),
            new_blocks=numbers,
            new_rows=np.arange(held, dtype=np.int32),
        )
        then = PrefixBatch(
            ids=np.concatenate([trunk[held:], branch[held:]]),
            lengths=np.array([held, len(trunk) - held, len(branch) - held], np.int32),
            parents=np.array([-1, 0, 0], np.int32),
            reads=np.array([1, 2], np.int32),
            held=1,
            cached_blocks=numbers,
        )
        return self._for_each(first), self._for_each(then)

    def with_others(self, count: int) -> PrefixBatch:
        """Return a batch of the sequences and of so many others of the same ids, short ones."""
        random = np.random.default_rng(1)
        known, limit = np.concatenate(self.sequences), self.longest
        others = [random.choice(known, size=min(8 + place % 17, limit)) for place in range(count)]
        return replace(self, sequences=(*self.sequences, *others)).alone()

    def _for_each(self, batch: PrefixBatch) -> PrefixBatch:
        """Return a batch for every adapter, the one that is given for each."""
        if self.adapters == 1:
            return batch
        return join(dict.fromkeys(range(self.adapters), batch), self.blocks)

    @property
    def _common(self) -> int:
        return min(_SHARED_TOKENS, *(len(ids) - 1 for ids in self.sequences[-2:]))
