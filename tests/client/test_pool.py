import asyncio
import contextlib
import socket

import pytest

from assay import AsyncClient, errors
from tests.client.judge import Judge, items, refusal, served


@pytest.fixture
def judges():
    return [Judge(delay_s=0.02), Judge(delay_s=0.02)]


@pytest.fixture
def urls(judges):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(served(judge)) for judge in judges]


async def test_the_server_with_the_least_to_do_is_asked(judges, urls):
    """A slow server gets less than a quick one, and equals get as much."""
    async with AsyncClient(*urls, concurrency=4) as client:
        await asyncio.gather(*(client.score({"text": "1"}) for _ in range(10)))
        await asyncio.gather(*(client.score(items(2)) for _ in range(10)))
    assert [len(one.bodies) for one in judges] == [6, 6]
    assert [sum(len(body["inputs"]) for body in one.bodies) for one in judges] == [15, 15]


async def test_a_busy_server_is_asked_less(judges, urls):
    """Least pending, not turns."""
    judges[0]._delay_s = 0.3
    async with AsyncClient(*urls, concurrency=2, chunk_bytes=1_000) as client:
        await client.score(items(300))
    slow, quick = (len(one.bodies) for one in judges)
    assert slow < quick


async def test_another_server_stands_in_at_once(judges, urls):
    """A 503 isn't waited out while somebody else can answer; who refused rests."""
    judges[0].before = [refusal("draining", 503, headers={"retry-after": "30"})]
    async with AsyncClient(*urls, deadline_s=10) as client:
        entries = await client.score(items(3))
        again = [await client.score({"text": "1"}) for _ in range(4)]
    assert [one.score for one in entries] == [0.0, 1.0, 2.0]
    assert [one.score for one in again] == [1.0] * 4
    assert [len(one.bodies) for one in judges] == [1, 5]


async def test_a_server_that_is_gone_is_done_without(judges, urls):
    """Nothing is lost where one of two addresses is dead."""
    async with AsyncClient("http://127.0.0.1:9", urls[0], chunk_bytes=500) as client:
        entries = await client.score(items(300))
    assert [one.score for one in entries] == [float(number) for number in range(300)]


async def test_a_server_that_recovers_is_asked_again(judges, urls):
    """After its rest one request tries it."""
    judges[0].before = [refusal("not_ready", 503)]
    async with AsyncClient(*urls) as client:
        await client.score({"text": "1"})
        await asyncio.sleep(0.6)
        await asyncio.gather(*(client.score({"text": "1"}) for _ in range(4)))
    assert len(judges[0].bodies) > 1


async def test_a_refusal_is_no_reason_to_ask_another(judges, urls):
    """What the caller must change is wrong everywhere."""
    for one in judges:
        one.before = [refusal("unauthorized", 401)]
    async with AsyncClient(*urls) as client:
        with pytest.raises(errors.Unauthorized):
            await client.score({"text": "1"})
    assert sum(len(one.bodies) for one in judges) == 1


@pytest.fixture
def hung():
    """Where connections are taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as one:
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


async def test_a_hung_server_does_not_swallow_a_call(judges, urls, hung):
    """Another is asked while there is time, and who was silent rests."""
    async with AsyncClient(hung, urls[0], deadline_s=2) as client:
        scores = [(await client.score({"text": str(number)})).score for number in range(5)]
        many = await client.score(items(300))
    assert scores == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(many) == 300


async def test_a_hung_server_rests_where_the_deadline_passed_for_all(judges, urls, hung):
    """A client's own timeout is no sign of health."""
    async with AsyncClient(hung, deadline_s=0.2) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.score({"text": "1"})
        assert not client._pool.stands_in()


async def test_an_answered_deadline_is_no_failure(judges, urls):
    """The server that says so is well."""
    judges[0].before = [refusal("deadline_exceeded", 504)]
    async with AsyncClient(urls[0]) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.score({"text": "1"})
        assert client._pool.stands_in()


async def test_what_is_served_is_asked_for_until_the_deadline(hung):
    """As any call."""
    async with AsyncClient(hung, deadline_s=0.2) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.models()


@pytest.mark.parametrize("path", ["/score", "/v1/score/", "/models"])
def test_the_address_of_a_route_is_refused(path):
    """Every path would be asked for below it."""
    with pytest.raises(errors.InvalidField, match="give the server's address: http://judge:8000"):
        AsyncClient(f"http://judge:8000{path}")


def test_a_client_of_nothing_is_refused():
    """At least one URL."""
    with pytest.raises(errors.InvalidField, match="URL"):
        AsyncClient()
