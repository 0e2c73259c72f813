"""How the time of a group grows with its responses, beside its prefix batch's distinct tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from loadtest.render import distinct_tokens
from loadtest.spread import Spread
from loadtest.workloads import Closed, Load, best_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.pair import Source
    from loadtest.subjects import Subject

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Grown:
    """Groups of one size; lists have an entry a repetition."""

    size: int
    tokens: list[int]
    distinct: list[int]
    seconds: list[float]

    @property
    def per_token_us(self) -> Spread:
        """Microseconds a distinct token."""
        pairs = zip(self.seconds, self.distinct, strict=True)
        return Spread.of([1e6 * seconds / distinct for seconds, distinct in pairs])


def grow(
    subject: Subject,
    source: Source,
    *,
    repetitions: int,
    prompt_tokens: int,
    response_tokens: int,
    announce: Callable[[str], None],
) -> list[Grown]:
    """Time a request of each size in every repetition, so that all see the same machine."""

    def load(size: int) -> Load:
        group = best_of(
            source.texts,
            source.next_number(),
            size,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
        )
        return source.rendered(Load("group-growth", [[group]], Closed(1)))

    grown = [Grown(size, [], [], []) for size in SIZES]
    for repetition in range(repetitions + 1):
        for one in grown:
            sent = load(one.size)
            reading = subject.measure(sent)
            if reading.errors:
                raise SystemExit(f"a group of {one.size} failed: {dict(reading.errors)}")
            if repetition == 0:  # warm-up
                continue
            one.tokens.append(sum(item.tokens or 0 for item in sent.items))
            one.distinct.append(distinct_tokens(sent.items))
            one.seconds.append(reading.seconds)
        announce(f"repetition {repetition} of {repetitions} done (0 is the warm-up)")
    return grown


def table(grown: Sequence[Grown]) -> Table:
    """Return a row a size; the last column is how far it is from growing as the tokens do."""
    heads = ("n", "tokens", "distinct", "ms", "µs a distinct token", "against the largest")
    drawn = Table(*heads, box=None)
    for one in grown:
        drawn.add_row(
            str(one.size),
            f"{Spread.of(one.tokens).median:,.0f}",
            f"{Spread.of(one.distinct).median:,.0f}",
            f"{1e3 * Spread.of(one.seconds).median:,.1f}",
            str(one.per_token_us),
            f"{_deviation(one, grown[-1]):+.1%}",
        )
    return drawn


def record(grown: Sequence[Grown]) -> list[dict[str, Any]]:
    """Return everything, for JSON."""
    return [
        {
            "n": one.size,
            "tokens": one.tokens,
            "distinct_tokens": one.distinct,
            "seconds": one.seconds,
            "deviation": _deviation(one, grown[-1]),
        }
        for one in grown
    ]


def _deviation(one: Grown, largest: Grown) -> float:
    return one.per_token_us.median / largest.per_token_us.median - 1
