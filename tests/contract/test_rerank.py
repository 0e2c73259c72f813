"""Rerank as Cohere, Jina, vLLM and SGLang ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import (
    descending,
    natively,
    post,
    refused,
    sigmoid,
)
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

PATHS = ["/rerank", "/v1/rerank", "/v2/rerank"]


@pytest.mark.parametrize("name", exchanges("rerank"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", ["tiny", "crew", "helpsteer", "math"])
@pytest.mark.parametrize("path", PATHS)
def test_relevance_is_the_sigmoid_of_the_reward(served: Server, path: str, model: str) -> None:
    """A probability, the best first, on every path and for every kind of target that scores."""
    expected = natively(served, model=model)

    results = post(served, path, model=model, query=PROMPT, documents=RESPONSES)["results"]

    order = descending(expected)
    assert [one["index"] for one in results] == order
    assert [one["relevance_score"] for one in results] == [sigmoid(expected[i]) for i in order]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["use_activation", "activation", "softmax", "normalize"])
def test_vllms_switch_gives_raw_rewards(served: Server, path: str, name: str) -> None:
    """By each of its names."""
    expected = natively(served)

    answer = post(served, path, query=PROMPT, documents=RESPONSES, **{name: False})

    assert {one["index"]: one["relevance_score"] for one in answer["results"]} == dict(
        enumerate(expected)
    )


@pytest.mark.parametrize(
    ("path", "return_documents", "has_them"),
    [
        ("/rerank", None, True),
        ("/v1/rerank", None, True),
        ("/v2/rerank", None, False),
        ("/v1/rerank", False, False),
        ("/v2/rerank", True, True),
    ],
)
def test_documents_come_back_where_the_contract_has_them(
    served: Server, path: str, return_documents: bool | None, has_them: bool
) -> None:
    """As {"text"}, whatever they were sent as."""
    documents = [RESPONSES[0], {"text": RESPONSES[1]}]
    body: dict[str, Any] = {"query": PROMPT, "documents": documents}
    if return_documents is not None:
        body["return_documents"] = return_documents

    results = post(served, path, **body)["results"]

    assert len(results) == len(documents)
    for one in results:
        if has_them:
            assert one["document"] == {"text": RESPONSES[one["index"]], "multi_modal": None}
        else:
            assert "document" not in one


@pytest.mark.parametrize(
    "documents",
    [
        RESPONSES[0],
        [{"text": RESPONSES[0]}],
        [{"content": [{"type": "text", "text": RESPONSES[0]}]}],
    ],
)
def test_every_form_of_a_document_is_read_alike(served: Server, documents: Any) -> None:
    """A string, one alone, Jina's object and vLLM's parts."""
    expected = natively(served)[0]

    (result,) = post(served, "/rerank", query=PROMPT, documents=documents)["results"]

    assert result["relevance_score"] == sigmoid(expected)
    assert result["document"]["text"] == RESPONSES[0]


def test_rank_fields_are_what_is_read_of_an_object(served: Server) -> None:
    """Cohere's first version: their texts in that order; without any, `text`; of a string, all."""
    expected = natively(served)[:2]
    joined = natively(served, {"prompt": PROMPT, "response": f"{RESPONSES[1]}\n{RESPONSES[0]}"})
    documents = [
        {"title": RESPONSES[0], "text": RESPONSES[1], "year": 1999},
        RESPONSES[0],
        {"text": RESPONSES[1]},
    ]

    def ranked(**body: Any) -> dict[int, float]:
        asked = {"query": PROMPT, "documents": documents, "use_activation": False, **body}
        results = post(served, "/v1/rerank", **asked)["results"]
        return {one["index"]: one["relevance_score"] for one in results}

    assert ranked() == {0: expected[1], 1: expected[0], 2: expected[1]}
    assert ranked(rank_fields=[]) == ranked(rank_fields=["text"]) == ranked()
    several = ranked(rank_fields=["text", "title"])
    assert several == {0: joined[0], 1: expected[0], 2: expected[1]}


@pytest.mark.parametrize("field", ["author", "year"])
def test_rank_fields_without_text_are_refused(served: Server, field: str) -> None:
    """Absent, or a number: there would be nothing to score."""
    documents = ["a", {"text": "b", "year": 1999}]
    body = {"query": PROMPT, "documents": documents, "rank_fields": [field]}

    answer = served.http.post("/v1/rerank", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "documents[1]")
    assert "'rank_fields'" in answer.json()["message"]


@pytest.mark.parametrize(("top_n", "count"), [(None, 4), (0, 4), (1, 1), (3, 3), (50, 4)])
def test_top_n_keeps_the_best(served: Server, top_n: int | None, count: int) -> None:
    """0 and null mean all."""
    answer = post(served, "/v2/rerank", query=PROMPT, documents=RESPONSES, top_n=top_n)

    assert [one["index"] for one in answer["results"]] == descending(natively(served))[:count]


def test_no_documents_are_no_error(served: Server) -> None:
    """An empty list has an empty answer."""
    answer = post(served, "/v2/rerank", query=PROMPT, documents=[])

    assert answer["results"] == []


def test_sglangs_bare_list_answers_its_own_field(served: Server) -> None:
    """Told by `instruct`: raw rewards in a bare list."""
    expected = natively(served)
    body: dict[str, Any] = {"query": PROMPT, "documents": RESPONSES, "instruct": None}

    answer = post(served, "/v1/rerank", **body)
    short = post(served, "/v1/rerank", **body, top_n=1, return_documents=False)

    order = descending(expected)
    assert [one["score"] for one in answer] == [expected[i] for i in order]
    assert [one["document"] for one in answer] == [RESPONSES[i] for i in order]
    assert [(one["index"], one["document"]) for one in short] == [(order[0], None)]


def test_requests_of_other_clients_are_taken(served: Server) -> None:
    """Replays of Cohere's v1 and v2 clients, of LiteLLM's and of vLLM's example, field by field."""
    expected = sigmoid(natively(served)[0])
    shared = {"model": "tiny", "query": PROMPT, "documents": RESPONSES[:1]}
    cohere_v1 = {**shared, "top_n": 1, "rank_fields": ["text"], "max_chunks_per_doc": 10}
    cohere_v2 = {**shared, "max_tokens_per_doc": 4096, "priority": 0}
    litellm = {**shared, "top_n": None, "return_documents": True, "user": "x"}
    vllm = {**shared, "truncate_prompt_tokens": -1, "top_n": 0, "priority": 0}

    for path, body in (
        ("/v1/rerank", cohere_v1),
        ("/v2/rerank", cohere_v2),
        ("/rerank", litellm),
        ("/v1/rerank", vllm),
    ):
        answer = post(served, path, **body)

        assert answer["results"][0]["relevance_score"] == expected
        assert answer["meta"]["billed_units"] == {"search_units": 1}
        assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("path", PATHS)
def test_a_limit_below_the_models_is_refused(served: Server, path: str) -> None:
    """vLLM's clients may name one."""
    body = {"query": "a", "documents": ["b"], "truncate_prompt_tokens": 8}

    answer = served.http.post(path, json=body)

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "truncate_prompt_tokens"


@pytest.mark.parametrize("path", PATHS)
def test_one_long_document_fails_nobody(served: Server, path: str) -> None:
    """It is cut, and the header says how many were."""
    documents = [RESPONSES[0], "A long document. " + "many words " * 600]
    items = [{"prompt": PROMPT, "response": one} for one in documents]
    expected = natively(served, items, truncation="longest_first")

    answer = served.http.post(path, json={"query": PROMPT, "documents": documents})

    found = {one["index"]: one["relevance_score"] for one in answer.json()["results"]}
    assert found == {index: sigmoid(one) for index, one in enumerate(expected)}
    assert answer.headers["x-assay-truncated"] == "1"


def test_a_document_has_at_most_max_tokens_per_doc(served: Server) -> None:
    """What is behind them changes nothing; the query and what is around them stay."""
    documents = ["One prime is seven, " + tail for tail in ("and that is all", "not six", "")]

    def relevance(**options: Any) -> list[float]:
        answer = post(served, "/v2/rerank", query=PROMPT, documents=documents, **options)
        found = {one["index"]: one["relevance_score"] for one in answer["results"]}
        return [found[index] for index in range(len(documents))]

    assert len(set(relevance(max_tokens_per_doc=4))) == 1
    assert relevance(max_tokens_per_doc=0) == relevance(max_tokens_per_doc=4096) == relevance()
    assert len(set(relevance())) == 3


@pytest.mark.parametrize("path", PATHS)
def test_errors_speak_to_coheres_and_to_vllms_clients(served: Server, path: str) -> None:
    """`message` for the one, `error` for the other; overload is 503 with Retry-After."""
    body: dict[str, Any] = {"query": "a", "documents": ["b"]}
    answers = {
        404: served.http.post(path, json={**body, "model": "nope"}),
        422: served.http.post(path, json={"query": "a", "documents": [7]}),
        400: served.http.post(path, content=b"nothing"),
        503: refused(served, path, **body),
    }

    for status, answer in answers.items():
        found = answer.json()
        assert answer.status_code == status, answer.text
        assert found["message"] == found["error"]["message"]
        assert found["error"]["code"] == status
    assert int(answers[503].headers["retry-after"]) >= 1


def test_a_model_that_only_compares_is_refused(served: Server) -> None:
    """It has no score for one response."""
    answer = served.http.post(
        "/rerank", json={"model": "pairrm", "query": "a", "documents": ["b", "c"]}
    )

    assert answer.status_code == 422
    assert "/best-of-n" in answer.json()["message"]


def test_sglangs_errors_are_flat(served: Server) -> None:
    """As its OpenAI-like routes answer."""
    answer = served.http.post(
        "/v1/rerank", json={"model": "nope", "query": "a", "documents": ["b"], "instruct": "c"}
    )

    assert (answer.status_code, list(answer.json())) == (
        404,
        ["object", "message", "type", "param", "code"],
    )
