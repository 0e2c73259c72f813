import asyncio
from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError, DeadlineExceeded, InternalError
from assay.scheduling.queue import BATCH_HEAD_START_TOKENS, Queue, Ticket

MODEL = "judge"
BUDGET = 1000
ITEM_TOKENS = 100


class Clock:
    """Time that moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Caller:
    """One request: its ticket, and what its items were answered."""

    def __init__(self, **stake):
        self.answers = []
        self.ticket = Ticket(lambda place, answer: self.answers.append((place, answer)), **stake)

    def put(self, queue, *, items=1, tokens=ITEM_TOKENS, first=0, model=MODEL):
        for place in range(first, first + items):
            queue.put(model, np.zeros(tokens, np.int32), self.ticket, place)
        return self


def take(queue, budget=BUDGET, model=MODEL):
    """Take the next batch; return whose items and which places it has, in order."""
    taken = queue.take({model: budget})
    if taken is None:
        return []
    claims = [taken.work[sequence][1] for sequence in taken.plan.order]
    return [(claim.ticket, claim.place) for claim in claims]


def test_an_empty_queue_has_no_batch():
    """There is nothing to take where nothing waits."""
    assert Queue().take({MODEL: BUDGET}) is None


def test_the_items_of_one_request_keep_their_order():
    """A request's items are taken in the order of their places."""
    queue = Queue()
    Caller().put(queue, items=25)
    places = [place for _ in range(3) for _, place in take(queue)]
    assert places == list(range(25))


def test_requests_of_one_item_are_served_in_order_of_arrival():
    """Among equals, who came first goes first."""
    queue = Queue()
    callers = [Caller().put(queue) for _ in range(5)]
    assert [ticket for ticket, _ in take(queue)] == [caller.ticket for caller in callers]


@pytest.mark.parametrize("batches_before", [0, 1, 7])
@pytest.mark.parametrize("item_tokens", [ITEM_TOKENS, BUDGET, 3 * BUDGET])
def test_a_single_item_goes_before_what_waits_of_a_fat_request(batches_before, item_tokens):
    """One item waits behind at most what was taken before it came, not behind 10,000 items."""
    queue = Queue()
    Caller().put(queue, items=10_000, tokens=item_tokens)
    for _ in range(max(1, batches_before)):
        take(queue)
    single = Caller().put(queue)
    assert take(queue)[0] == (single.ticket, 0)


def test_two_fat_requests_share_the_device():
    """Flows get turns spaced by their tokens: of a batch of ten, each has five."""
    queue = Queue()
    one, other = Caller().put(queue, items=100), Caller().put(queue, items=100)
    shares = Counter(id(ticket) for ticket, _ in take(queue))
    assert shares == {id(one.ticket): 5, id(other.ticket): 5}


def test_a_fat_request_that_comes_later_shares_from_then_on():
    """Nobody is owed what was served before they came."""
    queue = Queue()
    one = Caller().put(queue, items=100)
    take(queue)
    other = Caller().put(queue, items=100)
    shares = Counter(id(ticket) for ticket, _ in take(queue))
    assert shares == {id(one.ticket): 5, id(other.ticket): 5}


def test_a_request_that_paused_shares_from_then_on():
    """Items that a request adds late, as it renders them, aren't owed the time between."""
    queue = Queue()
    paused, steady = Caller().put(queue), Caller().put(queue, items=100)
    for _ in range(3):
        take(queue)
    paused.put(queue, items=50, first=1)
    shares = Counter(id(ticket) for ticket, _ in take(queue))
    assert shares == {id(paused.ticket): 5, id(steady.ticket): 5}


def test_longer_items_get_fewer_turns():
    """The share is counted in tokens: four items of 100 match one of 400."""
    queue = Queue()
    short = Caller().put(queue, items=100, tokens=100)
    long = Caller().put(queue, items=100, tokens=400)
    shares = Counter(id(ticket) for ticket, _ in take(queue, budget=8000))
    assert shares == {id(short.ticket): 40, id(long.ticket): 10}


def test_fat_requests_go_on_beside_a_stream_of_newcomers():
    """Newcomers that alone could fill every batch don't hold back what waits for ever."""
    queue = Queue()
    fat = Caller().put(queue, items=20)
    served = []
    for _ in range(100):
        for _ in range(BUDGET // ITEM_TOKENS):
            Caller().put(queue)
        served += [place for ticket, place in take(queue) if ticket is fat.ticket]
    assert served == list(range(20))


def test_interactive_goes_before_batch():
    """An interactive item is taken before batch items that came earlier."""
    queue = Queue()
    Caller(is_batch=True).put(queue, items=50)
    interactive = Caller().put(queue)
    assert take(queue)[0] == (interactive.ticket, 0)


def test_batch_work_ages():
    """Interactive work that came later holds batch work back by its head start only."""
    queue = Queue()
    patient = Caller(is_batch=True).put(queue, tokens=1)
    hurried = Caller().put(queue, items=2 * BATCH_HEAD_START_TOKENS // BUDGET, tokens=BUDGET)
    served_before = 0
    while (batch := take(queue)) != [(patient.ticket, 0)]:
        assert batch[0][0] is hurried.ticket
        served_before += BUDGET
    assert served_before == -(-BATCH_HEAD_START_TOKENS // BUDGET) * BUDGET


def test_batch_work_ages_beside_a_stream_of_newcomers():
    """Single interactive requests without end don't starve batch work."""
    queue = Queue()
    patient = Caller(is_batch=True).put(queue, tokens=1)
    takes = 2 * BATCH_HEAD_START_TOKENS // BUDGET + 2
    served = []
    for _ in range(takes):
        Caller().put(queue, tokens=BUDGET)
        served += [ticket for ticket, _ in take(queue)]
    assert patient.ticket in served


def test_batch_work_runs_when_nothing_else_waits():
    """The head start is for others; alone, batch work goes at once."""
    queue = Queue()
    patient = Caller(is_batch=True).put(queue)
    assert take(queue) == [(patient.ticket, 0)]


def test_cancelled_items_are_never_taken():
    """Who has left costs no compute and gets no answer."""
    queue = Queue()
    gone, here = Caller().put(queue, items=3), Caller().put(queue)
    gone.ticket.is_cancelled = True
    assert take(queue) == [(here.ticket, 0)]
    assert gone.answers == []


def test_cancelled_items_leave_the_depth():
    """Items and tokens of those who left are no longer counted once they are passed."""
    queue = Queue()
    gone = Caller().put(queue, items=3)
    gone.ticket.is_cancelled = True
    take(queue)
    assert queue.depth(MODEL) == (0, 0)


def test_a_passed_deadline_is_answered_and_not_run():
    """An item that waited too long is answered with DeadlineExceeded instead of computed."""
    clock = Clock()
    queue = Queue(clock)
    late = Caller(deadline=5.0).put(queue, items=2)
    clock.now = 5.0
    assert take(queue) == []
    assert [(place, type(answer)) for place, answer in late.answers] == [
        (0, DeadlineExceeded),
        (1, DeadlineExceeded),
    ]


def test_a_deadline_ahead_is_no_hindrance():
    """Before its deadline an item runs."""
    clock = Clock()
    queue = Queue(clock)
    punctual = Caller(deadline=5.0).put(queue)
    clock.now = 4.999
    assert take(queue) == [(punctual.ticket, 0)]
    assert punctual.answers == []


def test_an_item_put_back_runs_alone():
    """What failed in a batch is tried by itself, first in line, its attempts counted."""
    queue = Queue()
    caller = Caller().put(queue, items=12)
    taken = queue.take({MODEL: BUDGET})
    for work, claim in taken.work.values():
        queue.put_back(MODEL, work, claim)
    for place in range(10):
        again = queue.take({MODEL: BUDGET})
        ((_, claim),) = again.work.values()
        assert (claim.ticket, claim.place, claim.attempts) == (caller.ticket, place, 1)
    assert [place for _, place in take(queue)] == [10, 11]


def test_an_item_that_never_failed_does_not_share_a_batch_with_one_that_did():
    """A batch that began with a fresh item stops before a second try."""
    queue = Queue()
    failing = Caller().put(queue, items=10)
    taken = queue.take({MODEL: BUDGET})
    fresh = Caller().put(queue)
    for work, claim in taken.work.values():
        queue.put_back(MODEL, work, claim)
    batches = [take(queue) for _ in range(11)]
    assert batches[9:] == [[(fresh.ticket, 0)], [(failing.ticket, 9)]]


def test_an_item_that_was_not_tried_keeps_its_place_in_batches():
    """What only waited at a worker that died is put back without an attempt."""
    queue = Queue()
    caller = Caller().put(queue, items=3)
    taken = queue.take({MODEL: BUDGET})
    for work, claim in taken.work.values():
        queue.put_back(MODEL, work, claim, was_tried=False)
    assert take(queue) == [(caller.ticket, place) for place in range(3)]


def test_models_wait_in_lines_of_their_own():
    """A batch is of one model, and of one that the device serves."""
    queue = Queue()
    Caller().put(queue, model="one")
    other = Caller().put(queue, model="other")
    taken = queue.take({"other": BUDGET})
    assert taken.model == "other"
    assert [claim.ticket for _, claim in taken.work.values()] == [other.ticket]


def test_the_model_whose_head_waits_longest_goes_first():
    """Between models, too, the earlier turn decides."""
    queue = Queue()
    Caller().put(queue, model="one")
    Caller().put(queue, model="other")
    budgets = {"other": BUDGET, "one": BUDGET}
    assert [queue.take(budgets).model for _ in range(2)] == ["one", "other"]


def test_the_depth_counts_items_and_tokens():
    """What waits for a model is known, before and after a batch is taken."""
    queue = Queue()
    Caller().put(queue, items=15)
    assert queue.depth(MODEL) == (15, 1500)
    take(queue)
    assert queue.depth(MODEL) == (5, 500)


def test_an_unknown_model_has_no_depth():
    """Nothing waits for a model that nobody asked for."""
    assert Queue().depth("nobody") == (0, 0)


def test_failing_a_model_answers_all_that_waits_for_it():
    """Everyone in the line gets the error, and the line is empty."""
    queue = Queue()
    caller = Caller().put(queue, items=2)
    error = InternalError("gone")
    queue.fail_all(MODEL, error)
    assert sorted(caller.answers, key=lambda answer: answer[0]) == [(0, error), (1, error)]
    assert queue.depth(MODEL) == (0, 0)


async def test_waiting_ends_when_something_is_put():
    """Whoever waits for work is woken by it."""
    queue = Queue()
    woken = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)
    assert not woken.done()
    Caller().put(queue)
    async with asyncio.timeout(5):
        await woken


async def test_waiting_begins_again_when_everything_is_taken():
    """An emptied queue is waited for anew."""
    queue = Queue()
    Caller().put(queue)
    take(queue)
    woken = asyncio.create_task(queue.wait())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not woken.done()
    woken.cancel()


class World:
    """A queue, four callers and a device that may fail, driven step by step."""

    def __init__(self):
        self.clock = Clock()
        self.queue = Queue(self.clock)
        stakes = [{}, {"is_batch": True}, {"deadline": 4.0}, {"is_batch": True, "deadline": 8.0}]
        self.callers = [Caller(**stake) for stake in stakes]
        self.asked = [[] for _ in stakes]  # the places that each caller put
        self.finished = []  # (ticket, place) of what the device finished
        self._places = count()

    def put(self, index, tokens):
        place = next(self._places)
        self.asked[index].append(place)
        self.callers[index].put(self.queue, first=place, tokens=tokens)

    def take(self, budget, fails):
        taken = self.queue.take({MODEL: budget})
        for work, claim in taken.work.values() if taken else ():
            assert not claim.ticket.is_cancelled
            if fails and claim.attempts == 0:
                self.queue.put_back(MODEL, work, claim)
            else:
                self.finished.append((claim.ticket, claim.place))
        return taken

    def cancel(self, index, _):
        self.callers[index].ticket.is_cancelled = True

    def wait(self, seconds, _):
        self.clock.now += seconds

    def outcomes(self, index):
        """Count, for each place of a caller, how often it was finished or answered."""
        caller = self.callers[index]
        assert all(isinstance(answer, AssayError) for _, answer in caller.answers)
        finished = [place for ticket, place in self.finished if ticket is caller.ticket]
        return Counter(finished + [place for place, _ in caller.answers])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(World.put), st.integers(0, 3), st.integers(1, 1500)),
        st.tuples(st.just(World.take), st.integers(1, 2000), st.booleans()),
        st.tuples(st.just(World.cancel), st.integers(0, 3), st.none()),
        st.tuples(st.just(World.wait), st.floats(0, 3), st.none()),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_item_is_taken_or_answered_exactly_once(steps):
    """Whatever is put, taken, failed and cancelled: nothing is lost, nothing is done twice."""
    world = World()
    for step, *arguments in steps:
        step(world, *arguments)
    while world.take(BUDGET, fails=False):
        pass
    for index, caller in enumerate(world.callers):
        expected = dict.fromkeys(world.asked[index], 1)
        outcomes = world.outcomes(index)
        if caller.ticket.is_cancelled:
            assert outcomes.items() <= expected.items()
        else:
            assert outcomes == expected
    assert world.queue.depth(MODEL) == (0, 0)
