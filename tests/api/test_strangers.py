"""Who asks without a good key: counted by address, and held back; nobody else is."""

from __future__ import annotations

import math

import pytest

from assay.api.strangers import MOST_PEERS, MOST_S, Strangers


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the strangers."""
    return Clock()


@pytest.fixture
def strangers(clock: Clock) -> Strangers:
    """Who may be refused ten times a minute."""
    return Strangers(10, clock)


def waits(of: Strangers, peer: str, times: int) -> list[float]:
    return [of.refused(peer) for _ in range(times)]


def test_the_first_refusals_are_not_held_back(strangers: Strangers) -> None:
    """The next ones are, for longer each, up to two seconds."""
    found = waits(strangers, "203.0.113.9", 40)

    assert found[:10] == [0.0] * 10
    assert found[10:12] == pytest.approx([0.1, 0.2])
    assert found[-1] == MOST_S
    assert found == sorted(found)


def test_who_has_been_quiet_is_not_held_back_any_more(strangers: Strangers, clock: Clock) -> None:
    """However much there was before."""
    waits(strangers, "203.0.113.9", 1_000)
    clock.now += 60 * (1 + MOST_S)

    assert strangers.refused("203.0.113.9") < MOST_S
    clock.now += 240
    assert waits(strangers, "203.0.113.9", 10) == [0.0] * 10


def test_addresses_are_counted_apart(strangers: Strangers) -> None:
    """One's refusals are no other's."""
    waits(strangers, "203.0.113.9", 40)

    assert strangers.refused("203.0.113.10") == 0
    assert strangers.refused("") == 0  # a local socket


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.9", "203.0.113.9", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_a_network_of_ipv6_is_one(
    strangers: Strangers, one: str, other: str, is_same: bool
) -> None:
    """Its customer may change the address with each request."""
    waits(strangers, one, 40)

    assert (strangers.refused(other) > 0) is is_same


def test_only_so_many_addresses_are_remembered(strangers: Strangers) -> None:
    """The latest: whoever has very many isn't slowed, and fills no memory."""
    for number in range(2 * MOST_PEERS):
        waits(strangers, f"peer {number}", 11)

    assert strangers.refused("peer 0") == 0
    assert strangers.refused(f"peer {2 * MOST_PEERS - 1}") > 0


def test_without_a_limit_nobody_is_held_back() -> None:
    """As a load test needs it."""
    assert set(waits(Strangers(math.inf), "203.0.113.9", 1_000)) == {0.0}


def test_an_address_that_is_slowed_is_in_the_log_once(
    strangers: Strangers, caplog: pytest.LogCaptureFixture
) -> None:
    """And not with each request."""
    waits(strangers, "203.0.113.9", 100)

    assert [one for one in caplog.messages if "203.0.113.9" in one] == [caplog.messages[0]]
