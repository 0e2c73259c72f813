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
    assert 0.125 < rate.expected_s("small", 100) < 0.25


def test_a_restarted_worker_does_not_forget_what_was_measured(rate: Rate) -> None:
    """Its warm-up is an estimate, too."""
    rate.note("large", computed=50, served=50, seconds=1.0)
    before = rate.expected_s("large", 100)

    rate.warm("large", 100.0)

    assert rate.expected_s("large", 100) == before
