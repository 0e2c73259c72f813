"""open-instruct's calls: subclasses of `VerifierFunction`, found and made by their config."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType

import pytest

from assay.client.adapters import open_instruct
from tests.client.adapters.cases import PROMPT, RESPONSES, TOO_LONG, natively


@dataclass
class VerificationResult:
    """As in `open_instruct.ground_truth_utils`, which no index has."""

    score: float
    cost: float = 0.0
    reasoning: str | None = None


class VerifierFunction(ABC):
    """Its constructor and its abstract method."""

    def __init__(self, name, weight=1.0, verifier_config=None):
        self.name = name
        self.weight = weight
        self.verifier_config = verifier_config

    @abstractmethod
    def __call__(self, tokenized_prediction, prediction, label, query=None):
        """Verify."""


@pytest.fixture
def home(monkeypatch):
    """The package, with a class that has no subclasses yet."""
    module = ModuleType("open_instruct.ground_truth_utils")
    module.VerifierFunction = type("VerifierFunction", (VerifierFunction,), {})
    module.VerificationResult = VerificationResult
    monkeypatch.setitem(sys.modules, "open_instruct", ModuleType("open_instruct"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def verifier(server, home):
    """What `build_all_verifiers` makes."""
    made = open_instruct.reward(server.url, name="Helpful", weight=0.5, activation="sigmoid")
    (found,) = home.VerifierFunction.__subclasses__()
    assert found is made
    return found("config")


async def test_scores_are_the_native_ones(server, verifier):
    """Of the query's turns and the prediction, by both calls."""
    turns = [
        {"role": "system", "content": "Be kind.\nBe short."},
        {"role": "user", "content": PROMPT},
    ]
    pairs = [{"prompt": turns, "response": response} for response in RESPONSES]
    expected = [VerificationResult(one) for one in natively(server, pairs, activation="sigmoid")]
    query = "\n".join(f"{one['role']}: {one['content']}" for one in turns)
    assert [verifier([1], one, "label", query) for one in RESPONSES] == expected
    found = [
        await verifier.async_call([1], one, "label", query=query, rollout_state={})
        for one in RESPONSES
    ]
    assert found == expected


def test_a_query_without_roles_is_the_users_turn(server, verifier):
    """As versions before had it."""
    pairs = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    expected = [VerificationResult(one) for one in natively(server, pairs, activation="sigmoid")]
    assert [verifier([1], one, "label", PROMPT) for one in RESPONSES] == expected


def test_it_is_registered_by_its_name(verifier):
    """With its weight and the config it was made with."""
    assert (verifier.name, verifier.weight, verifier.verifier_config) == ("Helpful", 0.5, "config")


@pytest.mark.usefixtures("home")
async def test_an_unscorable_prediction_has_a_number(url):
    """0 unless given."""
    one, other = open_instruct.reward(url)(), open_instruct.reward(url, unscorable=-9.0)()
    assert one([1], TOO_LONG, None, "Why?") == VerificationResult(0.0)
    assert await other.async_call([1], TOO_LONG, None, "Why?") == VerificationResult(-9.0)
