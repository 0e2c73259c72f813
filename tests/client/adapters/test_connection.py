"""Connections by process and by event loop: opened late, shared, and closed with their loop."""

import asyncio
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from assay.client.adapters import connection, trl
from assay.client.adapters.reward import Reward
from tests.client.adapters.cases import PROMPT, RESPONSES, natively
from tests.client.judge import Judge, served

GIVEN = {"prompts": [PROMPT] * len(RESPONSES), "completions": RESPONSES}
TEXTS = [{"text": PROMPT + response} for response in RESPONSES]
METHODS = [one for one in ("fork", "spawn") if one in multiprocessing.get_all_start_methods()]


def asked(function):
    """Call a reward function, also in a process of its own."""
    return function(**GIVEN)


def asked_async(function):
    """Call an async one on a loop that ends with the call."""
    return asyncio.run(function(**GIVEN))


@pytest.mark.parametrize(
    ("make", "ask"), [(trl.reward, asked), (trl.async_reward, asked_async)], ids=["sync", "async"]
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that threads run is meant
def test_a_reward_works_in_another_process(server, make, ask, method):
    """Pickled after use, or forked with connections open."""
    function = make(server.url, name="mine")
    expected = natively(server, TEXTS)
    assert ask(function) == expected
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(ask, [function] * 4))
    assert found == [expected] * 4
    assert ask(function) == expected


@pytest.mark.parametrize("make", [trl.reward, trl.async_reward])
def test_pickling_keeps_the_options_and_the_name(url, make):
    """And no connection."""
    function = make(url, model="tiny", name="mine", clip=(-1.0, 1.0))
    copied = pickle.loads(pickle.dumps(function))
    assert (copied.__name__, copied.reward) == ("mine", function.reward)


def test_loops_may_come_and_go(server):
    """One after another: each closes what it opened, and is forgotten."""
    function = trl.async_reward(server.url)
    expected = natively(server, TEXTS)
    for _ in range(5):
        assert asyncio.run(function(**GIVEN)) == expected
        assert connection._of_loops == {}


def test_loops_may_run_side_by_side(server):
    """Each has its own connections."""
    function = trl.async_reward(server.url)
    expected = natively(server, TEXTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: asyncio.run(function(**GIVEN)), range(8)))
    assert found == [expected] * 8


def test_a_loop_that_was_just_closed_is_forgotten():
    """Also one that nobody asked to end its generators."""
    with served(Judge()) as url:
        made = Reward.of(url, {})
        loop = asyncio.new_event_loop()
        held = loop.run_until_complete(made._connection.aclient())
        loop.run_until_complete(held.aclose())
        loop.close()
        assert loop in connection._of_loops
        asyncio.run(made.aask([{"text": "1"}]))
        assert connection._of_loops == {}


async def test_tasks_of_a_loop_share_connections():
    """Calls one after another open one; other rewards of the server use it too."""
    judge = Judge()
    with served(judge) as url:
        for number in range(5):
            made = Reward.of(url, {"clip": (-1.0, float(number))})
            await made.aask([{"text": "1"}])
    assert len(set(judge.peers)) == 1


def test_threads_share_a_client():
    """Rewards that differ in their options only, too; and it ends when closed."""
    judge = Judge()
    with served(judge) as url:
        one, other = Reward.of(url, {}), Reward.of(url, {"length_penalty": 0.1})
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: one.ask([{"text": str(n)}])[0].score, range(32)))
        other.ask([{"text": "1"}])
        running = [one for one in threading.enumerate() if one.name == "assay client"]
        connection.close()
        assert len(running) == 1
        assert not running[0].is_alive()
        assert one.ask([{"text": "7"}])[0].score == 7.0
    assert found == [float(number) for number in range(32)]


async def test_many_tasks_are_under_way_together():
    """A trainer's burst of single samples isn't sent one by one."""
    judge = Judge(delay_s=0.2)
    with served(judge) as url:
        made = Reward.of(url, {})
        found = await asyncio.gather(*(made.aask([{"text": str(n)}]) for n in range(64)))
    assert [one[0].score for one in found] == [float(number) for number in range(64)]
    assert [len(body["inputs"]) for body in judge.bodies] == [64]
