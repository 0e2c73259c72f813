"""A device's rate: from warm-up, then from full batches, by model and for callers."""

from __future__ import annotations

import pytest

from assay.scheduling.rate import Rate


@pytest.fixture
def rate() -> Rate:
    """Two models, one of them four times as fast."""
    rate = Rate()
    rate.warm("large", 100.0)
    rate.warm("small", 400.0)
    return rate


def test_nothing_is_known_before_a_model_is_warm() -> None:
    """No rate is no bound, not a bound of nothing."""
    assert Rate().served == 0.0


def test_models_that_get_equally_many_tokens_have_their_harmonic_mean(rate: Rate) -> None:
    """As the members of an ensemble do."""
    assert rate.served == pytest.approx(160.0)


def test_what_is_shared_counts_for_callers_and_not_for_the_watchdog(rate: Rate) -> None:
    """Eleven times the tokens in the same time say nothing of how long a batch takes."""
    for _ in range(200):
        rate.note("large", computed=100, served=1_100, seconds=1.0)

    assert rate.served == pytest.approx(1_100.0, rel=1e-6)
    assert rate.expected_s("large", 1_000) == pytest.approx(10.0)


def test_each_model_has_its_own_time(rate: Rate) -> None:
    """A batch of the large one isn't expected at the small one's rate."""
    rate.note("small", computed=800, served=800, seconds=1.0)

    assert rate.expected_s("large", 100) == pytest.approx(1.0)
    assert rate.expected_s("small", 100) == pytest.approx(0.125)


def test_a_faster_batch_is_believed_at_once_and_a_slower_one_by_and_by(rate: Rate) -> None:
    """A warm-up beside other work reads far too little; one slow batch says little."""
    rate.note("large", computed=4_500, served=4_500, seconds=1.0)
    assert rate.served == pytest.approx(4_500.0)

    rate.note("large", computed=100, served=100, seconds=1.0)
    assert rate.served > 4_000


def test_it_is_an_estimate_until_some_batches_were_timed(rate: Rate) -> None:
    """Nobody may be refused by warm-up, nor by one batch."""
    timed = []
    for _ in range(3):
        rate.note("large", computed=200, served=200, seconds=1.0)
        timed.append(rate.timed)

    assert timed == [0.0, 0.0, pytest.approx(200.0)]


def test_models_count_by_what_was_asked_of_them(rate: Rate) -> None:
    """Half of the tokens for each: the device does what it does of both together."""
    for _ in range(100):
        rate.note("large", computed=100, served=100, seconds=1.0)
        rate.note("small", computed=100, served=100, seconds=0.25)

    assert rate.served == pytest.approx(160.0, rel=0.1)


def test_a_restarted_worker_does_not_forget_what_was_measured(rate: Rate) -> None:
    """Its warm-up is an estimate, too."""
    rate.note("large", computed=50, served=50, seconds=1.0)
    before = rate.expected_s("large", 100)

    rate.warm("large", 100.0)

    assert rate.expected_s("large", 100) == before
