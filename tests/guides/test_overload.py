"""Clients that try again wait an overload out, as long as the server tells them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cohere
import httpx
import openai
import pytest

from tests.contract.served import overloaded
from tests.guides.conftest import KEY
from tests.http.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.processes import Server

RETRIES = 10  # the machine may be busy


def by_openai(server: Server) -> list[float]:
    """Return the embedding of a text."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=RETRIES) as client:
        return client.embeddings.create(model="starter", input="Seven.").data[0].embedding


def by_cohere(server: Server) -> list[float]:
    """Return the relevance of a document."""
    with httpx.Client() as http:
        client = cohere.ClientV2(api_key=KEY, base_url=server.url, httpx_client=http)
        answer = client.rerank(
            model="starter",
            query="Name a prime.",
            documents=["Seven."],
            request_options={"max_retries": RETRIES},
        )
    return [one.relevance_score for one in answer.results]


@pytest.mark.parametrize("ask", [by_openai, by_cohere])
def test_an_overload_is_waited_out(narrow: Server, ask: Callable[[Server], list[float]]) -> None:
    """The answer is that of an idle server, after a 503 with `Retry-After`."""
    alone = ask(narrow)
    shed = narrow.metric("assay_requests_total", outcome="overloaded")

    with ThreadPoolExecutor() as pool:
        with overloaded(narrow):
            asked = pool.submit(ask, narrow)
            until(
                "the client is refused",
                lambda: narrow.metric("assay_requests_total", outcome="overloaded") > shed,
            )
        assert asked.result() == alone
