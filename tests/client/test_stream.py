import asyncio
import gc

import pytest

from assay import AsyncClient, errors
from assay.client.stream import CHUNK_ELEMENTS
from tests.client.judge import Judge, items, refusal, served


@pytest.fixture
def judge():
    return Judge(delay_s=0.01)


@pytest.fixture
def url(judge):
    with served(judge) as url:
        yield url


async def endless(read=None):
    number = 0
    while True:
        yield {"text": str(number)}
        number += 1
        if read is not None:
            read.append(number)


async def test_an_endless_source_is_read_as_its_items_are_sent(url):
    """Results come while the source goes on; what is ahead of the reader is bounded."""
    read = []
    async with AsyncClient(url, concurrency=2) as client:
        stream = client.stream(endless(read))
        entries = [await anext(stream) for _ in range(5_000)]
        await asyncio.sleep(0.1)
        await stream.aclose()
    assert [one.score for one in entries] == [float(number) for number in range(5_000)]
    assert len(read) <= 5_000 + 12 * CHUNK_ELEMENTS


async def test_an_item_that_comes_alone_is_sent_alone(judge, url):
    """A slow source isn't waited for: each item is answered before the next one exists."""
    answered = asyncio.Event()

    async def one_by_one():
        for number in range(3):
            yield {"text": str(number)}
            await answered.wait()
            answered.clear()

    async with AsyncClient(url) as client:
        async for entry in client.stream(one_by_one()):
            assert entry.score == float(len(judge.bodies) - 1)
            answered.set()
    assert [len(body["inputs"]) for body in judge.bodies] == [1, 1, 1]


async def test_so_many_requests_and_no_more_are_under_way(judge, url):
    """`concurrency` bounds a call."""
    async with AsyncClient(url, concurrency=3, chunk_bytes=500) as client:
        await client.score(items(300))
    assert judge.most_pending == 3


async def test_connections_are_used_again(judge, url):
    """Not more of them than requests at a time."""
    async with AsyncClient(url, concurrency=3, chunk_bytes=500) as client:
        await client.score(items(300))
        await client.score(items(300))
    assert len(judge.peers) > 20
    assert len(set(judge.peers)) == 3


async def test_chunks_keep_to_their_bytes(judge, url):
    """A chunk ends before the item that would be too much; a larger item goes alone."""
    large = {"prompt": "x" * 2_000, "response": "1"}
    async with AsyncClient(url, chunk_bytes=1_000, concurrency=1) as client:
        await client.score([*items(30), large, *items(30)])
    sizes = [len(body["inputs"]) for body in judge.bodies]
    assert 1 in sizes
    assert max(sizes) < 30
    assert sum(sizes) == 61


def breaking():
    yield from items(3_000)
    raise LookupError("no more")


async def breaking_slowly():
    for one in breaking():
        yield one


@pytest.mark.parametrize("source", [breaking, breaking_slowly])
async def test_a_source_that_fails_is_raised_in_its_turn(url, source):
    """What came before the failure is yielded first."""
    async with AsyncClient(url) as client:
        stream = client.stream(source())
        assert [(await anext(stream)).index for _ in range(3_000)] == list(range(3_000))
        with pytest.raises(LookupError, match="no more"):
            await anext(stream)


@pytest.mark.parametrize("on_error", ["item", "fail"])
async def test_a_slow_source_is_waited_for_until_the_deadline(url, on_error):
    """What came before is yielded first."""

    async def endless_wait():
        yield {"text": "0"}
        await asyncio.Event().wait()

    async with AsyncClient(url, deadline_s=1) as client:
        stream = client.stream(endless_wait(), on_error=on_error)
        assert (await anext(stream)).score == 0.0
        with pytest.raises(errors.DeadlineExceeded, match="source"):
            await anext(stream)


async def test_a_timeout_of_the_source_is_its_own(url):
    """It isn't taken for the deadline's."""

    async def timing_out():
        yield {"text": "0"}
        raise TimeoutError("of the source")

    async with AsyncClient(url, deadline_s=60) as client:
        with pytest.raises(TimeoutError, match="of the source"):
            await client.score(timing_out())


async def test_a_chunk_that_fails_is_raised_in_its_turn(judge, url):
    """Entries of earlier chunks are yielded, and nothing more is sent."""
    judge.before = [None, None, refusal("unauthorized", 401)]
    async with AsyncClient(url, chunk_bytes=100, concurrency=1) as client:
        stream = client.stream(items(300))
        first = await anext(stream)
        sizes = [len(body["inputs"]) for body in judge.bodies[:1]]
        rest = [(await anext(stream)).index for _ in range(2 * sizes[0] - 1)]
        with pytest.raises(errors.Unauthorized):
            await anext(stream)
    assert [first.index, *rest] == list(range(2 * sizes[0]))
    assert len(judge.bodies) == 3


async def test_who_leaves_a_stream_leaves_nothing_behind(url):
    """Requests that are under way are taken back."""
    async with AsyncClient(url, chunk_bytes=100) as client:
        stream = client.stream(items(300))
        await anext(stream)
        await stream.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_forgets_what_was_read(url):
    """However long it is, the memory it holds is that of what is under way."""
    most = 0
    async with AsyncClient(url, chunk_bytes=100, concurrency=2) as client:
        async for entry in client.stream(items(600)):
            if entry.index % 50 == 49:
                gc.collect()  # what is only waiting for that isn't held
                most = max(
                    most, sum(issubclass(type(one), asyncio.Task) for one in gc.get_objects())
                )
    assert most < 40
