"""Prometheus metrics on an explicit registry; labels come from closed sets.

The seconds observed here are the milliseconds that answers carry. What each is: docs/metrics.md,
which `reference` writes.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from assay import __version__
from assay.telemetry.score_length_sums import LengthMoments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from assay.timings import Timings
    from assay.worker_protocol import Done

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# What each label may be.
LABELS: Mapping[str, str] = MappingProxyType(
    {
        "model": "a served target, or one of its members; empty where a request named none",
        "route": "the native route (`score`, `compare`, `best-of-n`, `tokenize`) or the contract's "
        "name; `none` where a request was refused that was for no such path",
        "outcome": "of requests `ok`, `partial`, `client_gone`, `head_too_large`, or an error's "
        "code; of changes `ok`, `refused`, `unfinished`",
        "reason": "of shed items `overloaded`, `draining`, `not_ready`, `deadline_exceeded`, "
        "`client_gone`; of restarts `died`, `hung`; of requests without a good key `missing`, "
        "`unknown`, `expired`; of memory `all` (others hold most of it), "
        "`caller` (this caller does), `slow_reader` (cut off, its answer unread)",
        "device": "as the settings name it: `cpu`, `cuda:0`",
        "kind": "`resident`: of the process; `device`: what torch holds on a GPU",
        "length": "`response`: characters of the response; `text`: characters of a text that came "
        "rendered, its prompt included; `ids`: tokens that came as ids, the prompt's included",
        "moment": "`items`, `length`, `length_squared`, `score_positive`, `score_negative`, "
        "`score_squared`, `product_positive`, `product_negative`; of margins `absolute`, `squared`",
        "decision": "`decided` or `undecided`, as the answer says",
        "cut": "`prompt`, `response`, `both`, or of an item without these `text`",
        "source": "`admin`: its routes; `signal`: SIGHUP; `key_file`: a key file that was written",
        "revision": "of the checkpoint, or of a target's members together",
        "dtype": "`float32`, `bfloat16` or `float16`",
        "quantized": "what linear layers are rounded to: `none`, `int8` or `fp8`",
        "forward": "`packed` or `padded`",
        "version": "of Assay",
        "le": "a bucket's upper bound",
    }
)
CLIENT_GONE = "client_gone"
DECISIONS = ("decided", "undecided")
MARGIN_MOMENTS = ("absolute", "squared")
SHED_REASONS = ("overloaded", "draining", "not_ready", "deadline_exceeded", CLIENT_GONE)
CUTS = ("prompt", "response", "both", "text")
UNAUTHORIZED_REASONS = ("missing", "unknown", "expired")
RESTART_REASONS = ("died", "hung")
NO_ROUTE = "none"
HEAD_TOO_LARGE = "head_too_large"  # no error of ours: refused before there is a request
UNAUTHORIZED = "unauthorized"
CHANGE_SOURCES = ("admin", "signal", "key_file")
CHANGE_OUTCOMES = ("ok", "refused", "unfinished")
HELD_BY_ALL, HELD_BY_CALLER, SLOW_READER = "all", "caller", "slow_reader"
FAILURES = ("forward_failed", "non_finite_score", "internal_error")  # the server's own

# 1 ms to 14 minutes: `max_wait_s` is ten, and then something may run
_SECONDS = tuple(round(1e-3 * 1.6**step, 5) for step in range(30))
_LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SIZES = tuple(2**power for power in range(17))
_MAGNITUDES = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_SCORES = (*(-magnitude for magnitude in reversed(_MAGNITUDES)), 0, *_MAGNITUDES)
_STDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SHARES = (0.0, 0.2, 0.25, 0.34, 0.4, 0.5, 0.6, 0.67, 0.75, 0.8, 0.9, 0.99, 1.0)


class Metrics:
    """Every metric of one server."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry(auto_describe=True)
        self.labels: dict[str, tuple[str, ...]] = {}  # of each metric that has some, by its name
        self._called: set[tuple[str, str]] = set()
        by_call = ("model", "route")
        self._requests = self._counter(
            "requests",
            "Requests by outcome: ok, partial, or the error's code.",
            (*by_call, "outcome"),
        )
        self._requests.labels("", NO_ROUTE, UNAUTHORIZED)
        self._items = self._counter("items", "Items scored.", by_call)
        self._tokens = self._counter("tokens", "Tokens of scored items, over members.", by_call)
        self._truncated = self._counter(
            "truncated_items", "Items that were cut, by what was.", (*by_call, "cut")
        )
        self._unexpected = self._counter(
            "unexpected_end_items",
            "Texts and ids that end with another token than the template's conversations do, as "
            "generation that was cut off does: they are read at that token.",
            by_call,
        )
        self._mentions = self._counter(
            "special_token_items",
            "Items whose texts hold special tokens, which are read as if the chat template had "
            "written them, or split.",
            by_call,
        )
        self._shed = self._counter(
            "shed_items", "Items that were turned away or left unscored.", ("model", "reason")
        )
        self._duration = self._histogram(
            "request_duration",
            "From parsed request to answer; where the server failed an admitted one, to the error.",
            by_call,
        )
        self._tokenize = self._histogram("tokenize", "Rendering and tokenizing a request.", by_call)
        self._queue = self._histogram(
            "queue", "A request's time waiting, to its end where it failed.", by_call
        )
        self._compute = self._histogram("compute", "A request's batches on the device.", by_call)
        self._http = self._histogram(
            "http", "A request's time outside scoring: its body, parsing, the answer.", by_call
        )
        self._lag = self._histogram(
            "loop_lag", "How late the front's event loop runs what is due.", buckets=_LAGS
        )
        self._unauthorized = self._counter(
            "unauthorized", "Requests without a good API key, by what was wrong.", ("reason",)
        )
        for reason in UNAUTHORIZED_REASONS:
            self._unauthorized.labels(reason)
        self._connections_refused = self._counter(
            "connections_refused", "Connections that were one too many, and closed.", ()
        )
        self._log_lines_dropped = self._counter(
            "log_lines_dropped",
            "Lines of the log that were lost, for whoever reads it is slow.",
            (),
        )
        ProcessCollector("assay", registry=self.registry)  # the front's CPU seconds, memory, files
        self._batch_items = self._sizes("batch_items", "Items of a batch.")
        self._batch_tokens = self._sizes("batch_tokens", "Tokens computed by a batch.")
        self._computed = self._counter("computed_tokens", "Tokens the device computed.", ("model",))
        self._shared = self._counter(
            "shared_tokens", "Tokens that needn't be computed.", ("model",)
        )
        self._held = self._counter(
            "held_tokens",
            "Tokens that a batch read from what earlier ones left on the device.",
            ("model",),
        )
        self._padded = self._counter("padded_tokens", "Padding the device computed.", ("model",))
        self._score = self._distribution("score", "Raw scores.", _SCORES)
        self._std = self._distribution(
            "ensemble_std", "Standard deviation over members of an item's raw scores.", _STDS
        )
        self._agreement = self._distribution(
            "agreement",
            "Share of an ensemble's members that order two neighbouring responses to one prompt as "
            "their mean does.",
            _SHARES,
        )
        self._moments = LengthMoments(self.registry)
        self.labels[self._moments.name] = self._moments.labels
        self._add_those_of_calibrations()
        self._renderer_restarts = self._counter(
            "renderer_restarts",
            "Ends of a process that renders: its model's template or tokenizer took too much.",
            ("model",),
        )
        self._restarts = self._counter(
            "worker_restarts", "Worker restarts by reason: died, hung.", ("device", "reason")
        )
        self._exhausted = self._counter(
            "out_of_memory", "Batches that found no memory.", ("device", "model")
        )
        self._worker_up = self._gauge(
            "worker_up", "1 while a worker is ready, else 0.", ("device",)
        )
        self._worker_memory = self._gauge(
            "worker_memory_bytes", "Memory of a worker.", ("device", "kind")
        )
        self._depth = self._gauge("queue_items", "Items waiting.", ("model",))
        self._depth_tokens = self._gauge("queue_tokens", "Tokens waiting.", ("model",))
        self._admitted = self._gauge(
            "admitted_tokens", "Tokens of requests at work, as estimated at the door."
        )
        self._limit = self._gauge(
            "admitted_tokens_limit", "How many may be before requests are refused."
        )
        self._add_those_of_the_door()
        self._info = self._gauge(
            "model_info",
            "1 for each served target.",
            ("model", "revision", "device", "dtype", "quantized", "forward"),
        )
        self._gauge("build_info", "1, with the version.", ("version",)).labels(__version__).set(1)

    def _add_those_of_calibrations(self) -> None:
        """Add how comparisons by calibrated targets come out, and how they were when fitted."""
        self._compared = self._counter(
            "comparisons",
            "Comparisons of two responses by a target that has a calibration.",
            ("model", "decision"),
        )
        self._margins = self._counter(
            "margins",
            "Sums of |margin| and of margin² over those comparisons: raw, of mean rewards.",
            ("model", "moment"),
        )
        self._expected_margins = self._gauge(
            "calibration_margin",
            "Means of |margin| and of margin² over the pairs that the calibration was fitted on.",
            ("model", "moment"),
        )
        self._calibrated_at = self._gauge(
            "calibration_age_seconds", "Seconds since the calibration was fitted.", ("model",)
        )

    def _add_those_of_the_door(self) -> None:
        """Add what counts changes, and what requests hold."""
        self._changes = self._counter(
            "changes", "Changes of what is served, of settings and keys.", ("source", "outcome")
        )
        for source in CHANGE_SOURCES:
            for outcome in CHANGE_OUTCOMES:
                self._changes.labels(source, outcome)
        self._certificate = self._gauge(
            "certificate_expires_timestamp_seconds",
            "Unix time at which the certificate ends that new connections see; 0 without TLS.",
        )
        self._holding = self._gauge(
            "held_bytes",
            "Memory that requests hold: bodies with what is made of them, answers until sent.",
        )
        self._holding_limit = self._gauge(
            "held_bytes_limit", "How much of that may be before requests are refused."
        )
        self._held_refused = self._counter(
            "held_refusals", "Requests refused, or cut off, for the memory they hold.", ("reason",)
        )
        for reason in (HELD_BY_ALL, HELD_BY_CALLER, SLOW_READER):
            self._held_refused.labels(reason)

    def request(self, model: str, route: str, outcome: str) -> None:
        """Count a request's end.

        How it may fail is counted from a route's first request on: a counter that isn't there until
        it is 1 has never increased.
        """
        if (model, route) not in self._called:
            self._called.add((model, route))
            for failure in FAILURES:
                self._requests.labels(model, route, failure)
        self._requests.labels(model, route, outcome).inc()

    def answered(
        self,
        model: str,
        route: str,
        timings: Timings,
        *,
        items: int,
        tokens: int,
        cuts: Mapping[str, int],
        unexpected_ends: int,
        special_tokens: int,
    ) -> None:
        """Note an answered request's sizes and times."""
        self._items.labels(model, route).inc(items)
        self._tokens.labels(model, route).inc(tokens)
        for cut in CUTS:
            self._truncated.labels(model, route, cut).inc(cuts.get(cut, 0))
        self._unexpected.labels(model, route).inc(unexpected_ends)
        self._mentions.labels(model, route).inc(special_tokens)
        self._duration.labels(model, route).observe(timings.total_s)
        self._tokenize.labels(model, route).observe(timings.tokenize_s)
        self._queue.labels(model, route).observe(timings.queue_s)
        self._compute.labels(model, route).observe(timings.compute_s)

    def failed(self, model: str, route: str, timings: Timings) -> None:
        """Note how long a request took that was admitted, and that the server then failed."""
        self._duration.labels(model, route).observe(timings.total_s)
        self._queue.labels(model, route).observe(timings.queue_s)

    def shed(self, model: str, reason: str, items: int) -> None:
        """Count items that weren't scored though nothing was wrong with them."""
        if items:
            self._shed.labels(model, reason).inc(items)

    def http(self, model: str, route: str, seconds: float) -> None:
        """Note what an answered request took beside its scoring."""
        self._http.labels(model, route).observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """Note how late the loop was."""
        self._lag.observe(seconds)

    def unauthorized(self, reason: str) -> None:
        """Count a request that had no good key."""
        self._unauthorized.labels(reason).inc()

    def connection_refused(self) -> None:
        """Count a connection that was one too many."""
        self._connections_refused.inc()

    def log_lines_dropped(self, count: int) -> None:
        """Count lines of the log that nobody will read; any thread may."""
        self._log_lines_dropped.inc(count)

    def scores(self, model: str, scores: Sequence[float], stds: Sequence[float]) -> None:
        """Note the raw scores of a target and, for an ensemble, their spread."""
        score, std = self._score.labels(model), self._std.labels(model)
        for value in scores:
            score.observe(value)
        for value in stds:
            std.observe(value)

    def compared(self, model: str, margin: float, *, is_undecided: bool) -> None:
        """Note a comparison of two responses by a target that has a calibration."""
        self._compared.labels(model, DECISIONS[is_undecided]).inc()
        for moment, value in zip(MARGIN_MOMENTS, (abs(margin), margin * margin), strict=True):
            self._margins.labels(model, moment).inc(value)

    def calibration(
        self, model: str, *, created: float, margins: tuple[float | None, float | None]
    ) -> None:
        """State when a target's calibration was fitted, and its mean |margin| and margin²."""
        self._calibrated_at.labels(model).set_function(lambda: time.time() - created)
        for decision in DECISIONS:
            self._compared.labels(model, decision)
        for moment, value in zip(MARGIN_MOMENTS, margins, strict=True):
            self._margins.labels(model, moment)
            if value is not None:
                self._expected_margins.labels(model, moment).set(value)

    def lengths(self, model: str, length: str, pairs: Iterable[tuple[float, float]]) -> None:
        """Note (length, raw score) of items whose length is of one kind."""
        self._moments.add(model, length, pairs)

    def agreements(self, model: str, shares: Iterable[float]) -> None:
        """Note which share of an ensemble's members ordered two responses as their mean did."""
        agreement = self._agreement.labels(model)
        for share in shares:
            agreement.observe(share)

    def batch(
        self,
        model: str,
        done: Done,
        *,
        items: int,
        tokens: int,
        shared_tokens: int,
        held_tokens: int,
    ) -> None:
        """Note a finished batch.

        `tokens` were computed, its items have `shared_tokens` more; `held_tokens`, each counted
        once, were there from earlier batches.
        """
        self._batch_items.labels(model).observe(items)
        self._batch_tokens.labels(model).observe(tokens)
        self._computed.labels(model).inc(tokens)
        self._shared.labels(model).inc(shared_tokens)
        self._held.labels(model).inc(held_tokens)
        self._padded.labels(model).inc(done.padded_tokens)

    def renderer_restarted(self, model: str) -> None:
        """Note that a process that renders ended over a round."""
        self._renderer_restarts.labels(model).inc()

    def worker_restarted(self, device: str, reason: str) -> None:
        """Note a restart."""
        self._restarts.labels(device, reason).inc()

    def out_of_memory(self, device: str, model: str) -> None:
        """Note a batch that found no memory."""
        self._exhausted.labels(device, model).inc()

    def worker(
        self,
        device: str,
        models: Iterable[str],
        *,
        is_ready: bool,
        resident_bytes: int | None,
        device_bytes: int | None,
    ) -> None:
        """State how a device's worker is; what may happen to it is counted from now on."""
        for reason in RESTART_REASONS:
            self._restarts.labels(device, reason)
        for model in models:
            self._exhausted.labels(device, model)
        self._worker_up.labels(device).set(is_ready)
        for kind, size in (("resident", resident_bytes), ("device", device_bytes)):
            if size is not None:
                self._worker_memory.labels(device, kind).set(size)

    def model(
        self, name: str, *, revision: str, device: str, dtype: str, quantized: str, forward: str
    ) -> None:
        """State what is served under a name."""
        self._info.labels(name, revision, device, dtype, quantized, forward).set(1)
        self._renderer_restarts.labels(name)
        for reason in SHED_REASONS:
            self._shed.labels(name, reason)

    def forget_models(self) -> None:
        """State nothing of what was served so far."""
        for gauge in (
            self._info,
            self._depth,
            self._depth_tokens,
            self._worker_up,
            self._worker_memory,
            self._calibrated_at,
            self._expected_margins,
        ):
            gauge.clear()

    def depth(self, model: str, *, items: int, tokens: int) -> None:
        """State how much waits for a model."""
        self._depth.labels(model).set(items)
        self._depth_tokens.labels(model).set(tokens)

    def admitted(self, *, tokens: int, limit: int) -> None:
        """State how much is admitted, and how much may be."""
        self._admitted.set(tokens)
        self._limit.set(limit)

    def changed(self, source: str, outcome: str) -> None:
        """Count a change that was asked for: `ok`, `unfinished`, or the code of why it isn't."""
        label = outcome if outcome in CHANGE_OUTCOMES else "refused"
        self._changes.labels(source, label).inc()

    def certificate(self, expires: float) -> None:
        """State when the certificate ends, in seconds since 1970."""
        self._certificate.set(expires)

    def holding(self, size: Callable[[], float], *, limit: int) -> None:
        """State how much memory requests hold, whenever that is asked, and how much they may."""
        self._holding.set_function(size)
        self._holding_limit.set(limit)

    def held_refused(self, reason: str) -> None:
        """Count who was refused, or cut off, for the memory that requests hold."""
        self._held_refused.labels(reason).inc()

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        self.labels[f"assay_{name}"] = labels
        return Counter(name, text, labels, namespace="assay", registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        self.labels[f"assay_{name}"] = labels
        return Gauge(name, text, labels, namespace="assay", registry=self.registry)

    def _histogram(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        buckets: tuple[float, ...] = _SECONDS,
    ) -> Histogram:
        self.labels[f"assay_{name}_seconds"] = labels
        return Histogram(
            name,
            text,
            labels,
            namespace="assay",
            unit="seconds",
            buckets=buckets,
            registry=self.registry,
        )

    def _sizes(self, name: str, text: str) -> Histogram:
        return self._distribution(name, text, _SIZES)

    def _distribution(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        """Return a histogram by model of what has no unit."""
        self.labels[f"assay_{name}"] = ("model",)
        return Histogram(
            name, text, ("model",), namespace="assay", buckets=buckets, registry=self.registry
        )
