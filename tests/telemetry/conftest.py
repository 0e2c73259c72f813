"""A server that logs JSON and sends spans, and what takes the spans."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.http import checkpoints
from tests.http.processes import serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

MAX_QUEUED_TOKENS = 2_000


@dataclass
class Collector:
    """Takes spans by OTLP over HTTP, as OpenTelemetry's own collector does."""

    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)

    def of(self, trace_id: str, name: str | None = None) -> list[Any]:
        """Return the spans of a trace, of one name or all."""
        return [
            span
            for span in list(self.spans)
            if span.trace_id.hex() == trace_id and name in (None, span.name)
        ]

    def whole(self, trace_id: str) -> dict[str, Any]:
        """Return the spans of a trace by their names, once its request's own has come."""
        spans = until(
            "the request's span has come",
            lambda: self.of(trace_id) if self._has_root(trace_id) else None,
        )
        return {span.name: span for span in spans}

    def take(self, body: bytes) -> None:
        """Take what an exporter posts."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource |= facts(group.resource)
            for scope in group.scope_spans:
                self.spans += scope.spans

    def _has_root(self, trace_id: str) -> bool:
        return any(span.kind == span.SPAN_KIND_SERVER for span in self.of(trace_id))


def facts(span: Any) -> dict[str, Any]:
    """Return a span's attributes."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="package")
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector and its address."""
    taker = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/v1/traces"):  # a proxy is asked for a whole URL
                taker.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield taker, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="package")
def observed(
    tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]
) -> Iterator[Server]:
    """A server of two models and the ensemble of them, traced, with a log of JSON."""
    folder = tmp_path_factory.mktemp("observed")
    one = checkpoints.build(folder / "one")
    other = checkpoints.copy(one, folder / "other")
    checkpoints.edit_weights(
        other,
        lambda tensors: tensors.update(
            {"score.weight": np.roll(tensors["score.weight"], 5, axis=1)}
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector[1])
        patch.setenv("OTEL_SERVICE_NAME", "judges")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with serving(
            folder / "run",
            one,
            other,
            ensembles='{"both": ["one", "other"]}',
            max_queued_tokens=MAX_QUEUED_TOKENS,
            log_format="json",
            tracing="true",
        ) as server:
            yield server
