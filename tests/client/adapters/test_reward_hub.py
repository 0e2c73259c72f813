"""reward_hub's calls: conversations, and questions with responses in steps."""

import math
import pickle
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import pytest

from assay.client.adapters import reward_hub
from tests.client.adapters.cases import (
    CHATS,
    HENS,
    SOLUTIONS,
    TOO_LONG,
    conversations,
    entries,
    natively,
    steps,
)

WHOLE = [one["messages"] for one in conversations()]
CHAINS = [{"prompt": HENS, "steps": steps(one)} for one in SOLUTIONS]
ASKED = [
    [{"role": "user", "content": HENS}, {"role": "assistant", "content": one}] for one in SOLUTIONS
]


class AggregationMethod(Enum):
    """As `reward_hub.base.AggregationMethod`."""

    MODEL = "model"
    PRODUCT = "prod"
    MIN = "min"
    LAST = "last"


async def test_outcomes_are_the_native_scores(server):
    """Several conversations give a list, one a number."""
    model = pickle.loads(pickle.dumps(reward_hub.reward(server.url)))
    expected = natively(server, conversations())
    assert model.score(WHOLE, max_input_tokens=8192, num_workers=40) == expected
    assert await model.ascore(messages=WHOLE) == expected
    assert model.score(WHOLE[0]) == await model.ascore(WHOLE[0]) == expected[0]
    assert model.score([]) == []


@pytest.mark.parametrize("method", ["prod", "min", "last", *list(AggregationMethod)[1:]])
async def test_steps_are_aggregated_by_the_method(server, method):
    """By its name or its member; both signatures."""
    model = reward_hub.process_reward(server.url, model="math")
    how = getattr(method, "value", method)
    expected = natively(server, CHAINS, model="math", aggregate=how)
    assert model.score(HENS, SOLUTIONS, aggregation_method=method) == expected
    assert model.score(question=HENS, responses=SOLUTIONS, aggregation_method=method) == expected
    assert model.score(messages=ASKED, aggregation_method=method) == expected
    assert await model.ascore(ASKED[0], aggregation_method=method) == expected[:1]


def test_the_method_model_takes_a_response_for_one_step(server):
    """As reward_hub does."""
    model = reward_hub.process_reward(server.url, model="math")
    whole = [{"prompt": HENS, "steps": [one]} for one in SOLUTIONS]
    found = model.score(messages=ASKED, aggregation_method=AggregationMethod.MODEL)
    assert found == natively(server, whole, model="math")


def test_without_a_method_it_is_the_last_step(server):
    """reward_hub's default, or the one the model was made with."""
    plain = reward_hub.process_reward(server.url, model="math")
    assert plain.score(ASKED) == natively(server, CHAINS, model="math", aggregate="last")
    mean = reward_hub.process_reward(server.url, model="math", aggregate="min")
    assert mean.score(ASKED) == natively(server, CHAINS, model="math", aggregate="min")


def test_steps_may_be_separated_otherwise(server):
    """By `step_sep`."""
    model = reward_hub.process_reward(server.url, model="math")
    joined = [one.replace("\n\n", " | ") for one in SOLUTIONS]
    found = model.score(HENS, joined, step_sep=" | ", aggregation_method="min")
    assert found == natively(server, CHAINS, model="math", aggregate="min")


def test_full_results_have_every_step(server, monkeypatch):
    """As reward_hub's own `PRMResult`."""
    module = ModuleType("reward_hub.base")
    module.PRMResult = lambda scores, aggregation_method: SimpleNamespace(
        scores=scores, method=aggregation_method, product=math.prod(scores)
    )
    monkeypatch.setitem(sys.modules, "reward_hub", ModuleType("reward_hub"))
    monkeypatch.setitem(sys.modules, "reward_hub.base", module)
    model = reward_hub.process_reward(server.url, model="math")
    found = model.score(ASKED, aggregation_method="prod", return_full_prm_result=True)
    assert [one.scores for one in found] == [
        one["steps"] for one in entries(server, CHAINS, model="math")
    ]
    assert [one.method for one in found] == ["prod"] * len(ASKED)


async def test_a_full_result_has_reward_hubs_methods_only(url):
    """Its enumeration has no mean; that is said before anything is asked."""
    model = reward_hub.process_reward(url, model="math", aggregate="mean")
    assert model.score(ASKED)
    with pytest.raises(ValueError, match="no method 'mean'"):
        model.score(ASKED, return_full_prm_result=True)
    with pytest.raises(ValueError, match="no method 'mean'"):
        await model.ascore(ASKED, return_full_prm_result=True)


CALLS = [{"type": "function", "id": "x", "function": {"name": "add", "arguments": "{}"}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("last", "named"),
    [
        ({"content": None, "tool_calls": CALLS}, "'tool_calls'"),
        ({"content": "It is 42.", "tool_calls": CALLS}, "'tool_calls'"),
        ({"content": "It is 42.", "reasoning_content": "Hm."}, "'reasoning_content'"),
        ({"content": "It is 42.", "name": "Ann"}, "'name'"),
        ({"content": [{"type": "text", "text": "It is 42."}, IMAGE]}, r"content\[1\]"),
        ({"content": "42", "role": "tool"}, "role is 'tool'"),
    ],
)
@pytest.mark.parametrize("made", [dict, lambda turn: SimpleNamespace(**turn)])
async def test_what_steps_would_be_without_is_refused_by_its_name(url, last, named, made):
    """In the last turn, which is cut; as a mapping or an object."""
    model = reward_hub.process_reward(url, model="math")
    conversation = [*ASKED[0][:1], made({"role": "assistant", **last})]
    with pytest.raises(ValueError, match=named):
        model.score([ASKED[1], conversation])
    with pytest.raises(ValueError, match=named):
        await model.ascore(conversation)


def test_steps_are_cut_from_parts_of_text(server):
    """Joined as the server joins them; fields that say nothing are not in the way."""
    model = reward_hub.process_reward(server.url, model="math")
    first, rest = SOLUTIONS[0].split("\n\n", 1)
    parts = [{"type": "text", "text": f"{first}\n"}, rest]
    last = {"role": "assistant", "content": parts, "tool_calls": [], "reasoning_content": None}
    found = model.score([[*ASKED[0][:1], last]], aggregation_method="min")
    assert found == natively(server, CHAINS[:1], model="math", aggregate="min")


def test_an_unscorable_conversation_has_a_number(server):
    """Beside those that have a score."""
    too_long = [*CHATS[0], {"role": "assistant", "content": TOO_LONG}]
    found = reward_hub.reward(server.url, unscorable=-9.0).score([too_long, WHOLE[1]])
    assert found == [-9.0, *natively(server, conversations()[1:2])]
