"""An option of a contract that would change the answer is heeded or refused, never passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.served import post
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

TALK = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSES[0]}]
CHATS = ("/v1/chat/completions", "/swift/v1/chat/completions")
RANKED: dict[str, Any] = {"query": PROMPT, "documents": RESPONSES}
BODIES: dict[str, dict[str, Any]] = {
    "/classify": {"messages": TALK},
    "/pooling": {"messages": TALK},
    "/score": {"queries": PROMPT, "documents": RESPONSES},
    "/rerank": RANKED,
    "/v2/rerank": RANKED,
    "/v1/embeddings": {"input": RESPONSES},
    "/judge": {"text": RESPONSES},
    "/v1/rerank": {**RANKED, "instruct": None},
    **{path: {"messages": TALK} for path in CHATS},
    "/v1/classify": {"messages": TALK},
    "/v1/score/evaluation": {"messages": RESPONSES},
    "/reward": {"prompt": PROMPT, "response": RESPONSES[0]},
}
REFUSED: list[tuple[str, str, Any]] = [
    *(
        (path, name, True)
        for path in ("/classify", "/pooling", *CHATS)
        for name in ("add_generation_prompt", "continue_final_message", "echo")
    ),
    *((path, "chat_template", "{{ messages }}") for path in CHATS),
    *((path, "prompt_logprobs", value) for path in CHATS for value in (0, 1)),
    *(
        (path, "task", task)
        for path in ("/classify", "/pooling", "/v1/classify")
        for task in ("token_classify", "token_embed")
    ),
    ("/classify", "dimensions", 16),
    ("/pooling", "dimensions", 16),
    ("/v1/embeddings", "dimensions", 16),
    ("/v1/embeddings", "lora_path", "other"),
    ("/judge", "image_data", ["data:image/png;base64,AAAA"]),
    ("/judge", "audio_data", "a.wav"),
    ("/judge", "video_data", "a.mp4"),
    ("/judge", "lora_path", "other"),
    ("/v1/rerank", "instruct", "Find the funniest."),
    ("/v1/chat/completions", "n", 2),
    ("/v1/chat/completions", "response_format", {"type": "json_object"}),
    ("/v1/score/evaluation", "max_length", 8),
    *(
        (path, "truncate_prompt_tokens", 8)
        for path in ("/classify", "/pooling", "/score", "/rerank", *CHATS)
    ),
]
NOTHING: dict[str, Any] = {
    "n": 1,
    "task": "classify",
    "response_format": {"type": "text"},
    "max_length": 10**6,
}


@pytest.mark.parametrize(("path", "name", "value"), REFUSED)
def test_an_option_that_cannot_be_heeded_is_refused_by_name(
    served: Server, path: str, name: str, value: Any
) -> None:
    """And taken where it asks for nothing."""
    refused = served.http.post(path, json={**BODIES[path], name: value})

    assert refused.status_code in (400, 422), refused.text
    assert name in refused.text
    for nothing in (None, NOTHING.get(name)):
        post(served, path, **{**BODIES[path], name: nothing})


TEXTS: dict[str, dict[str, Any]] = {
    "/get_reward": {"query": RESPONSES},
    "/predict": {"inputs": RESPONSES[0]},
    "/v1/score": {"query": PROMPT, "items": RESPONSES},
    "/v1/reranking": {"query": PROMPT, "input": RESPONSES},
    "/get_feedback": {"batch_prompt": [PROMPT], "batch_response": [RESPONSES[0]]},
}
TWO_INPUTS: list[tuple[str, dict[str, Any], str, Any]] = [
    *((path, {"messages": TALK}, "input", "x") for path in ("/classify", "/pooling")),
    *((path, {"input": "x"}, "text", "y") for path in ("/classify", "/pooling", "/v1/classify")),
    ("/judge", {"text": "x"}, "conv", [TALK]),
    ("/judge", {"text": "x"}, "input", "y"),
    ("/tokenize", {"messages": TALK}, "prompt", "x"),
    ("/score", {"queries": PROMPT, "documents": RESPONSES}, "text_1", PROMPT),
    ("/score", {"text_1": PROMPT, "text_2": RESPONSES}, "queries", [PROMPT]),
    ("/rerank", {"query": PROMPT, "documents": RESPONSES}, "texts", ["y"]),
    ("/v2/rerank", {"query": PROMPT, "documents": RESPONSES}, "texts", ["y"]),
    ("/v1/reranking", TEXTS["/v1/reranking"], "documents", ["y"]),
    ("/predict", TEXTS["/predict"], "text", "y"),
    ("/predict", TEXTS["/predict"], "texts", ["y"]),
    ("/get_reward", TEXTS["/get_reward"], "messages", TALK),
    ("/reward", BODIES["/reward"], "text", "y"),
    ("/get_feedback", TEXTS["/get_feedback"], "batch_candidates", [["y", "z"]]),
]
NOT_NULL = {"batch_candidates"}


@pytest.mark.parametrize(("path", "body", "name", "value"), TWO_INPUTS)
def test_a_second_input_is_refused_not_dropped(
    served: Server, path: str, body: dict[str, Any], name: str, value: Any
) -> None:
    """One of two would be scored, without a word of the other."""
    answer = served.http.post(path, json={**body, name: value})

    assert answer.status_code in (400, 422), answer.text
    assert f"'{name}'" in answer.text
    post(served, path, **body, **{name: [] if name in NOT_NULL else None})


@pytest.mark.parametrize(
    ("path", "body", "extra", "says"),
    [
        ("/predict", TEXTS["/predict"], {"raw_score": True}, "did you mean 'raw_scores'"),
        ("/rerank", {"query": PROMPT, "texts": ["x"]}, {"raw_score": True}, "'raw_scores'"),
        ("/rerank", RANKED, {"topn": 1}, "'top_n'"),
        ("/classify", {"input": "x"}, {"use_activations": True}, "'use_activation'"),
        ("/v1/score", TEXTS["/v1/score"], {"apply_softmaxes": True}, "'apply_softmax'"),
        ("/classify", {"messages": [{**TALK[0], "tool_call": []}, TALK[1]]}, {}, "'tool_calls'"),
        ("/get_reward", TEXTS["/get_reward"], {"activation": "sigmoid"}, "'activation'"),
        ("/get_reward", TEXTS["/get_reward"], {"normalize": True}, "'normalize'"),
        ("/get_reward", TEXTS["/get_reward"], {"prompts": ["x"]}, "1 'prompts'"),
        ("/reward", BODIES["/reward"], {"raw_scores": True}, "'raw_scores'"),
        ("/predict", TEXTS["/predict"], {"use_activation": False}, "'use_activation'"),
        ("/predict", TEXTS["/predict"], {"parameters": {"foo": 1}}, "parameter 'foo'"),
        (
            "/classify",
            {"input": "x"},
            {"use_activation": True, "activation": False},
            "'use_activation' and 'activation' contradict",
        ),
        ("/v1/rerank", {**RANKED, "top_k": 1}, {"top_n": 2}, "'top_k' beside 'top_n'"),
        ("/v1/rerank", RANKED, {"instruction": "Find."}, "'instruction'"),
        ("/v1/score", TEXTS["/v1/score"], {"chat_template": "{{ messages }}"}, "'chat_template'"),
        ("/v1/score", TEXTS["/v1/score"], {"instruct": "Find."}, "'instruct'"),
        ("/vertex", {"instances": [{"inputs": "x", "raw_score": True}]}, {}, "'raw_scores'"),
        ("/vertex", {"instances": [{"inputs": "x", "text": "y"}]}, {}, "'text' beside 'inputs'"),
    ],
)
def test_what_would_change_the_number_elsewhere_is_refused(
    served: Server, path: str, body: dict[str, Any], extra: dict[str, Any], says: str
) -> None:
    """A misspelt option, or one of another contract, did nothing; other fields are passed over."""
    answer = served.http.post(path, json={**body, **extra})

    assert answer.status_code in (400, 422), answer.text
    assert says in answer.text
    if extra:
        post(served, path, **body, user="somebody", metadata={"normalize": True})


@pytest.mark.parametrize("path", BODIES)
def test_a_field_of_the_body_in_the_url_is_refused(served: Server, path: str) -> None:
    """There it would do nothing; what else a gateway writes there is its own."""
    refused = served.http.post(f"{path}?model=other", json=BODIES[path])
    other = served.http.post(f"{path}?api-version=2026-01-01", json=BODIES[path])

    assert refused.status_code in (400, 422), refused.text
    assert "a field of the body" in refused.text
    assert other.status_code == 200, other.text


@pytest.mark.parametrize(
    ("query", "says"), [("reward_kye=a", "reward_key"), ("verbatim=1", "true")]
)
def test_a_misspelt_parameter_of_slimes_is_refused(served: Server, query: str, says: str) -> None:
    """Its two parameters change the answer."""
    answer = served.http.post(f"/reward?{query}", json=BODIES["/reward"])

    assert answer.status_code == 422
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"query": "a" * 1_000_000, "items": ["b"] * 1_000}),
        ("/v1/score", {"query": [5] * 1_000_000, "items": [[6]] * 1_000}),
        (
            "/v1/systemone",
            {
                "state": "a" * 1_000_000,
                "questions": {
                    str(number): {"type": "choice", "criteria": {"b": None, "c": None}}
                    for number in range(1_000)
                },
            },
        ),
        (
            "/v1/decisions",
            {
                "input": "a" * 1_000_000,
                "questions": [
                    {"type": "score", "instructions": "?", "levels": [{"label": "b"}] * 2}
                ]
                * 1_000,
            },
        ),
        (
            "/v1/decisions",
            {
                "input": "a" * 1_000_000,
                "prompt_format_version": 1,
                "questions": [
                    {"type": "score", "id": str(number), "question": "?", "levels": ["b", "c"]}
                    for number in range(1_000)
                ],
            },
        ),
    ],
)
def test_a_text_that_would_stand_in_each_of_many_items_is_bounded(
    served: Server, path: str, body: dict[str, Any]
) -> None:
    """A megabyte before each of a thousand would be a gigabyte."""
    answer = served.http.post(path, json=body)

    assert answer.status_code == 413, answer.text
    assert "send fewer at a time" in answer.text
