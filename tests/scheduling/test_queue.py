from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError, DeadlineExceeded, InternalError
from assay.scheduling.policy import BATCH_HEAD_START_TOKENS, FULL_PART
from assay.scheduling.queue import Queue, RequestHandle
from tests.scheduling.models import loaded

MODEL = "judge"
BUDGET = 1000
ITEM_TOKENS = 100
LOADED = loaded(MODEL, BUDGET, shares=False)
SHARING = loaded(MODEL, BUDGET, shares=True)


class Clock:
    """Time that moves when told, and the calls that are to come."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def call_later(self, delay_s, call):
        timer = Timer(self, self.now + delay_s, call)
        self.calls.append(timer)
        return timer

    def ring(self, seconds):
        """Let time pass and make the calls that are due."""
        self.now += seconds
        for timer in [one for one in self.calls if one.at <= self.now]:
            timer.cancel()
            timer.call()


class Timer:
    """A call that is to come."""

    def __init__(self, clock, at, call):
        self.at, self.call = at, call
        self._clock = clock

    def cancel(self):
        if self in self._clock.calls:
            self._clock.calls.remove(self)


class Caller:
    """One request: its ticket, and what its items were answered."""

    def __init__(self, **stake):
        self.answers = []
        self.ticket = RequestHandle(
            lambda place, answer: self.answers.append((place, answer)), **stake
        )

    def put(self, queue, *, items=1, tokens=ITEM_TOKENS, first=0, model=MODEL):
        for place in range(first, first + items):
            queue.put(model, np.zeros(tokens, np.int32), self.ticket, place)
        return self


def take(queue, budget=BUDGET, model=MODEL, **options):
    """Take the next batch; return whose items and which places it has, in order."""
    taken = queue.take({model: loaded(model, budget, shares=False)}, **options)
    return [(claim.ticket, claim.place) for claim in taken.claims] if taken else []


def test_an_empty_queue_has_no_batch():
    """There is nothing to take where nothing waits."""
    assert Queue().take({MODEL: LOADED}) is None


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


def test_a_caller_of_many_requests_does_not_hold_up_another():
    """Whatever waits of a trainer, a gateway's item goes in the next batch."""
    queue = Queue()
    for _ in range(500):
        Caller(caller="trainer").put(queue)
    take(queue)
    single = Caller(caller="gateway").put(queue)
    assert single.ticket in [ticket for ticket, _ in take(queue)]


@pytest.mark.parametrize("requests", [1, 50])
def test_callers_share_the_device_whatever_the_number_of_their_requests(requests):
    """Of each batch each has half, in tokens."""
    queue = Queue()
    for _ in range(200 // requests):
        Caller(caller="trainer").put(queue, items=requests)
    for _ in range(50):
        Caller(caller="gateway").put(queue, tokens=2 * ITEM_TOKENS)
    tokens = Counter()
    for _ in range(10):
        for ticket, _ in take(queue, budget=2 * BUDGET):
            tokens[ticket.caller] += ITEM_TOKENS * (1 + (ticket.caller == "gateway"))
    assert abs(tokens["trainer"] - tokens["gateway"]) <= 2 * ITEM_TOKENS


def test_a_caller_who_was_away_is_owed_nothing():
    """Both share from when the second comes, also if one had all of the device before."""
    queue = Queue()
    Caller(caller="gateway").put(queue)
    for _ in range(300):
        Caller(caller="trainer").put(queue)
    for _ in range(10):
        take(queue)
    for _ in range(100):
        Caller(caller="gateway").put(queue)
    shares = Counter(ticket.caller for _ in range(4) for ticket, _ in take(queue))
    assert shares == {"trainer": 20, "gateway": 20}


def test_a_callers_share_is_over_all_models():
    """Who has the device with one model waits with the other."""
    queue = Queue()
    both = {name: loaded(name, BUDGET, shares=False) for name in ("first", "second")}
    for _ in range(100):
        for model in both:
            Caller(caller="trainer").put(queue, model=model)
    for _ in range(100):
        Caller(caller="gateway").put(queue, model="first")
    shares = Counter(claim.ticket.caller for _ in range(16) for claim in queue.take(both).claims)
    assert abs(shares["trainer"] - shares["gateway"]) <= 20


def test_another_callers_batch_work_waits_for_interactive_work_and_ages():
    """It goes once the interactive caller was given as much as batch work lags."""
    queue = Queue()
    Caller(caller="trainer", is_batch=True).put(queue, items=10, tokens=BUDGET)
    before = 0
    while True:
        Caller(caller="gateway").put(queue, tokens=BUDGET)
        ((ticket, _),) = take(queue)
        if ticket.caller == "trainer":
            break
        before += 1
    assert before == pytest.approx(BATCH_HEAD_START_TOKENS / BUDGET, abs=2)


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


def test_nobody_is_owed_what_was_served_to_a_shared_prefix_before_they_came():
    """A request that was served a group at once shares with a newcomer from then on."""
    queue = Queue()
    one = Caller().put(queue, items=BUDGET)  # all equal: a batch of 1,000 items, ten are left
    one.put(queue, items=10, first=BUDGET, tokens=ITEM_TOKENS + 1)
    assert len(queue.take({MODEL: SHARING}).claims) == BUDGET
    other = Caller().put(queue, items=10, tokens=ITEM_TOKENS + 1)
    shares = Counter(id(ticket) for ticket, _ in take(queue))
    assert shares[id(one.ticket)] in (4, 5)
    assert shares[id(other.ticket)] in (4, 5)


def test_interactive_goes_before_batch():
    """An interactive item is taken before batch items that came earlier."""
    queue = Queue()
    Caller(is_batch=True).put(queue, items=50)
    interactive = Caller().put(queue)
    assert take(queue)[0] == (interactive.ticket, 0)


def test_interactive_goes_before_batch_that_was_served_alone():
    """Batch work that had the device to itself gives way like any other."""
    queue = Queue()
    Caller(is_batch=True).put(queue, items=50)
    take(queue)
    interactive = Caller().put(queue, items=20)
    assert [ticket for ticket, _ in take(queue)] == [interactive.ticket] * 10


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


def test_a_deadline_is_answered_when_it_comes():
    """Nobody needs to look at the queue for it, and what waited is gone."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    late, patient = Caller(deadline=5.0).put(queue, items=2), Caller().put(queue)
    clock.ring(4.0)
    assert late.answers == []
    clock.ring(1.0)
    assert [type(answer) for _, answer in late.answers] == [DeadlineExceeded] * 2
    assert queue.depth(MODEL) == (1, ITEM_TOKENS)
    assert take(queue) == [(patient.ticket, 0)]


def test_a_cancelled_request_is_not_answered_at_its_deadline():
    """Who has left is only forgotten."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    gone = Caller(deadline=5.0).put(queue)
    gone.ticket.is_cancelled = True
    clock.ring(5.0)
    assert (gone.answers, queue.depth(MODEL)) == ([], (0, 0))


def test_a_request_that_waits_no_more_has_no_timer():
    """A request's only call to come is cancelled with its last item."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    Caller(deadline=5.0).put(queue, items=15)
    take(queue)
    assert len(clock.calls) == 1
    take(queue)
    assert clock.calls == []


def test_an_item_put_back_has_a_timer_again():
    """While an item is at the device its deadline isn't watched; afterwards it is."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    late = Caller(deadline=5.0).put(queue)
    taken = queue.take({MODEL: LOADED})
    clock.ring(6.0)
    assert late.answers == []
    queue.put_back(MODEL, taken.entries)
    clock.ring(0.0)
    assert [type(answer) for _, answer in late.answers] == [DeadlineExceeded]


def test_a_passed_deadline_is_answered_and_not_run():
    """An item that waited too long is answered with DeadlineExceeded instead of computed."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    late = Caller(deadline=5.0).put(queue, items=2)
    clock.now = 5.0
    assert take(queue) == []
    assert [(place, type(answer)) for place, answer in late.answers] == [
        (0, DeadlineExceeded),
        (1, DeadlineExceeded),
    ]


@pytest.mark.parametrize("looks", range(1, 9))
@pytest.mark.parametrize("others", [0, 1])
def test_a_deadline_may_pass_while_a_batch_is_drafted(looks, others):
    """However often the clock was looked at: the item is taken, or answered and the next is."""
    clock = Clock()
    times = iter([0.0] * looks)
    queue = Queue(lambda: next(times, 5.0), clock.call_later)
    late = Caller(deadline=5.0).put(queue)
    patient = [Caller().put(queue, model="other") for _ in range(others)]

    models = {name: loaded(name, BUDGET, shares=False) for name in (MODEL, "other")}
    taken = [batch.claims[0].ticket for _ in range(1 + others) if (batch := queue.take(models))]

    assert [one.ticket for one in patient] == [one for one in taken if one is not late.ticket]
    answers = [type(answer) for _, answer in late.answers]
    assert answers == ([] if late.ticket in taken else [DeadlineExceeded])


def test_a_deadline_ahead_is_no_hindrance():
    """Before its deadline an item runs."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    punctual = Caller(deadline=5.0).put(queue)
    clock.now = 4.999
    assert take(queue) == [(punctual.ticket, 0)]
    assert punctual.answers == []


def test_an_item_put_back_runs_alone():
    """What failed in a batch is tried by itself, first in line, its attempts counted."""
    queue = Queue()
    caller = Caller().put(queue, items=12)
    taken = queue.take({MODEL: LOADED})
    queue.put_back(MODEL, taken.entries)
    for place in range(10):
        (claim,) = queue.take({MODEL: LOADED}).claims
        assert (claim.ticket, claim.place, claim.attempts) == (caller.ticket, place, 1)
    assert [place for _, place in take(queue)] == [10, 11]


def test_an_item_that_never_failed_does_not_share_a_batch_with_one_that_did():
    """A second try takes nobody along, however much room there is."""
    queue = Queue()
    failing, fresh = Caller().put(queue, items=3), Caller()
    taken = queue.take({MODEL: LOADED})
    fresh.put(queue, items=2)  # its turn is that of the failing request's end
    queue.put_back(MODEL, taken.entries[:1])
    failing.put(queue, first=3)
    assert [take(queue) for _ in range(2)] == [
        [(failing.ticket, 0)],
        [(fresh.ticket, 0), (failing.ticket, 3), (fresh.ticket, 1)],
    ]


def test_an_item_that_was_not_tried_keeps_its_place_in_batches():
    """What only waited at a worker that died is put back without an attempt."""
    queue = Queue()
    caller = Caller().put(queue, items=3)
    taken = queue.take({MODEL: LOADED})
    queue.put_back(MODEL, taken.entries, was_tried=False)
    assert take(queue) == [(caller.ticket, place) for place in range(3)]


def test_models_wait_in_lines_of_their_own():
    """A batch is of one model, and of one that the device serves."""
    queue = Queue()
    Caller().put(queue, model="one")
    other = Caller().put(queue, model="other")
    taken = queue.take({"other": LOADED})
    assert taken.model == "other"
    assert [claim.ticket for claim in taken.claims] == [other.ticket]


def test_the_model_whose_head_waits_longest_goes_first():
    """Between models, too, the earlier turn decides."""
    queue = Queue()
    Caller().put(queue, model="one")
    Caller().put(queue, model="other")
    both = {"other": LOADED, "one": LOADED}
    assert [queue.take(both).model for _ in range(2)] == ["one", "other"]


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


def test_a_listener_is_called_for_whatever_is_put():
    """Whoever subscribed hears of items that come and of those that come back."""
    queue, heard = Queue(), []
    queue.subscribe(lambda: heard.append(queue.depth(MODEL)))
    Caller().put(queue)
    queue.put_back(MODEL, queue.take({MODEL: LOADED}).entries)
    assert heard == [(1, ITEM_TOKENS)] * 2


def test_only_a_full_batch_is_taken_where_that_is_asked():
    """Less than most of a budget stays; the same work goes when anything will do."""
    queue = Queue()
    items = int(FULL_PART * BUDGET / ITEM_TOKENS)
    Caller().put(queue, items=items)
    assert take(queue, only_full=True) == []
    Caller().put(queue)
    assert len(take(queue, only_full=True)) == items + 1


def test_what_fills_a_batch_is_counted_as_it_will_be_computed():
    """Equal items fill a batch of a model that doesn't share, and not of one that does."""
    queue = Queue()
    Caller().put(queue, items=10)
    assert queue.take({MODEL: SHARING}, only_full=True) is None
    assert len(queue.take({MODEL: LOADED}, only_full=True).claims) == 10


def test_a_queue_that_was_emptied_holds_nothing():
    """Taken, cancelled and late: no node of the tree is left, and no claim."""
    clock = Clock()
    queue = Queue(clock, clock.call_later)
    Caller(deadline=5.0).put(queue, items=3)
    gone = Caller().put(queue, items=3, tokens=50)
    Caller(is_batch=True).put(queue, items=3, tokens=70)
    gone.ticket.is_cancelled = True
    clock.ring(5.0)
    while take(queue):
        pass
    (line,) = queue._lines.values()
    for prefixes in line._prefixes.values():
        assert (len(prefixes), prefixes.tokens, prefixes.roots) == (0, 0, {})
    assert (queue._claims, line._turns, clock.calls) == ({}, {}, [])


class World:
    """A queue, four callers and a device that may fail, driven step by step."""

    def __init__(self):
        self.clock = Clock()
        self.queue = Queue(self.clock, self.clock.call_later)
        stakes = [{}, {"is_batch": True}, {"deadline": 4.0}, {"is_batch": True, "deadline": 8.0}]
        self.callers = [Caller(**stake) for stake in stakes]
        self.asked = [[] for _ in stakes]  # the places that each caller put
        self.finished = []  # (ticket, place) of what the device finished
        self._places = count()

    def put(self, index, tokens):
        place = next(self._places)
        self.asked[index].append(place)
        self.callers[index].put(self.queue, first=place, tokens=tokens)

    def take(self, budget, fails, shares=True):
        taken = self.queue.take({MODEL: loaded(MODEL, budget, shares=shares)})
        if taken is None:
            return None
        assert not any(claim.ticket.is_cancelled for claim in taken.claims)
        assert len(taken.claims) == 1 or not any(claim.attempts for claim in taken.claims)
        if fails and taken.claims[0].attempts == 0:
            self.queue.put_back(MODEL, taken.entries)
        else:
            self.finished += [(claim.ticket, claim.place) for claim in taken.claims]
        return taken

    def cancel(self, index, _):
        self.callers[index].ticket.is_cancelled = True

    def wait(self, seconds, is_on_time):
        if is_on_time:
            self.clock.ring(seconds)
        else:  # the loop is busy: timers are late
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
        st.tuples(st.just(World.take), st.integers(1, 2000), st.booleans(), st.booleans()),
        st.tuples(st.just(World.cancel), st.integers(0, 3), st.none()),
        st.tuples(st.just(World.wait), st.floats(0, 3), st.booleans()),
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
    assert (world.queue._claims, world.clock.calls) == ({}, [])
