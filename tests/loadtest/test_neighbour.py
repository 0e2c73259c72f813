"""What a busy start may and may not do."""

from dataclasses import replace

from loadtest.neighbour import Start, misses

QUIET = Start("quiet", "", {"200": 900}, 10_000.0, 4096)


def test_a_busy_start_may_refuse_nobody_and_be_a_twentieth_slower():
    """Refusals of either, and throughput below that, are misses."""
    fine = replace(QUIET, name="busy", tokens_per_s=9_600.0)
    slow = replace(fine, tokens_per_s=9_000.0)
    refused = replace(fine, statuses={"200": 900, "503": 3})

    assert misses(fine, [QUIET, QUIET]) == []
    assert misses(slow, [QUIET, QUIET]) == ["busy: 90% of the throughput of quiet starts"]
    assert misses(refused, [QUIET, QUIET]) == ["busy: 3 requests ended with 503"]
    assert misses(slow, [QUIET, replace(QUIET, tokens_per_s=8_000.0)]) == []
