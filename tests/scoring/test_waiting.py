"""How long a request may wait, and what callers do to each other, with a real device process."""

import asyncio

import psutil
import pytest

from assay.errors import DeadlineExceeded, Overloaded
from assay.items import Ids
from assay.scoring.scorer import Scorer
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests.http import checkpoints

ITEM_TOKENS = 50
LIMIT_TOKENS = 20 * ITEM_TOKENS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny checkpoint."""
    return checkpoints.build(tmp_path_factory.mktemp("waiting") / "tiny")


def serving(tiny, **settings):
    """Return a scorer of one item a batch, not yet started."""
    return Scorer(
        Settings(
            models=(str(tiny),),
            compile="off",
            device=("cpu",),
            batch_tokens=ITEM_TOKENS,
            max_queued_tokens=LIMIT_TOKENS,
            prefix_cache_mb=0,
            **settings,
        ),
        Metrics(),
    )


def items(count, first=10):
    """Return so many items that share nothing."""
    return [Ids((number,) * (ITEM_TOKENS - 1) + (7,)) for number in range(first, first + count)]


def worker(scorer):
    """Return the device process."""
    return psutil.Process(scorer.served.backends[0].dispatchers[0].worker_pid)


async def until(claim):
    """Let the loop turn until a claim holds."""
    async with asyncio.timeout(60.0):
        while not claim():  # noqa: ASYNC110  the claims are about plain attributes
            await asyncio.sleep(0.001)


async def test_nothing_waits_longer_than_the_longest_wait(tiny):
    """What hasn't begun by then is answered, and isn't computed; whoever is younger goes on."""
    async with serving(tiny, max_wait_s=1.0) as scorer:
        await scorer.served.ready()
        target = scorer.target(None)
        good = await scorer.score(target, items(1))
        worker(scorer).suspend()
        waiting = asyncio.create_task(scorer.score(target, items(5)))
        await asyncio.sleep(1.2)
        tokens = scorer.admission.tokens
        worker(scorer).resume()
        outcome = await waiting
        again = await scorer.score(target, items(1))

    late = [type(one.error) for one in outcome.items]
    assert late == [type(None), *[DeadlineExceeded] * 4]
    assert tokens == ITEM_TOKENS
    assert outcome.tokens == ITEM_TOKENS
    assert again.items[0].numbers[0] == good.items[0].numbers[0]


async def test_a_caller_with_one_item_goes_before_the_backlog_of_another(tiny):
    """Fair between keys: a gateway's item is the next that runs, whatever a trainer sent."""
    done = []

    async def ask(name, first):
        await scorer.score(scorer.target(None), items(1, first), caller=name)
        done.append(name)

    async with serving(tiny) as scorer:
        await scorer.served.ready()
        worker(scorer).suspend()
        asking = [asyncio.create_task(ask("trainer", 10 + number)) for number in range(15)]
        await until(lambda: scorer.served.backends[0].queue.depth("tiny")[0] == 14)
        asking.append(asyncio.create_task(ask("gateway", 50)))
        await until(lambda: scorer.served.backends[0].queue.depth("tiny")[0] == 15)
        worker(scorer).resume()
        await asyncio.gather(*asking)

    assert done.index("gateway") <= 2


async def test_what_is_answered_of_a_fat_request_makes_room(tiny):
    """A request holds room for what is left of it; refused ones are told when to come."""
    async with serving(tiny) as scorer:
        await scorer.served.ready()
        target = scorer.target(None)
        worker(scorer).suspend()
        fat = asyncio.create_task(scorer.score(target, items(20)))
        await until(lambda: scorer.served.backends[0].queue.depth("tiny")[0] == 19)
        with pytest.raises(Overloaded) as refused:
            await scorer.score(target, items(1, 60))
        worker(scorer).resume()
        await until(lambda: scorer.admission.tokens <= LIMIT_TOKENS / 2)
        await scorer.score(target, items(1, 60))
        await fat

    assert refused.value.retry_after_s >= 1
    assert scorer.admission.tokens == 0


async def test_what_waits_for_a_caller_who_left_leaves_with_it(tiny):
    """At once, not when the device is next given something: what waits is what is counted."""
    async with serving(tiny) as scorer:
        await scorer.served.ready()
        worker(scorer).suspend()
        asking = asyncio.create_task(scorer.score(scorer.target(None), items(10)))
        await until(lambda: scorer.served.backends[0].queue.depth("tiny")[0] == 9)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        waiting = scorer.served.backends[0].queue.depth("tiny")
        worker(scorer).resume()

    assert waiting == (0, 0)


async def test_a_deadline_that_comes_before_an_item_is_tokenized_is_told_at_once(tiny):
    """Whoever else the process that renders is busy for."""
    async with serving(tiny) as scorer:
        await scorer.served.ready()
        target = scorer.target(None)
        await scorer.score(target, items(1))
        busy = psutil.Process(scorer.served.renderers.pid("tiny"))
        busy.suspend()
        outcome = await scorer.score(target, items(3), deadline_s=0.05)
        busy.resume()

    assert [type(one.error) for one in outcome.items] == [DeadlineExceeded] * 3
    assert outcome.tokens == 0
