"""TRL's calls: keywords, one a batch; strings or conversations; None for what has no reward."""

import functools
import inspect

import pytest

from assay.client.adapters import trl
from assay.errors import InvalidField
from tests.client.adapters.cases import (
    CHATS,
    PROMPT,
    RESPONSES,
    TOO_LONG,
    TURNS,
    conversations,
    natively,
)

# What `GRPOTrainer._calculate_rewards` hands over beside prompts and completions: columns of the
# dataset come under their own names, whatever these are.
COLUMNS = {
    "trainer_state": object(),
    "log_extra": print,
    "log_metric": print,
    "environments": None,
    "solution": ["a", "b", "c"],
    "reward": [1, 2, 3],
    "self": [1, 2, 3],
    "function": [1, 2, 3],
}


def name_of(func):
    """As `trl.trainer.utils.get_callable_name` of 1.16."""
    while isinstance(func, functools.partial):
        func = func.func
    return getattr(func, "__name__", type(func).__name__)


async def called(function, /, **given):
    """Call it as TRL does, by what it is."""
    ids = [[1, 2]] * len(given["prompts"])
    answer = function(completion_ids=ids, **given)
    return await answer if inspect.iscoroutinefunction(function) else answer


@pytest.fixture(params=[trl.reward, trl.async_reward], ids=["sync", "async"])
def make(request):
    """Both factories."""
    return request.param


async def test_conversations_have_the_models_own_template(server, make):
    """Messages are sent, not text."""
    function = make(server.url)
    found = await called(function, prompts=CHATS, completions=TURNS, **COLUMNS)
    assert found == natively(server, conversations())


async def test_strings_are_joined_as_trl_does(server, make):
    """Prompt and completion are one text."""
    given = {"prompts": [PROMPT] * len(RESPONSES), "completions": RESPONSES}
    texts = [{"text": PROMPT + response} for response in RESPONSES]
    assert await called(make(server.url), **given) == natively(server, texts)


async def test_strings_are_turns_if_wanted(server, make):
    """For models that know conversations only."""
    given = {"prompts": [PROMPT] * len(RESPONSES), "completions": RESPONSES}
    pairs = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    assert await called(make(server.url, verbatim=False), **given) == natively(server, pairs)


async def test_what_cannot_be_scored_is_none(server, make):
    """TRL leaves it out."""
    too_long = [[{"role": "assistant", "content": TOO_LONG}]]
    cut_short = [[*TURNS[0], {"role": "tool", "name": "clock", "content": "12:00"}]]
    given = {"prompts": [CHATS[0], CHATS[1], CHATS[1]]}
    given["completions"] = [TURNS[0], *too_long, *cut_short]
    found = await called(make(server.url), **given)
    assert found == [*natively(server, conversations()[:1]), None, None]


async def test_each_reward_has_its_own_name_target_and_options(server, make):
    """As several of `reward_funcs`."""
    one, other = make(server.url, model="tiny"), make(server.url, model="crew", name="sure")
    given = {"prompts": CHATS, "completions": TURNS}
    assert [name_of(one), name_of(other), name_of(make(server.url))] == ["tiny", "sure", "assay"]
    assert await called(other, **given) == natively(server, conversations(), model="crew")
    assert await called(one, **given) == natively(server, conversations(), model="tiny")


def test_what_is_async_is_known_to_be(url):
    """To versions that ask the object, and to those that ask its `__call__`."""
    one, other = trl.reward(url), trl.async_reward(url)
    assert not inspect.iscoroutinefunction(one)
    assert not inspect.iscoroutinefunction(one.__call__)
    assert inspect.iscoroutinefunction(other)
    assert inspect.iscoroutinefunction(other.__call__)
    assert inspect.iscoroutinefunction(functools.partial(other, tag=1))


async def test_lengths_that_differ_are_an_error(url, make):
    """Rather than rewards of the wrong rows."""
    with pytest.raises(InvalidField, match="3 prompts don't go with 2 responses"):
        await called(make(url), prompts=CHATS, completions=TURNS[:2])
