"""From hidden states at the reading positions to scores, in float32.

The reading position comes from the token sequence itself, never from `pad_token_id`: a decoder is
read at its last token, an encoder at its first, or over all of them where its config says mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from assay.engine.forest import ROWS
from assay.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import transformers

Position = Literal["last", "first", "mean"]


@dataclass(frozen=True, slots=True)
class Readout:
    """The head of one model: where it reads, and the modules from there to the score.

    `takes_sequence` says, per module, whether it picks the first token of (items, tokens, hidden)
    itself.
    """

    position: Position
    modules: tuple[torch.nn.Module, ...]
    takes_sequence: tuple[bool, ...]

    def gather(self, hidden: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
        """Return what the head reads, (items, hidden) float32, from packed (rows, hidden).

        `first` and `last` are the rows of each item's first and last token, (items,).
        """
        if self.position == "mean":
            spans = zip(first.tolist(), last.tolist(), strict=True)
            return torch.stack([hidden[begin : end + 1].float().mean(0) for begin, end in spans])
        rows = last if self.position == "last" else first
        return hidden[torch.from_numpy(rows).to(hidden.device).long()].float()

    def score(self, read: torch.Tensor) -> torch.Tensor:
        """Return the raw scores, (items,) float32, of (items, hidden).

        Rows are filled up to a multiple of `ROWS`, so that a score has the same bits in any batch.
        """
        count = read.shape[0]
        state = torch.nn.functional.pad(read, (0, 0, 0, -count % ROWS))
        for module, takes_sequence in zip(self.modules, self.takes_sequence, strict=True):
            state = module(state[:, None] if takes_sequence else state)
        return state[:count, 0]


def of(model: transformers.PreTrainedModel) -> Readout:
    """Return the readout of a `…ForSequenceClassification` model.

    Raises:
        CheckpointError: The head is of no known form.
    """
    score = getattr(model, "score", None)
    if isinstance(score, torch.nn.Linear):
        return Readout("last", (score,), (False,))
    classifier = getattr(model, "classifier", None)
    pooler = getattr(model, "pooler", None) or getattr(model.base_model, "pooler", None)
    head = getattr(model, "head", None)
    if head is not None and classifier is not None:
        pooling = getattr(model.config, "classifier_pooling", "cls")
        return Readout("mean" if pooling == "mean" else "first", (head, classifier), (False, False))
    if pooler is not None and isinstance(classifier, torch.nn.Linear):
        return Readout("first", (pooler, classifier), (True, False))
    if classifier is not None and not isinstance(classifier, torch.nn.Linear):
        return Readout("first", (classifier,), (True,))
    raise CheckpointError(
        f"{type(model).__name__} has a head of a form Assay doesn't know; known are 'score', "
        "'pooler' with 'classifier', 'head' with 'classifier', and a classification head"
    )
