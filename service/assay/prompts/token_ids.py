"""The ids that a model has embeddings for: those of a card's tokens, of text, and of callers."""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from assay.cards import validation
from assay.errors import CheckpointError, InvalidField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.cards.card import Card
    from assay.cards.mechanism import Token
    from assay.prompts.tokenizer import Tokenizer
    from assay.worker_protocol import Inputs


class TokenIds:
    """A tokenizer's ids held against a model's embedding."""

    def __init__(self, tokenizer: Tokenizer, inputs: Inputs) -> None:
        """`inputs` are as config.json says, until the model is loaded."""
        self._tokenizer = tokenizer
        self._is_held = False
        self._named = 0  # the highest id of a token of the card
        self.inputs = inputs

    def hold_to(self, loaded: Inputs) -> None:
        """Take no other ids than a loaded model does: the fewest, of several."""
        rows = self.inputs.vocabulary
        fewest = min(rows, loaded.vocabulary) if self._is_held else loaded.vocabulary
        self.inputs, self._is_held = replace(loaded, vocabulary=fewest), True

    @cached_property
    def _highest(self) -> int:
        """The highest id that text and what the tokenizer puts around it can come to."""
        tokenizer = self._tokenizer
        between = tokenizer.joint[0] if tokenizer.has_encoder_frame else ()
        vocabulary: dict[str, int] = tokenizer.hf.get_vocab()
        return max(chain(vocabulary.values(), *tokenizer.frame, between), default=0)

    def beyond(self) -> list[str]:
        """Return the tokens that text can name and the model has no embedding for, by id."""
        tokens = {i: token for token, i in self._tokenizer.hf.get_vocab().items()}
        return [tokens[i] for i in sorted(tokens) if i >= self.inputs.vocabulary]

    # --- tokens that a card names -----------------------------------------------------------

    def of(self, token: Token) -> int:
        """Return the id of a token of the card.

        Raises:
            CheckpointError: The tokenizer hasn't that token, or the model has no row for it.
        """
        token_id = token if isinstance(token, int) else self._tokenizer.look_up(token)
        if not 0 <= token_id < self.inputs.vocabulary:
            raise CheckpointError(
                f"the card names the token {token!r}, id {token_id}, and the model's embedding has "
                f"{self.inputs.vocabulary} rows: tokenizer and weights aren't of one model"
            )
        self._named = max(self._named, token_id)
        return token_id

    def check_card(self, card: Card) -> None:
        """Refuse a token of the card that the tokenizer hasn't, with its field.

        Raises:
            CheckpointError: There is one.
        """
        for path, token in validation.tokens(card):
            try:
                self.of(token)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error.message}") from error

    def in_ids(self, card: Card) -> Card:
        """Return a card whose heads name tokens by their ids."""
        heads = {
            name: head.model_copy(
                update={
                    "layers": [
                        layer.model_copy(update={"tokens": [*map(self.of, layer.tokens)]})
                        if layer.op == "vocabulary"
                        else layer
                        for layer in head.layers
                    ]
                }
            )
            for name, head in card.heads.items()
        }
        return card.model_copy(update={"heads": heads})

    # --- ids of an item ---------------------------------------------------------------------

    def check(self, ids: np.ndarray, *, are_verbatim: bool) -> None:
        """Refuse ids that the model has no embedding for, wherever they come from.

        On a GPU such an id would end the device's process.

        Raises:
            InvalidField: There is one.
        """
        rows = self.inputs.vocabulary
        if not are_verbatim and max(self._highest, self._named) < rows:
            return
        highest = int(ids.max())
        if highest < rows:
            return
        if are_verbatim:
            raise InvalidField(
                f"'input_ids' has an id of {highest}; the model's vocabulary ends at {rows - 1}",
                param="input_ids",
            )
        added = self._tokenizer.hf.added_tokens_decoder.get(highest)  # of others: text is private
        token = (
            f"the token {added.content!r}, id {highest}" if added else f"a token of id {highest}"
        )
        raise InvalidField(
            f"the text names {token}; the model's vocabulary ends at {rows - 1}: leave it out"
        )

    def segments(self, segments: Sequence[int]) -> np.ndarray | None:
        """Return an item's segment ids; None where the model reads none, as its own code does.

        Raises:
            InvalidField: The model hasn't that many segments.
        """
        count = self.inputs.segments
        if not count and self._tokenizer.knows_segments:
            return None
        if max(segments) >= max(1, count):
            raise InvalidField(
                f"'token_type_ids' has {max(segments)}; the model's segments end at "
                f"{max(0, count - 1)}",
                param="token_type_ids",
            )
        return np.asarray(segments, dtype=np.int32) if any(segments) else None
