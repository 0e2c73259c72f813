"""The dispatcher against a device in this process that scores, fails and dies on command."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from assay.cards.card import Card
from assay.errors import (
    AssayError,
    CheckpointError,
    DeadlineExceeded,
    ForwardFailed,
    NonFiniteScore,
    WorkerError,
)
from assay.scheduling import policy
from assay.scheduling.dispatcher import Dispatcher, rate, timed_rate
from assay.scheduling.queue import Queue, RequestHandle
from assay.worker_protocol import (
    BLOCK_TOKENS,
    Done,
    Ending,
    Failed,
    ModelSpec,
    Progress,
    Refused,
    Start,
)
from tests.scheduling.models import loaded

MODEL = "judge"
BUDGET = 100
ITEM_TOKENS = 10  # ten items fill a batch
COMPUTE_S = 0.25
TOKENS_PER_S = 400.0  # BUDGET / COMPUTE_S, so that full batches don't move the measured rate
PATIENCE_S = 10.0

# The first token of an item says what the device does with it; any other number is its score.
POISON, UNDEFINED, INFINITE, DEADLY, DEADLY_ONCE = 9001, 9002, 9003, 9004, 9005
ENDLESS, ENDLESS_ONCE = 9006, 9007
POISON_TOGETHER = 9008
UNASKED, TOO_FEW, TOO_WIDE = 9009, 9010, 9011
SILENCE = "nothing"  # what a device says whose start hangs; None is one that dies then

SPEC = ModelSpec(MODEL, Path("nowhere"), Card(), "float32", 64, None)
START = Start("cpu", threads=None, compile="off", models=(SPEC,), warm_up=policy.WARM_UP)
LOADED = loaded(MODEL, BUDGET, shares=True, tokens_per_s=TOKENS_PER_S)


@dataclass
class Site:
    """Where devices are started: what they say at the start, and what became of them."""

    greetings: list[list[object]] = field(default_factory=list)  # of each start; default LOADED
    is_open: asyncio.Event = field(default_factory=asyncio.Event)  # batches run while it is set
    is_ending: asyncio.Event = field(default_factory=asyncio.Event)  # batches say so while it is
    batches: list[list[int]] = field(default_factory=list)  # the items of each batch that ran
    held: list[int] = field(default_factory=list)  # the blocks that each of them read
    starts: int = 0
    started_at: list[float] = field(default_factory=list)
    stops: int = 0
    kills: int = 0
    most_at_once: int = 0
    has_died_once: bool = False
    memory_tokens: int = 10**9  # a batch of more finds none

    def __post_init__(self):
        self.is_ending.set()

    def device(self, start):
        """Make one device."""
        assert [spec.name for spec in start.models] == [MODEL]
        greeting = self.greetings[self.starts] if self.starts < len(self.greetings) else [LOADED]
        self.starts += 1
        self.started_at.append(time.monotonic())
        return Device(self, list(greeting))


class Device:
    """Runs batches in order when its answers are read, like a process behind a socket."""

    def __init__(self, site, greeting):
        self.pid = site.starts
        self._site = site
        self._greeting = greeting
        self._inbox = asyncio.Queue()
        self._running = None
        self._unanswered = 0
        self._is_dead = False
        self._killed = asyncio.Event()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._site.stops += 1

    def kill(self):
        self._site.kills += 1
        self._killed.set()

    async def send(self, message):
        if self._is_dead:
            raise WorkerError("the device is gone")
        self._inbox.put_nowait(message)
        self._unanswered += 1
        self._site.most_at_once = max(self._site.most_at_once, self._unanswered)

    async def receive(self):
        if self._greeting:
            said = self._greeting.pop(0)
            if said is SILENCE:
                await self._killed.wait()
            return self._die() if said in (None, SILENCE) else said
        if self._running is None:
            self._running = await self._inbox.get()
            await self._site.is_ending.wait()
            return Ending(self._running.number)
        await self._site.is_open.wait()
        self._unanswered -= 1
        batch, self._running = self._running, None
        runs = batch.prefix_batch.runs()
        items = [int(runs[run - batch.prefix_batch.held][0]) for run in batch.prefix_batch.reads]
        self._site.held.append(len(batch.prefix_batch.cached_blocks))
        self._site.batches.append(items)
        if ENDLESS in items or (ENDLESS_ONCE in items and not self._site.has_died_once):
            self._site.has_died_once = True
            await self._killed.wait()
            self._die()
        return self._run(batch, items)

    def _run(self, batch, items):
        if batch.prefix_batch.tokens > self._site.memory_tokens:
            return Failed(batch.number, "OutOfMemoryError", out_of_memory=True)
        if POISON_TOGETHER in items and len(items) > 1:
            return Failed(batch.number, "RuntimeError")
        if DEADLY in items:
            self._die()
        if DEADLY_ONCE in items and not self._site.has_died_once:
            self._site.has_died_once = True
            self._die()
        if POISON in items:
            return Failed(batch.number, "RuntimeError")
        special = {UNDEFINED: np.nan, INFINITE: np.inf}
        numbers = np.array([[special.get(item, item)] for item in items], np.float64)
        if TOO_FEW in items:
            numbers = numbers[:-1]
        if TOO_WIDE in items:
            numbers = np.tile(numbers, (1, 2))
        number = batch.number + 1_000 if UNASKED in items else batch.number
        return Done.of(number, numbers, COMPUTE_S, padded_tokens=0)

    def _die(self):
        self._is_dead = True
        raise WorkerError("the device is gone")


class Request:
    """Items of one caller, their answers, and the moment all are answered."""

    def __init__(self, queue, items, *, tokens=ITEM_TOKENS, deadline=None):
        self.answers = {}
        self.times_answered = Counter()
        self.ticket = RequestHandle(self._settle, deadline)
        self._all_answered = asyncio.Event()
        self._count = len(items)
        for place, item in enumerate(items):
            queue.put(MODEL, np.full(tokens, item, np.int32), self.ticket, place)

    def _settle(self, place, answer):
        self.answers[place] = answer if isinstance(answer, AssayError) else answer.item()
        self.times_answered[place] += 1
        if len(self.answers) == self._count:
            self._all_answered.set()

    async def outcome(self):
        """Wait for all answers; return scores and error classes in the request's order."""
        async with asyncio.timeout(PATIENCE_S):
            await self._all_answered.wait()
        assert set(self.times_answered.values()) == {1}
        answers = [self.answers[place] for place in range(self._count)]
        return [type(one) if isinstance(one, AssayError) else one for one in answers]


class Observer:
    """Counts what it is told."""

    def __init__(self):
        self.batches = []
        self.restarts = Counter()
        self.exhausted = 0

    def batch(self, model, done, *, items, tokens, shared_tokens, held_tokens):
        self.batches.append((model, items, tokens, shared_tokens, done.compute_s))

    def worker_restarted(self, device, reason):
        self.restarts[device, reason] += 1

    def out_of_memory(self, device, model):
        self.exhausted += 1


def dispatcher(site, queue=None, observer=None, start=START, **options):
    """Return a dispatcher of the site's devices that restarts them without delay."""
    return Dispatcher(
        start,
        queue or Queue(),
        observer or Observer(),
        first_backoff_s=0.0,
        worker_factory=site.device,
        **options,
    )


@asynccontextmanager
async def serving(one):
    """Run a dispatcher while the block runs."""
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def scores(items, site=None, **options):
    """Serve one request from a new site; return its outcome, the site and the observer."""
    site, queue, observer = site or Site(), Queue(), Observer()
    site.is_open.set()
    request = Request(queue, items)
    async with serving(dispatcher(site, queue, observer, **options)):
        return await request.outcome(), site, observer


async def until(claim):
    """Let the loop turn until a claim holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110  the claims are about plain attributes
            await asyncio.sleep(0)


async def settled():
    """Let the loop turn until whatever could happen has."""
    for _ in range(20):
        await asyncio.sleep(0)


class Clock:
    """Stands still unless a test moves it; counts who looks."""

    now = 0.0
    reads = 0

    def __call__(self):
        self.reads += 1
        return self.now


class CountingQueue(Queue):
    """Counts how often it is looked at."""

    looks = 0

    def take(self, *arguments, **options):
        self.looks += 1
        return super().take(*arguments, **options)


async def test_each_item_gets_its_own_score():
    """Scores come back to the places they were asked from, over several batches."""
    outcome, _, _ = await scores(range(25))
    assert outcome == [float(item) for item in range(25)]


async def test_batches_are_filled_up_to_the_devices_budget():
    """The budget that the worker found at warm-up is the batch's."""
    _, site, _ = await scores(range(25))
    assert [len(batch) for batch in site.batches] == [10, 10, 5]


async def test_a_failed_batch_is_run_again_item_by_item():
    """When a batch raises, each of its items runs alone and only the culprit fails."""
    outcome, site, _ = await scores([1, POISON, 3])
    assert outcome == [1.0, ForwardFailed, 3.0]
    assert site.batches == [[1, POISON, 3], [1], [POISON], [3]]


async def test_an_item_that_fails_alone_is_not_run_again():
    """A batch of one that raises is answered at once."""
    outcome, site, _ = await scores([POISON])
    assert (outcome, site.batches) == ([ForwardFailed], [[POISON]])


async def test_a_failure_names_the_class_and_not_the_text():
    """The message says what was raised, never what an exception's text may hold."""
    site, queue = Site(), Queue()
    site.is_open.set()
    request = Request(queue, [POISON])
    async with serving(dispatcher(site, queue)):
        await request.outcome()
    assert str(request.answers[0]) == "the model failed on this item even alone (RuntimeError)"


async def test_an_item_that_read_blocks_of_a_failed_batch_is_run_again_without():
    """It fails with the batch before it, through no fault of its own."""
    site = Site(greetings=[[structs.replace(LOADED, prefix_blocks=100)]])
    queue = Queue()
    culprit = Request(queue, [POISON], tokens=BUDGET)
    async with serving(dispatcher(site, queue)):
        await until(lambda: site.most_at_once == 1)
        follower = Request(queue, [POISON], tokens=BUDGET)
        await until(lambda: site.most_at_once == 2)
        site.is_open.set()
        assert await culprit.outcome() == [ForwardFailed]
        assert await follower.outcome() == [ForwardFailed]
        healthy = Request(queue, [1], tokens=BUDGET)
        assert await healthy.outcome() == [1.0]
    assert site.held == [0, BUDGET // BLOCK_TOKENS, 0, 0]


async def test_a_restarted_device_keeps_nothing():
    """What the last process held is gone with it."""
    greeting = [structs.replace(LOADED, prefix_blocks=100)]
    site = Site(greetings=[greeting, greeting])
    queue = Queue()
    site.is_open.set()
    async with serving(dispatcher(site, queue)):
        await Request(queue, [1], tokens=50).outcome()
        await Request(queue, [1], tokens=50).outcome()
        await Request(queue, [DEADLY_ONCE]).outcome()
        await Request(queue, [1], tokens=50).outcome()
    assert site.held == [0, (50 - 1) // BLOCK_TOKENS, 0, 0, 0]


async def test_other_requests_never_feel_a_bad_item():
    """An item that makes a shared batch fail leaves another request's scores as they are."""
    site, queue = Site(), Queue()
    site.is_open.set()
    bad, good = Request(queue, [POISON]), Request(queue, [1, 2, 3])
    async with serving(dispatcher(site, queue)):
        assert await good.outcome() == [1.0, 2.0, 3.0]
        assert await bad.outcome() == [ForwardFailed]


@pytest.mark.parametrize("number", [UNDEFINED, INFINITE])
async def test_a_score_that_is_no_number_fails_its_item_only(number):
    """NaN and infinity are errors of their item, once alone; the batch's other scores stand."""
    outcome, site, _ = await scores([1, number, 3])
    assert outcome == [1.0, NonFiniteScore, 3.0]
    assert site.batches == [[1, number, 3], [number]]


async def test_a_dying_worker_is_restarted_and_its_items_run_again():
    """What was at a worker that died is answered once, by the next one."""
    outcome, site, observer = await scores([*range(8), DEADLY_ONCE, *range(9, 30)])
    assert outcome == [float(item) for item in [*range(8), DEADLY_ONCE, *range(9, 30)]]
    assert (site.starts, dict(observer.restarts)) == (2, {("cpu", "died"): 1})


async def test_an_item_that_kills_every_worker_is_refused_in_the_end():
    """Its second victim is its last: the culprit is answered, everyone else is scored."""
    items = [1, 2, DEADLY, *range(4, 40)]
    outcome, site, _ = await scores(items)
    assert outcome == [ForwardFailed if item == DEADLY else float(item) for item in items]
    assert [batch for batch in site.batches if DEADLY in batch][1:] == [[DEADLY]]
    assert site.starts == 3


@pytest.mark.parametrize("liar", [UNASKED, TOO_FEW, TOO_WIDE])
async def test_a_worker_that_answers_what_was_not_asked_counts_as_dead(liar):
    """It may run a checkpoint's code: whoever else was in the batch is scored by another."""
    outcome, site, observer = await scores([1, liar, 3])
    assert outcome == [1.0, ForwardFailed, 3.0]
    assert (site.starts, observer.restarts[("cpu", "died")]) == (3, 2)


@pytest.mark.parametrize(
    "greeting",
    [structs.replace(LOADED, model="another"), Progress("another", "load", 0.0)],
    ids=["loaded", "progress"],
)
async def test_a_worker_that_loads_what_was_not_asked_counts_as_dead(greeting):
    """Nothing is kept of a model that nobody named."""
    one = dispatcher(Site(greetings=[[greeting]]))
    with pytest.raises(WorkerError, match="wasn't asked"):
        await one.run()
    assert one.loaded == {}


async def test_a_failed_batch_is_not_held_against_an_item_whose_worker_dies():
    """Another item made the batch fail: one death isn't two."""
    outcome, site, _ = await scores([1, POISON_TOGETHER, DEADLY_ONCE])
    assert outcome == [1.0, float(POISON_TOGETHER), float(DEADLY_ONCE)]
    assert site.batches[1:] == [[1], [POISON_TOGETHER], [DEADLY_ONCE], [DEADLY_ONCE]]


async def test_a_hanging_worker_is_killed_and_its_items_run_again():
    """What was at it is answered once, by the next one; the reason is told."""
    outcome, _, observer = await scores([1, ENDLESS_ONCE, *range(3, 30)], watchdog_s=0.05)
    assert outcome == [1.0, float(ENDLESS_ONCE), *map(float, range(3, 30))]
    assert dict(observer.restarts) == {("cpu", "hung"): 1}


async def test_an_item_that_hangs_every_worker_is_refused_in_the_end():
    """As one that kills them is."""
    outcome, site, _ = await scores([1, ENDLESS, 3], watchdog_s=0.05)
    assert outcome == [1.0, ForwardFailed, 3.0]
    assert site.batches == [[1, ENDLESS, 3], [1], [ENDLESS], [3]]


async def test_a_batch_is_given_as_long_as_its_tokens_take():
    """The watchdog looks at the measured rate: a slow device with a fat batch doesn't hang."""
    site, queue = Site(greetings=[[structs.replace(LOADED, tokens_per_s=BUDGET)]]), Queue()
    clock = Clock()
    request = Request(queue, range(10))
    async with serving(dispatcher(site, queue, watchdog_s=0.01, clock=clock)):
        await until(lambda: site.most_at_once == 1)
        for clock.now in (19.9, 20.1):  # a second at that rate, and twenty would be too long
            assert site.kills == 0
            reads = clock.reads
            await until(lambda reads=reads: clock.reads > reads)
        await until(lambda: site.kills == 1)
        site.is_open.set()
        assert await request.outcome() == [float(item) for item in range(10)]
    assert site.starts == 1


async def test_where_memory_runs_out_batches_get_smaller():
    """Nobody is refused or sent alone: half the budget, and half of that if need be."""
    outcome, site, observer = await scores(range(20), Site(memory_tokens=30))
    assert outcome == [float(item) for item in range(20)]
    assert [len(batch) for batch in site.batches][:3] == [10, 5, 2]
    assert {len(batch) for batch in site.batches[3:]} <= {1, 2}
    assert observer.exhausted == 2


async def test_the_budget_comes_back_after_a_while():
    """What ran out of memory may have been another's doing."""
    site, queue, clock = Site(memory_tokens=60), Queue(), Clock()
    site.is_open.set()
    async with serving(dispatcher(site, queue, clock=clock)):
        await Request(queue, range(10)).outcome()
        site.memory_tokens = 10**9
        clock.now += policy.RECOVERY_S
        await Request(queue, range(10)).outcome()
    assert [len(batch) for batch in site.batches] == [10, 5, 5, 10]


async def test_an_item_that_finds_no_memory_alone_is_refused():
    """The others are scored."""
    site, queue = Site(memory_tokens=30), Queue()
    site.is_open.set()
    large = Request(queue, [7], tokens=40)
    small = Request(queue, range(3))
    async with serving(dispatcher(site, queue)):
        assert await large.outcome() == [ForwardFailed]
        assert await small.outcome() == [0.0, 1.0, 2.0]


async def test_equal_items_that_find_no_memory_end():
    """They are one run, which no budget parts: they go alone in the end."""
    outcome, _, _ = await scores([5] * 3, Site(memory_tokens=5))
    assert outcome == [ForwardFailed] * 3


async def test_a_crash_loop_backs_off():
    """Each restart waits twice as long as the last."""
    site, queue = Site(), Queue()
    site.is_open.set()
    one = Dispatcher(START, queue, Observer(), first_backoff_s=0.02, worker_factory=site.device)
    request = Request(queue, [DEADLY, DEADLY])
    async with serving(one):
        await request.outcome()
        await until(lambda: site.starts == 4)
    gaps = [late - early for early, late in pairwise(site.started_at)]
    assert all(gap >= wait for gap, wait in zip(gaps, (0.02, 0.04, 0.08), strict=True))


async def test_neighbours_of_two_deadly_items_are_scored():
    """Waiting at the worker while another item kills it isn't held against an item."""
    outcome, _, _ = await scores([1, DEADLY, 3, DEADLY, 5])
    assert outcome == [1.0, ForwardFailed, 3.0, ForwardFailed, 5.0]


async def test_every_started_device_is_stopped():
    """A device is left through its context, whether it died or was cancelled."""
    _, site, _ = await scores([DEADLY, 1])
    assert site.starts > 1
    assert site.stops == site.starts


async def test_two_batches_at_most_are_at_the_worker():
    """One runs and one waits; the rest stays in the queue, where newcomers can go first."""
    site, queue = Site(), Queue()
    request = Request(queue, range(50))
    async with serving(dispatcher(site, queue)):
        await until(lambda: queue.depth(MODEL) == (30, 300))
        await settled()
        assert queue.depth(MODEL) == (30, 300)
        site.is_open.set()
        await request.outcome()
    assert site.most_at_once == policy.BATCHES_AT_WORKER


async def test_a_dispatcher_is_idle_when_no_batch_is_at_the_worker():
    """Idle means nothing in flight, before and after."""
    site, queue = Site(), Queue()
    one = dispatcher(site, queue)
    async with serving(one):
        await until(lambda: one.state == "ready")
        assert one.is_idle
        request = Request(queue, [1])
        await until(lambda: site.most_at_once == 1)
        assert not one.is_idle
        site.is_open.set()
        await request.outcome()
        assert one.is_idle


async def test_the_observer_hears_of_each_batch():
    """Model, items, computed and shared tokens, and the worker's seconds are told for each."""
    _, _, observer = await scores([*range(11), 10])
    assert observer.batches == [(MODEL, 10, 100, 0, COMPUTE_S), (MODEL, 2, 10, 10, COMPUTE_S)]


async def test_a_ticket_adds_up_the_batches_that_carried_it():
    """A request's compute time counts each of its batches once."""
    site, queue = Site(), Queue()
    site.is_open.set()
    request = Request(queue, range(25))
    async with serving(dispatcher(site, queue)):
        await request.outcome()
    assert request.ticket.usage.compute_s == 3 * COMPUTE_S


async def test_a_ticket_adds_up_its_part_of_what_was_computed():
    """A run that two requests read is half of each; over all, what was computed."""
    site, queue, observer = Site(), Queue(), Observer()
    one, other = Request(queue, [1, 2]), Request(queue, [1])
    site.is_open.set()
    async with serving(dispatcher(site, queue, observer)):
        await one.outcome()
        await other.outcome()
    assert (one.ticket.usage.computed_tokens, other.ticket.usage.computed_tokens) == (15, 5)
    assert [tokens for _, _, tokens, _, _ in observer.batches] == [20]


async def test_an_idle_device_gets_whatever_waits():
    """Nothing waits for a batch to fill while the device has nothing to do."""
    outcome, site, _ = await scores([1])
    assert (outcome, site.batches) == ([1.0], [[1]])


async def test_what_would_not_fill_a_batch_waits_for_the_device():
    """While a batch runs, a few items stay in the queue, and those who come join them."""
    site, queue = Site(), Queue()
    async with serving(dispatcher(site, queue)):
        first = Request(queue, [1])
        await until(lambda: site.most_at_once == 1)
        second = Request(queue, [2, 3])
        await settled()
        third = Request(queue, [4])
        await settled()
        assert queue.depth(MODEL) == (3, 30)
        site.is_open.set()
        for request in (first, second, third):
            await request.outcome()
    assert site.batches == [[1], [2, 4, 3]]


async def test_a_batch_that_became_full_is_sent_ahead():
    """As soon as a busy device's next batch is full, it goes to the socket."""
    site, queue = Site(), Queue()
    async with serving(dispatcher(site, queue)):
        first = Request(queue, [1])
        await until(lambda: site.most_at_once == 1)
        second = Request(queue, range(10, 15))
        await settled()
        assert site.most_at_once == 1
        third = Request(queue, range(20, 25))
        await until(lambda: site.most_at_once == 2)
        site.is_open.set()
        for request in (first, second, third):
            await request.outcome()
    assert [len(batch) for batch in site.batches] == [1, 10]


async def test_nothing_is_sent_ahead_before_the_running_batch_comes_to_its_end():
    """Until then a newcomer can still go into the next batch."""
    site, queue = Site(), Queue()
    site.is_ending.clear()
    async with serving(dispatcher(site, queue)):
        fat = Request(queue, range(30))
        await settled()
        assert queue.depth(MODEL) == (20, 200)
        newcomer = Request(queue, [99])
        site.is_ending.set()
        await until(lambda: site.most_at_once == 2)
        site.is_open.set()
        for request in (fat, newcomer):
            await request.outcome()
    assert 99 in site.batches[1]


async def test_work_for_a_model_that_is_served_elsewhere_does_not_turn_the_loop():
    """A dispatcher looks at the queue when something changed, not all the time."""
    site, queue = Site(), CountingQueue()
    async with serving(dispatcher(site, queue)):
        await settled()
        queue.put("another", np.zeros(5, np.int32), RequestHandle(lambda *_: None), 0)
        await settled()
        looks = queue.looks
        await settled()
        assert queue.looks == looks


async def test_a_deadline_is_answered_while_a_batch_runs():
    """An item behind a long batch is told at its deadline, not when the batch ends."""
    site, queue = Site(), Queue()
    async with serving(dispatcher(site, queue)):
        first = Request(queue, [1])
        await until(lambda: site.most_at_once == 1)
        late = Request(queue, [2], deadline=time.monotonic())
        assert await late.outcome() == [DeadlineExceeded]
        site.is_open.set()
        assert await first.outcome() == [1.0]


async def test_the_rate_starts_from_warm_up_and_follows_what_is_measured():
    """Full batches at twice the warm-up's rate raise it; one with little in it says nothing."""
    site, queue = (
        Site(greetings=[[structs.replace(LOADED, tokens_per_s=TOKENS_PER_S / 2)]]),
        Queue(),
    )
    site.is_open.set()
    one = dispatcher(site, queue)
    async with serving(one):
        await Request(queue, [1]).outcome()
        assert one.rate.served == TOKENS_PER_S / 2
        await Request(queue, range(10)).outcome()
        assert one.rate.served == TOKENS_PER_S
        assert timed_rate([one]) == 0.0
        await Request(queue, range(20)).outcome()
        assert timed_rate([one, dispatcher(site, queue)]) == 0.0
    assert rate([one, one]) == timed_rate([one, one]) == 2 * one.rate.served


async def test_the_batch_that_is_fastest_is_found_while_it_serves():
    """Batches take as long whatever their size: warm-up's choice doesn't hold for good."""
    site, queue = Site(greetings=[[structs.replace(LOADED, tokens_per_s=1.0)]]), Queue()
    site.is_open.set()
    one = dispatcher(site, queue)
    async with serving(one):
        await Request(queue, range(1_000), tokens=ITEM_TOKENS).outcome()
        assert one.loaded[MODEL].budget_tokens > BUDGET


async def test_a_batch_size_that_was_given_stays():
    """The setting `batch_tokens` is the operator's word."""
    site, queue = Site(greetings=[[structs.replace(LOADED, tokens_per_s=1.0)]]), Queue()
    site.is_open.set()
    given = replace(policy.WARM_UP, sizes=(BUDGET,))
    one = dispatcher(site, queue, start=replace(START, warm_up=given))
    async with serving(one):
        await Request(queue, range(1_000), tokens=ITEM_TOKENS).outcome()
    assert {len(batch) for batch in site.batches} == {BUDGET // ITEM_TOKENS}


async def test_a_worker_that_hangs_after_light_traffic_is_found():
    """Many a batch with little in it doesn't make the watchdog patient."""
    warm = structs.replace(LOADED, tokens_per_s=1e6)
    site, queue, observer = Site(greetings=[[warm], [warm]]), Queue(), Observer()
    site.is_open.set()
    async with serving(dispatcher(site, queue, observer, watchdog_s=0.05)):
        for item in range(30):
            await Request(queue, [item]).outcome()
        outcome = await Request(queue, [ENDLESS_ONCE]).outcome()
    assert outcome == [float(ENDLESS_ONCE)]
    assert dict(observer.restarts) == {("cpu", "hung"): 1}


async def test_a_model_that_is_refused_stops_the_start():
    """`Refused` becomes a CheckpointError that names the model and says why."""
    one = dispatcher(Site(greetings=[[Refused(MODEL, "a tensor is missing")]]))
    with pytest.raises(CheckpointError) as refusal:
        await one.run()
    assert refusal.value.message == "judge: a tensor is missing"


async def test_a_worker_that_dies_before_it_is_ready_stops_the_start():
    """A first worker that never got ready isn't started again and again."""
    site = Site(greetings=[[Progress(MODEL, "load", 0.0), None]])
    with pytest.raises(WorkerError):
        await dispatcher(site).run()
    assert site.starts == 1


async def test_a_worker_that_hangs_while_it_loads_is_killed():
    """At a first start that is the end of it, as if it had died."""
    site = Site(greetings=[[Progress(MODEL, "load", 0.0), SILENCE]])
    with pytest.raises(WorkerError, match=r"said nothing for 0\.05 s while it loaded"):
        await dispatcher(site, load_timeout_s=0.05).run()
    assert (site.starts, site.stops) == (1, 1)


async def test_a_worker_that_hangs_while_it_restarts_is_tried_again():
    """It is one more restart, for the reason that it hung."""
    site, queue, observer = Site(greetings=[[LOADED], [SILENCE]]), Queue(), Observer()
    site.is_open.set()
    request = Request(queue, [DEADLY_ONCE])
    async with serving(dispatcher(site, queue, observer, load_timeout_s=0.05)):
        assert await request.outcome() == [float(DEADLY_ONCE)]
    assert dict(observer.restarts) == {("cpu", "died"): 1, ("cpu", "hung"): 1}


async def test_a_worker_may_load_for_as_long_as_it_tells_of_progress():
    """The limit is between two messages, and there may be none."""
    slow = [Progress(MODEL, "load", number / 10) for number in range(10)]
    for limit_s in (1.0, float("inf")):
        one = dispatcher(Site(greetings=[[*slow, LOADED]]), load_timeout_s=limit_s)
        async with serving(one):
            await until(lambda one=one: one.state == "ready")


async def test_a_worker_that_dies_while_it_restarts_is_tried_again():
    """Once it was ready, a device is brought back however often it fails to come up."""
    site, queue, observer = Site(greetings=[[LOADED], [None], [None]]), Queue(), Observer()
    site.is_open.set()
    request = Request(queue, [DEADLY_ONCE])
    async with serving(dispatcher(site, queue, observer)):
        assert await request.outcome() == [float(DEADLY_ONCE)]
    assert (site.starts, observer.restarts["cpu", "died"]) == (4, 3)


async def test_what_is_refused_at_a_restart_is_tried_again_and_says_why():
    """What is on disk may be wrong for a while: only a first start is given up."""
    refused = [Refused(MODEL, "cut short")]
    site, queue = Site(greetings=[[LOADED], refused, refused]), Queue()
    site.is_open.set()
    told = []
    one = dispatcher(site, queue, on_refusal=lambda: told.append((one.state, one.refusal)))
    request = Request(queue, [DEADLY_ONCE])
    async with serving(one):
        assert await request.outcome() == [float(DEADLY_ONCE)]
    assert told == [("restarting", "judge: cut short")] * 2
    assert (site.starts, one.refusal) == (4, None)


async def test_the_state_says_whether_the_device_answers():
    """Loading, then ready; restarting while the worker is away."""
    site, queue = Site(greetings=[[LOADED], [LOADED]]), Queue()
    states = []
    one = dispatcher(site, queue, on_progress=lambda *_: states.append(one.state))
    assert one.state == "loading"
    site.is_open.set()
    async with serving(one):
        await until(lambda: one.state == "ready")
        await Request(queue, [DEADLY_ONCE]).outcome()
        assert one.state == "ready"
    assert states == ["loading", "restarting"]


async def test_the_worker_is_known_by_its_process_while_it_runs():
    """`worker_pid` is the running device's, and None without one."""
    site = Site()
    one = dispatcher(site)
    assert one.worker_pid is None
    async with serving(one):
        await until(lambda: one.state == "ready")
        assert one.worker_pid == 1
    assert one.worker_pid is None


async def test_progress_is_told_with_the_device():
    """Whoever shows the start hears each stage and the end of it, in order."""
    told = []
    progress = Progress(MODEL, "load", 0.5)
    one = dispatcher(
        Site(greetings=[[progress, LOADED]]),
        on_progress=lambda device, message: told.append((device, message)),
    )
    async with serving(one):
        await until(lambda: one.state == "ready")
    assert told == [("cpu", progress), ("cpu", LOADED)]
    assert one.loaded == {MODEL: LOADED}
