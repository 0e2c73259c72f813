"""ms-swift's InferClient, replayed: models first, then a conversation; it reads no status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import ITEMS, natively, post
from tests.http.texts import PROMPT, RESPONSE

if TYPE_CHECKING:
    from tests.http.processes import Server

BASE = "/swift/v1"
MESSAGES = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]


@pytest.mark.parametrize("name", exchanges("ms-swift"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", ["tiny", "crew", "helpsteer"])
def test_the_content_is_the_reward(served: Server, model: str) -> None:
    """A number, to the last bit, under a base URL of its own."""
    names = [one["id"] for one in served.http.get(f"{BASE}/models").json()["data"]]
    answer = post(served, f"{BASE}/chat/completions", model=model, messages=MESSAGES)

    assert model in names
    content = answer["choices"][0]["message"]["content"]
    assert [content] == natively(served, ITEMS[0], model=model)


def test_the_content_of_a_process_reward_model_is_its_steps(served: Server) -> None:
    """A list of numbers, as its protocol has it."""
    item = {"messages": MESSAGES}
    (native,) = post(served, "/score", inputs=[item], model="math", include=["steps"])["data"]

    answer = post(served, f"{BASE}/chat/completions", model="math", messages=MESSAGES)

    assert answer["choices"][0]["message"]["content"] == native["steps"]


@pytest.mark.parametrize("base", [BASE, "/v1"])
@pytest.mark.parametrize("body", [{"messages": MESSAGES, "model": "nope"}, {"messages": 7}])
def test_an_error_says_that_it_is_one(served: Server, base: str, body: dict[str, object]) -> None:
    """`object` is looked at before anything else; without it the client dies of a KeyError."""
    answer = served.http.post(f"{base}/chat/completions", json=body).json()

    assert answer["object"] == "error"
    assert answer["message"] == answer["error"]["message"]
