"""OpenAI's client: completions and embeddings that carry rewards, models, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from assay.reward import choice
from tests.guides.conftest import natively, scores

if TYPE_CHECKING:
    from tests.guides.conftest import RunExample
    from tests.http.processes import Server

TURNS = [
    {"role": "user", "content": "Name a prime number."},
    {"role": "assistant", "content": "Seven is a prime number."},
]


def test_a_completion_and_an_embedding_have_the_native_score(
    server: Server, run_example: RunExample
) -> None:
    """Turns go through the template; a text that went through it already has the same score."""
    (expected,) = scores(server, [{"messages": TURNS}])

    answer = run_example("score_with_openai.py")

    assert answer == {
        "models": ["tiny", "helpsteer", "math"],
        "content": f"reward:{expected!r}",
        "rewards": {"reward": expected},
        "embedding": [expected],
    }


def test_a_decision_is_the_best_response(server: Server, run_example: RunExample) -> None:
    """With the softmax of the native scores."""
    prompt = "Somebody was asked for a prime number.\n\nWhich is the best answer?"
    responses = ["Eight.", "Seven is a prime number.", "I like numbers."]
    rewards = scores(server, [{"prompt": prompt, "response": one} for one in responses])
    expected = choice.by_rewards(rewards)

    answer = run_example("decide_with_openai.py")

    assert answer == {
        "choice": responses[rewards.index(max(rewards))],
        "confidence": choice.confidence(expected.probabilities),
        "probabilities": expected.probabilities,
    }


def test_a_completion_has_each_attribute(server: Server) -> None:
    """As NVIDIA's reward models answer their clients: a token's log probability is its score."""
    (entry,) = natively(server, [{"messages": TURNS}], model="helpsteer")

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        completion = client.chat.completions.create(model="helpsteer", messages=TURNS)

    numbers = {one.token: one.logprob for one in completion.choices[0].logprobs.content}
    assert numbers == entry["attributes"]


async def test_the_async_client_gets_embeddings_of_token_ids(server: Server) -> None:
    """One vector of one number each, in order."""
    given = [[1, 458, 270], [5, 17, 300, 42, 7]]
    expected = scores(server, [{"input_ids": ids} for ids in given])

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = await client.embeddings.create(model="starter", input=given)

    assert [one.embedding for one in answer.data] == [[one] for one in expected]


def test_refusals_are_the_clients_own_errors(server: Server) -> None:
    """An unknown model, and turns that end with the user's."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        with pytest.raises(openai.NotFoundError, match="no model 'absent' is served"):
            client.chat.completions.create(model="absent", messages=TURNS)
        with pytest.raises(openai.UnprocessableEntityError, match="is a scalar reward model"):
            client.chat.completions.create(model="starter", messages=TURNS[:1])
