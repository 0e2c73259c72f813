"""Prompt and response as the two segments of an encoder, cut as its tokenizer cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assay.errors import ItemTooLong, TemplateRefused
from assay.items import TokenizedItem, said
from assay.prompts import truncation
from assay.prompts.tokenizer import checked
from assay.prompts.truncation import Sides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import Cut, Message, Side, Truncation
    from assay.prompts.token_ids import TokenIds
    from assay.prompts.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SegmentPair:
    """Two texts for the two segments."""

    prompt: str
    response: str


class PairEncoder:
    """Encodes pairs of texts in the tokenizer's own frame."""

    def __init__(self, tokenizer: Tokenizer, token_ids: TokenIds, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self._max_tokens = max_tokens

    def pair(self, messages: Sequence[Message]) -> SegmentPair | TemplateRefused:
        """Return prompt and response of a conversation, or why it is no such pair."""
        if not self._tokenizer.has_encoder_frame:
            return TemplateRefused(
                "the model has no chat template",
                advice="; send 'text' that already has its format, or 'input_ids'",
            )
        if [message["role"] for message in messages] != ["user", "assistant"]:
            return TemplateRefused(
                "the model has no chat template; send one prompt with one response"
            )
        return SegmentPair(*map(said, messages))

    def render(self, pair: SegmentPair, rule: Truncation, side: Side | None) -> TokenizedItem:
        """Return what the model reads of a pair.

        Raises:
            InvalidField: A text isn't Unicode.
            ItemTooLong: What must be kept exceeds the limit.
        """
        prompt = checked(self._tokenizer.encode_one(pair.prompt))
        response = checked(self._tokenizer.encode_one(pair.response))
        before, after = self._tokenizer.frame
        between, _ = self._tokenizer.joint
        room = self._max_tokens - len(before) - len(between) - len(after)
        first, second, cut = self._cut(prompt, response, room, rule, side)
        ids = [*before, *first, *between, *second, *after]
        segments = self._segments(len(ids) - len(second) - len(after), len(second))
        return TokenizedItem(np.asarray(ids, np.int32), None, cut, segments=segments)

    def _segments(self, first: int, second: int) -> np.ndarray | None:
        """Return the segment ids of a pair of so many tokens up to the second text, and of it.

        None where the model reads none.
        """
        if self._token_ids.inputs.segments < 2 or not self._tokenizer.knows_segments:
            return None
        _, after = self._tokenizer.frame
        _, types = self._tokenizer.joint
        return np.repeat(np.array(types, np.int32), [first, second, len(after)])

    def _cut(
        self,
        prompt: list[int],
        response: list[int],
        room: int,
        rule: Truncation,
        side: Side | None,
    ) -> tuple[list[int], list[int], Cut | None]:
        """Return what stays of two segments for which there is so much room, and what was cut."""
        over = len(prompt) + len(response) - room
        if over <= 0:
            return prompt, response, None
        if room <= 0:
            raise ItemTooLong(
                f"the model's limit of {self._max_tokens} tokens has no room for text"
            )
        if rule == "prompt_start" and over > len(prompt):
            raise truncation.response_too_long(len(response), room)
        if rule == "response_end" and over >= len(response):
            rule = "longest_first"
        first, second = truncation.plan(rule, len(prompt), len(response), over)
        side = side or self._tokenizer.truncation_side
        sides = Sides(side, side) if rule == "longest_first" else Sides()
        return (
            _end_of(prompt, first, sides.prompt),
            _end_of(response, second, sides.response),
            truncation.cut_of(None, first < len(prompt), second < len(response)),
        )


def _end_of(ids: list[int], count: int, side: Side) -> list[int]:
    """Return so many ids of a segment, cut at that end."""
    return ids[len(ids) - count :] if side == "start" else ids[:count]
