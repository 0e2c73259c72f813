"""What is refused before its body is read looks as the other errors of its contract do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from assay.api.contracts import CONTRACTS
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

KEY = "a-key-for-tests"
MAX_BODY_BYTES = 4096
NATIVE = {"/score", "/v1/score", "/compare", "/tokenize"}
PATHS = sorted({path for contract in CONTRACTS for path in contract.paths})


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key and takes small bodies."""
    root = tmp_path_factory.mktemp("closed")
    tiny = checkpoints.build(root / "tiny")
    with serving(root / "run", tiny, key=KEY, api_key=KEY, max_body_bytes=MAX_BODY_BYTES) as server:
        yield server


def form(value: Any) -> Any:
    """Return the keys of an answer, in their order, and the types of what they hold."""
    if isinstance(value, dict):
        return [(key, form(one)) for key, one in value.items() if key != "param"]
    return type(value).__name__


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_key_and_a_large_body_are_refused_in_the_contracts_shape(
    closed: Server, path: str
) -> None:
    """401, and 413 of a body that states its length and of one that streams."""
    unreadable = closed.http.post(path, content=b"[")

    keyless = httpx.post(closed.url + path, json={})
    large = closed.http.post(path, content=b" " * (MAX_BODY_BYTES + 1))
    streamed = closed.http.post(path, content=iter([b" " * 1024] * 5))

    assert unreadable.status_code == 400
    assert (keyless.status_code, keyless.headers["www-authenticate"]) == (401, "Bearer")
    assert (large.status_code, streamed.status_code) == (413, 413)
    for answer in (keyless, large, streamed):
        assert form(answer.json()) == form(unreadable.json())
        assert "request_id" in answer.json() or path not in NATIVE
    assert str(MAX_BODY_BYTES) in large.text
    assert "Bearer KEY" in keyless.text


@pytest.mark.parametrize("path", PATHS)
def test_another_method_is_told_which_one_is_taken(closed: Server, path: str) -> None:
    """405 and `Allow`, as for a native route; the document has the path's bodies."""
    answer = closed.http.get(path)
    taken = closed.http.get("/openapi.json").json()["paths"][path]["post"]

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert taken["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
