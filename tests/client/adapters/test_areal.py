"""AReaL's calls: one completion at a time, in worker processes."""

import asyncio
import functools
import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from assay import errors
from assay.client.adapters import areal
from tests.client.adapters.cases import CHATS, PROMPT, RESPONSES, SAID, natively
from tests.client.judge import Judge, served

DATA = {"messages": CHATS[0], "answer": "8", "query_id": "3", "reward": 1.0}
END = "<|im_end|>"
TEXTS = [{"text": PROMPT + response} for response in RESPONSES]


def given(response, prompt=PROMPT):
    """Return what `RLVRWorkflow` hands over by place."""
    return (prompt, response, [1, 2], [3, 4])


async def test_worker_processes_answer(server):
    """As `AsyncRewardWrapper` calls."""
    function = areal.reward(server.url)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = await asyncio.gather(
            *(
                loop.run_in_executor(pool, functools.partial(function, *given(one), **DATA))
                for one in RESPONSES
            )
        )
    assert found == natively(server, TEXTS)


def test_a_path_is_enough(server, monkeypatch):
    """As `import_from_string` finds it, with the environment's options."""
    monkeypatch.setenv("ASSAY_CLIENT_URL", server.url)
    path, _, name = "assay.client.adapters.areal.reward_fn".rpartition(".")
    function = getattr(importlib.import_module(path), name)
    assert [function(*given(one), **DATA) for one in RESPONSES] == natively(server, TEXTS)


def test_messages_have_the_models_own_template_if_wanted(server):
    """Without the end that the policy's turns have."""
    function = areal.reward(server.url, verbatim=False, turn_end=END)
    expected = natively(server, [{"prompt": CHATS[0], "response": SAID[0]}])
    assert [function(*given(SAID[0] + END, "templated"), **DATA)] == expected
    assert [function(*given(RESPONSES[0]), answer="8")] == natively(
        server, [{"prompt": PROMPT, "response": RESPONSES[0]}]
    )


def test_silence_is_an_error_before_areal_takes_it_for_0():
    """Which it does after 15 s."""
    assert areal.reward("http://a:1").reward.deadline_s < 15
    with served(Judge(delay_s=1.0)) as url, pytest.raises(errors.DeadlineExceeded):
        areal.reward(url, deadline_s=0.1)(*given("7"))


def test_an_unscorable_completion_has_a_number(url):
    """0 unless given."""
    assert areal.reward(url)(*given("", "")) == 0.0
    assert areal.reward(url, unscorable=-9.0)(*given("", "")) == -9.0
