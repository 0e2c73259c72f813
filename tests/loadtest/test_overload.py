"""What an overloaded server must keep, and how its answers are counted."""

from dataclasses import replace

from loadtest.census import Census
from loadtest.connection import Origin
from loadtest.overload import Requests, Step, Try
from loadtest.texts import Generated

SERVED = Try(0.0, 1.0, "served", is_retry=False, tokens=100)
REFUSED = Try(0.0, 0.01, "refused", is_retry=False, retry_after_s=1.0)
CENSUS = Census(100, 100, 5, 5, 1)


def step(*tries, after=CENSUS):
    return Step(2.0, 10.0, 1.0, 10.0, 2.0, tries=list(tries), before=CENSUS, after=after)


def test_what_is_kept_is_no_miss():
    """Tokens of what was answered before the end, over the capacity."""
    kept = step(SERVED, REFUSED, replace(SERVED, is_retry=True, sent=10.0, ended=11.0))

    assert kept.share == 1.0
    assert kept.kept_share == 1.0
    assert kept.misses() == []


def test_each_miss_is_told():
    """Too little served, too long waits, slow refusals, broken promises, growth, other ends."""
    for missed, told in (
        (step(replace(SERVED, tokens=80)), "80.0% of the capacity"),
        (step(replace(SERVED, ended=3.1)), "waited 3.10 s"),
        (step(SERVED, replace(REFUSED, ended=0.2)), "refusals took 200 ms"),
        (step(SERVED, replace(REFUSED, is_retry=True)), "0% of retries"),
        (step(SERVED, after=replace(CENSUS, front_bytes=120)), "front's memory grew by 20%"),
        (step(SERVED, replace(SERVED, outcome="late", tokens=0)), "'late': 1"),
    ):
        assert told in " ".join(missed.misses())


def test_no_two_requests_are_alike():
    """They have one length, and one number has the same bytes each time."""
    requests = Requests(Generated(1), Origin.of("http://x:1"), items=2, tokens=40)

    assert len({requests[number] for number in range(200)}) == 200
    assert requests[70] == requests[70]
    assert requests[3].endswith(b"}]}")
