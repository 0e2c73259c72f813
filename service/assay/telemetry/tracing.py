"""Spans of a request for OpenTelemetry: the whole, and in it admit, tokenize, queue and compute.

The SDK is imported where tracing is on and nowhere else. Where spans go, how many are kept and what
the service is called is what the standard `OTEL_...` variables say. Spans have names and numbers as
attributes, never a prompt.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from assay import __version__
from assay.client import proxies
from assay.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from requests import Session

    from assay.timings import Timings

Value = str | int | float
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Trace:
    """One request's span, and what is put in it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    @property
    def id(self) -> str:
        """The trace's id, as `traceparent` spells it."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def stage(
        self,
        name: str,
        begin: float,
        end: float,
        facts: Mapping[str, Value] | None = None,
        error: str | None = None,
    ) -> None:
        """Add a stage that is over; times are of the monotonic clock."""
        from opentelemetry import trace  # noqa: PLC0415  only where tracing is on

        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(self._span),
            start_time=self._epoch_ns + round(1e9 * begin),
            attributes=facts,
        )
        if error is not None:
            span.set_status(trace.StatusCode.ERROR, error)
            span.set_attribute("error.type", error)
        span.end(self._epoch_ns + round(1e9 * end))

    def answered(self, status: int, request_id: str) -> None:
        """Note the answer's status and the request's id."""
        from opentelemetry import trace  # noqa: PLC0415  only where tracing is on

        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("assay.request_id", request_id)
        if status >= 500:
            self._span.set_status(trace.StatusCode.ERROR)


class Tracing:
    """Makes the spans of requests."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("assay", __version__)

    @contextmanager
    def request(
        self, method: str, route: str | None, headers: Mapping[str, str]
    ) -> Iterator[Trace]:
        """Trace a request for as long as the block takes; `headers` may have `traceparent`."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  only where tracing is on
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        span = self._tracer.start_span(
            f"{method} {route}" if route else method,
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method} | ({"http.route": route} if route else {}),
        )
        token = _CURRENT.set(trace := Trace(self._tracer, span))
        try:
            yield trace
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            _CURRENT.reset(token)
            span.end()


@contextmanager
def exporting() -> Iterator[Tracing]:
    """Send spans by OTLP over HTTP until the block ends.

    Raises:
        SettingsError: The SDK isn't installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"setting 'tracing': {error.name} isn't there; pip install 'assay-rm[tracing]'"
        ) from error
    resource = Resource.create({"service.name": "assay", "service.version": __version__})
    provider = TracerProvider(
        resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=_session())))
    try:
        yield Tracing(provider)
    finally:
        provider.shutdown()


def _session() -> Session | None:
    """Return what sends to a collector on this machine past any proxy; None for one elsewhere."""
    from requests import Session  # noqa: PLC0415  the exporter's own

    named = (os.environ.get(name) for name in _ENDPOINTS)
    endpoint = next(filter(None, named), "http://localhost")
    try:
        host = urlsplit(endpoint).hostname or ""
    except ValueError:  # the exporter says so
        return None
    if not proxies.is_here(host):
        return None
    session = Session()
    session.trust_env = False
    return session


def trace_id() -> str | None:
    """Return the id of the trace that a request is part of, where it is traced."""
    trace = _CURRENT.get()
    return trace.id if trace else None


def refused(begin: float, code: str) -> None:
    """Note that a request didn't come through the door."""
    if trace := _CURRENT.get():
        trace.stage("admit", begin, time.monotonic(), error=code)


def passed(
    begin: float, timings: Timings, facts: Mapping[str, Value], error: str | None = None
) -> None:
    """Note the stages of a request that was admitted; the last one ended with `error`, if any.

    Of a request that is rendered in parts the first may be computed before the last is tokenized.
    """
    if (trace := _CURRENT.get()) is None:
        return
    stages = list(_stages(begin, timings, is_whole=error is None))
    for place, (name, first, last) in enumerate(stages, 1):
        trace.stage(name, first, last, facts, error if place == len(stages) else None)


def _stages(
    begin: float, timings: Timings, *, is_whole: bool
) -> Iterator[tuple[str, float, float]]:
    """Yield each stage that was begun, with its begin and its end."""
    yield "admit", begin, timings.admitted
    if timings.queued <= timings.admitted:  # it left before anything of it was tokenized
        yield "tokenize", timings.admitted, timings.ended
        return
    yield "tokenize", timings.admitted, timings.tokenized
    began = min(max(timings.began, timings.queued), timings.ended)
    has_run = timings.began <= timings.ended
    if has_run or not is_whole:
        yield "queue", timings.queued, began
    if has_run:
        yield "compute", began, timings.ended
