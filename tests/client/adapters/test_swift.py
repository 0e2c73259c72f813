"""ms-swift's calls: a class among `orms`, made with the arguments; completions and columns."""

import asyncio
import inspect
import pickle

import pytest

from assay.client.adapters import swift
from tests.client.adapters.cases import CHATS, SAID, TOO_LONG, TURNS, conversations, natively

MESSAGES = [chat + turn for chat, turn in zip(CHATS, TURNS, strict=True)]
COLUMNS = {"trainer_state": None, "prompt_id": ["a", "b", "c"], "solution": [1, 2, 3], "self": [1]}


def is_async(func):
    """As `swift.rl_core.grpo_algorithm._is_async_reward`."""
    call = getattr(func, "__call__", None)  # noqa: B004  its own words
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(call)


def made(make, url, **options):
    """Return what the trainer makes of the registered class."""
    return make(url, **options)(args=object())


def called(function, completions, **columns):
    """Call it as the trainer does: async ones on a loop that ends with the call."""
    answer = function(completions, **columns)
    return asyncio.run(gathered(answer)) if is_async(function) else answer


async def gathered(*answers):
    """As the trainer runs its async rewards."""
    return (await asyncio.gather(*answers))[0]


@pytest.fixture(params=[swift.reward, swift.async_reward], ids=["sync", "async"])
def make(request):
    """Both factories."""
    return request.param


def test_rewards_are_the_native_scores(server, make):
    """Of the column `messages`, which ends with the completion; twice, on loops that end."""
    function = made(make, server.url)
    for _ in range(2):
        found = called(function, SAID, messages=MESSAGES, **COLUMNS)
        assert found == natively(server, conversations())


def test_messages_may_end_before_the_completion(server, make):
    """As in the dataset."""
    function = made(make, server.url, model="crew")
    found = called(function, SAID, messages=CHATS)
    assert found == natively(server, conversations(), model="crew")


def test_what_cannot_be_scored_is_none(server, make):
    """ms-swift leaves it out."""
    found = called(made(make, server.url), [TOO_LONG, SAID[1]], messages=CHATS[:2])
    assert found == [None, *natively(server, conversations()[1:2])]


def test_logs_have_the_rewards_name(url, make):
    """ms-swift takes the class's, and looks whether the instance is among its own."""
    function = made(make, url, name="helpful")
    assert type(function).__name__ == "helpful"
    assert function not in {"accuracy": None}


def test_an_instance_can_be_pickled(url, make):
    """Though its class was made."""
    function = made(make, url, name="helpful", clip=(-1.0, 1.0))
    function.args = "args"
    copied = pickle.loads(pickle.dumps(function))
    assert (type(copied).__name__, copied.reward, copied.args) == (
        "helpful",
        function.reward,
        "args",
    )
    assert is_async(copied) == (make is swift.async_reward)


def test_without_messages_there_is_no_prompt(url, make):
    """It is said."""
    with pytest.raises(TypeError, match="messages"):
        called(made(make, url), SAID)


def test_tools_that_can_not_be_read_are_refused(url, make):
    """Not left out: the policy saw them."""
    tools = ["[{", *[None] * (len(SAID) - 1)]
    with pytest.raises(ValueError, match="tools"):
        called(made(make, url), SAID, messages=MESSAGES, tools=tools)
