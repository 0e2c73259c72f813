"""Models that only compare: who meets whom, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import wire
from assay.errors import AssayError, InvalidField
from assay.items import NO_INPUTS
from assay.reward import tournament
from assay.scoring import interpretation, items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.cards.card import Card
    from assay.items import Source, TemplateInputs
    from assay.scoring.results import RawResult

    Group = tuple[items.Prompt, items.Candidates]

Matrix = list[list[float]]  # P(i ≻ j)
_MOST_PAIRS = 120  # up to 16 responses all meet; more meet as many, or as many as there are


class Round:
    """One prompt's responses: `sources` is what the model is to read, or `error` why nothing."""

    def __init__(
        self,
        card: Card,
        prompt: items.Prompt,
        responses: items.Candidates,
        inputs: TemplateInputs = NO_INPUTS,
    ) -> None:
        texts = [response for response in responses if isinstance(response, str)]
        preference = card.preference
        self.sources: list[Source] = []
        self.error: AssayError | None = None
        self._card = card
        self._count = len(texts)
        self._swaps = preference is not None and preference.swap
        self._pairs: list[tuple[int, int]] = []
        if len(texts) < len(responses):
            self.error = InvalidField(
                "the model compares whole responses; send 'responses' instead of 'chains'",
                param="chains",
            )
            return
        if len(texts) > wire.MOST_COMPARED:
            self.error = InvalidField(
                f"at most {wire.MOST_COMPARED} responses can be compared with each other",
                param="responses",
            )
            return
        if preference is not None and preference.form == "bilinear":
            self.sources = items.sources([(prompt, texts)], [inputs])
            return
        self._pairs = tournament.schedule(self._count, max(self._count, _MOST_PAIRS))
        self.sources = items.contests(
            prompt, texts, [order for pair in self._pairs for order in self._orders(pair)], inputs
        )

    def matrix(self, read: Sequence[RawResult], sizes: Mapping[str, int]) -> Matrix | AssayError:
        """Return P(i ≻ j) of what the model read of the sources, or why there is none."""
        if error := self.error or next((result.error for result in read if result.error), None):
            return error
        numbers = [result.numbers[0] for result in read if result.numbers]
        preference = self._card.preference
        if preference is not None and preference.form == "bilinear":
            embeddings = [interpretation.embedding(self._card, array, sizes) for array in numbers]
            return tournament.bilinear(
                [vector for vector, _ in embeddings],
                embeddings[0][1],
                temperature=preference.temperature,
            )
        others = numbers[1::2] if self._swaps else [None] * len(numbers)
        firsts = numbers[::2] if self._swaps else numbers
        wins = {
            pair: interpretation.probability(self._card, ordered, swapped)
            for pair, ordered, swapped in zip(self._pairs, firsts, others, strict=True)
        }
        return tournament.matrix(wins, self._count)

    def _orders(self, pair: tuple[int, int]) -> list[tuple[int, int]]:
        return [pair, pair[::-1]] if self._swaps else [pair]
