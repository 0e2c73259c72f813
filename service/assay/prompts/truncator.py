"""An item over the limit: the texts that may be cut, cut so that what is rendered of it fits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assay.errors import ItemTooLong
from assay.items import Contest, Conversation, Ids, Text, characters, said
from assay.prompts import truncation
from assay.prompts.truncation import Sides, Texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.cards.card import Card
    from assay.items import Cutting, Side, Source, TokenizedItem, Truncation
    from assay.prompts.prompt_format import FormattedItem
    from assay.prompts.special_tokens import SpecialTokens
    from assay.prompts.tokenizer import Tokenizer

    Render = Callable[[Source], tuple[TokenizedItem, FormattedItem]]  # whatever the item's length

# What is longer isn't tokenized only to be cut: that takes seconds, and memory a hundredfold.
_MOST_CHARACTERS = 1 << 20
_MOST_PER_TOKEN = 16


class Truncator:
    """Cuts the items of one model to its limit. Not thread-safe."""

    def __init__(
        self, card: Card, tokenizer: Tokenizer, special_tokens: SpecialTokens, max_tokens: int
    ) -> None:
        """`max_tokens` is how many an item may have, special tokens included."""
        self._card = card
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._max_tokens = max_tokens
        self._most_characters = max(_MOST_CHARACTERS, _MOST_PER_TOKEN * max_tokens)

    # --- before anything is tokenized -------------------------------------------------------

    def bounded(self, source: Source, cutting: Cutting, rule: Truncation) -> Source:
        """Return an item whose response is cut to what the caller wants of it.

        Where responses may be cut, one of a million characters is first cut to what could matter.
        """
        if not isinstance(source, Conversation) or self._card.steps is not None:
            return source
        last = source.messages[-1]
        text = said(last)
        if rule != "prompt_start" and characters(source) > self._most_characters:
            most = self._max_tokens * self._tokenizer.longest_token
            text = text[-most:] if cutting.side == "start" else text[:most]
        if cutting.response_tokens is not None and len(text) > cutting.response_tokens:
            spans = self._tokenizer.spans(text)
            text = truncation.kept(text, spans, cutting.response_tokens, "end")
        if len(text) == len(said(last)):
            return source
        return replace(source, messages=(*source.messages[:-1], truncation.saying(last, text)))

    def overlong(self, source: Source) -> ItemTooLong | None:
        """Refuse an item that has far more characters than could matter."""
        most = self._most_characters
        if (size := characters(source)) <= most:
            return None
        return ItemTooLong(
            f"the item has {size} characters, far more than {self._max_tokens} tokens can "
            f"hold; cut the prompt to {most}"
        )

    def overlong_response(self, source: Conversation) -> ItemTooLong | None:
        """Refuse a response that can't fit, before it holds up everybody's tokenization."""
        characters = len(said(source.messages[-1]).strip())
        if characters <= self._max_tokens * self._tokenizer.longest_token:
            return None
        return ItemTooLong(
            f"the response alone has {characters} characters, more than {self._max_tokens} tokens "
            "can hold; shorten it",
            advice=truncation.CUT_RESPONSES,
        )

    # --- once it has too many tokens --------------------------------------------------------

    def shortened(
        self,
        source: Source,
        item: FormattedItem,
        whole: TokenizedItem,
        rule: Truncation,
        side: Side | None,
        render: Render,
    ) -> tuple[TokenizedItem, FormattedItem]:
        """Return what is rendered of an item whose text was cut so that it fits, and its spelling.

        `item` and `whole` are what was spelt and rendered of it uncut.

        Raises:
            ItemTooLong: What may be cut isn't enough.
        """
        if not item.is_cuttable or isinstance(source, Ids | Contest):
            raise ItemTooLong(
                f"the item has more than {self._max_tokens} tokens, and nothing of it can be cut"
            )
        self._refuse_rewritten(item, whole, rule)
        if self._is_forced(item, whole, rule, side):
            return self._ended(source, whole), item
        sides, tail = self._sides(source, rule, side), ""
        if isinstance(source, Text):
            rule = "prompt_start"
            if sides.prompt == "end":
                source, tail = self._without_tail(source)
        texts = Texts.of(source, self._tokenizer.spans)
        over = len(whole.ids) - self._max_tokens
        attempts: dict[int, tuple[TokenizedItem, FormattedItem]] = {}

        def excess(removed: int) -> int:
            left = truncation.plan(rule, texts.prompt, len(texts.answer), removed)
            attempts[removed] = render(_with_tail(texts.shortened(*left, sides), tail))
            return len(attempts[removed][0].ids) - self._max_tokens

        most = texts.most_removed(rule)
        removed = truncation.fewest(over, most, excess) if most else None
        if removed is None and rule == "response_end":
            return self.shortened(source, item, whole, "longest_first", side, render)
        if removed is None:
            raise self._too_long(item, whole, rule)
        rendered, spelt = attempts[removed]
        left = truncation.plan(rule, texts.prompt, len(texts.answer), removed)
        cut = truncation.cut_of(source, left[0] < texts.prompt, left[1] < len(texts.answer))
        return replace(rendered, cut=cut), spelt

    def _is_forced(
        self, item: FormattedItem, whole: TokenizedItem, rule: Truncation, side: Side | None
    ) -> bool:
        """Whether an item is cut as OpenRLHF does: at its end, which leaves the whole prompt."""
        if self._card.template.eos != "force" or rule != "response_end" or side is not None:
            return False
        if not isinstance(item.item, Conversation):
            return True
        response, _ = self._response_size(item.item, whole)
        return len(whole.ids) - response < self._max_tokens - 1

    def _ended(self, source: Source, whole: TokenizedItem) -> TokenizedItem:
        """Return an item's first tokens with EOS in place of the last that fits."""
        ids = whole.ids[: self._max_tokens].copy()
        ids[-1] = self._tokenizer.hf.eos_token_id
        cut = truncation.cut_of(source, prompt=False, response=True)
        return replace(whole, ids=ids, text=None, cut=cut)  # no text has just these ids

    def _sides(self, source: Source, rule: Truncation, side: Side | None) -> Sides:
        """Return at which end texts are cut: where nothing else is said, never the read one."""
        if side is not None:
            return Sides(side, side)
        if (
            self._tokenizer.has_encoder_frame
            and isinstance(source, Text)
            and rule == "longest_first"
        ):
            tokenizer_side = self._tokenizer.truncation_side
            return Sides(tokenizer_side, tokenizer_side)
        return Sides()

    def _without_tail(self, source: Text) -> tuple[Text, str]:
        """Return a text and the special tokens at its end, which stay where its end is cut."""
        spans = self._tokenizer.spans(source.text)
        ids = self._tokenizer.encode_one(source.text) or []
        hf = self._tokenizer.hf
        special = {*hf.all_special_ids, *hf.added_tokens_decoder}
        start = len(source.text)
        for (begin, end), token in zip(reversed(spans), reversed(ids), strict=False):
            if token not in special and source.text[begin:end].strip():
                break
            start = begin
        return replace(source, text=source.text[:start]), source.text[start:]

    # --- why it can't be cut ----------------------------------------------------------------

    def _refuse_rewritten(
        self, item: FormattedItem, whole: TokenizedItem, rule: Truncation
    ) -> None:
        """Refuse a template that rewrites responses, unless the caller leaves open what is cut."""
        if not isinstance(item.item, Conversation) or rule == "longest_first":
            return
        if said(item.item.messages[-1]).strip() not in (whole.text or ""):
            raise ItemTooLong(
                f"the item has {len(whole.ids)} tokens, the model takes {self._max_tokens}; its "
                "chat template rewrites the response, so that nothing can be cut"
            )

    def _too_long(self, item: FormattedItem, whole: TokenizedItem, rule: Truncation) -> ItemTooLong:
        """Say of what there is too much where all that may be cut isn't enough."""
        if not isinstance(item.item, Conversation) or rule != "prompt_start":
            return ItemTooLong(
                f"what stands around the item's texts has more than the {self._max_tokens} tokens "
                "that the model takes"
            )
        if item.steps is not None:
            return ItemTooLong(
                f"the steps alone have more than the {self._max_tokens} tokens that the model "
                "takes; send fewer of them"
            )
        needed, room = self._response_size(item.item, whole)
        if needed > room:
            return truncation.response_too_long(needed, room)
        return ItemTooLong(
            f"the response and what the template puts around it have more than the "
            f"{self._max_tokens} tokens that the model takes; shorten it",
            advice=truncation.CUT_RESPONSES,
        )

    def _response_size(self, talk: Conversation, whole: TokenizedItem) -> tuple[int, int]:
        """Return the tokens of a response with what ends it, and how many there is room for."""
        text = whole.text or ""
        start = text.rfind(said(talk.messages[-1]).strip())
        behind = sum(end > start for _, end in self._tokenizer.spans(text))
        needed = behind + len(self._special_tokens.appended)
        return needed, self._max_tokens - self._special_tokens.in_front


def _with_tail(source: Source, tail: str) -> Source:
    """Return a text with what was taken off its end."""
    return replace(source, text=source.text + tail) if isinstance(source, Text) else source
