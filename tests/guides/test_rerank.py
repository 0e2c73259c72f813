"""Rerank by the real clients: probabilities, and raw rewards where a contract has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.reward.transform import sigmoid
from tests.guides.conftest import scores

if TYPE_CHECKING:
    from tests.guides.conftest import RunExample
    from tests.http.processes import Server

PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]


def ranked(server: Server) -> list[tuple[int, float]]:
    """Return each response's place and native reward, the best first."""
    rewards = scores(server, [{"prompt": PROMPT, "response": one} for one in RESPONSES])
    assert len(set(rewards)) == len(rewards)
    return sorted(enumerate(rewards), key=lambda one: -one[1])


def test_coheres_clients_get_the_sigmoid_of_the_reward(
    server: Server, run_example: RunExample
) -> None:
    """The second version the best two, the first all with their documents."""
    expected = ranked(server)

    answer = run_example("rerank_with_cohere.py")

    assert answer["v2"] == [[index, sigmoid(reward)] for index, reward in expected[:2]]
    assert answer["v1"] == [[RESPONSES[index], sigmoid(reward)] for index, reward in expected]


def test_litellm_gets_it_by_two_of_its_providers(server: Server, run_example: RunExample) -> None:
    """vLLM's and Infinity's."""
    expected = [[index, sigmoid(reward)] for index, reward in ranked(server)]

    answer = run_example("rerank_with_litellm.py")

    assert answer == {"hosted_vllm": expected[:2], "infinity": expected}


def test_llama_indexs_nodes_get_it(server: Server, run_example: RunExample) -> None:
    """Each node its own, the best two kept."""
    expected = ranked(server)

    answer = run_example("rerank_with_llama_index.py")

    assert answer == [[RESPONSES[index], sigmoid(reward)] for index, reward in expected[:2]]


def test_infinitys_client_gets_raw_rewards(server: Server, run_example: RunExample) -> None:
    """`raw_scores` is heeded, for documents and for a text through the template."""
    expected = ranked(server)
    served = [one["id"] for one in server.http.get("/models").json()["data"]]

    answer = run_example("score_with_infinity.py")

    assert answer["models"] == [[name, ["classify", "rerank"]] for name in served]
    assert answer["rerank"] == [[index, reward] for index, reward in expected]
    assert answer["classify"] == [["LABEL_0", dict(expected)[1]]]


def test_the_vendors_clients_get_what_their_contracts_say(
    server: Server, run_example: RunExample
) -> None:
    """Voyage's and Mixedbread's probabilities, NVIDIA's raw logits."""
    best = ranked(server)[:2]

    answer = run_example("rerank_with_vendors.py")

    probabilities = [[index, sigmoid(reward)] for index, reward in best]
    assert answer["voyage"] == probabilities
    assert answer["mixedbread"] == probabilities
    assert answer["nvidia"] == [[RESPONSES[index], reward] for index, reward in best]
