"""slime's remote reward model: one sample, one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import ITEMS, natively, post, refused
from tests.http.texts import CONVERSATION, PROMPT, RESPONSE

if TYPE_CHECKING:
    from tests.http.processes import Server

PATH = "/reward"


@pytest.mark.parametrize("name", exchanges("slime"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", ["tiny", "crew", "helpsteer", "math"])
def test_the_answer_is_a_bare_number(served: Server, model: str) -> None:
    """The native score, to the last bit."""
    expected = natively(served, ITEMS, model=model)

    assert [post(served, PATH, **item, label="8", model=model) for item in ITEMS] == expected


def test_a_prompt_may_be_messages(served: Server) -> None:
    """As without `--apply-chat-template`."""
    *prompt, response = CONVERSATION["messages"]

    reward = post(served, PATH, prompt=prompt, response=response["content"], label=None)

    assert [reward] == natively(served, CONVERSATION)


def test_a_turn_is_taken_as_its_data_has_it(served: Server) -> None:
    """With fields of its own, without content, with content in parts."""
    turns = [
        {"role": "system", "content": None, "weight": 0},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}], "tool_calls": None},
    ]
    plain = [{"role": "system", "content": ""}, {"role": "user", "content": PROMPT}]

    reward = post(served, PATH, prompt=turns, response=RESPONSE, label=None)

    assert [reward] == natively(served, {"prompt": plain, "response": RESPONSE})


def test_a_key_wraps_the_number(served: Server) -> None:
    """`?reward_key=` for `--reward-key`."""
    answer = post(served, f"{PATH}?reward_key=quality", **ITEMS[0])

    assert answer == {"quality": natively(served)[0]}


def test_an_empty_response_is_scored(served: Server) -> None:
    """A generation may end at once."""
    item = {"prompt": "a", "response": ""}

    assert [post(served, PATH, **item)] == natively(served, item)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**ITEMS[0], "model": "nope"}, 404, "unknown_model"),
        ({**ITEMS[0], "model": "pairrm"}, 422, "invalid_field"),
        ({"prompt": "a"}, 422, "invalid_field"),
        ({"prompt": 7, "response": "a"}, 422, "invalid_field"),
        ({"prompt": [], "response": "a"}, 422, "invalid_field"),
    ],
)
def test_errors_are_native(served: Server, body: dict[str, Any], status: int, code: str) -> None:
    """The client retries whatever fails."""
    answer = served.http.post(PATH, json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_overload_is_503_with_retry_after(served: Server) -> None:
    """Which it retries, too."""
    answer = refused(served, PATH, **ITEMS[0])

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body", "right"),
    [
        ("/get_reward", {**ITEMS[0], "label": None}, "/reward"),
        ("/", {**ITEMS[0], "label": None}, "/reward"),
        ("/v1/chat/completions", {**ITEMS[0], "label": None}, "/reward"),
        ("/reward", {"query": ["a"], "prompts": ["a"], "labels": [None]}, "/get_reward"),
        ("/predict", {"query": ["a"], "prompts": ["a"]}, "/get_reward"),
        ("/get_reward", {"batch_prompt": [], "batch_candidates": []}, "/get_feedback"),
    ],
)
def test_a_body_at_another_contracts_path_is_told_its_own(
    served: Server, path: str, body: dict[str, Any], right: str
) -> None:
    """slime has one `--rm-url`, OpenRLHF another: a missing field alone would say nothing."""
    answer = served.http.post(path, json=body)

    assert answer.status_code == 422, answer.text
    assert f"a body with these fields is for {right}" in answer.text
