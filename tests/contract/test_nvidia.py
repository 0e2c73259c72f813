"""NVIDIA's reward NIM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import ITEMS, natively, post, refused
from tests.http.texts import CONVERSATION, PROMPT, RESPONSE

if TYPE_CHECKING:
    from tests.http.processes import Server

PATH = "/v1/chat/completions"
MESSAGES = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": RESPONSE},
]


@pytest.mark.parametrize("name", exchanges("nvidia"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", ["tiny", "crew", "math"])
def test_one_score_is_a_reward(served: Server, model: str) -> None:
    """In the text and among the log probabilities, to the last bit."""
    (expected,) = natively(served, ITEMS[0], model=model)

    (choice,) = post(served, PATH, model=model, messages=MESSAGES)["choices"]

    (token,) = choice["logprobs"]["content"]
    assert choice["message"]["content"] == f"reward:{expected!r}"
    assert float(choice["message"]["content"].partition(":")[2]) == expected
    assert (token["token"], token["logprob"]) == ("reward", expected)


def test_attributes_are_read_as_camel_and_curator_do(served: Server) -> None:
    """A replay of both clients' parsing: {token: logprob}."""
    (native,) = post(served, "/score", inputs=ITEMS[0], model="helpsteer")["data"]

    (choice,) = post(served, PATH, model="helpsteer", messages=MESSAGES)["choices"]

    scores = {one["token"]: one["logprob"] for one in choice["logprobs"]["content"]}
    text = dict(part.split(":") for part in choice["message"]["content"].split(","))
    assert scores == native["attributes"]
    assert {name: float(number) for name, number in text.items()} == native["attributes"]


def test_a_whole_conversation_is_scored(served: Server) -> None:
    """System turns, several turns, and content in parts."""
    (expected,) = natively(served, CONVERSATION)
    parts = [
        {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]}
        for one in CONVERSATION["messages"]
    ]

    for messages in (CONVERSATION["messages"], parts):
        (choice,) = post(served, PATH, messages=messages)["choices"]
        assert choice["message"]["content"] == f"reward:{expected!r}"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": MESSAGES[:1]}, 422, "messages"),
        ({"messages": []}, 422, "messages"),
        ({"messages": MESSAGES, "stream": True}, 422, "stream"),
        ({"messages": MESSAGES, "model": "nope"}, 404, "model"),
        ({"messages": MESSAGES, "model": "pairrm"}, 422, "model"),
        ({"messages": [{"role": "assistant", "content": 7}]}, 422, "messages[0].content"),
    ],
)
def test_errors_are_openais(served: Server, body: dict[str, Any], status: int, param: str) -> None:
    """`error` with message, type, param and code."""
    answer = served.http.post(PATH, json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert list(error) == ["message", "type", "param", "code"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["tiny", "crew"])
def test_a_clients_judge_is_told_that_this_is_a_scalar_reward_model(
    served: Server, model: str, *, stream: bool
) -> None:
    """Clients of generative judges end with the user's turn: the words say what to set."""
    answer = served.http.post(
        PATH, json={"model": model, "messages": MESSAGES[:1], "stream": stream}
    )

    message = answer.json()["error"]["message"]
    assert answer.status_code == 422
    assert message.startswith(f"'{model}' is a scalar reward model")
    assert "assistant turn" in message
    assert "'model' or the client's base URL" in message


def test_overload_is_503_with_retry_after(served: Server) -> None:
    """Which OpenAI's client retries."""
    answer = refused(served, PATH, messages=MESSAGES)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
