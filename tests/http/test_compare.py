"""`POST /compare`: margins, probabilities and ties, computed again from the members' scores."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

ROUNDING = 1e-12  # one number computed in two orders of float64 operations


def near(number: float) -> Any:
    return pytest.approx(number, abs=ROUNDING)


def compared(server: Server, **body: Any) -> list[dict[str, Any]]:
    answer = server.http.post("/compare", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def member_scores(server: Server, responses: list[str]) -> list[dict[str, float]]:
    items = [{"prompt": PROMPT, "response": response} for response in responses]
    data = server.score(inputs=items, include=["members"]).json()["data"]
    return [entry["members"] for entry in data]


def margins(server: Server, a: str, b: str) -> list[float]:
    first, second = member_scores(server, [a, b])
    return [first[name] - second[name] for name in first]


def preferred(margins_: list[float], temperature: float = 1.0) -> float:
    return fmean(1 / (1 + math.exp(-margin / temperature)) for margin in margins_)


def test_a_pair_is_compared_by_its_members_margins(starter: Server) -> None:
    """Margin, spread, probability and agreement follow from each member's own margin."""
    a, b = RESPONSES[:2]
    expected = margins(starter, a, b)
    scores = [fmean(one.values()) for one in member_scores(starter, [a, b])]

    (entry,) = compared(starter, prompt=PROMPT, responses=[a, b])

    margin = fmean(expected)
    spread = math.sqrt(fmean((one - margin) ** 2 for one in expected))
    winner = 0 if margin > 0 else 1
    assert entry["scores"] == [near(one) for one in scores]
    assert entry["margin"] == near(margin)
    assert entry["margin_std"] == near(spread)
    assert entry["probability"] == near(preferred(expected))
    assert entry["winner"] == winner
    assert entry["agreement"] == near(fmean((one > 0) == (winner == 0) for one in expected))
    assert entry["undecided"] is (abs(margin) <= spread)
    assert "ranking" not in entry
    assert "probabilities" not in entry


def test_chosen_and_rejected_are_the_first_and_second_response(starter: Server) -> None:
    """The two ways to write a pair have one answer; swapped, its signs turn."""
    a, b = RESPONSES[:2]
    pair = compared(starter, prompt=PROMPT, responses=[a, b])
    (entry,) = pair

    (swapped,) = compared(starter, prompt=PROMPT, chosen=b, rejected=a)

    assert compared(starter, prompt=PROMPT, chosen=a, rejected=b) == pair
    assert swapped["margin"] == -entry["margin"]
    assert swapped["winner"] == 1 - entry["winner"]
    assert swapped["agreement"] == entry["agreement"]
    assert swapped["probability"] == near(1 - entry["probability"])


def test_more_than_two_are_ranked_with_all_pairwise_probabilities(starter: Server) -> None:
    """`ranking` is best first; the matrix holds P(i ≻ j); the margin is between the top two."""
    (entry,) = compared(starter, prompt=PROMPT, responses=RESPONSES)

    scores, matrix, ranking = entry["scores"], entry["probabilities"], entry["ranking"]
    assert ranking == sorted(range(4), key=lambda i: -scores[i])
    assert entry["winner"] == ranking[0]
    assert entry["margin"] == near(scores[ranking[0]] - scores[ranking[1]])
    assert entry["probability"] == matrix[ranking[0]][ranking[1]]
    for i in range(4):
        for j in range(4):
            expected = preferred(margins(starter, RESPONSES[i], RESPONSES[j])) if i != j else 0.5
            assert matrix[i][j] == near(expected)
            assert matrix[i][j] + matrix[j][i] == near(1.0)


def test_a_list_of_comparisons_keeps_its_order_and_ids(starter: Server) -> None:
    """Each entry answers as the comparison does alone."""
    a, b, c, d = RESPONSES
    bodies = [
        {"id": "pair", "prompt": PROMPT, "chosen": a, "rejected": b},
        {"prompt": [{"role": "user", "content": PROMPT}], "responses": [b, c, d]},
        {"id": "last", "prompt": "Another question", "responses": [d, a]},
    ]

    data = compared(starter, comparisons=bodies)

    assert [entry["index"] for entry in data] == [0, 1, 2]
    assert [entry.get("id") for entry in data] == ["pair", None, "last"]
    for entry, body in zip(data, bodies, strict=True):
        (alone,) = compared(starter, comparisons=[body])
        assert alone == {**entry, "index": 0}


@pytest.mark.parametrize("model", ["starter", "starter/member-1"])
def test_identical_responses_tie(starter: Server, model: str) -> None:
    """A tie has no winner and is undecided, however the response scores."""
    (entry,) = compared(starter, prompt=PROMPT, responses=[RESPONSES[0]] * 2, model=model)

    assert entry["margin"] == 0.0
    assert entry["probability"] == 0.5
    assert entry["winner"] is None
    assert entry["agreement"] is None
    assert entry["undecided"] is True


def test_one_model_has_no_spread_and_decides_alone(starter: Server) -> None:
    """Without members there is neither `margin_std` nor `agreement`."""
    (entry,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2], model="starter/member-1")

    assert entry["margin_std"] is None
    assert entry["agreement"] is None
    assert entry["undecided"] is False
    assert entry["winner"] == (0 if entry["margin"] > 0 else 1)


def test_temperature_flattens_the_probability_alone(starter: Server) -> None:
    """P is σ(margin / T) averaged over members; margin and winner don't change."""
    expected = margins(starter, *RESPONSES[:2])
    (plain,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2])

    for temperature in (0.1, 10.0):
        (entry,) = compared(
            starter, prompt=PROMPT, responses=RESPONSES[:2], temperature=temperature
        )
        assert entry["probability"] == near(preferred(expected, temperature))
        assert {**entry, "probability": 0} == {**plain, "probability": 0}


def test_a_margin_within_tie_margin_is_a_tie(starter: Server) -> None:
    """The bound itself still ties; anything above it is won."""
    (plain,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2])
    bound = abs(plain["margin"])

    (tied,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2], tie_margin=bound)
    (won,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2], tie_margin=0.99 * bound)

    assert (tied["winner"], tied["undecided"]) == (None, True)
    assert won["winner"] == plain["winner"]


def test_activation_changes_the_shown_scores_not_the_comparison(starter: Server) -> None:
    """A comparison is of raw rewards; `scores` are shown as asked."""
    (plain,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2])

    (entry,) = compared(starter, prompt=PROMPT, responses=RESPONSES[:2], activation="sigmoid")

    assert entry["scores"] == [near(1 / (1 + math.exp(-one))) for one in plain["scores"]]
    assert {**entry, "scores": 0} == {**plain, "scores": 0}


def test_a_bad_comparison_fails_alone_where_that_is_asked(starter: Server) -> None:
    """`on_error: "item"` answers the good ones; `"fail"` names the response that is bad."""
    wizard = [{"role": "wizard", "content": "zzz-not-to-be-shown"}]
    bad = {"id": "bad", "prompt": wizard, "responses": ["a", "b"]}
    good = {"id": "good", "prompt": PROMPT, "responses": RESPONSES[:2]}

    first, second = compared(starter, comparisons=[bad, good], on_error="item")
    refused = starter.http.post("/compare", json={"comparisons": [good, bad]})

    (alone,) = compared(starter, comparisons=[good])
    assert first["error"]["code"] == "template_refused"
    assert (first["winner"], first["scores"]) == (None, [])
    assert second == {**alone, "index": 1}
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "comparisons[1].responses[0]"
    assert "zzz" not in refused.text + str(first)
