"""What tells a request from others when it comes again, and that finding it holds up nobody."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from assay.cards.card import Card
from assay.items import Conversation, Ids, Text
from assay.scoring.scorer import Scorer
from assay.scoring.targets import Target
from assay.settings import Settings
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from assay.items import Source

JUDGE = Target("judge", Card(), (), "model", "r")
OTHER = Target("other", Card(), (), "model", "r")


class Watched(str):
    """A text that notes which thread reads it through."""

    __slots__ = ("readers",)
    readers: set[int]

    def __hash__(self) -> int:
        self.readers.add(threading.get_ident())
        return super().__hash__()


def watched() -> Watched:
    text = Watched("a text")
    text.readers = set()
    return text


@pytest.fixture
def scorer() -> Scorer:
    """A scorer that was never started, with room for one token."""
    return Scorer(Settings(device=("cpu",), max_queued_tokens=1), Metrics())


@pytest.mark.parametrize(("items", "tokens"), [(1_000, 1_000), (1, 1_000_000)])
async def test_a_large_request_is_read_off_the_loop(
    scorer: Scorer, items: int, tokens: int
) -> None:
    """Many items, or few large ones: hashing them takes half a second."""
    text = watched()

    with scorer.admission.admit(10):
        name = await scorer._name(JUDGE, [Text(text)] * items, tokens, "")

    assert name is not None
    assert text.readers
    assert threading.get_ident() not in text.readers


async def test_nothing_is_read_where_there_is_room_or_none_any_more(scorer: Scorer) -> None:
    """An identity is for who is refused and comes back."""
    text = watched()

    alone = await scorer._name(JUDGE, [Text(text)] * 1_000, 1_000, "")
    with scorer.admission.admit(10):
        scorer.admission.close()
        closed = await scorer._name(JUDGE, [Text(text)] * 1_000, 1_000, "")

    assert (alone, closed) == (None, None)
    assert not text.readers


async def test_the_same_request_has_the_same_name(scorer: Scorer) -> None:
    """By what is asked of which target by whom, in which order."""
    talk = Conversation(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    items: list[Source] = [talk, Text("a"), Ids([1, 2])]

    async def name(
        target: Target = JUDGE, sources: list[Source] = items, caller: str = ""
    ) -> object:
        return await scorer._name(target, sources, 10, caller)

    with scorer.admission.admit(10):
        first = await name()
        assert await name(sources=[talk, Text("a"), Ids((1, 2))]) == first
        others = [await name(OTHER), await name(sources=items[::-1]), await name(sources=items[:2])]
        others.append(await name(caller="somebody"))

    assert len({first, *others}) == 5
