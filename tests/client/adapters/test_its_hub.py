"""its_hub's calls: prompts with responses, or conversations; responses so far, in steps."""

import pickle
from dataclasses import dataclass

import pytest

from assay.client.adapters import its_hub
from tests.client.adapters.cases import (
    CHATS,
    HENS,
    PROMPT,
    RESPONSES,
    SOLUTIONS,
    TOO_LONG,
    conversations,
    natively,
    steps,
)

PAIRS = [{"prompt": PROMPT, "response": one} for one in RESPONSES]
CHAINS = [{"prompt": HENS, "steps": steps(one)} for one in SOLUTIONS]


@dataclass
class ChatMessage:
    """As `its_hub.api.ChatMessage`."""

    role: str
    content: object
    tool_calls: object = None
    tool_call_id: str | None = None


class ChatMessages:
    """As `its_hub.api.ChatMessages`."""

    def __init__(self, messages):
        self._messages = messages

    def to_chat_messages(self):
        return self._messages


def spoken(messages):
    """Return messages as objects."""
    return [ChatMessage(**one) for one in messages]


async def test_responses_to_a_prompt_have_the_native_scores(server):
    """A list for a list, a number for a string."""
    model = pickle.loads(pickle.dumps(its_hub.reward(server.url)))
    expected = natively(server, PAIRS)
    assert model.score(PROMPT, RESPONSES) == expected
    assert await model.ascore(PROMPT, RESPONSES) == expected
    assert model.score(PROMPT, RESPONSES[0]) == expected[0]
    assert await model.ascore(PROMPT, RESPONSES[0]) == expected[0]


@pytest.mark.parametrize("form", [list, spoken, lambda one: ChatMessages(spoken(one))])
async def test_conversations_have_the_native_scores(server, form):
    """Several or one; of messages, of objects, or wrapped."""
    model = its_hub.reward(server.url, model="crew")
    given = [form(one["messages"]) for one in conversations()]
    expected = natively(server, conversations(), model="crew")
    assert model.score(given) == expected
    assert await model.ascore(given, orchestrator=None) == expected
    assert model.score(given[0]) == await model.ascore(given[0]) == expected[0]


@pytest.mark.parametrize("aggregate", ["prod", "min", "last", "mean", None])
async def test_solutions_so_far_have_the_native_scores(server, aggregate):
    """Aggregated by the server; from 0 to 1, as particle filtering asserts."""
    model = its_hub.process_reward(server.url, model="math", aggregate=aggregate)
    expected = natively(server, CHAINS, model="math", aggregate=aggregate)
    assert model.score(HENS, SOLUTIONS) == expected
    assert await model.ascore(HENS, SOLUTIONS) == expected
    assert model.score(HENS, SOLUTIONS[0]) == await model.ascore(HENS, SOLUTIONS[0]) == expected[0]
    assert all(0 <= one <= 1 for one in expected)


def test_a_prompt_may_be_wrapped_messages(server):
    """As since its_hub 1.0."""
    model = its_hub.process_reward(server.url, model="math")
    before = [{"role": "user", "content": HENS}]
    found = model.score(ChatMessages(spoken(before)), SOLUTIONS)
    assert found == natively(server, CHAINS, model="math")


def test_a_response_may_be_one_step(server):
    """its_hub's method "model"."""
    model = its_hub.process_reward(server.url, model="math", separator=None)
    whole = [{"prompt": HENS, "steps": [one]} for one in SOLUTIONS]
    assert model.score(HENS, SOLUTIONS) == natively(server, whole, model="math")


def test_a_raw_model_has_probabilities_if_wanted(server):
    """For algorithms that need them."""
    model = its_hub.reward(server.url, activation="sigmoid")
    assert model.score(PROMPT, RESPONSES) == natively(server, PAIRS, activation="sigmoid")


def test_an_unscorable_response_has_a_number(server):
    """Beside those that have a score."""
    lowest = its_hub.reward(server.url)
    model = its_hub.reward(server.url, unscorable=-9.0)
    assert model.score(CHATS[1], [TOO_LONG, "Seven."]) == [
        -9.0,
        *natively(server, [{"prompt": CHATS[1], "response": "Seven."}]),
    ]
    assert lowest.score(CHATS[1], TOO_LONG) == float("-inf")
