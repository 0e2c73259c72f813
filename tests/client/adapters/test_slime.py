"""slime's calls: an async function of its arguments and a sample, or samples."""

import importlib
from argparse import Namespace
from types import SimpleNamespace

import pytest

from assay.client.adapters import slime
from tests.client.adapters.cases import CHATS, PROMPT, RESPONSES, SAID, TOO_LONG, natively

SAMPLES = [
    SimpleNamespace(prompt=PROMPT, response=response, label="8", metadata={})
    for response in RESPONSES
]
ITEMS = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
ARGS = Namespace(rm_url=None, reward_key=None, eval_reward_key=None, custom_rm_path="a")


@pytest.fixture
def custom_rm(server, monkeypatch):
    """The function as `slime.utils.misc.load_function` finds it."""
    monkeypatch.setenv("ASSAY_CLIENT_URL", server.url)
    path, _, name = "assay.client.adapters.slime.custom_rm".rpartition(".")
    return getattr(importlib.import_module(path), name)


async def test_a_samples_reward_is_the_native_score(server, custom_rm):
    """A bare number."""
    found = [await custom_rm(ARGS, sample) for sample in SAMPLES]
    assert found == natively(server, ITEMS)


async def test_a_group_has_a_reward_each(server, custom_rm):
    """By the same path with `--group-rm`, or by its own."""
    assert await custom_rm(ARGS, SAMPLES) == natively(server, ITEMS)
    assert await slime.group_rm(ARGS, SAMPLES) == natively(server, ITEMS)
    assert await custom_rm(ARGS, []) == []


async def test_a_prompt_may_be_messages(server, custom_rm):
    """As without `--apply-chat-template`."""
    sample = SimpleNamespace(prompt=CHATS[0], response=SAID[0])
    expected = natively(server, [{"prompt": CHATS[0], "response": SAID[0]}])
    assert [await custom_rm(ARGS, sample)] == expected


async def test_a_prompt_may_be_templated(server):
    """`verbatim` takes it as it stands."""
    function = slime.reward(server.url, verbatim=True)
    expected = natively(server, [{"text": PROMPT + RESPONSES[0]}])
    assert [await function(ARGS, SAMPLES[0])] == expected


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


async def test_a_samples_tools_go_along(server):
    """From its metadata, where slime has them; a template that doesn't render them refuses."""
    function = slime.reward(server.url, unscorable=-9.0)
    sample = SimpleNamespace(prompt=CHATS[0], response=SAID[0], metadata={"tools": TOOLS})
    assert await function(ARGS, sample) == -9.0


async def test_a_templated_prompt_has_its_tools_already(server):
    """So those of the metadata aren't sent beside one text."""
    function = slime.reward(server.url, verbatim=True)
    sample = SimpleNamespace(prompt=PROMPT, response=RESPONSES[0], metadata={"tools": TOOLS})
    expected = natively(server, [{"text": PROMPT + RESPONSES[0]}])
    assert [await function(ARGS, sample)] == expected


@pytest.mark.parametrize("metadata", [None, {}, {"tools": None}, {"tools": []}])
async def test_a_sample_without_tools_is_scored(server, custom_rm, metadata):
    """Whatever its metadata lack."""
    sample = SimpleNamespace(prompt=PROMPT, response=RESPONSES[0], metadata=metadata)
    assert [await custom_rm(ARGS, sample)] == natively(server, ITEMS[:1])


async def test_the_trainers_url_wins(server, monkeypatch):
    """`--rm-url` is the trainer's own argument."""
    monkeypatch.setenv("ASSAY_CLIENT_URL", "http://127.0.0.1:9")
    args = Namespace(**{**vars(ARGS), "rm_url": server.url})
    assert [await slime.custom_rm(args, SAMPLES[0])] == natively(server, ITEMS[:1])


async def test_keys_wrap_the_number(server, custom_rm):
    """For training and for evaluation."""
    args = Namespace(**{**vars(ARGS), "reward_key": "score", "eval_reward_key": "eval"})
    (expected,) = natively(server, ITEMS[:1])
    assert await custom_rm(args, SAMPLES[0]) == {"score": expected, "eval": expected}
    assert await custom_rm(args, SAMPLES[:1]) == [{"score": expected, "eval": expected}]


async def test_an_unscorable_sample_has_a_number(url):
    """Beside those that have a score."""
    function = slime.reward(url, unscorable=-9.0)
    too_long = SimpleNamespace(prompt=PROMPT, response=TOO_LONG)
    found = await function(ARGS, [too_long, SAMPLES[0]])
    assert found[0] == -9.0
    assert found[1] != -9.0
