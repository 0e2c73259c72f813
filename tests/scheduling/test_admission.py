import heapq
import random
from collections import Counter, deque
from contextlib import ExitStack
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import Draining, Overloaded
from assay.scheduling.admission import Admission


def admission(*, max_tokens=100, tokens_per_s=10.0, **options):
    """Return a door with a measured rate."""
    return Admission(max_tokens, lambda: tokens_per_s, **options)


def test_what_is_admitted_is_counted_while_it_runs():
    """Tokens and requests are held inside the block and given back after it."""
    door = admission()
    with door.admit(30), door.admit(40):
        assert (door.tokens, door.requests) == (70, 2)
    assert (door.tokens, door.requests) == (0, 0)


def test_the_bound_itself_is_admitted():
    """Tokens may wait up to the limit, inclusive."""
    door = admission(max_tokens=100)
    with door.admit(60), door.admit(40):
        assert door.tokens == 100


def test_a_request_that_does_not_fit_is_refused_whole():
    """Admission is all-or-nothing: a refused request leaves no tokens behind."""
    door = admission(max_tokens=100)
    with door.admit(60):
        with pytest.raises(Overloaded), door.admit(41):
            pytest.fail("the block of a refused request must not run")
        assert (door.tokens, door.requests) == (60, 1)


@pytest.mark.parametrize("waiting", [0, 10])
def test_a_request_larger_than_the_bound_is_admitted_when_little_waits(waiting):
    """A fat request isn't refused for ever: it goes when the house is nearly empty."""
    door = admission(max_tokens=100)
    with door.admit(waiting), door.admit(5000):
        assert door.tokens == waiting + 5000


def test_a_request_larger_than_the_bound_is_refused_when_much_waits():
    """Only a house that is nearly empty takes more than the bound."""
    door = admission(max_tokens=100)
    with door.admit(11), pytest.raises(Overloaded), door.admit(5000):
        pytest.fail("the block of a refused request must not run")


def test_what_is_done_of_a_request_makes_room():
    """Parts are given back as they are answered; at the end exactly all was."""
    door = admission(max_tokens=100)
    with door.admit(99) as room:
        for _ in range(2):
            room.give_back(1 / 3)
        assert door.tokens == 33
        with door.admit(60):
            assert door.tokens == 93
        room.give_back(1 / 3)
        assert door.tokens == 0
        room.give_back(1.0)
    assert (door.tokens, door.requests) == (0, 0)


def test_what_was_estimated_wrongly_is_corrected():
    """Of a request with more tokens, less fits beside it; what is done of it counts as before."""
    door = admission(max_tokens=100)
    with door.admit(40) as room:
        room.give_back(0.5)
        room.correct(100)
        assert door.tokens == 70
        with pytest.raises(Overloaded), door.admit(40):
            pytest.fail("the block of a refused request must not run")
        room.correct(-100)
        assert door.tokens == 20
    assert door.tokens == 0


def test_requests_are_bounded_too():
    """A house full of tiny requests takes no more, however few their tokens are."""
    door = admission(max_requests=2)
    with door.admit(1), door.admit(1), pytest.raises(Overloaded, match="2 requests"), door.admit(1):
        pytest.fail("the block of a refused request must not run")


def test_no_more_is_admitted_than_can_be_served_in_time():
    """Half the longest wait times the rate is a bound, too: who is admitted is answered."""
    door = admission(max_tokens=1000, tokens_per_s=10.0, max_wait_s=12.0)
    with door.admit(60), pytest.raises(Overloaded), door.admit(1):
        pytest.fail("the block of a refused request must not run")


@pytest.mark.parametrize(
    ("tokens", "rate", "seconds"),
    [(95, 10.0, 5), (100, 10.0, 5), (100, 1000.0, 1), (100, 0.0, 60), (100, 0.01, 600)],
)
def test_a_refusal_says_when_to_come_back(tokens, rate, seconds):
    """Retry-After is when there will be room at the measured rate: whole seconds, ten minutes at
    most; a minute where no rate was measured.
    """
    door = admission(max_tokens=100, tokens_per_s=rate)
    with door.admit(tokens), pytest.raises(Overloaded) as refusal, door.admit(50):
        pytest.fail("the block of a refused request must not run")
    assert refusal.value.retry_after_s == seconds


def test_the_rate_is_measured_when_it_is_asked_for():
    """The rate that counts is the one at the time of the refusal."""
    rates = [5.0]
    door = Admission(100, lambda: rates[-1])
    with door.admit(100):
        rates.append(50.0)
        with pytest.raises(Overloaded) as refusal, door.admit(100):
            pytest.fail("the block of a refused request must not run")
    assert refusal.value.retry_after_s == 2


def told(door, tokens, name=None):
    """Return in how many seconds a request is told to come back; None where it is admitted."""
    try:
        with door.admit(tokens, (lambda: name) if name else None):
            return None
    except Overloaded as refusal:
        return refusal.retry_after_s


def test_nobody_is_told_a_later_time_than_a_newcomer_is_let_in_at():
    """As long as nobody has been seen to come back: those before may have left for good."""
    door = admission(clock=lambda: 0.0)
    with door.admit(100):
        assert [told(door, 50, name) for name in "abcd"] == [5, 9, 9, 9]


def test_those_who_are_refused_are_not_all_told_the_same_time():
    """Where those come who were told to, each is told when those before have been served."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100) as room:
        for number in range(8):
            assert told(door, 1, number) == 1
        now[0] = 1.0
        room.give_back(0.08)
        assert [told(door, 1, number) for number in range(8)] == [None] * 8
        now[0] = 1.6
        assert [told(door, 50, name) for name in "abcd"] == [5, 10, 15, 20]


def test_a_rate_that_is_only_estimated_refuses_nobody():
    """Warm-up beside other work may read a fortieth: tokens and requests bound until batches do."""
    rates = [0.0]
    door = Admission(
        1000, lambda: rates[-1], max_wait_s=10.0, estimated_per_s=lambda: 1.0, clock=lambda: 0.0
    )
    assert door.bound == 1000
    with door.admit(900):
        assert told(door, 200, "a") == 60  # by the estimate, no longer than where none is
        rates.append(100.0)
        assert door.bound == 500


@pytest.mark.parametrize("size", [3, 10, 30, 50])
@pytest.mark.parametrize("later_s", [0.0, 0.5, 2.0, 5.0])
def test_a_crowd_that_left_does_not_idle_the_devices(size, later_s):
    """Of a hundred that were refused none comes back; then twenty come who do as they are told."""
    crowd = Crowd(size, obeying=20, polling=0, later_s=later_s)
    crowd.run()

    assert crowd.idle_s <= 0.04 * crowd.now  # whole seconds, and callers who are a little late
    assert max(crowd.tries.values()) <= 20


@pytest.mark.parametrize("later_s", [0.0, 2.0])
def test_who_does_as_told_is_served_no_later_than_who_asks_all_the_time(later_s):
    """Among those who come after a crowd that left."""
    crowd = Crowd(10, obeying=20, polling=20, later_s=later_s)
    crowd.run()

    obeying, polling = (
        sum(crowd.done[name] for name in crowd.done if name[0] == kind) / 20 for kind in "op"
    )
    assert obeying <= 1.15 * polling


class Crowd:
    """Clients of a door for 100 tokens, 10 of which are served a second."""

    def __init__(self, size, *, obeying, polling, later_s):
        self.now, self.idle_s, self.tries, self.done = 0.0, 0.0, Counter(), {}
        self._size = size
        self._door = Admission(100, lambda: 10.0, clock=lambda: self.now)
        self._random = random.Random(0)
        self._waiting = deque()
        self._left = {f"o{n}" for n in range(obeying)} | {f"p{n}" for n in range(polling)}
        self._events = [(0.0, f"gone{n}") for n in range(110)]  # the first are admitted
        shuffled = sorted(self._left)
        self._random.shuffle(shuffled)
        self._events += [(later_s, name) for name in shuffled]

    def run(self):
        """Until all are served who didn't leave."""
        served, step_s = 0.0, 0.05
        while self._left:
            assert self.now < 1_000
            due = sorted(
                (one for one in self._events if one[0] <= self.now), key=lambda one: one[0]
            )
            self._events = [one for one in self._events if one[0] > self.now]
            for _, name in due:
                self._ask(name)
            served = served + 10.0 * step_s if self._waiting else 0.0
            self.idle_s += 0.0 if self._waiting else step_s
            while self._waiting and served >= self._size:
                self._serve()
                served -= self._size
            self.now += step_s
        while self._waiting:
            self._serve()

    def _ask(self, name):
        room = ExitStack()
        self.tries[name] += name[0] == "o"
        try:
            room.enter_context(self._door.admit(self._size, lambda: name))
        except Overloaded as refusal:
            wait_s = refusal.retry_after_s if name[0] == "o" else 0.4
            if name[0] != "g":
                self._events.append((self.now + wait_s + self._random.uniform(0, 0.2), name))
        else:
            self._waiting.append((room, name))

    def _serve(self):
        room, name = self._waiting.popleft()
        room.close()
        self.done.setdefault(name, self.now)
        self._left.discard(name)


def test_who_comes_too_early_keeps_the_promise():
    """Clients that ask every second aren't sent to the end of the line."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100) as room:
        assert [told(door, 50, name) for name in "ab"] == [5, 9]
        now[0] = 3.0
        room.give_back(0.3)
        assert [told(door, 50, name) for name in "abc"] == [2, 6, 6]


def test_the_room_is_kept_for_who_was_promised_it():
    """When it is due, a newcomer doesn't get it; who was promised it does."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100) as room:
        assert told(door, 40, "a") == 4
        now[0] = 4.0
        room.give_back(0.4)
        assert told(door, 40, "newcomer") is not None
        assert told(door, 40, "a") is None


def test_a_small_one_still_fits_beside_what_was_just_promised():
    """Even on a device so fast that the promise is for the next second."""
    now = [0.0]
    door = Admission(2000, lambda: 10_000.0, clock=lambda: now[0])
    with door.admit(1500):
        assert told(door, 1500, "large") == 1
        assert told(door, 50, "small") is None
        now[0] = 0.9
        assert told(door, 50, "late") is not None


def test_a_promise_that_nobody_comes_for_ends():
    """The room is anyone's again."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100) as room:
        assert told(door, 40, "a") == 4
        room.give_back(0.4)
        now[0] = 8.9
        assert told(door, 40) is not None
        now[0] = 9.1
        assert told(door, 40) is None


def test_promises_never_let_the_devices_stand_idle():
    """While nothing waits, or less than half of what may, newcomers are admitted all the same."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100) as room:
        for name in "abcdef":
            told(door, 60, name)
        now[0] = 12.0
        room.give_back(0.9)
        assert told(door, 40) is None
        assert told(door, 41) is not None
        room.give_back(0.1)
        assert told(door, 95) is None


def test_promises_that_nobody_keeps_are_forgotten():
    """Who comes after a thousand that were refused and never came back isn't sent after them."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with door.admit(100):
        for number in range(1000):
            told(door, 50, number)
        assert told(door, 50, "during") == 9
        now[0] = 1000.0
        assert told(door, 50, "after") == 5


def test_a_large_request_is_not_kept_out_by_small_ones():
    """When it is due, so few newcomers are let in that it finds room beside them."""
    now = [0.0]
    door = admission(clock=lambda: now[0])
    with ExitStack() as rooms:
        room = rooms.enter_context(door.admit(100))
        assert told(door, 90, "large") == 9
        now[0] = 9.0
        room.give_back(0.9)
        assert told(door, 10) is None
        assert told(door, 11) is not None
        assert told(door, 90, "large") is None


@pytest.mark.parametrize("size", [620, 1000, 3000])
@pytest.mark.parametrize("pressure", [1.2, 2.0, 5.0])
def test_under_steady_pressure_a_large_request_is_admitted(size, pressure):
    """Beside an open loop of small ones above the rate, all of whom come back when told."""
    assert pressed(pressure, 10, size) <= 4


def due(returns, now):
    """Remove and return who comes back by now, of a heap of (when, number, name)."""
    names = []
    while returns and returns[0][0] <= now:
        names.append(heapq.heappop(returns)[-1])
    return names


def pressed(pressure, small, large, *, rate=100.0, bound=1000):
    """Return how often a large request asks until it is let in beside a stream of small ones."""
    now, returns, waiting, tries = [0.0], [(60.0, 0, "large")], deque(), 0
    door = Admission(bound, lambda: rate, clock=lambda: now[0])
    numbers, served = count(1), 0.0
    for step in range(20_000):
        now[0] = step * small / (rate * pressure)
        served = served + small / pressure if waiting else 0.0
        while waiting and served >= small:
            waiting.popleft().close()
            served -= small
        for name in [*due(returns, now[0]), step]:
            tries += name == "large"
            room = ExitStack()
            try:
                size = large if name == "large" else small
                room.enter_context(door.admit(size, lambda name=name: name))
            except Overloaded as refusal:
                heapq.heappush(returns, (now[0] + refusal.retry_after_s, next(numbers), name))
            else:
                if name == "large":
                    room.close()
                    break
                waiting.append(room)
        else:
            continue
        break
    else:
        pytest.fail(f"never, in {tries} tries")
    for room in waiting:
        room.close()
    return tries


def test_a_caller_among_several_has_a_share_that_others_cannot_take():
    """A trainer that fills the house doesn't keep a gateway out, in tokens or requests."""
    door = admission(max_tokens=100, max_requests=10)
    with ExitStack() as rooms:
        for _ in range(10):
            rooms.enter_context(door.admit(10, caller="trainer"))
        with pytest.raises(Overloaded), door.admit(1, caller="trainer"):
            pytest.fail("the block of a refused request must not run")
        rooms.enter_context(door.admit(50, caller="gateway"))
        with pytest.raises(Overloaded), door.admit(1, caller="gateway"):
            pytest.fail("its share is half of what may wait")
        rooms.enter_context(door.admit(33, caller="third"))
    assert (door.tokens, door.requests) == (0, 0)


def test_a_caller_alone_has_no_share():
    """All that may wait is one caller's, and no more."""
    door = admission(max_tokens=100)
    with door.admit(100), pytest.raises(Overloaded), door.admit(1):
        pytest.fail("the block of a refused request must not run")


@pytest.mark.parametrize("pressure", [2, 5, 10])
def test_under_steady_pressure_who_comes_back_when_told_is_admitted(pressure):
    """An open loop of newcomers at a multiple of the rate, each refused one comes back once."""
    rate, size = 100.0, 10
    now = [0.0]
    door = Admission(1000, lambda: rate, clock=lambda: now[0])
    served, waiting, returns, outcomes = 0.0, deque(), [], Counter()
    numbers = count()
    for step in range(60 * 10 * pressure):
        now[0] = step / (10 * pressure)
        served += rate / (10 * pressure)
        while waiting and served >= size:
            waiting.popleft().close()
            served -= size
        served = min(served, size) if not waiting else served
        comers = [(True, name) for name in due(returns, now[0])] + [(False, step)]
        for is_return, name in comers:
            room = ExitStack()
            try:
                room.enter_context(door.admit(size, lambda name=name: name))
            except Overloaded as refusal:
                outcomes[is_return, False] += 1
                if not is_return:
                    heapq.heappush(returns, (now[0] + refusal.retry_after_s, next(numbers), name))
            else:
                outcomes[is_return, True] += 1
                waiting.append(room)
    while waiting:
        waiting.popleft().close()
    assert outcomes[True, True] >= 100
    assert outcomes[True, True] >= 0.8 * (outcomes[True, True] + outcomes[True, False])


def test_a_closed_door_admits_nothing():
    """While the server drains, new requests are sent elsewhere."""
    door = admission()
    door.close()
    with pytest.raises(Draining), door.admit(1):
        pytest.fail("the block of a refused request must not run")


def test_closing_lets_the_admitted_finish():
    """What runs when the door closes keeps its room until it ends."""
    door = admission()
    with door.admit(30):
        door.close()
        assert door.tokens == 30
    assert door.tokens == 0


def test_a_failed_request_gives_its_room_back():
    """Room is returned however a request ends."""
    door = admission()
    with pytest.raises(LookupError), door.admit(30):
        raise LookupError
    assert (door.tokens, door.requests) == (0, 0)


@given(st.lists(st.integers(0, 300), max_size=20))
def test_waiting_tokens_never_pass_the_bound_unless_one_request_does(sizes):
    """More than the bound waits only where one that is larger came while little did."""
    door = admission(max_tokens=100)
    admitted = []
    for size in sizes:
        room = door.admit(size)
        try:
            room.__enter__()
        except Overloaded:
            continue
        admitted.append((size, room))
        with_tokens = [held for held, _ in admitted if held]
        assert door.tokens <= 100 or sum(sorted(with_tokens)[:-1]) <= 10
    for _, room in admitted:
        room.__exit__(None, None, None)
    assert (door.tokens, door.requests) == (0, 0)
