"""From an item to the token ids the model reads: rendered once, one BOS, cut only where allowed.

The chat template is the checkpoint's own unless a card says otherwise. Its text is tokenized
without special tokens, and the tokenizer's BOS is put in front if the template didn't; a doubled
BOS at the start is made one. No torch here: the front renders while the device works.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.cards import headers
from assay.cards.card import Card
from assay.cards.positions import stated_tokens
from assay.errors import AssayError, EmptyItem, ItemTooLong
from assay.items import (
    Contest,
    Conversation,
    Cutting,
    Ids,
    ReadPositions,
    Solution,
    Source,
    Specials,
    TemplateInputs,
    Text,
    TokenizedItem,
)
from assay.prompts import formed, probes, prompt_format, roles
from assay.prompts.chat_format import ChatFormat
from assay.prompts.formed import Shapes
from assay.prompts.mentions import Mentions
from assay.prompts.prompt_format import FormattedItem, Parts
from assay.prompts.read_positions import ReadPositionFinder, is_class_read
from assay.prompts.segment_pairs import PairEncoder, SegmentPair
from assay.prompts.special_tokens import SpecialTokens
from assay.prompts.token_ids import TokenIds
from assay.prompts.tokenizer import Tokenizer, checked
from assay.prompts.truncator import Truncator
from assay.worker_protocol import Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from assay.items import Cut, Side, SpecialTokenRule, Truncation
    from assay.prompts.mentions import Mention

    Written = str | SegmentPair | Parts | Ids | AssayError  # to tokenize, or what needs none

__all__ = [
    "Contest",
    "Conversation",
    "Ids",
    "Solution",
    "Source",
    "Specials",
    "Template",
    "TemplateInputs",
    "Text",
    "TokenizedItem",
]


class Template:
    """One checkpoint's tokenizer and chat template. Not thread-safe: one thread renders."""

    def __init__(
        self,
        folder: Path,
        card: Card | None = None,
        *,
        config_folder: Path | None = None,
        max_tokens: int | None = None,
        moment: datetime | None = None,
    ) -> None:
        """Load the tokenizer; config.json is beside it, or in `config_folder`.

        `moment` is what a chat template takes for now where the card has no date, by default now.
        Who loads the same again has to hand over `moment` of before.

        Raises:
            CheckpointError: There is none, it can't be read, or lacks a token of the card.
        """
        config = _config(config_folder or folder)
        self._card = card = card or Card()
        self.tokenizer = tokenizer = Tokenizer(folder)
        self.chat_format = ChatFormat(tokenizer, card, moment)
        self.moment = self.chat_format.moment
        self.token_ids = TokenIds(tokenizer, _declared_inputs(config, tokenizer, card))
        self.token_ids.check_card(card)
        appended = [self.token_ids.of(token) for token in card.template.append]
        self._special_tokens = SpecialTokens(tokenizer, card.template, appended)
        self._mentions = Mentions(tokenizer.special_tokens)
        self.read_positions = ReadPositionFinder(
            card, tokenizer, self.token_ids, self._special_tokens, self.chat_format, config
        )
        self.stated_tokens = stated_tokens(config)  # what config.json has positions for
        self.max_tokens = max_tokens or tokenizer.declared_limit(config)
        self._pairs = PairEncoder(tokenizer, self.token_ids, self.max_tokens)
        self._truncator = Truncator(card, tokenizer, self._special_tokens, self.max_tokens)

    @cached_property
    def truncation(self) -> Truncation:
        """What may be cut unless a request says: as the card has it.

        A pair encoder is cut as its tokenizer cuts.
        """
        return self._card.limits.truncation or (
            "longest_first" if self._takes_pairs else "prompt_start"
        )

    @cached_property
    def _takes_pairs(self) -> bool:
        """Whether prompt and response are the two segments of an encoder."""
        return self.tokenizer.has_encoder_frame and not self.chat_format.exists

    @cached_property
    def _ending(self) -> int | None:
        """The token that a conversation ends with whatever its response is; None if none is."""
        reads_elsewhere = self.read_positions.are_elsewhere
        if self._takes_pairs or self._card.steps or self._card.template.pair or reads_elsewhere:
            return None
        question = {"role": roles.USER, "content": probes.WORDS[0]}
        answers = [{"role": roles.ASSISTANT, "content": text} for text in probes.ANSWERS]
        rendered = self.render_all([Conversation((question, answer)) for answer in answers])
        ends = {int(item.ids[-1]) if isinstance(item, TokenizedItem) else None for item in rendered}
        return ends.pop() if len(ends) == 1 else None

    # --- whether every text is read ---------------------------------------------------------

    def check(self, source: Source) -> None:
        """Check that each text of a sample leaves a trace in its ids.

        What the template refuses isn't checked.

        Raises:
            CheckpointError: One leaves none: whatever it says, the score would be the same.
        """
        spelt = self._spell(source)
        if isinstance(spelt, FormattedItem) and isinstance(spelt.item, Conversation):
            turns = [message["role"] for message in spelt.item.messages]
            if lost := self.chat_format.lost(turns):
                raise self.chat_format.swallowed([turns[place] for place in lost])
        parts, variants = zip(*probes.variants(source), strict=True)
        written = self._write([spelt, *map(self._spell, variants)], "longest_first")
        whole, *changed = [self._traced(text) for text in written]
        lost_parts = [part for part, trace in zip(parts, changed, strict=True) if trace == whole]
        if lost_parts and self._tells_apart and not isinstance(whole, AssayError):
            raise self.chat_format.swallowed(lost_parts)

    @cached_property
    def _tells_apart(self) -> bool:
        """Whether the tokenizer has other ids for the marker than for a sample's own words."""
        marker, *words = self.tokenizer.encode([probes.MARKER, *probes.WORDS])
        return marker not in words

    def _traced(self, written: object) -> object:
        """Return what tells whether a text made a difference: its ids, if it is one text."""
        return self.tokenizer.encode_one(written) if isinstance(written, str) else written

    # --- from items to ids ------------------------------------------------------------------

    def render_all(
        self, sources: Sequence[Source], cutting: Truncation | Cutting | None = None
    ) -> list[TokenizedItem | AssayError]:
        """Render each item; an item that can't be rendered gives its error in its place.

        Errors are TemplateRefused (the chat template rejects the conversation, or there is none),
        EmptyItem (no tokens), InvalidField (not Unicode, an id beyond the embedding, or a special
        token where these are refused) and ItemTooLong (what must be kept exceeds `max_tokens`).
        """
        if not isinstance(cutting, Cutting):
            cutting = Cutting(cutting)
        rule = cutting.rule or self.truncation
        bounded = [self._truncator.bounded(source, cutting, rule) for source in sources]
        mentions = [
            None if self._truncator.overlong(source) else self._mentions.first(source)
            for source in bounded
        ]
        if self._taken(cutting) != "parse":
            rendered = self._render_without(bounded, mentions, cutting, rule)
        else:
            rendered = self._render_bounded(bounded, rule, cutting.side)
        return [
            item
            if isinstance(item, AssayError) or (source is whole and mention is None)
            else self._noted(item, was_cut=source is not whole, has_mentions=mention is not None)
            for item, source, whole, mention in zip(
                rendered, bounded, sources, mentions, strict=True
            )
        ]

    def _noted(self, item: TokenizedItem, *, was_cut: bool, has_mentions: bool) -> TokenizedItem:
        """Return what was rendered with what was seen of the item before."""
        cut = item.cut
        if was_cut:
            cut = "both" if cut in ("prompt", "both") else "response"
        return replace(item, cut=cut, has_mentions=has_mentions)

    def _render_bounded(
        self, sources: Sequence[Source], rule: Truncation, side: Side | None
    ) -> list[TokenizedItem | AssayError]:
        """Render items whose responses are no longer than the caller wants."""
        items = [self._spell(source) for source in sources]
        written = self._write(items, rule)
        encoded = self.tokenizer.encode([text for text in written if isinstance(text, str)])
        rendered: list[TokenizedItem | AssayError] = []
        for source, item, text in zip(sources, items, written, strict=True):
            ids = next(encoded) if isinstance(text, str) else None
            try:
                tokenized = self._render(source, item, text, ids, rule, side)
                self.token_ids.check(tokenized.ids, are_verbatim=isinstance(text, Ids))
            except AssayError as error:
                rendered.append(error)
            else:
                rendered.append(tokenized)
        return rendered

    # --- special tokens in what is said -----------------------------------------------------

    def _taken(self, cutting: Cutting) -> SpecialTokenRule:
        """Return how special tokens in an item's texts are taken."""
        return cutting.special_tokens or self._card.template.special_tokens

    def _render_without(
        self,
        sources: Sequence[Source],
        mentions: Sequence[Mention | None],
        cutting: Cutting,
        rule: Truncation,
    ) -> list[TokenizedItem | AssayError]:
        """Render items; those whose texts have special tokens are refused, or have them as text."""
        pairs = list(zip(sources, mentions, strict=True))
        refuses = self._taken(cutting) == "refuse"
        are_plain = [mention is None and not self._forms(source) for source, mention in pairs]
        plain = [source for source, is_plain in zip(sources, are_plain, strict=True) if is_plain]
        rendered = iter(self._render_bounded(plain, rule, cutting.side))
        return [
            next(rendered)
            if is_plain
            else (mention.refusal() if mention else formed.refusal())
            if refuses
            else self._render_apart(source, rule, cutting.side)
            for (source, mention), is_plain in zip(pairs, are_plain, strict=True)
        ]

    def _render_apart(
        self, source: Source, rule: Truncation, side: Side | None
    ) -> TokenizedItem | AssayError:
        """Render an item with the special tokens in its texts as text."""
        stand_ins = self._mentions.stand_ins
        try:
            apart = self._mentions.set_apart(source)
            with self.tokenizer.splitting(stand_ins):
                if self._forms(apart):
                    return formed.refusal()
                (item,) = self._render_bounded([apart], rule, side)
        except AssayError as error:
            return error
        if isinstance(item, TokenizedItem) and item.text is not None:
            return replace(item, text=stand_ins.written(item.text))
        return item

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes(self.tokenizer.special_tokens, self.chat_format.literals)

    def _forms(self, source: Source) -> bool:
        """Whether a special token comes about of what an item's texts have."""
        if not self._shapes.may_form(source):
            return False
        ids = self._special_ids(source)
        return ids is not None and ids != self._special_ids(self._shapes.of(source))

    def _special_ids(self, source: Source) -> list[int] | None:
        """Return the special tokens in what is written of an item; None where nothing is."""
        (written,) = self._write([self._spell(source)], "longest_first")
        match written:
            case str():
                texts = [written]
            case SegmentPair(prompt, response):
                texts = [prompt, response]
            case Parts(prompt, steps):
                texts = [prompt, *(text for step in steps for text in step)]
            case _:
                return None
        special = self.tokenizer.special_ids
        return [
            token_id
            for ids in self.tokenizer.encode(texts)
            for token_id in ids or ()
            if token_id in special
        ]

    def _spell(self, source: Source) -> FormattedItem | AssayError:
        if overlong := self._truncator.overlong(source):
            return overlong
        source = self.chat_format.in_our_names(source)
        try:
            self.chat_format.check_carried(source)
            return self.chat_format.misplaced(source) or prompt_format.spell(
                source, self._card.template, self._card.steps
            )
        except AssayError as error:
            return error

    def _write(
        self, items: Sequence[FormattedItem | AssayError], rule: Truncation
    ) -> list[Written]:
        """Return each item's text to tokenize, or what needs none."""
        written = [
            formatted if isinstance(formatted, AssayError) else self._to_apply(formatted.item, rule)
            for formatted in items
        ]
        talks = [talk for talk in written if isinstance(talk, Conversation)]
        applied = iter(self._apply(talks))
        return [next(applied) if isinstance(text, Conversation) else text for text in written]

    def _to_apply(
        self, source: Conversation | Parts | Text | Ids, rule: Truncation
    ) -> Conversation | Parts | str | Ids | AssayError:
        """Return a conversation that is to go through the chat template, or what isn't."""
        if isinstance(source, Text):
            return self._special_tokens.ended(source.text)
        if isinstance(source, Conversation):
            if refusal := self.chat_format.left_out(source):
                return refusal
            if rule == "prompt_start":
                return self._truncator.overlong_response(source) or source
        return source

    def _apply(self, talks: Sequence[Conversation]) -> Sequence[str | SegmentPair | AssayError]:
        """Return each conversation's text, or its two segments where there is no chat template."""
        if not self.chat_format.exists:
            return [self._pairs.pair(talk.messages) for talk in talks]
        texts = self.chat_format.apply(talks)
        if self._card.template.eos == "keep":
            return texts
        ended = self._special_tokens.ended
        return [ended(text) if isinstance(text, str) else text for text in texts]

    def _render(
        self,
        source: Source,
        item: FormattedItem | AssayError,
        text: Written,
        ids: list[int] | None,
        rule: Truncation,
        side: Side | None,
    ) -> TokenizedItem:
        """Return what the model reads of one item that was spelt, written and encoded."""
        if isinstance(text, AssayError):
            raise text
        if isinstance(item, AssayError):
            raise item
        if item.steps is not None:  # each of them has a score: none is cut away
            rule = "prompt_start"
        match text:
            case str():
                rendered = self._finish(ids, item, text)
            case SegmentPair():
                rendered = self._pairs.render(text, rule, side)
            case Parts():
                return self._finish_parts(text)
            case Ids():
                rendered = self._verbatim(text)
        if len(rendered.ids) > self.max_tokens:
            rendered, item = self._truncator.shortened(
                source, item, rendered, rule, side, self._render_whole
            )
        if isinstance(source, Text | Ids) and self._ending is not None:
            is_expected = int(rendered.ids[-1]) == self._ending
            rendered = replace(rendered, ends_as_expected=is_expected)
        return self.read_positions.located(rendered, item)

    def _render_whole(self, source: Source) -> tuple[TokenizedItem, FormattedItem]:
        """Render one item whatever its length; return how it was spelt, too."""
        spelt = self._spell(source)
        (text,) = self._write([spelt], "longest_first")
        if isinstance(spelt, AssayError):
            raise spelt
        if isinstance(text, AssayError):
            raise text
        if not isinstance(text, str):
            raise TypeError(text)
        return self._finish(self.tokenizer.encode_one(text), spelt, text), spelt

    def _finish(self, ids: list[int] | None, item: FormattedItem, text: str) -> TokenizedItem:
        """Give the ids their special tokens, by default exactly one BOS.

        An encoder's stand in its frame. A text may bring what the card appends.
        """
        specials = item.item.specials if isinstance(item.item, Text | Conversation) else "card"
        is_text = isinstance(item.item, Text)
        ids = self._special_tokens.around(checked(ids), specials, may_be_whole=is_text)
        if not ids:
            raise EmptyItem("the item has no tokens; send some text")
        return TokenizedItem(np.asarray(ids, dtype=np.int32), text)

    def _finish_parts(self, parts: Parts) -> TokenizedItem:
        """Tokenize prompt and steps one by one; each step is read at its last token."""
        flat = [parts.prompt, *(text for step in parts.steps for text in step)]
        prompt, *rest = [checked(ids) for ids in self.tokenizer.encode(flat)]
        prompt = self._special_tokens.begun(prompt)
        steps = [[*rest[i], *rest[i + 1]] for i in range(0, len(rest), 2)]
        if not all(steps):
            raise EmptyItem("a step has no tokens; leave it out", param="steps")
        needed = sum(map(len, steps))
        front = self._special_tokens.begun([])
        room = self.max_tokens - needed
        if room < len(front):
            raise ItemTooLong(
                f"the steps alone have {needed} tokens, the model takes {self.max_tokens}"
            )
        truncated = len(prompt) > room
        if truncated:
            prompt = [*front, *prompt[len(prompt) - room + len(front) :]]
        ids = np.asarray([*prompt, *(token for step in steps for token in step)], np.int32)
        ends = len(prompt) - 1 + np.cumsum([len(step) for step in steps])
        cut: Cut | None = "prompt" if truncated else None
        return TokenizedItem(ids, None, cut, read_at=ReadPositions(ends.astype(np.int32)))

    def _verbatim(self, source: Ids) -> TokenizedItem:
        if not source.ids:
            raise EmptyItem("'input_ids' is empty; send at least one id")
        if len(source.ids) > self.max_tokens:
            raise ItemTooLong(
                f"'input_ids' has {len(source.ids)} tokens, the model takes {self.max_tokens}; ids "
                "are scored verbatim and never cut"
            )
        segments = None if source.segments is None else self.token_ids.segments(source.segments)
        return TokenizedItem(np.asarray(source.ids, dtype=np.int32), None, segments=segments)


def _config(folder: Path) -> dict[str, Any]:
    config = headers.config(folder)
    return {**config, **(config.get("text_config") or {})}


def _declared_inputs(config: dict[str, Any], tokenizer: Tokenizer, card: Card) -> Inputs:
    """Return what a model reads by its config.json."""
    return Inputs(
        vocabulary=int(config.get("vocab_size") or len(tokenizer.hf)),
        segments=int(config.get("type_vocab_size") or 0),
        padding=config.get("pad_token_id") if is_class_read(card, tokenizer) else None,
    )
