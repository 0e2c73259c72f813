import asyncio
import itertools
import json
import selectors
import time

import httpx
import pytest

from assay import AsyncClient, errors
from tests.client.judge import ENVELOPE, Judge, items, refusal, served

BROKEN = ConnectionError("the stub breaks the connection")


@pytest.fixture
def judge():
    return Judge()


@pytest.fixture
def url(judge):
    with served(judge) as url:
        yield url


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504, 520, 522, 524])
async def test_a_proxy_in_front_of_a_restarting_server_is_asked_again(judge, url, status):
    """It answers for the server, in HTML."""
    judge.before = [(status, {}, b"<html>"), (status, {"retry-after": "0"}, b"<html>")]
    async with AsyncClient(url) as client:
        assert (await client.score({"text": "1"})).score == 1.0
    assert len(judge.bodies) == 3


async def test_a_broken_connection_sends_the_chunk_again(judge, url):
    """As a whole, and its results count once."""
    judge.before = [None, BROKEN, BROKEN]
    async with AsyncClient(url, chunk_bytes=1_000, concurrency=2) as client:
        entries = await client.score(items(200))
    assert [one.score for one in entries] == [float(number) for number in range(200)]
    assert sum(len(body["inputs"]) for body in judge.bodies) > 200


@pytest.mark.parametrize("content", [b"", b'{"id": "score-1", "da'])
async def test_half_an_answer_is_asked_for_again(judge, url, content):
    """A gateway may cut what the server said, and close as if it were whole."""
    judge.before = [(200, {}, content)]
    async with AsyncClient(url) as client:
        assert (await client.score({"text": "1"})).score == 1.0
    assert len(judge.bodies) == 2


async def test_another_service_is_not_asked_again(judge, url):
    """A page is an answer, though not Assay's."""
    judge.before = [(200, {}, b"<html>")]
    async with AsyncClient(url) as client:
        with pytest.raises(errors.ServiceError, match="check the URL"):
            await client.score({"text": "1"})
    assert len(judge.bodies) == 1


async def test_what_can_not_be_decoded_is_an_error_of_the_tree(judge, url):
    """With what to look at."""
    judge.before = [(200, {"content-encoding": "gzip"}, b"not gzip")]
    async with AsyncClient(url) as client:
        with pytest.raises(errors.ServiceError, match="can't be decoded"):
            await client.score({"text": "1"})


async def test_retry_after_is_honoured(judge, url):
    """Not a moment earlier, though the backoff would be."""
    judge.before = [refusal("overloaded", 503, headers={"retry-after": "1"})]
    begin = time.monotonic()
    async with AsyncClient(url) as client:
        await client.score({"text": "1"})
    assert 1.0 <= time.monotonic() - begin < 5.0


async def test_items_that_a_dying_server_failed_are_asked_again(judge, url):
    """`not_ready` in an entry isn't the item's fault."""
    error = {"code": "not_ready", "message": "the workers can't be brought back"}
    entry = {"index": 0, "score": None, "n_tokens": 1, "truncated": False, "error": error}
    judge.before = [(200, {}, {**ENVELOPE, "object": "score.list", "data": [entry]})]
    async with AsyncClient(url) as client:
        (found,) = await client.score([{"text": "1"}], on_error="item")
        judge.before = [(200, {}, {**ENVELOPE, "object": "score.list", "data": [entry]})] * 2
        assert found.score == 1.0
    async with AsyncClient(url, retries=1) as client:
        (given_up,) = await client.score([{"text": "1"}], on_error="item")
    assert given_up.error.code == "not_ready"


async def test_what_is_left_of_the_deadline_is_sent(judge, url):
    """The server drops what the caller won't wait for; a call's own deadline counts."""
    judge.before = [refusal("not_ready", 503)]
    async with AsyncClient(url, deadline_s=60) as client:
        await client.score({"text": "1"})
        await client.score({"text": "1"}, deadline_ms=5_000)
    first, again, own = (body["deadline_ms"] for body in judge.bodies)
    assert 59_000 < again < first <= 60_000
    assert 4_000 < own <= 5_000


async def test_nothing_is_tried_after_the_deadline(judge, url):
    """A wait that ends after it isn't begun."""
    judge.before = [refusal("overloaded", 503, headers={"retry-after": "30"})] * 3
    begin = time.monotonic()
    async with AsyncClient(url, deadline_s=5) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.score({"text": "1"})
        (entry,) = await client.score([{"text": "1"}], on_error="item")
    assert entry.error.code == "deadline_exceeded"
    assert time.monotonic() - begin < 5
    assert len(judge.bodies) == 2


async def test_a_server_that_is_silent_is_left_at_the_deadline():
    """The caller has an answer by then, whatever the server does."""
    with served(Judge(delay_s=2)) as url:
        begin = time.monotonic()
        async with AsyncClient(url, deadline_s=0.2) as client:
            with pytest.raises(errors.DeadlineExceeded):
                await client.score({"text": "1"})
        assert time.monotonic() - begin < 1.5


async def test_a_silence_longer_than_the_timeout_is_no_answer():
    """`timeout_s` bounds a try, not the call."""
    judge = Judge(delay_s=0.5)
    with served(judge) as url:
        async with AsyncClient(url, timeout_s=0.05, retries=2) as client:
            with pytest.raises(errors.NotReady, match="ReadTimeout"):
                await client.score({"text": "1"})
    assert len(judge.peers) == 3


async def test_an_address_that_never_answered_is_given_up_soon():
    """A wrong URL is said after three tries; one that once answered is waited for."""
    tries = []

    def refuse(request):
        tries.append(request)
        raise httpx.ConnectError("refused")

    transport = httpx.MockTransport(refuse)
    async with AsyncClient("http://nobody.test", transport=transport) as client:
        with pytest.raises(errors.NotReady, match="can't be reached: refused"):
            await client.models()
    assert len(tries) == 3


@pytest.mark.parametrize("url", ["localhost:8000", "judge", "", "http://", "ftp://judge"])
def test_what_is_no_url_is_refused(url):
    """At once, with what to write."""
    with pytest.raises(errors.InvalidField, match="http://HOST:PORT"):
        AsyncClient(url)


def test_an_address_of_ipv6_without_brackets_is_told_how_it_is_written():
    """It would be a host and several ports."""
    for url in ("http://::1:8000", "::1:8000"):
        with pytest.raises(errors.InvalidField, match=r"http://\[::1\]:8000"):
            AsyncClient(url)
    AsyncClient("http://[::1]:8000/")


class Leaps(selectors.DefaultSelector):
    """Doesn't wait for a timer, but notes how long it would have."""

    ahead_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0 if timeout else timeout)
        if not ready and timeout:
            self.ahead_s += timeout
        return ready


class Leaping(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps to the next timer."""

    def __init__(self):
        self._leaps = Leaps()
        super().__init__(self._leaps)

    def time(self):
        return super().time() + self._leaps.ahead_s


class Restarting:
    """Answers but from the second request on, for so long by the loop's clock."""

    def __init__(self, away_s):
        self.judge = Judge()
        self.tries = []
        self._away_s = away_s

    def __call__(self, request):
        self.tries.append(asyncio.get_running_loop().time())
        if len(self.tries) > 1 and self.tries[-1] < self.tries[1] + self._away_s:
            raise httpx.ConnectError("refused")
        _, _, answer = self.judge.score(json.loads(request.content))
        return httpx.Response(200, json=answer)

    def client(self, host, **options):
        return AsyncClient(f"http://{host}.test", transport=httpx.MockTransport(self), **options)


def leaping(asking):
    """Run it on a clock that leaps."""
    with asyncio.Runner(loop_factory=Leaping) as runner:
        return runner.run(asking)


def test_a_server_is_waited_for_as_long_as_a_restart_may_take():
    """Fourteen minutes, with nothing set: large weights load slowly."""
    server = Restarting(14 * 60)

    async def ask():
        async with server.client("slow") as client:
            return [(await client.score({"text": str(number)})).score for number in range(2)]

    assert leaping(ask()) == [0.0, 1.0]
    waits = [after - before for before, after in itertools.pairwise(server.tries[1:])]
    assert max(waits) <= 30.5


@pytest.mark.parametrize(("options", "patience_s"), [({}, 900), ({"patience_s": 60}, 60)])
def test_patience_ends(options, patience_s):
    """From the first failure on; the last error is raised."""
    server = Restarting(86_400)

    async def ask():
        async with server.client("gone", **options) as client:
            await client.score({"text": "1"})
            with pytest.raises(errors.NotReady, match="refused"):
                await client.score({"text": "1"})

    leaping(ask())
    assert patience_s - 31 < server.tries[-1] - server.tries[1] <= patience_s


def test_an_address_that_answered_is_known_to_all_clients():
    """A loop a call, and a client a loop: the next one waits for a restart, too."""
    server = Restarting(60)

    async def ask(number):
        async with server.client("known") as client:
            return (await client.score({"text": str(number)})).score

    assert [leaping(ask(number)) for number in range(2)] == [0.0, 1.0]
