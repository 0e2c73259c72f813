"""Where an item is read: by its card's heads, or as transformers' own class would read it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import InvalidField, TemplateRefused
from assay.items import Conversation, Ids, ReadPositions
from assay.prompts.head_positions import HeadPositionFinder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assay.cards.card import Card
    from assay.items import TokenizedItem
    from assay.prompts.chat_format import ChatFormat
    from assay.prompts.prompt_format import FormattedItem
    from assay.prompts.special_tokens import SpecialTokens
    from assay.prompts.token_ids import TokenIds
    from assay.prompts.tokenizer import Tokenizer


def is_class_read(card: Card, tokenizer: Tokenizer) -> bool:
    """Whether transformers' own class says where a decoder is read, and no card does."""
    has_own_head = not card.has_reward_head and card.policy is None and card.read is None
    return has_own_head and not tokenizer.has_encoder_frame


class ReadPositionFinder:
    """Finds where the items of one model are read."""

    def __init__(
        self,
        card: Card,
        tokenizer: Tokenizer,
        token_ids: TokenIds,
        special_tokens: SpecialTokens,
        chat_format: ChatFormat,
        config: Mapping[str, Any],
    ) -> None:
        """`config` is the model's config.json.

        Raises:
            CheckpointError: The tokenizer lacks a token that the card reads at.
        """
        self._card = card
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self._special_tokens = special_tokens
        self._chat_format = chat_format
        self._pools_all = config.get("classifier_pooling") == "mean"
        self._head_positions = HeadPositionFinder(card, token_ids.of)
        self._is_class_read = is_class_read(card, tokenizer)

    @property
    def are_elsewhere(self) -> bool:
        """Whether items are read elsewhere than at their last token."""
        read = self._card.read
        return self._card.policy is not None or (read is not None and read.at != "last")

    def places(self, rendered: TokenizedItem) -> list[int]:
        """Return every place where an item is read; none where that is the mean over all."""
        if rendered.read_at is not None:
            places: list[int] = rendered.read_at.positions.tolist()
            return places
        return {"first": [0], "mean": []}.get(self._default, [len(rendered.ids) - 1])

    def read_token(self, rendered: TokenizedItem) -> tuple[int, str]:
        """Return where an item is read last, and the token there as the vocabulary spells it."""
        place = (self.places(rendered) or [len(rendered.ids) - 1])[-1]
        return place, self._tokenizer.tokens([int(rendered.ids[place])])[0]

    @cached_property
    def _default(self) -> str:
        """Where items are read of which nothing else is known, by the card, else by their class."""
        card = self._card
        if card.read is not None:
            return card.read.at
        if card.has_reward_head or card.policy is not None or not self._tokenizer.has_encoder_frame:
            return "last"
        return "mean" if self._pools_all else "first"

    def located(self, rendered: TokenizedItem, item: FormattedItem) -> TokenizedItem:
        """Say where an item is read.

        Raises:
            InvalidField: What the heads are read at stands nowhere, or not once a step.
            TemplateRefused: Which tokens are the response's can't be told.
        """
        if isinstance(item.item, Ids) and item.item.reads_all:
            every = np.arange(len(rendered.ids), dtype=np.int32)
            return replace(rendered, read_at=ReadPositions(every))
        if self._card.policy is not None:
            return replace(rendered, read_at=self._response_positions(rendered, item))
        end = self._prompt_end(rendered, item) if self._head_positions.needs_prompt else None
        read_at = self._head_positions.positions(rendered.ids, item.steps, end)
        read_at = read_at or self._before_padding(rendered.ids)
        return rendered if read_at is None else replace(rendered, read_at=read_at)

    def _before_padding(self, ids: np.ndarray) -> ReadPositions | None:
        """Return the last token that isn't padding, as transformers' own class looks for it.

        None where that is the last of all. Of padding alone the class reads the first token.
        """
        padding = self._token_ids.inputs.padding
        if padding is None or not self._is_class_read or ids[-1] != padding:
            return None
        others = np.flatnonzero(ids != padding)
        return ReadPositions(np.array([others[-1] if len(others) else 0], np.int32))

    def _prompt_end(self, rendered: TokenizedItem, item: FormattedItem) -> int | None:
        """Return the place of the prompt's last token; None where nobody can tell.

        As GPM's authors count it, from the end: what the response adds to the prompt's turns
        rendered alone.
        """
        if not isinstance(item.item, Conversation) or rendered.text is None:
            return None
        text = self._chat_format.prompt_alone(item.item, generation_prompt=False)
        alone, whole = self._tokenizer.ids([text, rendered.text])
        behind = len(whole) - len(alone) + len(self._special_tokens.appended)
        place = len(rendered.ids) - 1 - behind
        ends = place >= 0 and rendered.ids[place] == alone[-1]
        return place if ends else None

    def _response_positions(self, rendered: TokenizedItem, item: FormattedItem) -> ReadPositions:
        """Return the places before each token of the response and of what ends it."""
        if not isinstance(item.item, Conversation) or rendered.text is None:
            raise InvalidField(
                "the model scores responses token by token; send one with its prompt"
            )
        text = self._chat_format.prompt_alone(item.item, generation_prompt=True)
        if not rendered.text.startswith(text):
            raise TemplateRefused(
                "the chat template spells the prompt otherwise once it is answered: which tokens "
                "are the response's can't be told"
            )
        count = sum(end > len(text) for _, end in self._tokenizer.offsets(rendered.text))
        last = len(rendered.ids) - 1
        first = max(0, last - count)
        positions = np.arange(first, last, dtype=np.int32)
        return ReadPositions(positions, next_ids=rendered.ids[first + 1 :])
