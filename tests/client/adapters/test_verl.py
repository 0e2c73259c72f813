"""verl's calls: a function found in a file by its name, with keywords from the configuration."""

import importlib.util
import inspect

import numpy as np
import pytest

from assay import errors
from assay.client.adapters import verl
from tests.client.adapters.cases import CHATS, PROMPT, RESPONSES, SAID, TOO_LONG, natively

ITEMS = [{"prompt": PROMPT, "response": one} for one in RESPONSES]


def loaded(name):
    """Return a function of the file as `verl.utils.import_utils.load_extern_object` does."""
    spec = importlib.util.spec_from_file_location("custom_module_7", verl.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def given(response, **extra):
    """Return what verl's `naive` manager hands over."""
    info = {"question": PROMPT, "split": "train", "index": 3, "num_turns": 2, **extra}
    return {
        "data_source": "openai/gsm8k",
        "solution_str": response,
        "ground_truth": "8",
        "extra_info": info,
    }


@pytest.mark.parametrize("name", ["compute_score", "compute_score_async"])
async def test_a_samples_reward_is_the_native_score(server, name):
    """By keywords, options among them."""
    function = loaded(name)
    found = []
    for response in RESPONSES:
        answer = function(**given(response), url=server.url, model="crew")
        found.append(await answer if inspect.iscoroutinefunction(function) else answer)
    assert found == natively(server, ITEMS, model="crew")


def test_options_may_come_from_the_environment(server, monkeypatch):
    """What the configuration has wins."""
    monkeypatch.setenv("ASSAY_CLIENT_URL", server.url)
    monkeypatch.setenv("ASSAY_CLIENT_MODEL", "crew")
    function = loaded("compute_score")
    assert function(**given(RESPONSES[0])) == natively(server, ITEMS[:1], model="crew")[0]
    expected = natively(server, ITEMS[:1], model="other")[0]
    assert function(**given(RESPONSES[0]), model="other") == expected


def test_a_batch_has_the_same_rewards(server):
    """Of the manager `batch`, whose columns are arrays."""
    found = loaded("compute_scores")(
        data_sources=np.array(["a"] * len(RESPONSES), dtype=object),
        solution_strs=RESPONSES,
        ground_truths=[None] * len(RESPONSES),
        extra_infos=np.array([given(one)["extra_info"] for one in RESPONSES], dtype=object),
        url=server.url,
    )
    assert found == natively(server, ITEMS)


def test_the_prompt_may_be_messages(server):
    """As a column of a parquet file has them."""
    function = verl.reward(server.url)
    messages = np.array(CHATS[0], dtype=object)
    expected = natively(server, [{"prompt": CHATS[0], "response": SAID[0]}])
    assert [function(**given(SAID[0], prompt=messages))] == expected
    assert [function(**given(SAID[0], chat=messages), prompt_key="chat")] == expected
    named = verl.reward(server.url, prompt_key="chat")
    assert [named(**given(SAID[0], chat=messages))] == expected


def test_no_prompt_is_an_error(url):
    """A reward without the prompt would be another one."""
    function = verl.reward(url)
    with pytest.raises(errors.InvalidField, match="extra_info has no 'chat'"):
        function(**given("a"), prompt_key="chat")
    with pytest.raises(errors.InvalidField, match="'prompt' or 'question'"):
        function("a", "b", "c", {})


async def test_functions_of_ones_own_file_are_the_same(server):
    """Made by the factories; verl's own keywords are taken."""
    own = {"reward_router_address": "a:1", "reward_model_tokenizer": None}
    expected = natively(server, ITEMS[:1])[0]
    function = verl.async_reward(server.url)
    assert inspect.iscoroutinefunction(function)
    assert await function(**given(RESPONSES[0]), **own) == expected
    assert verl.reward(server.url)(**given(RESPONSES[0]), **own) == expected
    assert verl.compute_score(**given(RESPONSES[0]), **own, url=server.url) == expected
    batch = verl.batch_reward(server.url)
    infos = [given("")["extra_info"]]
    assert batch(["a"], RESPONSES[:1], [None], infos) == [expected]


@pytest.mark.parametrize(("options", "expected"), [({}, 0.0), ({"unscorable": -9.0}, -9.0)])
def test_an_unscorable_response_has_a_number(url, options, expected):
    """verl knows no None."""
    assert verl.compute_score(**given(TOO_LONG), url=url, **options) == expected


def test_an_unscorable_response_may_be_an_error(url):
    """If None is asked for."""
    with pytest.raises(errors.RequestError, match="unscorable"):
        verl.compute_score(**given(TOO_LONG), url=url, unscorable=None)
