"""What callers learn of each other by what they needn't compute, with a real device process."""

import asyncio

import psutil
import pytest

from assay.items import Ids
from assay.scoring.scorer import Scorer, prefix_scope
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests.http import checkpoints

SECRET = Ids(tuple(range(100, 164)))
GUESSES = [Ids((*SECRET.ids[:length], *[7] * 16)) for length in (8, 32, 48)]
OTHER = Ids((9,) * 40)
BOTH = Ids(tuple(range(200, 264)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny checkpoint."""
    return checkpoints.build(tmp_path_factory.mktemp("neighbours") / "tiny")


def serving(tiny, **settings):
    """Return a scorer that keeps prefixes, not yet started."""
    return Scorer(
        Settings(models=(str(tiny),), compile="off", device=("cpu",), **settings), Metrics()
    )


async def ask(scorer, name, *sources, **options):
    """Score items as a caller."""
    return await scorer.score(scorer.target(None), sources, caller=name, **options)


def numbers(outcome):
    """Return what was read of each item."""
    return [one.numbers[0].tolist() for one in outcome.items]


def spared(outcome):
    """Return how many tokens a caller is told that needn't be computed."""
    return outcome.tokens - outcome.computed_tokens


async def until(claim):
    """Let the loop turn until a claim holds."""
    async with asyncio.timeout(60.0):
        while not claim():  # noqa: ASYNC110  the claims are about plain attributes
            await asyncio.sleep(0.001)


async def test_a_caller_learns_nothing_of_anothers_prompt(tiny):
    """What is kept for one key spares another nothing, nor does what is beside it in one batch.

    Each goes on from its own, with a salt from those with the same; the scores are one.
    """
    async with serving(tiny) as scorer:
        await scorer.served.ready()
        secret = await ask(scorer, "victim", SECRET)
        guesses = [await ask(scorer, "attacker", one) for one in GUESSES]
        again = await ask(scorer, "attacker", SECRET)
        own = await ask(scorer, "victim", *GUESSES)
        salted = [await ask(scorer, "victim", SECRET, salt=salt) for salt in ("a", "b", "a")]
        foreign = await ask(scorer, "attacker", SECRET, salt="a")
        beside = await together(scorer, "victim", "attacker")

    assert [spared(one) for one in guesses] == [0, 8, 32]  # each goes on from its own last one
    assert spared(again) == 48
    assert spared(own) == 8 + 32 + 48
    assert [spared(one) for one in (*salted, foreign)] == [0, 0, 56, 0]
    assert [spared(one) for one in beside] == [0, 0]
    assert [numbers(one)[0] for one in guesses] == numbers(own)
    assert {str(numbers(one)) for one in (again, *salted, foreign)} == {str(numbers(secret))}
    assert numbers(beside[0]) == numbers(beside[1])


async def together(scorer, *names):
    """Let callers ask for the same, of which nothing is kept, in one batch."""
    worker = psutil.Process(scorer.served.backends[0].dispatchers[0].worker_pid)
    worker.suspend()
    before = asyncio.create_task(ask(scorer, "", OTHER))
    await until(lambda: not scorer.served.backends[0].dispatchers[0].is_idle)
    asked = [asyncio.create_task(ask(scorer, name, BOTH)) for name in names]
    await until(lambda: scorer.served.backends[0].queue.depth("tiny")[0] == len(asked))
    worker.resume()
    await before
    return [await one for one in asked]


def test_who_shares_with_whom():
    """Those of one key's name, or all; a salt sets apart, and nobody's salt is another's name."""
    scopes = [prefix_scope(name, salt) for name in ("one", "other", "") for salt in (None, "salt")]

    assert len(set(scopes)) == 6


async def test_an_operator_may_let_all_share(tiny):
    """By `prefix_sharing`; a salt still sets apart."""
    async with serving(tiny, prefix_sharing="all") as scorer:
        await scorer.served.ready()
        first = await ask(scorer, "one", SECRET)
        other = await ask(scorer, "other", SECRET)
        salted = await ask(scorer, "other", SECRET, salt="a")

    assert [spared(one) for one in (first, other, salted)] == [0, 56, 0]
    assert numbers(first) == numbers(other) == numbers(salted)
