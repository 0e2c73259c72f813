"""NVIDIA's, Voyage's and Mixedbread's rerank, as their clients read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import natively, post, sigmoid

if TYPE_CHECKING:
    from tests.http.processes import Server

QUERY = "Name a prime number."
TEXTS = ["Seven.", "Eight is one, I think.", "Nine? No: eleven."]
NVIDIA = {"query": {"text": QUERY}, "passages": [{"text": text} for text in TEXTS]}
VOYAGE = {"query": QUERY, "documents": TEXTS, "top_k": None, "truncation": True}
MIXEDBREAD = {"query": QUERY, "input": TEXTS}
LONG = "prime " * 3000


def error(server: Server, path: str, **body: Any) -> dict[str, Any]:
    """Return what a body is refused with."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 422, answer.text
    found: dict[str, Any] = answer.json()
    return found


def best_first(server: Server, model: str = "tiny") -> list[tuple[int, float]]:
    """Return the native rewards with their places, the highest first."""
    rewards = natively(server, [{"prompt": QUERY, "response": one} for one in TEXTS], model=model)
    return sorted(enumerate(rewards), key=lambda one: -one[1])


@pytest.mark.parametrize("name", exchanges("ranking"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("path", ["/v1/ranking", "/ranking", "/reranking"])
def test_nvidias_logits_are_the_rewards_sorted(served: Server, path: str) -> None:
    """To the last bit; RAGFlow's `top_n` is heeded."""
    expected = [{"index": index, "logit": reward} for index, reward in best_first(served)]

    assert post(served, path, model="tiny", **NVIDIA)["rankings"] == expected
    assert post(served, path, model="tiny", top_n=2, **NVIDIA)["rankings"] == expected[:2]


@pytest.mark.parametrize("suffix", ["", "/"])
def test_the_path_names_nvidias_model_where_the_body_names_none(
    served: Server, suffix: str
) -> None:
    """A hosted model's address ends with its name and `/reranking`; the body's name goes first."""
    expected = [{"index": index, "logit": reward} for index, reward in best_first(served, "other")]

    by_path = post(served, f"/v1/retrieval/other/reranking{suffix}", **NVIDIA)
    by_body = post(served, "/v1/retrieval/nvidia/reranking", model="other", **NVIDIA)

    assert by_path["rankings"] == by_body["rankings"] == expected


def test_a_long_passage_is_cut_only_where_nvidias_truncate_says_so(served: Server) -> None:
    """NONE, the default, is an error that names the passage and the field of this route."""
    passages = [*NVIDIA["passages"], {"text": LONG}]
    body: dict[str, Any] = {"model": "tiny", "query": NVIDIA["query"], "passages": passages}

    refused = error(served, "/v1/ranking", **body)
    cut = served.http.post("/v1/ranking", json={**body, "truncate": "END"})

    assert "passages[3]" in refused["message"]
    assert '"truncate": "END"' in refused["message"]
    assert len(cut.json()["rankings"]) == 4
    assert cut.headers["x-assay-truncated"] == "1"


def test_voyages_list_is_data_under_coheres_path(served: Server) -> None:
    """Its client reads `data[].index` and `relevance_score`, and `usage.total_tokens`."""
    expected = [(index, sigmoid(reward)) for index, reward in best_first(served)]

    answer = post(served, "/v1/rerank", model="tiny", **VOYAGE)
    best = post(served, "/v1/rerank", model="tiny", **{**VOYAGE, "top_k": 1})

    found = [(one["index"], one["relevance_score"]) for one in answer["data"]]
    assert found == expected
    assert [one["index"] for one in best["data"]] == [expected[0][0]]
    assert "results" in post(
        served, "/v1/rerank", model="tiny", query=QUERY, documents=TEXTS, top_n=1
    )


def test_voyages_truncation_off_refuses_what_is_too_long(served: Server) -> None:
    """And names the document."""
    body = {**VOYAGE, "documents": [*TEXTS, LONG], "truncation": False, "model": "tiny"}

    assert "documents[3]" in error(served, "/v1/rerank", **body)["detail"]
    assert len(post(served, "/v1/rerank", **{**body, "truncation": True})["data"]) == 4


def test_mixedbreads_data_has_scores_and_the_fields_that_are_ranked(served: Server) -> None:
    """Objects are read by `rank_fields`; a query that would be rewritten is refused."""
    expected = [(index, sigmoid(reward)) for index, reward in best_first(served)]
    objects = [{"title": "-", "body": text} for text in TEXTS]

    answer = post(served, "/v1/reranking", model="tiny", **MIXEDBREAD)
    ranked = post(
        served, "/v1/reranking", model="tiny", query=QUERY, input=objects, rank_fields=["body"]
    )

    assert [(one["index"], one["score"]) for one in answer["data"]] == expected
    assert ranked["data"] == answer["data"]
    assert (
        "rewrite_query"
        in error(served, "/v1/reranking", model="tiny", rewrite_query=True, **MIXEDBREAD)["detail"]
    )
