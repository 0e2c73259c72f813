"""Text Embeddings Inference's `/predict`, `/rerank` and `/info`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import (
    ITEMS,
    descending,
    natively,
    post,
    refused,
    rendered,
    sigmoid,
)
from tests.http.texts import PROMPT, RESPONSE, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

PAIRS = [[item["prompt"], item["response"]] for item in ITEMS]
CLOSE = 1e-12


@pytest.mark.parametrize("name", exchanges("tei"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


def test_a_flat_list_of_two_is_one_pair(served: Server) -> None:
    """A prompt and a response; a batch is a list of lists."""
    expected = natively(served)

    one = post(served, "/predict", inputs=PAIRS[0], raw_scores=True)
    batch = post(served, "/predict", inputs=PAIRS, raw_scores=True)

    assert one == [{"score": expected[0], "label": "LABEL_0"}]
    assert [entry["score"] for (entry,) in batch] == expected


def test_texts_went_through_a_template_already(served: Server) -> None:
    """A text, a list of one, and a batch of such lists have the native scores of the same text."""
    texts = rendered(served)
    expected = natively(served)

    single = post(served, "/predict", inputs=texts[0], raw_scores=True)
    listed = post(served, "/predict", inputs=[texts[0]], raw_scores=True)
    mixed = post(served, "/predict", inputs=[[texts[0]], PAIRS[1], [texts[2]]], raw_scores=True)

    assert single == listed == [{"score": expected[0], "label": "LABEL_0"}]
    assert [entry["score"] for (entry,) in mixed] == expected[:3]


def test_more_than_two_texts_in_a_flat_list_are_refused(served: Server) -> None:
    """Else the list's length would decide whether it is a pair or a batch."""
    answer = served.http.post("/predict", json={"inputs": RESPONSES})

    assert answer.status_code == 422
    assert "a batch as a list of lists" in answer.json()["error"]


@pytest.mark.parametrize("model", ["tiny", "crew", "math"])
def test_without_raw_scores_it_is_the_sigmoid(served: Server, model: str) -> None:
    """One label: σ(reward), which is the default."""
    expected = natively(served, model=model)

    batch = post(served, "/predict", inputs=PAIRS, model=model)

    assert [entry["score"] for (entry,) in batch] == [sigmoid(one) for one in expected]


def test_attributes_are_labels_in_descending_order(served: Server) -> None:
    """Raw, or their softmax."""
    (native,) = post(served, "/score", inputs=ITEMS[0], model="helpsteer")["data"]
    ranked = sorted(native["attributes"].items(), key=lambda one: -one[1])
    total = sum(math.exp(number) for _, number in ranked)

    raw = post(served, "/predict", inputs=PAIRS[0], model="helpsteer", raw_scores=True)
    soft = post(served, "/predict", inputs=PAIRS[0], model="helpsteer")

    assert raw == [{"score": number, "label": name} for name, number in ranked]
    assert [one["label"] for one in soft] == [name for name, _ in ranked]
    assert [one["score"] for one in soft] == pytest.approx(
        [math.exp(number) / total for _, number in ranked], abs=CLOSE
    )


@pytest.mark.parametrize("raw_scores", [True, False])
def test_rerank_sorts_and_names_the_place(served: Server, raw_scores: bool) -> None:
    """A bare list, the best first."""
    expected = natively(served)
    shown = expected if raw_scores else [sigmoid(one) for one in expected]

    answer = post(served, "/rerank", query=PROMPT, texts=RESPONSES, raw_scores=raw_scores)

    assert answer == [{"index": i, "score": shown[i]} for i in descending(expected)]


def test_rerank_as_llama_index_asks(served: Server) -> None:
    """A replay of its request: it realigns by `index` and counts the entries."""
    texts = [*RESPONSES, RESPONSES[0]]

    answer = post(served, "/rerank", query=PROMPT, texts=texts, truncate=True, return_text=True)

    assert sorted(one["index"] for one in answer) == list(range(len(texts)))
    assert all(one["text"] == texts[one["index"]] for one in answer)


@pytest.mark.parametrize("model", ["tiny", "crew"])
def test_headers_state_what_it_took(served: Server, model: str) -> None:
    """Milliseconds, characters, and tokens, which an ensemble's first member counts."""
    answer = served.http.post("/predict", json={"inputs": PAIRS[0], "model": model})
    (native,) = post(served, "/score", inputs=ITEMS[0])["data"]
    names = ["compute", "total", "tokenization", "queue", "inference"]

    assert all(int(answer.headers[f"x-{name}-time"]) >= 0 for name in names)
    assert int(answer.headers["x-compute-tokens"]) == native["n_tokens"]
    assert int(answer.headers["x-compute-characters"]) == len(PROMPT) + len(RESPONSE)
    assert answer.headers["x-compute-type"] == "cpu"


def test_vertex_answers_each_instance_as_its_own_route_does(served: Server) -> None:
    """Predictions and rankings, of different models and options, in the order of the request."""
    text = rendered(served)[0]
    instances: list[dict[str, Any]] = [
        {"inputs": PAIRS[0], "raw_scores": True},
        {"query": PROMPT, "texts": RESPONSES, "return_text": True},
        {"inputs": PAIRS, "model": "crew"},
        {"inputs": text, "truncate": True},
        {"inputs": [[text]], "model": "helpsteer"},
    ]

    answer = post(served, "/vertex", instances=instances)

    assert answer == {
        "predictions": [
            post(served, "/rerank" if "texts" in one else "/predict", **one) for one in instances
        ]
    }


def test_vertex_names_the_instance_that_is_wrong(served: Server) -> None:
    """And the input in it."""
    good = {"inputs": PAIRS[0]}
    long = {"inputs": [PAIRS[0], ["a", "many words " * 600]], "truncate": False}
    cut = {"inputs": ["many words " * 600, "a"], "truncate": False}
    for wrong, status, says in [
        (long, 422, "instances[1].inputs[1]: "),
        (cut, 422, "instances[1].inputs: "),
        ({"query": "a", "texts": []}, 400, "instances[1].texts"),
        ({"inputs": 7}, 422, "field 'instances[1].inputs': "),
        ({"texts": ["b"]}, 422, "field 'instances[1].query': "),
        ({}, 422, "field 'instances[1].inputs': "),
    ]:
        answer = served.http.post("/vertex", json={"instances": [good, wrong]})

        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]


def test_no_instances_have_no_predictions(served: Server) -> None:
    """Nothing in, nothing out."""
    assert post(served, "/vertex", instances=[]) == {"predictions": []}


@pytest.mark.parametrize("path", ["/", "/invocations"])
def test_the_body_tells_predict_from_rerank(served: Server, path: str) -> None:
    """Where TEI has the route that its model is for."""
    predict = {"inputs": PAIRS, "raw_scores": True}
    rerank = {"query": PROMPT, "texts": RESPONSES}

    assert post(served, path, **predict) == post(served, "/predict", **predict)
    assert post(served, path, **rerank) == post(served, "/rerank", **rerank)


@pytest.mark.parametrize(("truncate", "status"), [(True, 200), (False, 422), (None, 200)])
def test_truncate_says_whether_a_response_may_be_cut(
    served: Server, truncate: bool | None, status: int
) -> None:
    """By default it may: `/info` says `auto_truncate`."""
    body: dict[str, Any] = {"inputs": ["a", "many words " * 600], "truncate": truncate}

    answer = served.http.post("/predict", json=body)

    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error_type"] == "Validation"


@pytest.mark.parametrize(("truncate", "status"), [(True, 200), (False, 422), (None, 200)])
def test_truncate_says_whether_a_prompt_may_be_cut(
    served: Server, truncate: bool | None, status: int
) -> None:
    """By default it is cut from the left."""
    body: dict[str, Any] = {"inputs": ["many words " * 600, "a"], "truncate": truncate}

    assert served.http.post("/predict", json=body).status_code == status


LONG = "A long document. " + "many words " * 600


@pytest.mark.parametrize("truncate", [True, None])
def test_a_long_document_is_cut_and_still_answers_the_query(
    served: Server, truncate: bool | None
) -> None:
    """It fails nobody else, the header counts it, and the query is never what is dropped."""
    body: dict[str, Any] = {"texts": [LONG, RESPONSE], "raw_scores": True, "truncate": truncate}
    items = [{"prompt": PROMPT, "response": one} for one in body["texts"]]
    expected = natively(served, items, truncation="longest_first")

    answer = served.http.post("/rerank", json={"query": PROMPT, **body})
    other = post(served, "/rerank", query="Is it raining?", **body)

    assert {one["index"]: one["score"] for one in answer.json()} == dict(enumerate(expected))
    assert answer.headers["x-assay-truncated"] == "1"
    assert {one["index"]: one["score"] for one in other}[0] != expected[0]


def test_the_direction_says_which_end_is_cut(served: Server) -> None:
    """Left or right, in either case of letters; another is refused."""
    begins, ends = "Seven. " + LONG, LONG + " Seven."

    def score(text: str, direction: str) -> float:
        body = {"query": PROMPT, "texts": [text], "truncation_direction": direction}
        return post(served, "/rerank", **body)[0]["score"]

    assert score(ends, "Right") == score(LONG, "right") != score(begins, "right")
    assert score(begins, "Left") == score(LONG, "left") != score(ends, "left")
    body = {"inputs": "a", "truncation_direction": "up"}
    assert served.http.post("/predict", json=body).status_code == 422


def test_a_long_document_is_named_where_truncate_is_false(served: Server) -> None:
    """With the field that this route takes."""
    body = {"query": PROMPT, "texts": [RESPONSE, LONG], "truncate": False}

    answer = served.http.post("/rerank", json=body)

    assert answer.status_code == 422
    assert "texts[1]: " in answer.json()["error"]
    assert "'truncate': true" in answer.json()["error"]


def test_info_tells_the_model(served: Server) -> None:
    """Model, limits and labels."""
    tiny = served.http.get("/models/tiny").json()
    info = served.http.get("/info").json()
    several = served.http.get("/info", params={"model": "helpsteer"}).json()
    unknown = served.http.get("/info", params={"model": "nope"})

    assert (info["model_id"], info["model_sha"]) == ("tiny", tiny["revision"])
    assert info["max_input_length"] == tiny["max_tokens"]
    assert info["model_dtype"] == "float32"
    assert info["model_type"] == {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }
    assert info["max_batch_tokens"] == tiny["batch_tokens"]
    assert several["model_type"]["classifier"]["id2label"]["0"] == "helpfulness"
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "Validation")


def test_unknown_fields_are_taken(served: Server) -> None:
    """A newer client's option fails nothing."""
    plain = post(served, "/predict", inputs=PAIRS[0])

    answer = post(
        served, "/predict", inputs=PAIRS[0], truncation_direction="left", prompt_name=None, x=[1]
    )

    assert answer == plain


@pytest.mark.parametrize("path", ["/predict", "/rerank"])
def test_overload_is_503_with_retry_after(served: Server, path: str) -> None:
    """In TEI's shape, but not its 429, which some clients never retry."""
    asked = {"inputs": PAIRS[0]} if path == "/predict" else {"query": "a", "texts": ["b"]}
    answer = refused(served, path, **asked)

    assert (answer.status_code, answer.json()["error_type"]) == (503, "Overloaded")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/predict", {"inputs": "a", "model": "nope"}, 404, "Validation"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "nope"}, 404, "Validation"),
        ("/predict", {"inputs": 7}, 422, "Validation"),
        ("/predict", {}, 422, "Validation"),
        ("/predict", {"inputs": ["a", "b"], "model": "pairrm"}, 422, "Validation"),
        ("/predict", {"inputs": "a", "model": "pairrm"}, 422, "Validation"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/predict", {"inputs": ""}, 400, "Empty"),
    ],
)
def test_errors_have_teis_shape(
    served: Server, path: str, body: dict[str, Any], status: int, kind: str
) -> None:
    """`error` and `error_type`, and nothing else."""
    answer = served.http.post(path, json=body)

    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error", "error_type"]
    assert answer.json()["error_type"] == kind


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (7, "field 'inputs': send a text, a pair in a list, or a list of such lists"),
        (None, "field 'inputs': send a text"),
        ([["a"], 7], "field 'inputs[1]': "),
        ([["a"], ["b", 7]], "field 'inputs[1][1]': "),
        ([["a", "b", "c"]], "field 'inputs[0]': "),
        ([["a"], []], "field 'inputs[1]': "),
    ],
)
def test_an_error_names_the_field_as_it_was_sent(served: Server, inputs: Any, says: str) -> None:
    """And none of the forms that it might have had."""
    answer = served.http.post("/predict", json={"inputs": inputs})

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(says)


def test_a_body_that_is_not_json_is_answered_in_the_same_shape(served: Server) -> None:
    """Where the path has no native route."""
    answer = served.http.post("/predict", content=b"{")

    assert (answer.status_code, list(answer.json())) == (400, ["error", "error_type"])


TEXT = "<|im_start|>user\nhello<|im_end|>\n"


def _asked(server: Server, model: str = "tiny", **parameters: Any) -> Any:
    """Return what huggingface_hub's text_classification is answered."""
    return post(server, "/", inputs=TEXT, parameters=parameters, model=model)


def test_what_huggingface_hub_applies_is_applied(served: Server) -> None:
    """`none` is the raw reward, `sigmoid` its probability; of one label a softmax is refused."""
    (plain,) = post(served, "/", inputs=TEXT, raw_scores=True)
    (raw,) = _asked(served, function_to_apply="none")
    (squashed,) = _asked(served, function_to_apply="sigmoid")
    refused = served.http.post(
        "/", json={"inputs": TEXT, "parameters": {"function_to_apply": "softmax"}}
    )

    assert raw == plain
    assert squashed["score"] == sigmoid(plain["score"])
    assert (refused.status_code, "always 1" in refused.text) == (422, True)


def test_of_attributes_huggingface_hub_gets_as_many_as_it_asks_for(served: Server) -> None:
    """The highest first, each as it was asked for."""
    raw = post(served, "/", inputs=TEXT, raw_scores=True, model="helpsteer")

    assert _asked(served, "helpsteer", function_to_apply="none", top_k=2) == raw[:2]
    assert [one["score"] for one in _asked(served, "helpsteer", function_to_apply="sigmoid")] == [
        sigmoid(one["score"]) for one in raw
    ]
    assert _asked(served, "helpsteer", function_to_apply="softmax") == _asked(served, "helpsteer")


@pytest.mark.parametrize(
    "body",
    [
        {"raw_scores": True, "parameters": {"function_to_apply": "sigmoid"}},
        {"parameters": {"function_to_apply": "tanh"}},
    ],
)
def test_what_contradicts_itself_is_refused(served: Server, body: dict[str, Any]) -> None:
    """Never one of the two, silently."""
    answer = served.http.post("/predict", json={"inputs": TEXT, **body})

    assert answer.status_code == 422, answer.text
    assert "function_to_apply" in answer.text
