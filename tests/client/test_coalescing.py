import asyncio

import pytest

from assay import AsyncClient, errors
from tests.client.judge import LIMIT, Judge, items, refusal, served
from tests.http import processes

LONG = {"prompt": "Why?", "response": "x" * (LIMIT + 1)}


@pytest.fixture
def judge():
    return Judge()


@pytest.fixture
def url(judge):
    with served(judge) as url:
        yield url


async def until(condition):
    """Wait for the stub, or for tasks to end."""
    await asyncio.to_thread(processes.until, "it is so", condition, 30)


def sizes(judge):
    """Return how many things each request was about."""
    return [len(body["inputs"]) for body in judge.bodies]


@pytest.mark.parametrize("given", [lambda one: one, lambda one: [one]])
async def test_calls_about_one_thing_share_requests(judge, url, given):
    """A thousand at once are a few requests, and each has the answer to its own question."""
    async with AsyncClient(url) as client:
        found = await asyncio.gather(*(client.score(given(one)) for one in items(1_000)))
    entries = [one[0] if isinstance(one, list) else one for one in found]
    assert [one.score for one in entries] == [float(number) for number in range(1_000)]
    assert {one.index for one in entries} == {0}
    assert sum(sizes(judge)) == 1_000
    assert max(sizes(judge)) <= 64
    assert len(judge.bodies) == 16


async def test_a_call_alone_goes_as_it_is(judge, url):
    """Nothing is added to it, and it doesn't wait for others."""
    async with AsyncClient(url) as client:
        for _ in range(2):
            await client.score({"text": "1"})
    assert judge.bodies == [{"inputs": [{"text": "1"}]}] * 2


async def test_only_the_same_options_go_together(judge, url):
    """A request has one set of options, and one question."""
    async with AsyncClient(url) as client:
        await asyncio.gather(
            *(client.score({"text": "1"}, model="one") for _ in range(3)),
            *(client.score({"text": "1"}, model="two") for _ in range(3)),
            *(client.compare(("Why?", ["a", "b"])) for _ in range(3)),
        )
    found = [body.get("model") or len(body["comparisons"]) for body in judge.bodies]
    assert sorted(map(str, found)) == ["3", "one", "two"]


async def test_a_refused_thing_fails_its_own_caller(judge, url):
    """With the error that it has alone: its class, its message and its place."""
    async with AsyncClient(url) as client:
        with pytest.raises(errors.ItemTooLong) as alone:
            await client.score(LONG)
        first, bad, lenient, last = await asyncio.gather(
            client.score({"text": "1"}),
            client.score(LONG),
            client.score(LONG, on_error="item"),
            client.score({"text": "4"}),
            return_exceptions=True,
        )
    assert (first.score, lenient.error.code, last.score) == (1.0, "item_too_long", 4.0)
    assert (type(bad), str(bad)) == (type(alone.value), str(alone.value))
    assert bad.param == alone.value.param == "inputs[0].response"
    assert sizes(judge) == [1, 4, 1]


@pytest.mark.parametrize("bad", [{"text": "1", "mood": "good"}, {"text": "half \ud83d"}])
async def test_a_malformed_thing_is_refused_before_it_is_sent(judge, url, bad):
    """And nobody else notices."""
    async with AsyncClient(url) as client:
        good, refused = await asyncio.gather(
            client.score({"text": "1"}), client.score(bad), return_exceptions=True
        )
    assert (good.score, type(refused)) == (1.0, errors.InvalidField)
    assert sizes(judge) == [1]


async def test_a_defect_under_a_shared_request_is_asked_apart(judge, url):
    """What the server can't do for one of them it does for the others."""
    judge.before = [refusal("internal_error", 500), refusal("internal_error", 500)]
    async with AsyncClient(url) as client:
        found = await asyncio.gather(
            *(client.score({"text": str(number)}) for number in range(3)), return_exceptions=True
        )
    refused = [one for one in found if isinstance(one, Exception)]
    assert [type(one) for one in refused] == [errors.InternalError]
    assert sizes(judge) == [3, 1, 1, 1]


async def test_an_error_of_all_is_raised_for_each(judge, url):
    """As an object of its own, and without asking again."""
    judge.before = [refusal("unauthorized", 401)]
    async with AsyncClient(url) as client:
        found = await asyncio.gather(
            *(client.score({"text": "1"}) for _ in range(3)), return_exceptions=True
        )
    assert [type(one) for one in found] == [errors.Unauthorized] * 3
    assert len(set(map(id, found))) == 3
    assert sizes(judge) == [3]


async def test_each_leaves_at_its_own_deadline():
    """Who has time gets an answer; who hasn't, an error."""
    judge = Judge(delay_s=0.6)
    with served(judge) as url:
        async with AsyncClient(url) as client:
            hasty, lenient, patient = await asyncio.gather(
                client.score({"text": "1"}, deadline_ms=100),
                client.score({"text": "1"}, deadline_ms=100, on_error="item"),
                client.score({"text": "2"}, deadline_ms=60_000),
                return_exceptions=True,
            )
    assert (type(hasty), lenient.error.code) == (errors.DeadlineExceeded, "deadline_exceeded")
    assert patient.score == 2.0
    assert sizes(judge) == [3]


async def test_who_leaves_takes_nobody_along(judge, url):
    """The others are answered, and with the last the request is taken back."""
    judge._delay_s = 0.3
    async with AsyncClient(url) as client:
        stays = asyncio.create_task(client.score({"text": "1"}))
        leaves = asyncio.create_task(client.score({"text": "2"}))
        await until(lambda: judge.peers)
        leaves.cancel()
        assert (await stays).score == 1.0
        alone = asyncio.create_task(client.score({"text": "3"}))
        await until(lambda: len(judge.peers) == 2)
        alone.cancel()
        loop = asyncio.get_running_loop()
        await until(lambda: len(asyncio.all_tasks(loop)) == 1)


async def test_a_slot_is_waited_for_until_the_deadline():
    """32 requests a server are under way at most; who finds no slot in time is told so."""
    judge = Judge(delay_s=1.0)
    with served(judge) as url:
        async with AsyncClient(url) as client:
            pairs = [client.score(items(2)) for _ in range(34)]
            late = [
                client.score(items(2), deadline_ms=200, on_error="item"),
                client.score(items(2), deadline_ms=200),
            ]
            *_, lenient, strict = await asyncio.gather(*pairs, *late, return_exceptions=True)
    assert judge.most_pending == 32
    assert [one.error.code for one in lenient] == ["deadline_exceeded"] * 2
    assert str(strict) == "the deadline passed before the request was sent"


async def test_closing_fails_who_waits():
    """With a sentence, rather than for ever."""
    judge = Judge(delay_s=0.5)
    with served(judge) as url:
        client = AsyncClient(url)
        asking = [asyncio.create_task(client.score({"text": "1"})) for _ in range(3)]
        await until(lambda: judge.peers)
        await client.aclose()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(one) for one in found] == ["the client was closed while it was asked"] * 3
