"""Parts of requests, sizes of items, and how many are woken at a time."""

import asyncio

import pytest

from assay.items import Conversation, Ids, Text
from assay.prompts import chunking
from assay.prompts.chunking import CHUNK_ITEMS, CHUNK_TOKENS, chunks
from assay.wakeup_throttle import WOKEN_AN_ITERATION, WakeupThrottle


@pytest.mark.parametrize("source", [Text("word"), Ids((1, 2)), Text("x" * CHUNK_TOKENS)])
@pytest.mark.parametrize("count", [0, 1, CHUNK_ITEMS, 3 * CHUNK_ITEMS + 1])
def test_chunks_are_the_items_in_order_and_none_is_too_large(source, count):
    """Neither in items nor, beyond its last item, in tokens; none is empty."""
    sources = [source] * count

    parts = list(chunks(sources))

    assert [one for part in parts for one in part] == sources
    for part in parts:
        assert 1 <= len(part) <= CHUNK_ITEMS
        assert sum(map(chunking.estimate, part[:-1])) < CHUNK_TOKENS


def test_every_form_has_an_estimate():
    """Four characters a token, ids as they are."""
    talk = Conversation(
        ({"role": "user", "content": "x" * 40}, {"role": "assistant", "content": ""})
    )

    assert [chunking.estimate(one) for one in (talk, Text("x" * 7), Ids((1, 2, 3)))] == [11, 2, 3]


async def test_few_are_woken_in_an_iteration_of_the_loop():
    """What else is due runs between them, and those who left are passed over."""
    loop = asyncio.get_running_loop()
    pace = WakeupThrottle()
    futures = [loop.create_future() for _ in range(2 * WOKEN_AN_ITERATION)]
    futures[0].cancel()
    for place, future in enumerate(futures):
        pace.set_result(future, ValueError() if place == 1 else place)
    woken = []
    while not futures[-1].done():
        await asyncio.sleep(0)
        woken.append(sum(future.done() for future in futures))

    assert woken == [WOKEN_AN_ITERATION, 2 * WOKEN_AN_ITERATION]
    assert isinstance(futures[1].exception(), ValueError)
    assert [future.result() for future in futures[2:]] == list(range(2, len(futures)))
