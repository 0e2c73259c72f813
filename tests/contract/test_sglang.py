"""SGLang's routes: its shapes, and the native numbers to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from assay.reward.transform import sigmoid
from tests.contract.conftest import entries, exchanges, replay, scores
from tests.families.process import HENS, LAID
from tests.http.texts import CONVERSATION, PAIR, PROMPT, RESPONSE

if TYPE_CHECKING:
    from tests.http.processes import Server

TEXTS = ["<|im_start|>user\nHello<|im_end|>\n", "Basil dies.", "🌞 — ünïcode"]
IDS = [[5, 17, 300, 42, 7], [42, 7]]
MODELS = ["tiny", "both"]
TURNS = CONVERSATION["messages"]
PAIRED = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
UNKNOWN = {
    "rid": "mine",
    "user": "me",
    "encoding_format": "base64",  # what OpenAI's client sends by itself
    "dimensions": None,
    "image_data": None,
    "sampling_params": {"temperature": 0},
    "return_token_logprobs": False,
    "invented": [1],
}


def post(server: Server, path: str, **body: Any) -> Any:
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def embedded(server: Server, **body: Any) -> list[list[float]]:
    return [entry["embedding"] for entry in post(server, "/v1/embeddings", **body)["data"]]


@pytest.mark.parametrize("name", exchanges("sglang"))
def test_answers_have_the_golden_fields(contracts: Server, name: str) -> None:
    """Fields, order, types, and status."""
    replay(contracts, name)


@pytest.mark.parametrize("model", MODELS)
def test_classify_has_the_native_scores(contracts: Server, model: str) -> None:
    """A list is answered with a bare list, one item with an object."""
    texts = scores(contracts, *({"text": text} for text in TEXTS), model=model)
    ids = scores(contracts, *({"input_ids": one} for one in IDS), model=model)

    for field, given, expected in [("text", TEXTS, texts), ("input_ids", IDS, ids)]:
        found = post(contracts, "/classify", model=model, **{field: given})
        alone = post(contracts, "/classify", model=model, **{field: given[0]})
        assert [one["embedding"] for one in found] == [[one] for one in expected]
        assert alone["embedding"] == expected[:1]


@pytest.mark.parametrize("path", ["/classify", "/judge"])
def test_conversations_have_the_native_scores(contracts: Server, path: str) -> None:
    """A replay of SGLang's first example, and of one conversation alone, in parts, too."""
    parts = [
        {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]}
        for one in TURNS
    ]
    expected = scores(contracts, CONVERSATION, PAIR)

    found = post(contracts, path, conv=[TURNS, PAIRED, parts])
    alone = post(contracts, path, conv=TURNS)

    assert [one["embedding"] for one in found] == [[expected[place]] for place in (0, 1, 0)]
    assert alone["embedding"] == expected[:1]
    assert post(contracts, path, conv=[]) == []


def test_a_conversations_steps_are_its_numbers(contracts: Server) -> None:
    """Where its last turn is spelt as the card spells steps."""
    (entry,) = entries(contracts, {"prompt": HENS, "steps": LAID}, model="math")
    marked = [
        {"role": "user", "content": HENS},
        {"role": "assistant", "content": "".join(f"{step}<extra_0>" for step in LAID)},
    ]

    assert post(contracts, "/judge", conv=marked, model="math")["embedding"] == entry["steps"]


@pytest.mark.parametrize("model", MODELS)
def test_v1_classify_is_raw_unless_activation_is_asked_for(contracts: Server, model: str) -> None:
    """vLLM's body; SGLang's own softmax of one number would be 1 for each."""
    expected = scores(contracts, *({"text": text} for text in TEXTS), model=model)

    for option, shown in [({}, expected), ({"use_activation": True}, [*map(sigmoid, expected)])]:
        found = post(contracts, "/v1/classify", input=TEXTS, model=model, **option)["data"]
        assert [one["probs"] for one in found] == [[one] for one in shown]


def test_meta_info_names_each_item(contracts: Server) -> None:
    """By the request's id; tokens are the item's own."""
    headers = {"X-Request-Id": "r-1"}
    tokens = [one["n_tokens"] for one in entries(contracts, *({"text": t} for t in TEXTS))]

    many = contracts.http.post("/classify", json={"text": TEXTS}, headers=headers).json()
    one = contracts.http.post("/classify", json={"text": TEXTS[0]}, headers=headers).json()

    assert [item["meta_info"]["id"] for item in many] == ["r-1-0", "r-1-1", "r-1-2"]
    assert [item["meta_info"]["prompt_tokens"] for item in many] == tokens
    assert one["meta_info"]["id"] == "r-1"


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_carry_the_native_scores(contracts: Server, model: str) -> None:
    """Texts and ids, one or many."""
    texts = scores(contracts, *({"text": text} for text in TEXTS), model=model)
    ids = scores(contracts, *({"input_ids": one} for one in IDS), model=model)

    for given, expected in [
        (TEXTS[0], texts[:1]),
        (TEXTS, texts),
        (IDS[0], ids[:1]),
        (IDS, ids),
    ]:
        assert embedded(contracts, model=model, input=given) == [[one] for one in expected]


def test_steps_are_an_embeddings_numbers(contracts: Server) -> None:
    """A process reward model has one a step, on both routes."""
    chain = {"prompt": HENS, "steps": LAID}
    (entry,) = entries(contracts, chain, model="math")
    body = {"inputs": chain, "model": "math"}
    (seen,) = contracts.http.post("/tokenize", json=body).json()["data"]

    assert embedded(contracts, model="math", input=[seen["input_ids"]]) == [entry["steps"]]
    found = post(contracts, "/classify", model="math", text=seen["text"])
    assert found["embedding"] == entry["steps"]


@pytest.mark.parametrize("model", MODELS)
def test_an_item_is_scored_behind_its_query(contracts: Server, model: str) -> None:
    """As one text or sequence of ids, with `item_first` the other way round."""
    query, items = "Is 91 a prime? ", ["No: 7 * 13.", "Yes."]
    behind = scores(contracts, *({"text": query + item} for item in items), model=model)
    before = scores(contracts, *({"text": item + query} for item in items), model=model)
    ids = scores(contracts, *({"input_ids": [3, 4, *one]} for one in IDS), model=model)

    def found(**body: Any) -> list[list[float]]:
        asked = {"model": model, "query": query, "items": items} | body
        numbers: list[list[float]] = post(contracts, "/v1/score", **asked)["scores"]
        return numbers

    assert found() == [[one] for one in behind]
    assert found(item_first=True) == [[one] for one in before]
    assert found(items=items[0]) == [[behind[0]]]
    assert found(query=[3, 4], items=IDS) == [[one] for one in ids]
    assert found(apply_softmax=True) == [[sigmoid(one)] for one in behind]
    for labels in ([], [9454, 2753], [[9454], [2753]]):
        assert found(label_token_ids=labels) == [[one] for one in behind]


def test_items_need_no_query(contracts: Server) -> None:
    """Alone they are SGLang's; beside `queries` vLLM's, in whichever order."""
    (expected,) = scores(contracts, {"text": "Yes."})
    paired = scores(contracts, {"prompt": "Is it?", "response": "Yes."})

    alone = post(contracts, "/v1/score", items=["Yes."])
    behind = post(contracts, "/v1/score", queries="Is it?", items=["Yes."])
    ahead = post(contracts, "/v1/score", items=["Yes."], queries="Is it?")

    assert alone["scores"] == [[expected]]
    assert [one["score"] for one in behind["data"]] == paired
    assert behind["data"] == ahead["data"]


def test_its_model_info_and_health_answer(contracts: Server) -> None:
    """A client that begins with them learns what is served by default, and that it can score."""
    revision = contracts.http.get("/models/tiny").json()["revision"]

    assert contracts.http.get("/get_model_info").json() == {
        "model_path": "tiny",
        "tokenizer_path": "tiny",
        "is_generation": False,
        "weight_version": revision,
    }
    health = contracts.http.get("/health_generate")
    assert (health.status_code, health.content) == (200, b"")


def test_unknown_fields_are_taken(contracts: Server) -> None:
    """And change nothing."""
    expected = [[one] for one in scores(contracts, *({"text": text} for text in TEXTS))]

    found = post(contracts, "/classify", text=TEXTS, **UNKNOWN)

    assert [one["embedding"] for one in found] == expected
    assert embedded(contracts, input=TEXTS, **UNKNOWN) == expected
    answer = post(contracts, "/v1/score", query="", items=TEXTS, **UNKNOWN)
    assert answer["scores"] == expected


def test_empty_lists_are_answered_with_empty_lists(contracts: Server) -> None:
    """Nothing to score is no error."""
    assert post(contracts, "/classify", text=[]) == []
    assert embedded(contracts, input=[]) == []
    assert post(contracts, "/v1/score", query="a", items=[])["scores"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": "a"}), ("/v1/score", {"query": "a", "items": ["b"]})],
)
def test_an_unknown_model_is_not_found(contracts: Server, path: str, body: dict[str, Any]) -> None:
    """In the flat shape of the OpenAI routes."""
    answer = contracts.http.post(path, json={**body, "model": "nobody"})

    error = answer.json()
    assert answer.status_code == error["code"] == 404
    assert (error["object"], error["type"]) == ("error", "NotFoundError")
    assert "'nobody'" in error["message"]


def test_the_native_route_names_an_unknown_model_in_its_message(contracts: Server) -> None:
    """Its errors have no other field."""
    answer = contracts.http.post("/classify", json={"text": "a", "model": "nobody"})

    assert answer.status_code == 404
    assert list(answer.json()["error"]) == ["message"]
    assert "'nobody'" in answer.json()["error"]["message"]


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a number": ("/classify", {"text": 7}, "'text': "),
    "a bad item": ("/classify", {"text": ["Yes.", None]}, "'text[1]': "),
    "an empty item": ("/classify", {"text": ["Yes.", ""]}, "text[1]: "),
    "an id below zero": ("/classify", {"input_ids": [[5], [-1]]}, "'input_ids[1]': "),
    "one that compares": ("/classify", {"text": "x", "model": "gpm"}, "/compare"),
    "a conversation of text": ("/judge", {"conv": ["a"]}, "conversations"),
    "a turn without a role": ("/judge", {"conv": [{"content": "a"}]}, "conversations"),
    "a number for conversations": ("/classify", {"conv": 7}, "conversations"),
    "a user turn last": ("/judge", {"conv": [PAIRED, PAIRED[:1]]}, "'conv[1]' must end"),
    "a long response": (
        "/judge",
        {"conv": [PAIRED, [PAIRED[0], {"role": "assistant", "content": "word " * 2000}]]},
        "conv[1]: ",
    ),
    "no input": ("/v1/embeddings", {"model": "tiny"}, "input"),
    "a bad input": ("/v1/embeddings", {"input": ["Yes.", {}]}, "token ids"),
    "no items": ("/v1/score", {"query": "a"}, "items"),
    "text with ids": ("/v1/score", {"query": "a", "items": [[5]]}, "both as text"),
    "a query of many": ("/v1/score", {"query": ["a", "b"], "items": ["c"]}, "one"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_request_is_a_400(contracts: Server, name: str) -> None:
    """The message says what to send; one bad item fails the request."""
    path, body, says = REFUSALS[name]

    answer = contracts.http.post(path, json=body)

    assert answer.status_code == 400
    error = answer.json()
    if path in ("/classify", "/judge"):
        assert list(error) == ["error"]
        assert says in error["error"]["message"]
    else:
        assert list(error) == ["object", "message", "type", "param", "code"]
        assert (error["type"], error["code"]) == ("BadRequestError", 400)
        assert says in error["message"]
