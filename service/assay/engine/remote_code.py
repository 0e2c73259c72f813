"""A model by the checkpoint's own code: its whole forward pass, and nothing of Assay's.

Only in a worker, and only what the operator trusts to the letter (`cards.code`, `engine.trusted`).
Items are padded where that gives what each has alone, to rounding;
else each runs alone. Nothing is shared, kept or compiled.
"""

from __future__ import annotations

from collections import defaultdict
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.engine import checkpoint, faults, transfer, trusted, verification
from assay.engine.model_runner import BUCKET, ModelRunner
from assay.engine.readout import Readout
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import transformers

    from assay.cards.card import Card
    from assay.cards.code import Trust
    from assay.worker_protocol import PrefixBatch

_NAMES = ("score", "scores", "reward", "rewards", "logits")  # of what is read from the output


class WholeModel:
    """No head: the forward pass gives the numbers."""

    joined = 1

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return what is there already."""
        del next_ids
        return state

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return the numbers as those of one head."""
        del hidden, device
        return {"reward": self._outputs}


class Foreign(ModelRunner):
    """A model that is run as a whole; see `ModelRunner`."""

    def __init__(self, model: transformers.PreTrainedModel, outputs: int) -> None:
        super().__init__(model, Readout("last", WholeModel(outputs)))
        self.forward = "padded"
        self.attention = "own"
        self._outputs = outputs
        self._pads = False
        if "token_type_ids" not in signature(model.forward).parameters:
            self.segments = 0

    @torch.inference_mode()
    def verify(self) -> None:
        """Choose whether items may be padded; it attends as its own code does.

        Raises:
            CheckpointError: The forward pass fails, or gives other numbers than the card names.
        """
        sample = self.sample()
        try:
            alone = torch.cat(
                [self._run([ids], [sample.halves(ids)], len(ids)) for ids in sample.sequences]
            )
        except CheckpointError:
            raise
        except Exception as error:  # the code may raise anything
            if faults.is_fault(error):
                raise
            raise self._unusable(f"its forward pass fails ({type(error).__name__})") from error
        if not alone.isfinite().all():
            raise self._unusable("its scores aren't finite")
        self._pads = True
        try:
            gap = float((self._score_padded(sample.alone()) - alone).abs().max())
        except Exception as error:  # then it can't be padded
            if faults.is_fault(error):
                raise
            gap = float("inf")
        self._pads = gap <= verification.tolerance_of_itself(self, alone)

    def padded_tokens(self, batch: PrefixBatch) -> int:
        """Return how many tokens of padding a batch computes."""
        return super().padded_tokens(batch) if self._pads else 0

    def _score_packed(
        self, batch: PrefixBatch, on_ending: Callable[[], None] = lambda: None, part: float = 0.0
    ) -> torch.Tensor:
        raise NotImplementedError

    def _score_padded(self, batch: PrefixBatch) -> torch.Tensor:
        """Run sequences of one bucket together, or each alone."""
        if (batch.parents >= 0).any() or batch.read_rows is not None:
            raise ValueError("a model of its own code reads whole sequences only")
        sequences, segments = batch.runs(), batch.segment_runs()
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, ids in enumerate(sequences):
            width = -(-len(ids) // BUCKET) * BUCKET
            groups[(width, 0) if self._pads else (len(ids), index)].append(index)
        numbers: dict[int, torch.Tensor] = {}
        for (width, _), members in groups.items():
            limit = min(width, self.max_tokens or width)
            read, types = ([arrays[index] for index in members] for arrays in (sequences, segments))
            rows = self._run(read, types, limit)
            numbers |= dict(zip(members, rows, strict=True))
        return torch.stack([numbers[read] for read in batch.reads.tolist()])

    def _run(
        self, sequences: Sequence[np.ndarray], segments: Sequence[np.ndarray], width: int
    ) -> torch.Tensor:
        """Return (sequences, outputs) float32 of the model's own forward pass."""
        pad = self.model.config.get_text_config().pad_token_id
        ids = np.full((len(sequences), width), pad or 0, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, (sequence, types_of_it) in enumerate(zip(sequences, segments, strict=True)):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
            types[row, : len(sequence)] = types_of_it
        row_ids, seen, segments_there = transfer.to_device([ids, mask, types], self.device)
        outcome = self.model(
            input_ids=row_ids.long(),
            attention_mask=seen.long(),
            **self.token_types(segments_there),
        )
        numbers = _numbers(outcome)
        if numbers.shape == (len(sequences),):
            numbers = numbers[:, None]
        if numbers.shape != (len(sequences), self._outputs):
            raise self._unusable(
                f"its forward pass gives numbers of shape {tuple(numbers.shape)} for "
                f"{len(sequences)} items, and {self._outputs} each are expected ([score] outputs "
                "of a card names them)"
            )
        return numbers.float()

    def _unusable(self, why: str) -> CheckpointError:
        return CheckpointError(f"{type(self.model).__name__}, by the checkpoint's own code: {why}")


def load(
    name: str,
    folder: Path,
    card: Card,
    trust: Trust,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Foreign:
    """Return a checkpoint by its own code, not yet verified.

    Raises:
        CheckpointError: The code isn't the one that is trusted, and none of it was run. Or it can't
            be loaded whole, or the card asks for what only Assay's heads do.
    """
    if card.read is not None or card.steps is not None or card.preference is not None:
        raise CheckpointError(
            f"{folder} runs by its own code; its card can't have [read], [steps] or [preference]"
        )
    if card.trunk.attention == "packed":
        raise CheckpointError(
            f"{folder} runs by its own code, which is never packed; leave out trunk.attention"
        )
    with trusted.copied(name, folder, trust) as private:
        model = checkpoint.load_by_own_code(private, card, trust.digest, device=device, dtype=dtype)
    return Foreign(model, max(1, len(card.score.outputs)))


def _numbers(outcome: Any) -> torch.Tensor:
    """Return the tensor that an output has under a known name, or first."""
    if isinstance(outcome, torch.Tensor):
        return outcome
    for name in _NAMES:
        if isinstance(output := getattr(outcome, name, None), torch.Tensor):
            return output
    first: torch.Tensor = outcome[0]
    return first
