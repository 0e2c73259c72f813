"""Spreads, percentiles, ratios and what metrics say."""

import pytest

from loadtest.pair import Round
from loadtest.readings import Reading
from loadtest.render import distinct_tokens
from loadtest.scrape import Scrape
from loadtest.spread import Spread, percentile
from loadtest.workloads import Item


def reading(server, seconds, scores, latencies=(1.0,)):
    return Reading(
        server,
        "groups",
        seconds=seconds,
        scores=scores,
        tokens=[10] * len(scores),
        latencies_s=list(latencies),
    )


def test_a_spread_has_median_quartiles_and_range():
    """Quartiles are those of the values themselves, not of a population."""
    assert Spread.of([1, 2, 3, 4, 5]) == Spread(3, 2, 4, 1, 5, 5)
    assert str(Spread.of([1, 2, 6])) == "2.00 (1.00 to 6.00)"
    assert Spread.of([7.0]) == Spread(7, 7, 7, 7, 7, 1)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share, expected):
    """The smallest value that the share of values doesn't exceed."""
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_a_ratio_compares_answered_items_a_second():
    """Items without a score count for nobody's speed."""
    ours = reading("assay", 1.0, [0.0, 1.0, 2.0, 3.0])
    theirs = reading("vllm", 2.0, [0.5, 1.0, None, None])
    done = Round("groups", 0, [ours, theirs])

    assert done.ratio == 4.0
    assert done.difference == 0.5
    assert ours.tokens_per_s == 40.0
    assert theirs.tokens_per_s == 10.0


def test_a_server_that_answered_nothing_has_no_ratio():
    """A division by nothing is not reported as a number."""
    done = Round("groups", 0, [reading("a", 1.0, [1.0]), reading("b", 1.0, [None], ())])

    assert done.ratio is None
    assert done.latency_ratio(0.5) is None
    assert done.difference is None


def test_tokens_that_nobody_counted_give_no_rate():
    """A server that is only known by its URL may not count tokens."""
    one = reading("plain", 1.0, [1.0])
    one.tokens = [None]

    assert one.tokens_per_s is None
    assert one.speed == 1.0


def test_distinct_tokens_are_the_nodes_of_the_prefix_tree():
    """Shared prefixes count once, at every depth; an item inside another costs nothing."""
    all_ids = [(1, 2, 3), (1, 2, 4), (1, 2), (5,), (1, 2, 3)]

    assert distinct_tokens([Item("", "", ids=ids) for ids in all_ids]) == 5


def test_metrics_are_differences_between_two_scrapes():
    """Counters are summed over labels, and a quantile is the bound of its bucket."""
    page = """
# TYPE lag_seconds histogram
lag_seconds_bucket{{le="0.001"}} {0}
lag_seconds_bucket{{le="0.01"}} {1}
lag_seconds_bucket{{le="+Inf"}} {1}
lag_seconds_count {1}
lag_seconds_sum 1
# TYPE items counter
items_total{{model="a"}} {0}
items_total{{model="b"}} {1}
"""
    added = Scrape.of(page.format(108, 200)).since(Scrape.of(page.format(10, 100)))

    assert added.total("items_total") == 198
    assert added.total("unknown") is None
    assert added.quantile("lag_seconds", 0.5) == 0.001
    assert added.quantile("lag_seconds", 0.99) == 0.01
    assert added.quantile("unknown_seconds", 0.5) is None
