"""The named workloads: which items, in which requests, and when these are sent.

Lengths in tokens are those of `loadtest.checkpoint`'s tokenizer on generated text; another
tokenizer makes more of the same words. Nothing is sent from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from loadtest.texts import Pair, Texts

TOKENS_PER_WORD = 1.1
LONG_TAIL_CAPACITY_SHARE = 0.7
CAPACITY_CONCURRENCY = 32


@dataclass(frozen=True, slots=True)
class Item:
    """A pair to score; with a checkpoint at hand, also its templated text and count of tokens."""

    prompt: str
    response: str
    text: str | None = None
    tokens: int | None = None
    ids: tuple[int, ...] = ()


Request = list[Item]


@dataclass(frozen=True, slots=True)
class Closed:
    """So many requests are open at any time; the next is sent when one is answered."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class Open:
    """Requests leave at a constant rate a second, whatever is still unanswered.

    A rate of None is to be set as a share of the capacity that a closed loop measures.
    """

    rate: float | None
    new_connections: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """One repetition of a workload. A phase starts when all of the one before is answered."""

    workload: str
    phases: Sequence[Sequence[Request]]
    arrival: Closed | Open

    @property
    def requests(self) -> Iterator[Request]:
        """Every request, in order."""
        return (request for phase in self.phases for request in phase)

    @property
    def items(self) -> list[Item]:
        """Every item, in order."""
        return [item for request in self.requests for item in request]

    def with_items(self, items: Sequence[Item]) -> Load:
        """Return the same load with these items in place of its own, in order."""
        rest = iter(items)
        phases = [[[next(rest) for _ in request] for request in phase] for phase in self.phases]
        return replace(self, phases=phases)

    def at_rate(self, rate: float) -> Load:
        """Return the same load, sent so many requests a second."""
        return replace(self, arrival=Open(rate))

    def at_concurrency(self, concurrency: int) -> Load:
        """Return the same load in a closed loop."""
        return replace(self, arrival=Closed(concurrency))


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of load under a name."""

    name: str
    summary: str
    make: Callable[[Texts, int, float], Load]


def groups(texts: Texts, number: int, scale: float) -> Load:
    """16 prompts × 16 responses, arena-bench's lengths, a request each, 256 at once."""
    drawn = texts.groups(number, _scaled(16, scale), 16)
    return Load("groups", [[[_item(pair)] for group in drawn for pair in group]], Closed(256))


def distinct(texts: Texts, number: int, scale: float) -> Load:
    """256 pairs with nothing in common, arena-bench's lengths, in one request."""
    pairs = texts.take(number, _scaled(256, scale))
    return Load("distinct", [[[_item(pair) for pair in pairs]]], Closed(1))


def distinct_concurrent(texts: Texts, number: int, scale: float) -> Load:
    """256 pairs with nothing in common, arena-bench's lengths, a request each, 256 at once."""
    pairs = texts.take(number, _scaled(256, scale))
    return Load("distinct-concurrent", [[[_item(pair)] for pair in pairs]], Closed(256))


def best_of_64(texts: Texts, number: int, scale: float) -> Load:
    """A prompt of 1,000 tokens with 64 responses of 100 to 200, in one request."""
    group = best_of(texts, number, _scaled(64, scale), prompt_tokens=1000, response_tokens=150)
    return Load("best-of-64", [[group]], Closed(1))


def burst(texts: Texts, number: int, scale: float) -> Load:
    """2,048 items of about 40 tokens, a request and a new connection each, within one second."""
    random = texts.random(number)
    count = _scaled(2048, scale)
    requests = [[_of_tokens(texts, random, 10, 20)] for _ in range(count)]
    return Load("burst", [requests], Open(float(count), new_connections=True))


def long_tail(texts: Texts, number: int, scale: float) -> Load:
    """400 items, 1 % of 8,000 tokens and the others of 300, a request each, open loop at 70 %."""
    random = texts.random(number)
    count = _scaled(400, scale)
    long = set(range(50, count, 100)) or {count // 2}
    requests = [
        [_of_tokens(texts, random, 60, 7930 if place in long else 230)] for place in range(count)
    ]
    return Load("long-tail", [requests], Open(None))


def growing(texts: Texts, number: int, scale: float) -> Load:
    """64 solutions of 12 steps to one problem; step after step, a request of all 64 prefixes."""
    steps = _grown(texts, number, _scaled(64, scale))
    return Load("growing", [[prefixes] for prefixes in steps], Closed(1))


def growing_at_once(texts: Texts, number: int, scale: float) -> Load:
    """64 finished solutions of 12 steps to one problem; every prefix of every one, one request."""
    steps = _grown(texts, number, _scaled(64, scale))
    return Load("growing-at-once", [[[item for step in steps for item in step]]], Closed(1))


def fat(texts: Texts, number: int, scale: float) -> Load:
    """4,096 items of 30 to 70 tokens with nothing in common, in one request."""
    random = texts.random(number)
    lengths = random.integers(10, 50, size=_scaled(4096, scale))
    return Load(
        "fat", [[[_of_tokens(texts, random, 10, int(tokens)) for tokens in lengths]]], Closed(1)
    )


def short(texts: Texts, number: int, scale: float) -> Load:
    """1,024 items of about 40 tokens, a request each, 64 at once over kept connections."""
    random = texts.random(number)
    requests = [[_of_tokens(texts, random, 10, 20)] for _ in range(_scaled(1024, scale))]
    return Load("short", [requests], Closed(64))


_MAKERS = (
    groups,
    distinct,
    distinct_concurrent,
    best_of_64,
    burst,
    long_tail,
    growing,
    growing_at_once,
    fat,
    short,
)
WORKLOADS = {
    name: Workload(name, (make.__doc__ or "").rstrip("."), make)
    for make in _MAKERS
    for name in [make.__name__.replace("_", "-")]
}


def best_of(
    texts: Texts, number: int, responses: int, *, prompt_tokens: int, response_tokens: int
) -> Request:
    """Return the responses to one prompt; their lengths vary by a third around the given one."""
    random = texts.random(number)
    prompt = texts.text(random, _words(prompt_tokens))
    lengths = random.uniform(2 / 3, 4 / 3, size=responses) * response_tokens
    return [Item(prompt, texts.text(random, _words(tokens))) for tokens in lengths]


def _grown(texts: Texts, number: int, solutions: int, steps: int = 12) -> list[Request]:
    """Return, step after step, the prefixes of all solutions up to it; steps of 20 to 60 tokens."""
    random = texts.random(number)
    problem = texts.text(random, _words(150))
    prefixes = [""] * solutions
    grown = []
    for _ in range(steps):
        words = random.integers(_words(20), _words(60), size=solutions)
        prefixes = [
            f"{prefix}{texts.text(random, int(count))}\n\n"
            for prefix, count in zip(prefixes, words, strict=True)
        ]
        grown.append([Item(problem, prefix) for prefix in prefixes])
    return grown


def _of_tokens(texts: Texts, random: np.random.Generator, prompt: int, response: int) -> Item:
    return Item(texts.text(random, _words(prompt)), texts.text(random, _words(response)))


def _item(pair: Pair) -> Item:
    return Item(pair.prompt, pair.response)


def _words(tokens: float) -> int:
    return max(1, round(tokens / TOKENS_PER_WORD))


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))
