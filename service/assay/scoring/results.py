"""What members read of a request's items, as results of the targets that were asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from assay.errors import AssayError
from assay.items import TokenizedItem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.errors import NotReady
    from assay.items import Cut
    from assay.scoring.target_union import TargetUnion
    from assay.timings import Timings

_NO_IDS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class RawResult:
    """One item's outcome: `numbers` has what each member read, or `error` says why there is none.

    It has neither where nobody read it, for another target of the request refuses and is required.
    A member's are (places, outputs) float64; what they mean: `meaning`.
    """

    numbers: tuple[np.ndarray, ...] | None
    error: AssayError | None
    ids: np.ndarray  # (tokens,) as the first member reads them; empty where rendering failed
    truncated: bool
    cut: Cut | None = None  # what of it was cut, as the first member reads it
    ends_as_expected: bool = True
    has_mentions: bool = False  # special tokens were in what is said


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What `Scorer.score` returns.

    `by_target` has each target's items; `target_tokens` what its models read of them, where several
    share a model each time.
    """

    by_target: list[list[RawResult]]
    target_tokens: list[int]
    tokens: int
    computed_tokens: int
    timings: Timings

    @property
    def items(self) -> list[RawResult]:
        """Those of the only target, or of the first."""
        return self.by_target[0]

    def of(self, place: int) -> RequestResult:
        """Return one target's part, as if it had been asked alone."""
        if len(self.by_target) == 1:
            return self
        tokens = self.target_tokens[place]
        return replace(
            self, by_target=[self.by_target[place]], target_tokens=[tokens], tokens=tokens
        )


def row_tokens(rows: Sequence[Sequence[TokenizedItem | AssayError]]) -> int:
    """Return how many tokens all members read of some items."""
    return sum(len(item.ids) for row in rows for item in row if isinstance(item, TokenizedItem))


def _first_refusal(row: Sequence[TokenizedItem | AssayError]) -> AssayError | None:
    """Return why a target doesn't read an item: one member's refusal is enough."""
    return next((outcome for outcome in row if isinstance(outcome, AssayError)), None)


def required_refusal(
    union: TargetUnion, row: Sequence[TokenizedItem | AssayError]
) -> AssayError | None:
    """Return why no target reads an item: a required one doesn't."""
    for place, item in enumerate(row):
        if isinstance(item, AssayError) and place in union.required_places:
            return item
    return None


def by_target(
    union: TargetUnion,
    rendered: Sequence[Sequence[TokenizedItem | AssayError]],
    numbers: Sequence[Sequence[np.ndarray | AssayError | None]],
) -> list[tuple[list[RawResult], int]]:
    """Return what each target's members read, and how many tokens; fewer items where it stopped."""
    if len(union.targets) == 1:
        rows = zip(rendered, numbers, strict=False)
        return [([_scored(items, row) for items, row in rows], 0)]
    are_read = [required_refusal(union, items) is None for items in rendered]
    return [_of_target(own, rendered, numbers, are_read) for own in union.places]


def _of_target(
    places: Sequence[int],
    rendered: Sequence[Sequence[TokenizedItem | AssayError]],
    numbers: Sequence[Sequence[np.ndarray | AssayError | None]],
    are_read: Sequence[bool],
) -> tuple[list[RawResult], int]:
    """Return one target's part; `are_read` says which items any target reads."""
    results: list[RawResult] = []
    tokens = 0
    for row, row_numbers, is_read in zip(rendered, numbers, are_read, strict=False):
        items = [row[place] for place in places]
        if not is_read and _first_refusal(items) is None:
            results.append(RawResult(None, None, _NO_IDS, truncated=False))
            continue
        results.append(_scored(items, [row_numbers[place] for place in places]))
        if results[-1].error is None:
            tokens += row_tokens([items])
    return results, tokens


def with_absent(
    outcome: RequestResult, absent: Mapping[int, NotReady], count: int
) -> RequestResult:
    """Return a result with the targets that couldn't be asked, at their places."""
    if not absent:
        return outcome
    by_target, tokens = [*outcome.by_target], [*outcome.target_tokens]
    for place, error in sorted(absent.items()):
        by_target.insert(place, [RawResult(None, error, _NO_IDS, truncated=False)] * count)
        tokens.insert(place, 0)
    return replace(outcome, by_target=by_target, target_tokens=tokens)


def _scored(
    row: Sequence[TokenizedItem | AssayError], numbers: Sequence[np.ndarray | AssayError | None]
) -> RawResult:
    rendered = _first_refusal(row) or row[0]
    if isinstance(rendered, AssayError):
        return RawResult(None, rendered, _NO_IDS, truncated=False)
    for outcome in numbers:
        if isinstance(outcome, AssayError):
            return RawResult(None, outcome, rendered.ids, rendered.truncated, rendered.cut)
    arrays = tuple(array for array in numbers if isinstance(array, np.ndarray))
    return RawResult(
        arrays,
        None,
        rendered.ids,
        rendered.truncated,
        rendered.cut,
        rendered.ends_as_expected,
        rendered.has_mentions,
    )
