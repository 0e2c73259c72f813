"""What trainers and gateways send over HTTP, replayed: their rewards are the native scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.guides.conftest import natively, scores

if TYPE_CHECKING:
    from tests.guides.conftest import RunExample
    from tests.http.processes import Server

PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]
ITEMS = [{"prompt": PROMPT, "response": one} for one in RESPONSES]
TEMPLATED = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


def sigmoid(score: float) -> float:
    """Return the probability that a score means."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    return math.exp(score) / (1.0 + math.exp(score))


def test_openrlhf_gets_rewards_of_templated_texts(server: Server, run_example: RunExample) -> None:
    """One a request, a batch and a padded batch alike; `scores` are probabilities."""
    said = [f"Eight.{END}", f"Seven is a prime number.{END}", "Seven is a pri"]
    rewards = scores(server, [{"text": TEMPLATED + one} for one in said])
    batch = {"rewards": rewards, "scores": [sigmoid(one) for one in rewards], "extra_logs": {}}

    answer = run_example("replay_openrlhf.py")

    assert answer["batch"] == answer["padded"] == batch
    assert answer["singles"] == [
        {"rewards": [reward], "scores": [sigmoid(reward)], "extra_logs": {}} for reward in rewards
    ]
    assert answer["nothing"] == {"rewards": [], "scores": [], "extra_logs": {}}


def test_llama_factory_gets_scores_of_templated_texts(
    server: Server, run_example: RunExample
) -> None:
    """A flat list; the model it names is echoed."""
    expected = scores(server, [{"text": TEMPLATED + one + END} for one in RESPONSES[:2]])

    answer = run_example("replay_llama_factory.py")

    assert answer["scores"] == expected
    assert answer["answer"].pop("id").startswith("scoreeval-")
    assert answer["answer"] == {"object": "score.evaluation", "model": "model", "scores": expected}


def test_a_templated_text_scores_as_its_turns(server: Server) -> None:
    """So the two trainers' texts are what the model's own template makes of the turns."""
    texts = [{"text": TEMPLATED + one + END} for one in RESPONSES]

    assert scores(server, texts) == scores(server, ITEMS)


def test_slime_gets_a_number(server: Server, run_example: RunExample) -> None:
    """Or an object, for `--reward-key`."""
    (expected,) = scores(server, ITEMS[1:2])

    answer = run_example("replay_slime.py")

    assert answer == {"string": expected, "messages": expected, "keyed": {"quality": expected}}


def test_a_templated_prompt_is_slimes_to_tell(server: Server) -> None:
    """Without `?verbatim=true` it goes through the template again."""
    body = {"prompt": TEMPLATED, "response": RESPONSES[1], "label": None}
    twice = httpx.post(f"{server.url}/reward", json=body, timeout=60).json()

    assert [twice] == scores(server, [{"prompt": TEMPLATED, "response": RESPONSES[1]}])
    once = httpx.post(f"{server.url}/reward?verbatim=true", json=body, timeout=60).json()
    assert [once] == scores(server, [{"text": TEMPLATED + RESPONSES[1]}])
    assert once != twice


def test_oat_gets_the_probability_that_the_first_wins(
    server: Server, run_example: RunExample
) -> None:
    """That of the native comparison."""
    pairs = [
        (PROMPT, "Seven is a prime number.", "Eight."),
        ("How do I keep basil alive?", "Water it from below.", "Buy another one."),
    ]
    expected = []
    for prompt, chosen, rejected in pairs:
        body = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        expected.append(server.http.post("/compare", json=body).json()["data"][0]["probability"])

    assert run_example("replay_oat.py") == expected


def test_nemo_gym_gets_a_reward_a_response(server: Server, run_example: RunExample) -> None:
    """Reasoning is left out."""
    expected = scores(server, ITEMS)

    answer = run_example("replay_nemo_gym.py")

    assert answer["rewards"] == expected
    assert answer["metrics"]["mean_individual_score"] == math.fsum(expected) / len(expected)


def test_nvidias_clients_get_every_attribute(server: Server, run_example: RunExample) -> None:
    """Of a model that has some; of any other its one reward."""
    messages = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": RESPONSES[1]},
    ]
    (entry,) = natively(server, [{"messages": messages}], model="helpsteer")
    (reward,) = scores(server, [{"messages": messages}])

    several = run_example("replay_nvidia.py", server.url, "helpsteer")
    one = run_example("replay_nvidia.py")

    assert several["scores"] == entry["attributes"]
    assert several["content"] == ",".join(f"{k}:{v!r}" for k, v in entry["attributes"].items())
    assert one == {"scores": {"reward": reward}, "content": f"reward:{reward!r}"}


def test_clients_of_other_servers_get_the_native_score(
    server: Server, run_example: RunExample
) -> None:
    """From each route that they read a reward from."""
    (expected,) = scores(server, ITEMS[1:2])

    answer = run_example("replay_other_servers.py")

    assert len(answer) == 7
    assert answer == dict.fromkeys(answer, expected)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": "not a list"}),
        ("/v1/score/evaluation", {"model": "model", "messages": "not a list"}),
        ("/reward", {"prompt": PROMPT, "response": 7, "label": None}),
    ],
)
def test_a_refused_request_has_no_scores(server: Server, path: str, body: object) -> None:
    """So no client takes a refusal for rewards, not even one that reads no status."""
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=60)

    assert answer.status_code == 422
    assert not {"scores", "rewards"} & set(answer.json())
