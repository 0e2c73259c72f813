"""search-and-learn's calls: questions, each with its outputs; a score for each step."""

import pickle

from assay.client.adapters import search_and_learn
from tests.client.adapters.cases import HENS, SOLUTIONS, TOO_LONG, entries, steps

SUM = "What is 17 + 25?"
SUMS = ["17 + 25 = 32.\n\nThe answer is 32.", "42."]


def natively(server, question, outputs):
    """Return the native scores of each output's steps."""
    asked = [{"prompt": question, "steps": steps(one)} for one in outputs]
    return [one["steps"] for one in entries(server, asked, model="math")]


def test_every_step_has_its_native_score(server):
    """By question and output, as `PRM.score` is called."""
    model = search_and_learn.process_reward(server.url, model="math")
    model = pickle.loads(pickle.dumps(model))
    found = model.score([HENS, SUM], [SOLUTIONS, SUMS], batched=True, batch_size=4)
    assert found == [natively(server, HENS, SOLUTIONS), natively(server, SUM, SUMS)]
    assert [len(one) for one in found[0]] == [3, 1, 2]


def test_nothing_asked_is_nothing_answered(server):
    """A question may have no outputs."""
    model = search_and_learn.process_reward(server.url, model="math")
    assert model.score([HENS, SUM], [[], SUMS]) == [[], natively(server, SUM, SUMS)]


def test_steps_are_activated_and_clipped(server):
    """Each of them."""
    model = search_and_learn.process_reward(server.url, model="math", clip=(0.4, 0.5))
    (found,) = model.score([HENS], [SOLUTIONS])
    expected = natively(server, HENS, SOLUTIONS)
    assert found == [[min(max(step, 0.4), 0.5) for step in one] for one in expected]


def test_an_unscorable_output_has_a_number_for_each_step(server):
    """Aggregates count them."""
    model = search_and_learn.process_reward(server.url, model="math", unscorable=-1.0)
    too_long = "\n\n".join([TOO_LONG * 8, "So."])
    (found,) = model.score([HENS], [[too_long, SOLUTIONS[1]]])
    assert found == [[-1.0, -1.0], *natively(server, HENS, SOLUTIONS[1:2])]
