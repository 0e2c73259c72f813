"""A tokenizer's core in which special tokens are text, and stand-ins the tokens themselves.

So a text has the ids that it would have, but for the special tokens that somebody said: these have
those of `split_special_tokens=True`. The whole text goes through the core at once, since what
stands at the beginning of a text may be tokenized otherwise than behind a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.prompts.mentions import StandIns
    from assay.prompts.truncation import Spans


class SplitCore:
    """A copy of a core. Not thread-safe."""

    def __init__(self, core: Any, stand_ins: StandIns, unknown: str | None) -> None:
        """Copy it, and let it know the stand-ins; takes a second, and a vocabulary's memory.

        `unknown` is the token of what isn't in the vocabulary.
        """
        from tokenizers import AddedToken  # noqa: PLC0415  slow to import

        self._stand_ins = stand_ins
        self._core = type(core).from_str(core.to_str())
        added = {token.content: token for token in core.get_added_tokens_decoder().values()}
        self._core.add_tokens(
            [
                AddedToken(
                    stand_ins.by_template(place),
                    single_word=added[token].single_word,
                    lstrip=added[token].lstrip,
                    rstrip=added[token].rstrip,
                    normalized=False,
                    special=False,
                )
                for place, token in enumerate(stand_ins.tokens)
            ]
        )
        self._core.encode_special_tokens = True
        self._core.no_padding()
        self._core.no_truncation()
        self._meant = {
            self._core.token_to_id(stand_ins.by_template(place)): core.token_to_id(token)
            for place, token in enumerate(stand_ins.tokens)
        }
        self._special = {core.token_to_id(token) for token in stand_ins.tokens if token != unknown}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, no special tokens added.

        Raises:
            InvalidField: The vocabulary has a special token for a word that text may have.
        """
        swapped = [*map(self._stand_ins.swapped, texts)]
        encoded = self._core.encode_batch_fast(swapped, add_special_tokens=False)
        for text in encoded:
            if ids := self._special.intersection(text.ids):
                raise InvalidField(
                    f"the model's tokenizer makes the special token "
                    f"'{self._core.id_to_token(min(ids))}' of its letters, too, so that it can't "
                    "be read as text; remove it"
                )
        return [[self._meant.get(token_id, token_id) for token_id in text.ids] for text in encoded]

    def offsets(self, text: str) -> Spans:
        """Return where each token of a text stands in it."""
        places = self._stand_ins.places(text)
        encoded = self._core.encode(self._stand_ins.swapped(text), add_special_tokens=False)
        return [(places[begin], places[end]) for begin, end in encoded.offsets]
