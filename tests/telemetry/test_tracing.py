"""Spans as a collector gets them from a real server, and those of an in-memory exporter."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from assay.errors import SettingsError
from assay.telemetry import tracing
from tests.http import checkpoints
from tests.http.processes import serving, until
from tests.telemetry.conftest import facts

STAGES = ["admit", "tokenize", "queue", "compute"]
ERROR = Status.STATUS_CODE_ERROR
SECRET = "xylophone"
ITEMS = [
    {"prompt": f"Is {SECRET} a word?", "response": f"{SECRET} is one."},
    {"prompt": f"Is {SECRET} a word?", "response": "No."},
]
PARENT = "b7ad6b7169203331"


def traceparent(trace_id, *, sampled=True):
    return {"traceparent": f"00-{trace_id}-{PARENT}-{'01' if sampled else '00'}"}


@pytest.fixture
def trace(observed, collector):
    """The spans of one request that came with a `traceparent`, by name, and its trace's id."""
    trace_id = f"{time.time_ns():032x}"
    headers = traceparent(trace_id) | {"X-Request-Id": "asked-by-me"}
    answer = observed.http.post("/score", json={"model": "both", "inputs": ITEMS}, headers=headers)
    assert answer.is_success
    return collector[0].whole(trace_id), answer.json()


def test_a_request_is_one_span_with_its_stages(trace):
    """It continues the caller's trace; the stages are its children."""
    spans, _ = trace
    root = spans.pop("POST /score")

    assert root.parent_span_id.hex() == PARENT
    assert sorted(spans) == sorted(STAGES)
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}


def test_stages_follow_each_other_within_the_request(trace):
    """Each begins where the last one ends; compute ends before the answer is sent."""
    spans, _ = trace
    root = spans["POST /score"]
    times = [
        time
        for name in STAGES
        for time in (spans[name].start_time_unix_nano, spans[name].end_time_unix_nano)
    ]

    assert times == sorted(times)
    assert root.start_time_unix_nano <= times[0]
    assert times[-1] <= root.end_time_unix_nano


def test_a_span_says_what_the_answer_says(trace):
    """Request id, status, target, and the tokens that the answer counts."""
    spans, answer = trace
    usage = answer["usage"]

    assert facts(spans["POST /score"]) == {
        "http.request.method": "POST",
        "http.route": "/score",
        "http.response.status_code": 200,
        "assay.request_id": "asked-by-me",
    }
    assert facts(spans["compute"]) == {
        "assay.model": "both",
        "assay.route": "score",
        "assay.items": 2,
        "assay.tokens": usage["tokens"],
        "assay.computed_tokens": usage["computed_tokens"],
    }


def test_no_span_has_a_word_of_what_was_scored(trace):
    """Neither of a prompt nor of a response."""
    spans, _ = trace

    assert [name for name, span in spans.items() if SECRET in str(span)] == []


@pytest.fixture
def busy(observed):
    """The server while its device is at a batch that doesn't end before the test does."""

    def has_a_queue():
        return observed.metric("assay_queue_items") > 0

    with ThreadPoolExecutor() as callers, observed.held():
        asking = [callers.submit(observed.score, inputs=ITEMS)]
        while not (has_a_queue() and has_a_queue()):  # an idle device takes all that waits
            asking.append(callers.submit(observed.score, inputs=ITEMS))
        yield observed
    assert all(one.result().is_success for one in asking)


def statuses(spans):
    """Return each stage's type of error, if it has one."""
    return {
        name: facts(span).get("error.type") if span.status.code == ERROR else None
        for name, span in spans.items()
        if name in STAGES
    }


def test_a_request_that_comes_too_late_shows_where_it_waited(busy, collector):
    """Its last stage is the queue, which has the error."""
    trace_id = f"{time.time_ns():032x}"
    body = {"inputs": ITEMS, "deadline_ms": 1_000}
    answer = busy.http.post("/score", json=body, headers=traceparent(trace_id))

    spans = collector[0].whole(trace_id)

    assert answer.status_code == 504
    assert statuses(spans) == {"admit": None, "tokenize": None, "queue": "deadline_exceeded"}
    assert facts(spans["queue"])["assay.model"] == "one"


def test_a_request_whose_caller_leaves_shows_how_far_it_came(busy, collector):
    """What it was at when the caller left has that as its error."""
    trace_id = f"{time.time_ns():032x}"
    before = busy.metric("assay_queue_items")
    address = httpx.URL(busy.url)
    body = json.dumps({"inputs": ITEMS}).encode()
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    sent = f"{head}traceparent: {traceparent(trace_id)['traceparent']}\r\n\r\n".encode() + body
    with socket.create_connection((address.host, address.port)) as caller:
        caller.sendall(sent)
        until("it waits", lambda: busy.metric("assay_queue_items") > before)

    spans = collector[0].whole(trace_id)

    assert statuses(spans) == {"admit": None, "tokenize": None, "queue": "client_gone"}


def test_a_path_that_isnt_served_is_not_named(observed, collector):
    """A path may hold anything; only those of Assay are words of a closed set."""
    trace_id = f"{time.time_ns():032x}"
    observed.http.get(f"/{SECRET}", headers=traceparent(trace_id))

    spans = collector[0].whole(trace_id)

    assert list(spans) == ["GET"]
    assert SECRET not in str(spans["GET"])


def test_a_request_without_a_trace_begins_one(observed, collector):
    """Its span has no parent."""
    observed.http.post("/score", json={"inputs": []}, headers={"X-Request-Id": "alone"})

    def found():
        return [one for one in collector[0].spans if facts(one).get("assay.request_id") == "alone"]

    (root,) = until("the span has come", found)

    assert root.parent_span_id == b""


def test_what_the_caller_doesnt_sample_isnt_sent(observed, collector):
    """The flag of `traceparent` decides."""
    dropped, kept = f"{time.time_ns():032x}", f"{time.time_ns() + 1:032x}"
    observed.http.post(
        "/score", json={"inputs": ITEMS}, headers=traceparent(dropped, sampled=False)
    )
    observed.http.post("/score", json={"inputs": ITEMS}, headers=traceparent(kept))

    assert collector[0].whole(kept)
    assert collector[0].of(dropped) == []


def test_what_machines_poll_has_no_span(observed, collector):
    """Health and metrics are asked for every few seconds."""
    polled, after = f"{time.time_ns():032x}", f"{time.time_ns() + 1:032x}"
    observed.http.get("/health/ready", headers=traceparent(polled))
    observed.http.get("/metrics", headers=traceparent(polled))
    observed.http.get("/models", headers=traceparent(after))

    assert collector[0].whole(after)
    assert collector[0].of(polled) == []


def test_the_service_is_named_by_the_standard_variable(observed, collector, trace):
    """OTEL_SERVICE_NAME wins over our own word."""
    assert collector[0].resource["service.name"] == "judges"
    assert "service.version" in collector[0].resource


def test_other_contracts_are_traced_as_well(observed, collector):
    """All scoring goes one way; the stages are the same."""
    trace_id = f"{time.time_ns():032x}"
    answer = observed.http.post(
        "/rerank",
        json={"query": "a?", "texts": ["b", "c"], "raw_scores": True},
        headers=traceparent(trace_id),
    )
    assert answer.is_success, answer.text

    assert set(STAGES) < collector[0].whole(trace_id).keys()


def test_a_collector_that_is_away_holds_nothing_up(tmp_path, monkeypatch):
    """Requests are answered, and the server still stops with code 0."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    model = checkpoints.build(tmp_path / "one")

    with serving(tmp_path / "run", model, tracing="true") as server:
        assert server.score(inputs=ITEMS).is_success


@pytest.mark.parametrize("is_here", [True, False])
def test_a_collector_on_this_machine_is_sent_spans_past_any_proxy(collector, monkeypatch, is_here):
    """Whatever the variables hold; one elsewhere gets them through the proxy."""
    taker, url = collector
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    # The collector plays the proxy on the way to the one elsewhere.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9" if is_here else url)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9" if is_here else url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url if is_here else "http://spans.invalid")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    trace_id = f"{time.time_ns():032x}"

    with (
        tracing.exporting() as maker,
        maker.request("POST", "/score", traceparent(trace_id)) as trace,
    ):
        trace.answered(200, "id")

    assert len(taker.of(trace_id)) == 1


@pytest.fixture
def memory():
    """A tracing of its own, and the exporter that keeps its spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield tracing.Tracing(provider), exporter
    provider.shutdown()


def test_a_refusal_is_an_error_of_the_door(memory):
    """The stage has the error's code, and the request the status."""
    maker, exporter = memory
    with maker.request("POST", "/score", {}) as trace:
        tracing.refused(time.monotonic(), "overloaded")
        trace.answered(503, "id")

    admit, root = exporter.get_finished_spans()

    assert (admit.name, admit.attributes["error.type"]) == ("admit", "overloaded")
    assert admit.status.status_code == root.status.status_code == StatusCode.ERROR
    assert root.kind == SpanKind.SERVER


def test_a_route_that_breaks_ends_its_span(memory):
    """With the exception's class, never its words."""
    maker, exporter = memory
    with pytest.raises(LookupError), maker.request("POST", "/score", {}):
        raise LookupError(SECRET)

    (root,) = exporter.get_finished_spans()

    assert root.attributes["error.type"] == "LookupError"
    assert SECRET not in root.to_json()


def test_outside_of_a_trace_nothing_is_noted(memory):
    """Scoring needs no tracing: the command line has none."""
    tracing.refused(0.0, "overloaded")
    assert tracing.trace_id() is None
    assert memory[1].get_finished_spans() == ()


def test_without_the_sdk_the_setting_says_what_to_install(monkeypatch):
    """One sentence, not a traceback."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    wanted = pytest.raises(SettingsError, match=r"pip install 'assay-rm\[tracing\]'")
    with wanted, tracing.exporting():
        pass


def test_the_sdk_is_not_imported_where_tracing_is_off():
    """FastAPI brings OpenTelemetry's bare interfaces; what records and sends is left alone."""
    code = (
        "import sys, assay.cli.serve, assay.api.server\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "opentelemetry.sdk" not in done.stdout
    assert "opentelemetry.exporter" not in done.stdout
