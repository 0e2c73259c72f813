"""Infinity's `/classify` and `/rerank`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from infinity_client.models import HTTPValidationError

from tests.contract.conftest import exchanges, replay
from tests.contract.served import (
    descending,
    natively,
    overloaded,
    post,
    refused,
    rendered,
    sigmoid,
)
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

UNNAMED = "default/not-specified"


@pytest.mark.parametrize("name", exchanges("infinity"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("raw_scores", [True, False])
def test_classify_scores_templated_texts(served: Server, raw_scores: bool) -> None:
    """A replay of its generated client, which sends every field with its default."""
    expected = natively(served, model="tiny")

    answer = post(served, "/classify", input=rendered(served), model=UNNAMED, raw_scores=raw_scores)

    shown = expected if raw_scores else [sigmoid(one) for one in expected]
    assert answer["data"] == [[{"score": one, "label": "LABEL_0"}] for one in shown]
    assert answer["model"] == "tiny"


def test_attributes_are_labels(served: Server) -> None:
    """The highest first."""
    (text,) = rendered(served, inputs=[{"prompt": "a", "response": "b"}], model="helpsteer")
    (native,) = post(served, "/score", inputs={"text": text}, model="helpsteer")["data"]

    answer = post(served, "/classify", input=[text], model="helpsteer", raw_scores=True)

    assert {one["label"]: one["score"] for one in answer["data"][0]} == native["attributes"]
    scores = [one["score"] for one in answer["data"][0]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("top_n", "count"), [(None, 4), (2, 2), (9, 4)])
def test_rerank_answers_bare_strings(served: Server, top_n: int | None, count: int) -> None:
    """A replay of LangChain's InfinityRerank through the generated client."""
    expected = natively(served)
    body: dict[str, Any] = {
        "query": PROMPT,
        "documents": RESPONSES,
        "return_documents": True,
        "raw_scores": False,
        "model": UNNAMED,
        "top_n": top_n,
    }

    results = post(served, "/rerank", **body)["results"]

    order = descending(expected)[:count]
    assert [one["index"] for one in results] == order
    assert [one["relevance_score"] for one in results] == [sigmoid(expected[i]) for i in order]
    assert [one["document"] for one in results] == [RESPONSES[i] for i in order]


def test_rerank_has_raw_scores_and_no_documents_on_request(served: Server) -> None:
    """`document` stays as null."""
    expected = natively(served)

    answer = post(served, "/rerank", query=PROMPT, documents=RESPONSES, raw_scores=True)

    assert {one["index"]: one["relevance_score"] for one in answer["results"]} == dict(
        enumerate(expected)
    )
    assert {one["document"] for one in answer["results"]} == {None}


def test_litellms_provider_reads_the_shared_answer(served: Server) -> None:
    """A replay: it sends no `raw_scores`, and takes documents as strings only, or none."""
    expected = natively(served)

    answer = post(
        served,
        "/rerank",
        model="tiny",
        query=PROMPT,
        documents=RESPONSES,
        top_n=None,
        return_documents=False,
    )

    assert {one["index"]: one["relevance_score"] for one in answer["results"]} == {
        i: sigmoid(one) for i, one in enumerate(expected)
    }
    assert all("document" not in one for one in answer["results"])
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"]


def test_models_are_as_its_client_reads_them(served: Server) -> None:
    """Without an owner but Infinity's own it takes none; OpenAI's clients have one under /v1."""
    data = served.http.get("/models").json()["data"]
    under_v1 = served.http.get("/v1/models").json()["data"]

    for entry, twin in zip(data, under_v1, strict=True):
        assert {"id", "stats", "object", "created", "backend", "capabilities"} < set(entry)
        assert "owned_by" not in entry
        assert entry["object"] == "model"
        assert twin == {**entry, "owned_by": "assay"}
    capabilities = {entry["id"]: entry["capabilities"] for entry in data}
    assert capabilities.pop("pairrm") == []
    assert set(map(tuple, capabilities.values())) == {("classify", "rerank")}


def test_models_tell_what_waits(served: Server) -> None:
    """Of the queue as it is: nothing, or one request of fifty items that is more than may wait."""

    def stats(name: str) -> dict[str, Any]:
        found: dict[str, Any] = served.http.get(f"/models/{name}").json()["stats"]
        return found

    idle = stats("tiny")
    with overloaded(served):
        busy, beside, both = stats("tiny"), stats("helpsteer"), stats("crew")

    assert idle == {
        "queue_fraction": 0.0,
        "queue_absolute": 0,
        "results_pending": 0,
        "batch_size": 64,
    }
    assert busy["queue_fraction"] > 0.5
    assert 0 < busy["queue_absolute"] == both["queue_absolute"] <= 50
    assert beside["queue_absolute"] == 0
    assert busy["results_pending"] == beside["results_pending"] == 1


def test_errors_have_its_shape(served: Server) -> None:
    """`message`, `type`, `param` and `code`; overload is 503 with Retry-After."""
    body: dict[str, Any] = {"query": "a", "documents": ["b"], "raw_scores": False}
    unknown = served.http.post("/rerank", json={**body, "model": "nope"})
    full = refused(served, "/rerank", **body)

    for answer, status in ((unknown, 404), (full, 503)):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, status)
        assert list(error) == ["message", "type", "param", "code"]
    assert int(full.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/rerank", {"query": "a", "documents": ["b", None]}, ["body", "documents", 1]),
        ("/classify", {"input": "a"}, ["body", "input"]),
        ("/classify", {"input": ["a", 7]}, ["body", "input", 1]),
        ("/classify", {"input": ["a", ""]}, ["body", "input", 1]),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": "x"}, ["body", "top_n"]),
        ("/rerank", {"query": "a", "documents": ["b"], "model": "pairrm"}, ["body", "model"]),
    ],
)
def test_a_bad_request_is_a_422_that_its_client_reads(
    served: Server, path: str, body: dict[str, Any], place: list[str | int]
) -> None:
    """FastAPI's detail, which the generated client makes an object of."""
    answer = served.http.post(path, json={**body, "raw_scores": False})

    assert answer.status_code == 422, answer.text
    (error,) = HTTPValidationError.from_dict(answer.json()).detail
    assert error.loc == place
    assert error.msg
    assert not error.msg.startswith("field ")
    assert error.type
