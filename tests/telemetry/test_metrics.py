import asyncio
import time

import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from assay.settings import Settings
from assay.telemetry import lag
from assay.telemetry.metrics import Metrics
from assay.timings import Timings
from assay.worker_protocol import Done

CALL = {"model": "judge", "route": "score"}
MODEL = {"model": "judge"}


def value(metrics, name, **labels):
    """Return one sample, or None where nothing was noted."""
    return metrics.registry.get_sample_value(name, labels)


def took(total_s, **seconds):
    """Return the timings of a request that took so long."""
    return Timings(0.0, 0.0, 0.0, 0.0, ended=total_s, **seconds)


def answered(metrics, **changes):
    """Note one answered request."""
    facts = {
        "timings": took(2.75, tokenize_s=0.25, compute_s=2.0),
        "items": 3,
        "tokens": 70,
        "cuts": {"prompt": 1},
        "unexpected_ends": 1,
        "special_tokens": 1,
    }
    metrics.answered("judge", "score", **{**facts, **changes})


def test_two_servers_in_one_process_do_not_clash():
    """Each has a registry of its own; what one counts the other doesn't."""
    one, other = Metrics(), Metrics()
    one.request("judge", "score", "ok")
    assert value(one, "assay_requests_total", **CALL, outcome="ok") == 1
    assert value(other, "assay_requests_total", **CALL, outcome="ok") is None


def test_the_registry_may_be_given():
    """Whoever embeds Assay can collect everything in one place."""
    registry = CollectorRegistry()
    assert Metrics(registry).registry is registry


def test_the_global_registry_is_left_alone():
    """Nothing is registered where every library of the process would see it."""
    Metrics().request("judge", "score", "ok")
    assert [one.name for one in REGISTRY.collect() if one.name.startswith("assay")] == []


def test_every_metric_is_assays_and_explained():
    """Names begin with assay_, and each has a sentence of help."""
    collected = list(Metrics().registry.collect())
    assert collected != []
    assert [one.name for one in collected if not one.name.startswith("assay_")] == []
    assert [one.name for one in collected if not one.documentation.endswith(".")] == []


def test_the_seconds_observed_are_those_given():
    """The timing of an answer and of the metrics are the same numbers."""
    metrics = Metrics()
    answered(metrics)
    assert {
        name: value(metrics, f"assay_{name}_seconds_sum", **CALL)
        for name in ("request_duration", "tokenize", "queue", "compute")
    } == {"request_duration": 2.75, "tokenize": 0.25, "queue": 0.5, "compute": 2.0}


def test_what_the_server_failed_took_its_time_too():
    """It is in the same histograms: a server that only comes too late doesn't look fast."""
    metrics = Metrics()
    metrics.failed("judge", "score", took(600.0, tokenize_s=1.0))
    assert value(metrics, "assay_queue_seconds_sum", **CALL) == 599.0
    assert value(metrics, "assay_request_duration_seconds_sum", **CALL) == 600.0
    assert value(metrics, "assay_items_total", **CALL) is None


def test_a_wait_as_long_as_may_be_has_a_bucket():
    """Beyond the last bucket a quantile says no more than that."""
    metrics = Metrics()
    longest = Settings.model_fields["max_wait_s"].default
    metrics.failed("judge", "score", took(longest))
    bounds = [
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "assay_queue_seconds_bucket"
    ]
    assert longest < sorted(bounds)[-2]


def test_the_sizes_of_answered_requests_add_up():
    """Items and tokens by model and route, those that were cut by what was, too."""
    metrics = Metrics()
    answered(metrics)
    answered(metrics, items=1, tokens=5, cuts={})
    assert value(metrics, "assay_items_total", **CALL) == 4
    assert value(metrics, "assay_tokens_total", **CALL) == 75
    assert value(metrics, "assay_truncated_items_total", **CALL, cut="prompt") == 1
    assert value(metrics, "assay_truncated_items_total", **CALL, cut="response") == 0
    assert value(metrics, "assay_unexpected_end_items_total", **CALL) == 2
    assert value(metrics, "assay_special_token_items_total", **CALL) == 2
    assert value(metrics, "assay_request_duration_seconds_count", **CALL) == 2


@pytest.mark.parametrize("outcome", ["ok", "partial", "overloaded"])
def test_requests_are_counted_by_outcome(outcome):
    """Each end of a request is one of a closed set."""
    metrics = Metrics()
    metrics.request("judge", "score", outcome)
    assert value(metrics, "assay_requests_total", **CALL, outcome=outcome) == 1


def test_the_score_distribution_is_kept_by_model():
    """Raw scores and, for an ensemble, the members' spread, below and above zero."""
    metrics = Metrics()
    metrics.scores("judge", [-3.0, 0.25, 5.0], [0.5])
    assert value(metrics, "assay_score_count", **MODEL) == 3
    assert value(metrics, "assay_score_bucket", **MODEL, le="0.0") == 1
    assert value(metrics, "assay_ensemble_std_sum", **MODEL) == 0.5


def test_a_single_model_has_no_spread():
    """A model without members adds nothing to the spread."""
    metrics = Metrics()
    metrics.scores("judge", [1.0], [])
    assert value(metrics, "assay_ensemble_std_count", **MODEL) == 0


def test_batches_are_noted_in_items_tokens_and_padding():
    """What a batch computed, how much of it was padding, and what sharing saved."""
    metrics = Metrics()
    done = Done.of(0, np.zeros((2, 1)), 0.5, padded_tokens=6)
    metrics.batch("judge", done, items=2, tokens=30, shared_tokens=12, held_tokens=8)
    assert value(metrics, "assay_batch_items_sum", **MODEL) == 2
    assert value(metrics, "assay_batch_tokens_sum", **MODEL) == 30
    assert value(metrics, "assay_computed_tokens_total", **MODEL) == 30
    assert value(metrics, "assay_shared_tokens_total", **MODEL) == 12
    assert value(metrics, "assay_held_tokens_total", **MODEL) == 8
    assert value(metrics, "assay_padded_tokens_total", **MODEL) == 6


def test_the_depth_is_what_waits_now():
    """A gauge: the last statement counts."""
    metrics = Metrics()
    metrics.depth("judge", items=5, tokens=500)
    metrics.depth("judge", items=2, tokens=200)
    assert value(metrics, "assay_queue_items", **MODEL) == 2
    assert value(metrics, "assay_queue_tokens", **MODEL) == 200


def test_restarts_are_counted_by_device():
    """Each restart of a device process is one, by what became of the last one."""
    metrics = Metrics()
    metrics.worker_restarted("cuda:1", "died")
    metrics.worker_restarted("cuda:1", "died")
    metrics.worker_restarted("cuda:1", "hung")
    assert value(metrics, "assay_worker_restarts_total", device="cuda:1", reason="died") == 2
    assert value(metrics, "assay_worker_restarts_total", device="cuda:1", reason="hung") == 1


def test_what_may_happen_to_a_model_is_counted_once_it_is_served():
    """A counter that isn't there until it is 1 has never increased."""
    metrics = Metrics()
    metrics.model(
        "judge", revision="0", device="cpu", dtype="float32", quantized="none", forward="packed"
    )
    assert value(metrics, "assay_renderer_restarts_total", **MODEL) == 0
    metrics.renderer_restarted("judge")
    assert value(metrics, "assay_renderer_restarts_total", **MODEL) == 1


def test_how_changes_end_is_counted_in_three_ways():
    """From the start on, and whatever the code of a refusal is."""
    metrics = Metrics()
    asked = {"source": "admin"}
    assert value(metrics, "assay_changes_total", **asked, outcome="refused") == 0
    for outcome in ("ok", "change_refused", "checkpoint_error", "unfinished"):
        metrics.changed("admin", outcome)
    assert value(metrics, "assay_changes_total", **asked, outcome="ok") == 1
    assert value(metrics, "assay_changes_total", **asked, outcome="refused") == 2
    assert value(metrics, "assay_changes_total", **asked, outcome="unfinished") == 1


def test_without_tls_no_certificate_ends():
    """The metric is there all the same, for an alert to go by."""
    assert value(Metrics(), "assay_certificate_expires_timestamp_seconds") == 0


def test_what_is_served_is_stated():
    """One line a target, with all that a dashboard joins on."""
    metrics = Metrics()
    facts = {
        "revision": "0123",
        "device": "cpu",
        "dtype": "float32",
        "quantized": "int8",
        "forward": "packed",
    }
    metrics.model("judge", **facts)
    assert value(metrics, "assay_model_info", **MODEL, **facts) == 1


def test_the_text_is_prometheus():
    """`render` gives what a scrape reads."""
    metrics = Metrics()
    metrics.request("judge", "score", "ok")
    lines = metrics.render().decode().splitlines()
    assert 'assay_requests_total{model="judge",outcome="ok",route="score"} 1.0' in lines
    assert "# TYPE assay_requests_total counter" in lines


def test_time_beside_scoring_is_kept_apart():
    """HTTP and parsing have a histogram of their own."""
    metrics = Metrics()
    metrics.http("judge", "score", 0.25)
    assert value(metrics, "assay_http_seconds_sum", **CALL) == 0.25


async def test_the_loops_lag_is_what_it_overslept():
    """A loop that is held up is seen to be late by as much."""
    metrics = Metrics()
    watch = asyncio.create_task(lag.watch(metrics))
    await asyncio.sleep(0)
    time.sleep(3 * lag.INTERVAL_S)  # noqa: ASYNC251  this is what holds it up
    await asyncio.sleep(lag.INTERVAL_S)  # due after the one that was held up
    watch.cancel()
    assert value(metrics, "assay_loop_lag_seconds_sum") >= 2 * lag.INTERVAL_S
