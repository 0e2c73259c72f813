"""From hidden states at the reading positions to numbers, in float32.

A decoder is read at its last token, an encoder at its first, or over all of them where its config
says mean. A card may say otherwise, and the front looks for a decoder's last token that isn't
padding, as transformers' own class does; a batch then names the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch.nn import functional

from assay.engine import transfer
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import transformers

    from assay.engine.head import Head, VocabularyHead

Position = Literal["last", "first", "mean"]
ROWS = 64  # of a head's product: one shape of it for one order of sums, on any device


class Reader(Protocol):
    """What turns rows of hidden states into numbers."""

    @property
    def joined(self) -> int:
        """So many rows are read side by side."""
        ...

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows / joined, outputs) of (rows, hidden) float32."""
        ...

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return how many of the outputs are each head's, by its name, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Readout:
    """Where a model is read unless a batch names rows, and its head."""

    position: Position
    head: Reader

    def gather(self, hidden: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
        """Return what the head reads, (items, hidden) float32, from packed (rows, hidden).

        `first` and `last` are the rows of each item's first and last token, (items,).
        """
        if self.position == "mean":
            spans = zip(first.tolist(), last.tolist(), strict=True)
            return torch.stack([hidden[begin : end + 1].float().mean(0) for begin, end in spans])
        return rows_of(hidden, last if self.position == "last" else first)

    def score(self, read: torch.Tensor, next_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return the head's numbers, (rows, outputs) float32, of (rows, hidden).

        The head gets exactly `ROWS` rows at a time, the last ones filled up, so that numbers have
        the same bits in any batch: libraries choose a kernel by the number of rows. `next_ids` are
        the tokens that follow those read, for a head that asks for them.
        """
        chunk = ROWS * self.head.joined
        more = -len(read) % chunk
        if next_ids is None:
            next_ids = torch.zeros(len(read), dtype=torch.int32, device=read.device)
        rows = torch.split(functional.pad(read, (0, 0, 0, more)), chunk)
        ids = torch.split(functional.pad(next_ids, (0, more)), chunk)
        numbers = torch.cat([self.head(*part) for part in zip(rows, ids, strict=True)])
        return numbers[: len(read) // self.head.joined]


@dataclass(frozen=True, slots=True)
class OwnHead:
    """The head of transformers' own class.

    `takes_sequence` says, per module, whether it picks the first token of (items, tokens, hidden)
    itself.
    """

    modules: tuple[torch.nn.Module, ...]
    takes_sequence: tuple[bool, ...]
    joined: int = 1

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows, labels)."""
        del next_ids
        for module, takes_sequence in zip(self.modules, self.takes_sequence, strict=True):
            state = module(state[:, None] if takes_sequence else state)
        return state

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return the labels as those of one head."""
        state = torch.zeros(ROWS, hidden, device=device)
        return {"reward": self(state, torch.empty(0, device=device)).shape[1]}


@dataclass(frozen=True, slots=True)
class CardHeads:
    """A card's heads, their numbers side by side in the card's order."""

    by_name: Mapping[str, Head]

    @property
    def joined(self) -> int:
        """So many rows are read side by side, by all heads alike."""
        return next(iter(self.by_name.values())).joined

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows / joined, outputs)."""
        del next_ids
        return torch.cat([head(state) for head in self.by_name.values()], dim=1)

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return each head's number of outputs."""
        state = torch.zeros(ROWS * self.joined, hidden, device=device)
        return {name: head(state).shape[1] for name, head in self.by_name.items()}


@dataclass(frozen=True, slots=True)
class HeadBeside:
    """The head of transformers' own class, and a card's that say more of the same rows."""

    own: Reader
    more: Reader
    joined: int = 1

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows, labels and more)."""
        return torch.cat([self.own(state, next_ids), self.more(state, next_ids)], dim=1)

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return each head's number of outputs."""
        return self.own.sizes(hidden, device) | self.more.sizes(hidden, device)


@dataclass(frozen=True, slots=True)
class NextToken:
    """A policy's own vocabulary: how likely was the token that follows?"""

    vocabulary: VocabularyHead
    joined: int = 1

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows, 1)."""
        return self.vocabulary(state, next_ids)

    def sizes(self, hidden: int, device: torch.device) -> dict[str, int]:
        """Return one number: a log-probability."""
        del hidden, device
        return {"reward": 1}


def rows_of(hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Return some rows of packed (rows, hidden), in float32."""
    (index,) = transfer.to_device([rows], hidden.device)
    return hidden[index].float()


def beside(own_readout: Readout, more: Readout) -> Readout:
    """Return the readout of transformers' own class with a card's heads at the same rows."""
    return Readout(own_readout.position, HeadBeside(own_readout.head, more.head))


def own(model: transformers.PreTrainedModel) -> Readout:
    """Return the readout of a `…ForSequenceClassification` model.

    Raises:
        CheckpointError: The head is of no known form.
    """
    score = getattr(model, "score", None)
    if isinstance(score, torch.nn.Linear):
        return Readout("last", OwnHead((score,), (False,)))
    classifier = getattr(model, "classifier", None)
    pooler = getattr(model, "pooler", None) or getattr(model.base_model, "pooler", None)
    head = getattr(model, "head", None)
    if head is not None and classifier is not None:
        pooling = getattr(model.config, "classifier_pooling", "cls")
        position: Position = "mean" if pooling == "mean" else "first"
        return Readout(position, OwnHead((head, classifier), (False, False)))
    if isinstance(pooler, torch.nn.Linear) and isinstance(classifier, torch.nn.Linear):  # ALBERT
        parts = (pooler, model.base_model.pooler_activation, classifier)
        return Readout("first", OwnHead(parts, (False, False, False)))
    if pooler is not None and isinstance(classifier, torch.nn.Linear):
        return Readout("first", OwnHead((pooler, classifier), (True, False)))
    if classifier is not None and not isinstance(classifier, torch.nn.Linear):
        return Readout("first", OwnHead((classifier,), (True,)))
    raise CheckpointError(
        f"{type(model).__name__} has a head of a form Assay doesn't know; known are 'score', "
        "'pooler' with 'classifier', 'head' with 'classifier', and a classification head"
    )
