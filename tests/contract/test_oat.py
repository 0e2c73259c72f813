"""OAT's remote oracle and NeMo Gym's comparisons: both share a path with the native `/compare`."""

from __future__ import annotations

import time
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import natively, post, refused, sigmoid
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

PROMPTS = [PROMPT, "Name a prime."]
CANDIDATES = [RESPONSES[:2], ["Seven.", "Nine."]]
HISTORY = [{"role": "user", "content": PROMPT}]
CLOSE = 1e-12


def items(prompts: list[str], responses: list[str]) -> list[dict[str, str]]:
    pairs = zip(prompts, responses, strict=True)
    return [{"prompt": prompt, "response": response} for prompt, response in pairs]


def response(text: str) -> dict[str, Any]:
    """Return a response as the Responses API has it, with reasoning before."""
    return {
        "id": "resp_1",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            },
        ],
    }


@pytest.mark.parametrize("name", exchanges("oat") + exchanges("nemo-gym"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("path", ["/compare", "/get_feedback"])
def test_the_first_wins_with_the_sigmoid_of_the_margin(served: Server, path: str) -> None:
    """σ(r1 − r2) of the native rewards."""
    ones, others = (
        natively(served, items(PROMPTS, [pair[place] for pair in CANDIDATES])) for place in (0, 1)
    )

    answer = post(served, path, batch_prompt=PROMPTS, batch_candidates=CANDIDATES)

    assert answer["batch_first_win_prob"] == [
        sigmoid(one - other) for one, other in zip(ones, others, strict=True)
    ]


@pytest.mark.parametrize("model", ["tiny", "crew", "pairrm"])
def test_it_is_the_native_probability(served: Server, model: str) -> None:
    """Of a model, of an ensemble, and of a model that only compares."""
    comparisons = [
        {"prompt": prompt, "responses": pair}
        for prompt, pair in zip(PROMPTS, CANDIDATES, strict=True)
    ]
    native = post(served, "/compare", comparisons=comparisons, model=model)["data"]

    answer = post(
        served, "/compare", batch_prompt=PROMPTS, batch_candidates=CANDIDATES, model=model
    )

    assert answer["batch_first_win_prob"] == [one["probability"] for one in native]


def test_feedback_on_single_responses_is_their_rewards(served: Server) -> None:
    """As OAT's reward oracle asks, in JSON."""
    responses = [RESPONSES[0], "Seven."]

    answer = post(
        served,
        "/get_feedback",
        batch_prompt=PROMPTS,
        batch_response=responses,
        batch_candidates=[],
    )

    assert answer == {
        "batch_score": natively(served, items(PROMPTS, responses)),
        "batch_first_win_prob": [],
    }


def packed(server: Server, path: str, **body: Any) -> Any:
    """Ask as OAT's client does: packed, and nothing said of it."""
    answer = server.http.post(path, content=msgspec.msgpack.encode(body))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/msgpack"
    return msgspec.msgpack.decode(answer.content)


def test_oats_client_compares(served: Server) -> None:
    """A replay of RemoteRMOracle.compare, whose candidates are tuples."""
    completions = [tuple(pair) for pair in CANDIDATES]
    ones, others = (
        natively(served, items(PROMPTS, [pair[place] for pair in CANDIDATES])) for place in (0, 1)
    )

    answer = packed(
        served,
        "/get_feedback",
        batch_prompt=PROMPTS,
        batch_response=[],
        batch_candidates=completions,
    )

    assert answer == {
        "batch_score": [],
        "batch_first_win_prob": [sigmoid(a - b) for a, b in zip(ones, others, strict=True)],
    }


def test_oats_client_asks_for_rewards(served: Server) -> None:
    """A replay of RemoteRMOracle.get_reward."""
    responses = [RESPONSES[0], "Seven."]

    answer = packed(
        served,
        "/get_feedback",
        batch_prompt=PROMPTS,
        batch_response=responses,
        batch_candidates=[],
    )

    assert answer["batch_score"] == natively(served, items(PROMPTS, responses))


def test_a_packed_body_is_known_on_the_path_shared_with_the_native_route(served: Server) -> None:
    """It is OAT's where it has its key; else the native route can't read it."""
    body = {"batch_prompt": PROMPTS, "batch_candidates": CANDIDATES}
    unknown = served.http.post("/compare", content=msgspec.msgpack.encode({"prompt": "a"}))

    assert packed(served, "/compare", **body) == post(served, "/compare", **body)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "malformed_body")


@pytest.mark.parametrize(
    "content",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xacbatch_prompt\xdd\xff\xff\xff\xff",
        b"\x81\xacbatch_prompt\xdb\xff\xff\xff\xffa",
        b"\x81\xacbatch_prompt" + b"\x91" * 100_000,
        b"\x81\xacbatch_prompt\xa1\xff",
        b"\x80\x80",
        b"\x82",
    ],
    ids=["a map", "a list", "a text", "depth", "no UTF-8", "two objects", "an end"],
)
def test_a_packed_body_that_promises_more_than_it_has_costs_nothing(
    served: Server, content: bytes
) -> None:
    """Four billion entries in a few bytes, or too deep, or broken: 400 at once."""
    front = psutil.Process(served.process.pid)
    before = front.memory_info().rss
    begin = time.monotonic()

    answer = served.http.post("/get_feedback", content=content)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_body")
    assert "MessagePack" in answer.json()["error"]["message"]
    assert time.monotonic() - begin < 5.0
    assert front.memory_info().rss - before < 2**28


@pytest.mark.parametrize(
    "body", [{}, {1: 2}, {"batch_prompt": b"\xff"}, {"batch_prompt": [7], "batch_candidates": []}]
)
def test_a_packed_body_of_wrong_fields_is_refused(served: Server, body: dict[Any, Any]) -> None:
    """In JSON, which a person can read in OAT's warning."""
    answer = served.http.post("/get_feedback", content=msgspec.msgpack.encode(body))

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")


def test_empty_batches_are_no_error(served: Server) -> None:
    """Nothing in, nothing out."""
    answer = post(served, "/compare", batch_prompt=[], batch_candidates=[])

    assert answer == {"batch_first_win_prob": []}


@pytest.mark.parametrize(
    ("candidates", "status"), [([["a"]], 422), ([["a", "b", "c"]], 422), ([], 422)]
)
def test_candidates_come_in_pairs_one_a_prompt(
    served: Server, candidates: list[list[str]], status: int
) -> None:
    """Anything else is refused."""
    answer = served.http.post(
        "/compare", json={"batch_prompt": ["p"], "batch_candidates": candidates}
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_field")


def test_the_native_compare_is_still_there(served: Server) -> None:
    """A body without the foreign keys is native, whatever its texts say."""
    body = {"prompt": '"batch_prompt": and "response_objs": too', "responses": ["a", "b"]}

    assert post(served, "/compare", **body)["object"] == "compare.list"


def test_gym_gets_rewards_and_the_circle(served: Server) -> None:
    """Rewards are native; each response meets the next, and lower rankings favour the first."""
    rewards = natively(served)

    answer = post(
        served,
        "/compare",
        conversation_history=HISTORY,
        response_objs=[response(text) for text in RESPONSES],
        principle="Be brief.",
    )

    assert answer["rewards"] == rewards
    places = [(one["response_i"], one["response_j"]) for one in answer["comparison_results"]]
    assert places == [(0, 1), (1, 2), (2, 3), (3, 0)]
    for one in answer["comparison_results"]:
        first, second = rewards[one["response_i"]], rewards[one["response_j"]]
        assert (one["score_1"], one["score_2"]) == (first, second)
        assert one["ranking"] == pytest.approx(6 - 5 * sigmoid(first - second), abs=CLOSE)
    assert answer["metrics"]["mean_individual_score"] == pytest.approx(fmean(rewards), abs=CLOSE)
    assert answer["metrics"]["std_individual_score"] == pytest.approx(pstdev(rewards), abs=CLOSE)
    assert answer["metrics"]["tiebreak_usage_rate"] == 0.0


def test_gym_averages_the_scores_to_the_same_rewards(served: Server) -> None:
    """A replay of its aggregation, ties broken by the ranking."""
    texts = [RESPONSES[0], RESPONSES[0], RESPONSES[1]]

    answer = post(
        served, "/compare", conversation_history=HISTORY, response_objs=[*map(response, texts)]
    )

    sums, counts = [0.0] * 3, [0] * 3
    for one in answer["comparison_results"]:
        scores = [one["score_1"], one["score_2"]]
        if scores[0] == scores[1]:
            scores = [scores[0] + 3.5 - one["ranking"], scores[1] - 3.5 + one["ranking"]]
        for place, score in zip((one["response_i"], one["response_j"]), scores, strict=True):
            sums[place] += score
            counts[place] += 1
    assert [total / count for total, count in zip(sums, counts, strict=True)] == pytest.approx(
        answer["rewards"], abs=CLOSE
    )
    assert answer["metrics"]["tiebreak_usage_rate"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("model", ["tiny", "pairrm"])
def test_gym_compares_one_response_with_nothing(served: Server, model: str) -> None:
    """It has its reward, and of a model that only compares a neutral one."""
    answer = post(
        served,
        "/compare",
        conversation_history=HISTORY,
        response_objs=[response(RESPONSES[0])],
        model=model,
    )

    expected = [0.5] if model == "pairrm" else natively(served)[:1]
    assert answer == {"rewards": expected, "comparison_results": None, "metrics": None}


def test_gym_asks_a_model_that_only_compares(served: Server) -> None:
    """Rewards are the mean probabilities of winning."""
    texts = RESPONSES[:3]
    (native,) = post(served, "/compare", prompt=PROMPT, responses=texts, model="pairrm")["data"]

    answer = post(
        served,
        "/compare",
        conversation_history=HISTORY,
        response_objs=[*map(response, texts)],
        model="pairrm",
    )

    assert answer["rewards"] == native["scores"]
    assert len(answer["comparison_results"]) == len(texts)
    for one in answer["comparison_results"]:
        wins = native["probabilities"][one["response_i"]][one["response_j"]]
        assert one["ranking"] == pytest.approx(6 - 5 * wins, abs=CLOSE)


def test_a_response_without_text_is_scored_as_gym_writes_it(served: Server) -> None:
    """As the word None."""
    (expected,) = natively(served, {"prompt": PROMPT, "response": "None"})

    answer = post(served, "/compare", conversation_history=HISTORY, response_objs=[{"output": []}])

    assert answer["rewards"] == [expected]


@pytest.mark.parametrize(
    "body",
    [
        {"batch_prompt": ["a"], "batch_candidates": [["b", "c"]]},
        {"conversation_history": HISTORY, "response_objs": [response("b"), response("c")]},
    ],
)
def test_unknown_models_and_overload(served: Server, body: dict[str, Any]) -> None:
    """404, and 503 with Retry-After."""
    unknown = served.http.post("/compare", json={**body, "model": "nope"})
    full = refused(served, "/compare", **body)

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
    assert int(full.headers["retry-after"]) >= 1
