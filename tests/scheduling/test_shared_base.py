"""Models whose adapters lie on one base: planned, sent and answered as one batch."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from assay.cards.card import Card
from assay.errors import AssayError, ForwardFailed, NonFiniteScore, WorkerError
from assay.scheduling import policy
from assay.scheduling.dispatcher import Dispatcher
from assay.scheduling.planner import ModelQueue, plan_together
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.queue import Queue, RequestHandle
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import BLOCK_TOKENS, Done, Failed, ModelSpec, Start
from tests.scheduling.models import loaded
from tests.scheduling.test_planner import LAG, spelled, unrelated
from tests.scheduling.texts import IDS

NAMES = ("a", "b", "c")
BUDGET = 400
BLOCKS = 50
# Requests: whether of batch priority, which models they ask, and their items.
ASKED = st.sets(st.sampled_from(NAMES), min_size=1)
REQUESTS = st.lists(
    st.tuples(st.booleans(), ASKED, st.lists(IDS, min_size=1, max_size=5)), max_size=6
)
LOADED = {
    name: structs.replace(
        loaded(name, BUDGET, shares=True), shared_base=NAMES, prefix_blocks=BLOCKS
    )
    for name in NAMES
}


def lines():
    """Return an empty line for each model."""
    numbers = count()
    return {name: ModelQueue(lambda _: False, numbers) for name in NAMES}


def put(waiting, texts, names=NAMES, *, is_batch=False):
    """Let a request wait for some models; return its items by model."""
    works = {}
    for name in names:
        flow = RequestFlow(priority_offset=LAG if is_batch else 0.0)
        works[name] = [WorkItem(text, flow) for text in texts]
        for work in works[name]:
            waiting[name].add(work, 0.0)
    return works


def batches(waiting, budget, *, shares=True, caches=None):
    """Take batches until nothing waits."""
    taken = []
    while any(line.items for line in waiting.values()):
        taken.append(plan_together(waiting, budget, shares=shares, caches=caches or {}))
        assert taken[-1]
    return taken


@given(REQUESTS, st.integers(1, 600), st.booleans())
def test_every_item_is_taken_once_by_its_own_model(requests, budget, shares):
    """And each model's batch spells its items' tokens, within one budget for all."""
    waiting, expected = lines(), Counter()
    caches = {name: PrefixCache(BLOCKS) for name in NAMES}
    for is_batch, names, texts in requests:
        for name, works in put(waiting, texts, sorted(names), is_batch=is_batch).items():
            expected.update((name, work) for work in works)

    taken = batches(waiting, budget, shares=shares, caches=caches)

    assert Counter((n, work) for each in taken for n in each for work in each[n].works) == expected
    for plans in taken:
        tokens = sum(each.prefix_batch.tokens for each in plans.values())
        assert tokens <= budget or sum(len(each.works) for each in plans.values()) == 1
        for each in plans.values():
            if not each.prefix_batch.held:
                assert spelled(each.prefix_batch) == [work.ids.tolist() for work in each.works]


def test_the_same_item_of_other_models_goes_along():
    """A group fills batches with all models' rewards of few items, not one's of many."""
    waiting = lines()
    prompt = np.arange(80, dtype=np.int32)
    put(waiting, [np.append(prompt, unrelated(number, 20)) for number in range(8)])

    for plans in batches(waiting, BUDGET):
        texts = [{work.ids.tobytes() for work in each.works} for each in plans.values()]
        apart = set.union(*texts) - set.intersection(*texts)
        assert len(plans) == len(NAMES)
        assert len(apart) <= 2  # where the batch begins, and where it is full


def test_the_next_in_turn_goes_first_whosever_model_it_is():
    """Turns are of requests: one that came early isn't overtaken by another model's."""
    waiting = lines()
    early = put(waiting, [unrelated(1, 300)], ["b"])
    late = put(waiting, [unrelated(2, 300)], ["a"])

    first, second = batches(waiting, BUDGET)

    assert first["b"].works == (early["b"][0],)
    assert second["a"].works == (late["a"][0],)


def test_an_item_that_is_tried_again_goes_alone():
    """Neither with its twins nor behind other models' items."""
    waiting = lines()
    works = put(waiting, [unrelated(1)])
    waiting["b"].drop(works["b"][0].flow)
    waiting["b"].put_back(replace(works["b"][0], goes_alone=True))

    taken = batches(waiting, BUDGET)

    sizes = sorted(sum(len(each.works) for each in plans.values()) for plans in taken)
    assert sizes == [1, 2]


def test_batch_priority_is_not_pulled_ahead_by_its_twin():
    """While interactive work waits for that model."""
    waiting = lines()
    put(waiting, [unrelated(1, 100)], ["a"])
    put(waiting, [unrelated(1, 100)], ["b"], is_batch=True)
    put(waiting, [unrelated(2, 250)], ["b"])

    first = batches(waiting, BUDGET)[0]

    assert [len(first[name].works) for name in ("a", "b")] == [1, 1]
    assert not first["b"].works[0].flow.is_batch


SPECS = tuple(ModelSpec(name, Path("nowhere"), Card(), "float32", 64, None) for name in NAMES)
START = Start("cpu", threads=None, compile="off", models=SPECS, warm_up=policy.WARM_UP)
BAD, UNDEFINED = 9001, 9002  # first tokens of items


class Device:
    """Scores an item by its first token and its adapter; one bad item fails its batch."""

    pid = 1

    def __init__(self, start):
        self.batches = []
        self._said = [LOADED[spec.name] for spec in start.models]
        self._inbox = asyncio.Queue()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def kill(self):
        pass

    async def send(self, message):
        self._inbox.put_nowait(message)

    async def receive(self):
        if self._said:
            return self._said.pop(0)
        message = await self._inbox.get()
        batch = message.prefix_batch
        runs = [*[[0]] * batch.held, *batch.runs()]
        roots = [self._root(batch, run) for run in batch.reads.tolist()]
        items = [(int(batch.adapters[run]), int(runs[run][0])) for run in roots]
        self.batches.append((items, batch.cached_blocks.tolist(), batch.new_blocks.tolist()))
        if any(first == BAD for _, first in items):
            return Failed(message.number, "RuntimeError")
        numbers = [
            [np.nan if first == UNDEFINED else first + adapter / 10] for adapter, first in items
        ]
        return Done.of(message.number, np.array(numbers, np.float64), 0.1, padded_tokens=5)

    def _root(self, batch, run):
        while batch.parents[run] >= 0:
            run = int(batch.parents[run])
        return run


class Observer:
    """Notes what it is told of batches."""

    def __init__(self):
        self.batches = []

    def batch(self, model, done, *, items, tokens, shared_tokens, held_tokens):
        self.batches.append((model, items, tokens, held_tokens, done.padded_tokens))

    def worker_restarted(self, device, reason):
        """Hear nothing of it."""


async def scored(*requests):
    """Let a device serve requests of every model, one after another; return what came of it.

    These are each one's answers by item and model, the device's batches, what was observed.
    """
    queue, observer, devices, outcomes = Queue(), Observer(), [], []

    def device(start):
        devices.append(Device(start))
        return devices[-1]

    dispatcher = Dispatcher(START, queue, observer, worker_factory=device)
    task = asyncio.create_task(dispatcher.run())
    try:
        for firsts in requests:
            answers, is_answered = {}, asyncio.Event()

            def settle(place, answer, answers=answers, event=is_answered, firsts=firsts):
                is_bad = isinstance(answer, AssayError)
                answers[divmod(place, 3)] = type(answer) if is_bad else answer.item()
                if len(answers) == 3 * len(firsts):
                    event.set()

            handle = RequestHandle(settle)
            for place, first in enumerate(firsts):
                ids = np.append(np.int32(first), unrelated(first, 19)).astype(np.int32)
                for number, name in enumerate(NAMES):
                    queue.put(name, ids, handle, 3 * place + number)
            async with asyncio.timeout(10):
                await is_answered.wait()
            outcomes.append(answers)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return outcomes, devices[0].batches, observer.batches


@pytest.mark.parametrize(
    "lie",
    [
        {"shared_base": ("b", "c")},
        {"shared_base": ("a", "a", "b", "c")},
        {"shared_base": ("a", "b", "c", "elsewhere")},
        {"shared_base": ()},
        {"prefix_blocks": 7},
        {"outputs": {"reward": 2}},
    ],
    ids=["without itself", "twice", "unknown", "not by all", "other blocks", "other outputs"],
)
async def test_a_worker_whose_models_do_not_go_together_counts_as_dead(lie):
    """It may run a checkpoint's code: what it says isn't believed where it makes no sense."""
    liar = structs.replace(LOADED["a"], **lie)

    class Liar(Device):
        def __init__(self, start):
            super().__init__(start)
            self._said[0] = liar

    dispatcher = Dispatcher(START, Queue(), Observer(), worker_factory=Liar)

    with pytest.raises(WorkerError, match="share"):
        await dispatcher.run()


async def test_each_models_items_get_its_own_scores():
    """One batch has all of them, and each model hears of its part; its padding counts once."""
    (answers,), sent, observed = await scored([1, 2])

    assert answers == {(i, n): i + 1 + n / 10 for i in range(2) for n in range(3)}
    assert [items for items, _, _ in sent] == [[(n, i) for n in range(3) for i in (1, 2)]]
    assert observed == [("a", 2, 40, 0, 5), ("b", 2, 40, 0, 0), ("c", 2, 40, 0, 0)]


async def test_models_keep_blocks_of_their_own():
    """What one left is read by none of the others, though they have the same tokens."""
    _, sent, observed = await scored([1], [1])

    (_, _, new), (_, held, _) = sent
    assert len(set(new)) == 3 * (20 // BLOCK_TOKENS)
    assert [sorted(block // BLOCKS for block in blocks) for blocks in (new, held)] == [
        [0, 0, 1, 1, 2, 2]
    ] * 2
    assert [batch[3] for batch in observed] == [0, 0, 0, 16, 16, 16]


async def test_a_bad_item_fails_for_each_model_and_others_stand():
    """All that was in its batch is run again, each alone."""
    (answers,), sent, _ = await scored([BAD, 2])

    assert answers == {
        **{(0, n): ForwardFailed for n in range(3)},
        **{(1, n): 2 + n / 10 for n in range(3)},
    }
    assert sorted(len(items) for items, _, _ in sent) == [1] * 6 + [6]


async def test_a_score_that_is_no_number_fails_its_item_only():
    """NaN of one item is an error of each model's, once alone."""
    (answers,), _, _ = await scored([UNDEFINED, 2])

    assert [answers[0, n] for n in range(3)] == [NonFiniteScore] * 3
    assert [answers[1, n] for n in range(3)] == [2.0, 2.1, 2.2]
