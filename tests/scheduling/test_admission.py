import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import Draining, Overloaded
from assay.scheduling.admission import Admission


def admission(*, max_tokens=100, tokens_per_s=10.0):
    """Return a door with a measured rate."""
    return Admission(max_tokens, lambda: tokens_per_s)


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


def test_a_request_larger_than_the_bound_is_admitted_when_nothing_waits():
    """A fat request isn't refused for ever: it goes when the house is empty."""
    door = admission(max_tokens=100)
    with door.admit(5000):
        assert door.tokens == 5000


def test_a_request_larger_than_the_bound_is_refused_when_something_waits():
    """Only an empty house takes more than the bound."""
    door = admission(max_tokens=100)
    with door.admit(1), pytest.raises(Overloaded), door.admit(5000):
        pytest.fail("the block of a refused request must not run")


@pytest.mark.parametrize(
    ("tokens", "rate", "seconds"),
    [(95, 10.0, 10), (100, 10.0, 10), (100, 1000.0, 1), (100, 0.0, 60), (100, 1.0, 60)],
)
def test_a_refusal_says_when_to_come_back(tokens, rate, seconds):
    """Retry-After is the backlog over the measured rate, in whole seconds, at most a minute."""
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
        with pytest.raises(Overloaded) as refusal, door.admit(1):
            pytest.fail("the block of a refused request must not run")
    assert refusal.value.retry_after_s == 2


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
    """More than the bound waits only where a single request is larger than it."""
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
        assert door.tokens <= 100 or len(with_tokens) == 1
    for _, room in admitted:
        room.__exit__(None, None, None)
    assert (door.tokens, door.requests) == (0, 0)
