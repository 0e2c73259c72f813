"""verifiers' calls: rubrics read names and signatures, v1 hands over a trace."""

import importlib
import inspect
from types import SimpleNamespace

import pytest

from assay.client.adapters import verifiers
from tests.client.adapters.cases import CHATS, PROMPT, RESPONSES, TOO_LONG, TURNS, natively
from tests.client.adapters.cases import conversations as whole

GROUP = {"states", "prompts", "completions", "answers", "tasks", "infos"}


async def called(function, /, **objects):
    """As `Rubric` does: with what the signature names of what there is."""
    wanted = inspect.signature(function).parameters
    return await function(**{name: one for name, one in objects.items() if name in wanted})


async def test_a_rollouts_reward_is_the_native_score(server):
    """Of messages, or of strings."""
    function = verifiers.reward(server.url)
    objects = {"answer": "8", "state": {}, "info": {}, "task": None, "parser": None}
    found = [
        await called(function, prompt=chat, completion=turn, **objects)
        for chat, turn in zip(CHATS, TURNS, strict=True)
    ]
    assert found == natively(server, whole())
    assert [await called(function, prompt=PROMPT, completion=RESPONSES[0])] == natively(
        server, [{"prompt": PROMPT, "response": RESPONSES[0]}]
    )


async def test_a_group_is_asked_for_at_once(server):
    """And known as a group's by its parameters."""
    function = verifiers.group_reward(server.url, model="crew")
    assert set(inspect.signature(function).parameters) & GROUP
    assert not set(inspect.signature(verifiers.reward(server.url)).parameters) & GROUP
    found = await called(function, prompts=CHATS, completions=TURNS, states=[{}] * 3)
    assert found == natively(server, whole(), model="crew")


async def test_a_traces_reward_is_that_of_its_messages(server, monkeypatch):
    """Awaited in a task, or plugged by its path."""
    messages = [SimpleNamespace(**turn) for turn in whole()[0]["messages"]]
    trace = SimpleNamespace(messages=messages)
    expected = natively(server, whole()[:1])
    assert [await called(verifiers.trace_reward(server.url), trace=trace, task=None)] == expected
    monkeypatch.setenv("ASSAY_CLIENT_URL", server.url)
    plugged = importlib.import_module("assay.client.adapters.verifiers").trace_fn
    assert [await called(plugged, trace=trace, task=None)] == expected


@pytest.mark.parametrize("make", [verifiers.reward, verifiers.group_reward, verifiers.trace_reward])
def test_it_has_a_name_and_is_async(url, make):
    """Rubrics log the one and await the other."""
    function = make(url, name="helpful")
    assert function.__name__ == "helpful"
    assert inspect.iscoroutinefunction(function)


async def test_an_unscorable_rollout_has_a_number(url):
    """0 unless given."""
    given = {"prompt": PROMPT, "completion": TOO_LONG}
    assert await called(verifiers.reward(url), **given) == 0.0
    assert await called(verifiers.reward(url, unscorable=-9.0), **given) == -9.0
