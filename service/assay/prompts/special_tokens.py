"""The special tokens around a text's own: exactly one BOS, an encoder's frame, EOS, the card's."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.cards.mechanism import Template as Spec
    from assay.items import Specials
    from assay.prompts.tokenizer import Tokenizer


class SpecialTokens:
    """What a card and a tokenizer put around the tokens of a text."""

    def __init__(self, tokenizer: Tokenizer, spec: Spec, appended: list[int]) -> None:
        """`appended` are the ids that the card puts behind each text."""
        self._tokenizer = tokenizer
        self._spec = spec
        self.appended = appended

    @cached_property
    def bos(self) -> int | None:
        """The BOS that each sequence begins with, once; None where the text alone decides.

        By default the one that the tokenizer puts in front of plain text. A tokenizer may define a
        BOS it never adds (GPT-NeoX).
        """
        bos_id: int | None = self._tokenizer.hf.bos_token_id
        if self._spec.bos == "one":
            return bos_id
        if self._spec.bos in ("none", "keep"):
            return None
        before, _ = self._tokenizer.frame
        return before[0] if before and before[0] == bos_id else None

    @property
    def in_front(self) -> int:
        """How many special tokens stand before each item's text."""
        if self._tokenizer.has_encoder_frame:
            return len(self._tokenizer.frame[0])
        return int(self.bos is not None)

    def around(self, ids: list[int], specials: Specials, *, may_be_whole: bool) -> list[int]:
        """Return ids with what stands around them; some may bring what the card appends."""
        is_whole = may_be_whole and ids[-len(self.appended) :] == self.appended
        front, ids, end = self._framed(ids if is_whole else [*ids, *self.appended], specials)
        return [*front, *ids, *end]

    def begun(self, ids: list[int]) -> list[int]:
        """Return ids that begin with one BOS, if any is due."""
        return ids if self.bos is None else [self.bos, *_stripped(ids, self.bos)]

    def ended(self, text: str) -> str:
        """Return a text that ends as the card has it: with EOS as OpenRLHF's dataset writes it."""
        if self._spec.eos == "keep":
            return text
        text = text.rstrip("\n")
        eos = self._tokenizer.hf.eos_token
        return text if text.endswith(eos) else f"{text} {eos}"

    def _framed(self, ids: list[int], specials: Specials) -> tuple[list[int], list[int], list[int]]:
        """Return what is put in front, the ids without what they have of it, and what ends them."""
        before, after = self._tokenizer.frame
        if specials == "none" and self._spec.bos == "tokenizer":
            return [], ids, []
        if self._tokenizer.has_encoder_frame:
            ids = _stripped(ids, before[0])
            return before, ids[: -1 if ids[-1:] == after else None], after
        adds_end = specials == "tokenizer" and self._spec.eos == "keep" and not self.appended
        end = after if adds_end and ids[len(ids) - len(after) :] != after else []
        if self.bos is not None:
            return [self.bos], _stripped(ids, self.bos), end
        if self._spec.bos == "none":
            return [], _stripped(ids, self._tokenizer.hf.bos_token_id), end
        if specials == "tokenizer" and self._spec.bos == "tokenizer" and before:
            return before, ids[len(before) if ids[: len(before)] == before else 0 :], end
        return [], ids, end


def _stripped(ids: list[int], token: int | None) -> list[int]:
    """Return the ids without any run of `token` at the start."""
    start = next((i for i, token_id in enumerate(ids) if token_id != token), len(ids))
    return ids[start:]
