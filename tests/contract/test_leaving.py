"""A caller who leaves before the request is whole: counted, and no defect in the log."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.http.processes import until

if TYPE_CHECKING:
    from tests.http.processes import Server


@pytest.mark.parametrize(
    ("path", "route"),
    [("/get_reward", "openrlhf.get_reward"), ("/classify", "vllm.classify"), ("/score", "score")],
)
def test_half_a_body_is_counted_as_a_caller_gone(served: Server, path: str, route: str) -> None:
    """On a path of one contract, of several, and on one shared with a native route."""
    gone = {"route": route, "outcome": "client_gone", "model": ""}
    before = served.metric("assay_requests_total", **gone)
    address = httpx.URL(served.url)

    with socket.create_connection((address.host, address.port)) as caller:
        caller.sendall(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{".encode()
        )

    until("it is counted", lambda: served.metric("assay_requests_total", **gone) == before + 1)
