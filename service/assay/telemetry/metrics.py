"""Prometheus metrics on an explicit registry; labels come from closed sets.

The seconds observed here are the milliseconds that answers carry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.engine.messages import Done

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = tuple(round(1e-3 * 1.6**step, 5) for step in range(24))  # 1 ms to 50 s
_LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SIZES = tuple(2**power for power in range(17))
_SCORES = (-32, -16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8, 16, 32)
_STDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Every metric of one server."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry(auto_describe=True)
        by_call = ("model", "route")
        self._requests = self._counter(
            "requests",
            "Requests by outcome: ok, partial, or the error's code.",
            (*by_call, "outcome"),
        )
        self._items = self._counter("items", "Items scored.", by_call)
        self._tokens = self._counter("tokens", "Tokens of scored items, over members.", by_call)
        self._truncated = self._counter("truncated_items", "Items that were cut.", by_call)
        self._duration = self._histogram(
            "request_duration", "From parsed request to answer.", by_call
        )
        self._tokenize = self._histogram("tokenize", "Rendering and tokenizing a request.", by_call)
        self._queue = self._histogram("queue", "A request's time waiting.", by_call)
        self._compute = self._histogram("compute", "A request's batches on the device.", by_call)
        self._http = self._histogram(
            "http", "A request's time outside scoring: its body, parsing, the answer.", by_call
        )
        self._lag = Histogram(
            "loop_lag",
            "How late the front's event loop runs what is due.",
            namespace="assay",
            unit="seconds",
            buckets=_LAGS,
            registry=self.registry,
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
        self._score = Histogram(
            "score",
            "Raw scores.",
            ("model",),
            namespace="assay",
            buckets=_SCORES,
            registry=self.registry,
        )
        self._std = Histogram(
            "ensemble_std",
            "Standard deviation over members.",
            ("model",),
            namespace="assay",
            buckets=_STDS,
            registry=self.registry,
        )
        self._restarts = self._counter(
            "worker_restarts", "Worker restarts by reason: died, hung.", ("device", "reason")
        )
        self._exhausted = self._counter(
            "out_of_memory", "Batches that found no memory.", ("device", "model")
        )
        self._depth = Gauge(
            "queue_items", "Items waiting.", ("model",), namespace="assay", registry=self.registry
        )
        self._depth_tokens = Gauge(
            "queue_tokens", "Tokens waiting.", ("model",), namespace="assay", registry=self.registry
        )
        self._info = Gauge(
            "model_info",
            "1 for each served target.",
            ("model", "revision", "device", "dtype", "forward"),
            namespace="assay",
            registry=self.registry,
        )

    def request(self, model: str, route: str, outcome: str) -> None:
        """Count a request's end."""
        self._requests.labels(model, route, outcome).inc()

    def answered(
        self,
        model: str,
        route: str,
        *,
        tokenize_s: float,
        queue_s: float,
        compute_s: float,
        total_s: float,
        items: int,
        tokens: int,
        truncated: int,
    ) -> None:
        """Note an answered request's sizes and times."""
        self._items.labels(model, route).inc(items)
        self._tokens.labels(model, route).inc(tokens)
        self._truncated.labels(model, route).inc(truncated)
        self._duration.labels(model, route).observe(total_s)
        self._tokenize.labels(model, route).observe(tokenize_s)
        self._queue.labels(model, route).observe(queue_s)
        self._compute.labels(model, route).observe(compute_s)

    def http(self, model: str, route: str, seconds: float) -> None:
        """Note what an answered request took beside its scoring."""
        self._http.labels(model, route).observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """Note how late the loop was."""
        self._lag.observe(seconds)

    def scores(self, model: str, scores: Sequence[float], stds: Sequence[float]) -> None:
        """Note the raw scores of a target and, for an ensemble, their spread."""
        score, std = self._score.labels(model), self._std.labels(model)
        for value in scores:
            score.observe(value)
        for value in stds:
            std.observe(value)

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

    def worker_restarted(self, device: str, reason: str) -> None:
        """Note a restart."""
        self._restarts.labels(device, reason).inc()

    def out_of_memory(self, device: str, model: str) -> None:
        """Note a batch that found no memory."""
        self._exhausted.labels(device, model).inc()

    def model(self, name: str, *, revision: str, device: str, dtype: str, forward: str) -> None:
        """State what is served under a name."""
        self._info.labels(name, revision, device, dtype, forward).set(1)

    def depth(self, model: str, *, items: int, tokens: int) -> None:
        """State how much waits for a model."""
        self._depth.labels(model).set(items)
        self._depth_tokens.labels(model).set(tokens)

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, namespace="assay", registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(
            name,
            text,
            labels,
            namespace="assay",
            unit="seconds",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _sizes(self, name: str, text: str) -> Histogram:
        return Histogram(
            name, text, ("model",), namespace="assay", buckets=_SIZES, registry=self.registry
        )
