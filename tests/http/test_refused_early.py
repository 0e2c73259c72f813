"""What is refused before any route looks at it is in the metrics as well."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.http.conftest import KEYS, MAX_BODY_BYTES
from tests.http.processes import until

if TYPE_CHECKING:
    from tests.http.processes import Server

LARGE = b"{" + b" " * MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("method", "path", "key", "body", "route", "outcome"),
    [
        ("POST", "/score", "wrong", b"{}", "score", "unauthorized"),
        ("GET", "/metrics", "wrong", b"", "none", "unauthorized"),
        ("POST", "/admin/load", KEYS[0], b"{}", "none", "forbidden"),
        ("GET", "/nope-of-this-name", KEYS[0], b"", "none", "unknown_route"),
        ("GET", "/models/nope", KEYS[0], b"", "none", "unknown_model"),
        ("GET", "/score", KEYS[0], b"", "score", "method_not_allowed"),
        ("POST", "/score", KEYS[0], LARGE, "score", "body_too_large"),
        ("POST", "/v1/score", KEYS[0], LARGE, "score", "body_too_large"),
        ("POST", "/rerank", KEYS[0], LARGE, "rerank", "body_too_large"),
        ("POST", "/tokenize", KEYS[0], b"{}", "tokenize", "invalid_field"),
    ],
)
def test_each_refusal_is_counted_once(
    narrow: Server, method: str, path: str, key: str, body: bytes, route: str, outcome: str
) -> None:
    """Under no model, and a route of a closed set."""
    labels = {"model": "", "route": route, "outcome": outcome}
    total = narrow.metric("assay_requests_total")
    before = narrow.metric("assay_requests_total", **labels)

    with httpx.Client(base_url=narrow.url) as http:
        answer = http.request(method, path, headers={"X-Api-Key": key}, content=body)

    assert answer.is_error
    assert narrow.metric("assay_requests_total", **labels) == before + 1
    assert narrow.metric("assay_requests_total") == total + 1


def test_a_body_that_is_too_large_on_its_way_is_counted_once(narrow: Server) -> None:
    """Its length wasn't stated, and the route that read it has counted it."""
    labels = {"route": "score", "outcome": "body_too_large"}
    before = narrow.metric("assay_requests_total", **labels)

    narrow.http.post("/score", content=iter([LARGE]))

    assert narrow.metric("assay_requests_total", **labels) == before + 1


def test_a_head_that_is_too_large_is_counted(narrow: Server) -> None:
    """There is no request yet, and no path that it is for."""
    labels = {"model": "", "route": "none", "outcome": "head_too_large"}
    before = narrow.metric("assay_requests_total", **labels)
    address = httpx.URL(narrow.url)

    with socket.create_connection((address.host, address.port)) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nx-filler: " + b"a" * 200_000)
        until(
            "it is counted",
            lambda: narrow.metric("assay_requests_total", **labels) == before + 1,
        )
