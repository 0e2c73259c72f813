"""A server that wants a key, and how each client sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guides.conftest import KEY

if TYPE_CHECKING:
    from tests.guides.conftest import RunExample
    from tests.http.processes import Server


@pytest.mark.parametrize(
    "name",
    [
        "rerank_with_cohere.py",
        "rerank_with_litellm.py",
        "rerank_with_llama_index.py",
        "score_with_infinity.py",
        "score_with_openai.py",
    ],
)
def test_a_clients_key_is_taken(narrow: Server, run_example: RunExample, name: str) -> None:
    """As a bearer token."""
    assert run_example(name, ASSAY_URL=narrow.url, ASSAY_API_KEY=KEY)
