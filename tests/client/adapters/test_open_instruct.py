"""open-instruct's calls: subclasses of `VerifierFunction`, found and made by their config."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType

import pytest

from assay.client.adapters import open_instruct
from tests.client.adapters.cases import PROMPT, RESPONSES, TOO_LONG, natively
from tests.client.judge import Judge, served


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


def joined(turns):
    """Return a query as `rlvr_tokenize` writes it."""
    return "\n".join(f"{one['role']}: {one['content']}" for one in turns)


@pytest.mark.parametrize("role", ["tool", "environment", "function", "ipython"])
@pytest.mark.usefixtures("home")
def test_what_tools_answer_is_sent_as_a_turn_of_its_own(role):
    """Of any length; one after another, too. The server's template has it, or refuses it."""
    turns = [
        {"role": "developer", "content": "Use the tools."},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "I look it up."},
        {"role": role, "content": "2\nNote: rounded"},
        {"role": role, "content": "3"},
        {"role": "user", "content": "So?"},
    ]
    with served(judge := Judge()) as url:
        open_instruct.reward(url)()([1], "5", None, joined(turns))
    (body,) = judge.bodies
    assert body["inputs"] == [{"prompt": turns, "response": "5"}]


@pytest.mark.parametrize(
    "text",
    [
        "Note: x\ntool : y\n tool: z\nTool: 2\ntools: 3",  # no role, or none at a line's begin
        "Mend it:\nenvironment: prod\nfunction: f\ntool: hammer",  # no assistant before
    ],
)
def test_a_word_and_a_colon_in_a_turn_stay_text(server, verifier, text):
    """Lines of settings and of code begin so."""
    turns = [{"role": "user", "content": text}]
    expected = natively(server, [{"prompt": turns, "response": "5"}], activation="sigmoid")
    assert [verifier([1], "5", None, joined(turns)).score] == expected


def test_a_query_that_begins_with_an_answer_is_text(server, verifier):
    """No tool is asked before anybody spoke."""
    query = "tool: 2\nuser: So?"
    expected = natively(server, [{"prompt": query, "response": "5"}], activation="sigmoid")
    assert [verifier([1], "5", None, query).score] == expected


def test_it_is_registered_by_its_name(verifier):
    """With its weight and the config it was made with."""
    assert (verifier.name, verifier.weight, verifier.verifier_config) == ("Helpful", 0.5, "config")


@pytest.mark.usefixtures("home")
async def test_an_unscorable_prediction_has_a_number(url):
    """0 unless given."""
    one, other = open_instruct.reward(url)(), open_instruct.reward(url, unscorable=-9.0)()
    assert one([1], TOO_LONG, None, "Why?") == VerificationResult(0.0)
    assert await other.async_call([1], TOO_LONG, None, "Why?") == VerificationResult(-9.0)
