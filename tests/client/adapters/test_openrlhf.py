"""OpenRLHF's calls: a function found in a file, whole templated texts, tensors."""

import importlib.util

import pytest
import torch

from assay.client.adapters import openrlhf
from tests.client.adapters.cases import ITEMS, PROMPT, natively


@pytest.fixture
def queries(server):
    """What the policy's template makes of the items: here the model's own."""
    answer = server.http.post("/tokenize", json={"inputs": ITEMS})
    return [one["text"] for one in answer.json()["data"]]


@pytest.fixture
def loaded(server, monkeypatch):
    """The function as `SingleTurnAgentExecutor` finds it."""
    monkeypatch.setenv("ASSAY_CLIENT_URL", server.url)
    spec = importlib.util.spec_from_file_location("reward_func", openrlhf.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def test_rewards_are_the_native_scores(server, loaded, queries):
    """In float32; `scores` are the native probabilities, and logs are empty."""
    found = loaded(queries, [PROMPT] * len(queries), ["8"] * len(queries))
    assert found["rewards"].tolist() == torch.tensor(natively(server, ITEMS)).tolist()
    probable = natively(server, ITEMS, activation="sigmoid")
    assert found["scores"].tolist() == torch.tensor(probable).tolist()
    assert found["extra_logs"] == {}


def test_one_sample_a_call_is_taken(server, loaded, queries):
    """As HEAD calls; the trainer makes a tensor of what it gets."""
    found = loaded([queries[0]], [PROMPT], [None])
    assert torch.tensor([found["rewards"]]).shape == (1,)
    assert found["rewards"].item() == pytest.approx(natively(server, ITEMS[:1])[0], rel=1e-6)


def test_options_apply_to_rewards_only(server, queries):
    """A filter over (0, 1) needs the probabilities."""
    function = openrlhf.reward(server.url, clip=(-0.1, 0.1), length_penalty=1.0)
    found = function(queries=queries, prompts=queries, labels=queries)
    assert set(found["rewards"].tolist()) == {torch.tensor(-0.1).item()}
    probable = natively(server, ITEMS, activation="sigmoid")
    assert found["scores"].tolist() == torch.tensor(probable).tolist()


def test_an_unscorable_query_has_a_number(url):
    """In both tensors."""
    found = openrlhf.reward(url, unscorable=-9.0)([""], [""], [""])
    assert (found["rewards"].tolist(), found["scores"].tolist()) == ([-9.0], [-9.0])
