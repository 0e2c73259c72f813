"""`POST /best-of-n`: each rule, computed again from the members' scores."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.processes import Server

ROUNDING = 1e-12  # one number computed in two orders of float64 operations
Columns = list[list[float]]


def near(number: float) -> Any:
    return pytest.approx(number, abs=ROUNDING)


def picked(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/best-of-n", json={"prompt": PROMPT, "responses": RESPONSES} | body)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return entry


@pytest.fixture(scope="module")
def columns(starter: Server) -> Columns:
    """The members' scores of each response, as `/score` gives them."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    data = starter.score(inputs=items, include=["members"]).json()["data"]
    return [list(entry["members"].values()) for entry in data]


def variance(column: list[float]) -> float:
    return fmean((one - fmean(column)) ** 2 for one in column)


def votes(columns: Columns) -> list[float]:
    firsts = [
        max(range(len(row)), key=lambda i: (row[i], -i)) for row in zip(*columns, strict=True)
    ]
    return [firsts.count(i) / len(firsts) for i in range(len(columns))]


RULES: dict[str, tuple[dict[str, Any], Callable[[Columns], list[float]]]] = {
    "mean": ({"rule": "mean"}, lambda table: [fmean(one) for one in table]),
    "default": ({}, lambda table: [fmean(one) for one in table]),
    "median": ({"rule": "median"}, lambda table: [median(one) for one in table]),
    "min": ({"rule": "min"}, lambda table: [min(one) for one in table]),
    "lower bound": (
        {"rule": "lower_bound"},
        lambda table: [fmean(one) - math.sqrt(variance(one)) for one in table],
    ),
    "lower bound, 2.5": (
        {"rule": "lower_bound", "penalty": 2.5},
        lambda table: [fmean(one) - 2.5 * math.sqrt(variance(one)) for one in table],
    ),
    "variance": (
        {"rule": "variance_penalty"},
        lambda table: [fmean(one) - 0.5 * variance(one) for one in table],
    ),
    "variance, 3": (
        {"rule": "variance_penalty", "penalty": 3},
        lambda table: [fmean(one) - 3 * variance(one) for one in table],
    ),
    "vote": ({"rule": "vote"}, votes),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_orders_by_its_own_number(starter: Server, columns: Columns, name: str) -> None:
    """`selection_score` is the rule's value; the best has the highest, then the highest mean."""
    options, rule = RULES[name]
    expected = rule(columns)

    entry = picked(starter, **options)

    assert len(entry["ranking"]) == 4
    for one in entry["ranking"]:
        assert one["selection_score"] == near(expected[one["index"]])
        assert one["score"] == near(fmean(columns[one["index"]]))
        assert one["std"] == near(math.sqrt(variance(columns[one["index"]])))
    order = [(one["selection_score"], one["score"]) for one in entry["ranking"]]
    assert order == sorted(order, reverse=True)
    best = entry["ranking"][0]
    assert entry["best"] == {
        "index": best["index"],
        "response": RESPONSES[best["index"]],
        "score": best["score"],
        "selection_score": best["selection_score"],
    }
    assert entry["confidence"] == near(votes(columns)[best["index"]])


def test_the_answer_says_what_n_buys(starter: Server, columns: Columns) -> None:
    """`expected_best` is the mean over all subsets of k of their best; `kl` is ln n − (n − 1)/n."""
    means = [fmean(column) for column in columns]

    entry = picked(starter)

    assert entry["n"] == 4
    assert entry["kl"] == near(math.log(4) - 3 / 4)
    assert entry["expected_best"] == {
        str(k): near(fmean(max(subset) for subset in combinations(means, k))) for k in (1, 2, 4)
    }
    assert entry["ties"] == []
    assert entry["truncated"] == [False] * 4


def test_top_k_lists_the_best_k(starter: Server) -> None:
    """`top` holds the first k of the ranking, at most all."""
    ranking = [one["index"] for one in picked(starter)["ranking"]]

    assert [one["index"] for one in picked(starter)["top"]] == ranking[:1]
    assert [one["index"] for one in picked(starter, top_k=3)["top"]] == ranking[:3]
    assert [one["index"] for one in picked(starter, top_k=99)["top"]] == ranking


def test_min_score_keeps_what_reaches_it(starter: Server) -> None:
    """The bound itself is met; above the best score there is no best."""
    entry = picked(starter, top_k=4)
    scores = [one["score"] for one in entry["ranking"]]

    met = picked(starter, top_k=4, min_score=scores[1])
    unmet = picked(starter, top_k=4, min_score=math.nextafter(scores[0], math.inf))

    assert [one["score"] for one in met["top"]] == scores[:2]
    assert met["best"] == entry["best"]
    assert (unmet["best"], unmet["top"]) == (None, [])
    assert unmet["ranking"] == entry["ranking"]


def test_equal_scores_go_to_the_lowest_index_and_are_listed(starter: Server) -> None:
    """Repeated responses tie; `ties` names all that equal the best."""
    best = RESPONSES[picked(starter)["best"]["index"]]
    others = [response for response in RESPONSES if response != best]

    entry = picked(starter, responses=[others[0], best, others[1], best])

    assert entry["best"]["index"] == 1
    assert entry["ties"] == [1, 3]
    assert [one["index"] for one in entry["ranking"]][:2] == [1, 3]


def test_groups_are_answered_in_order_as_each_is_alone(starter: Server) -> None:
    """Several groups of different sizes share a request."""
    groups = [
        {"id": "four", "prompt": PROMPT, "responses": RESPONSES},
        {"prompt": [{"role": "user", "content": "Why?"}], "responses": ["Because."]},
        {"id": "two", "prompt": "", "responses": RESPONSES[:2]},
    ]

    answer = starter.http.post("/best-of-n", json={"groups": groups}).json()

    assert [entry["n"] for entry in answer["data"]] == [4, 1, 2]
    assert [entry.get("id") for entry in answer["data"]] == ["four", None, "two"]
    for index, (entry, group) in enumerate(zip(answer["data"], groups, strict=True)):
        alone = starter.http.post("/best-of-n", json={"groups": [group]}).json()["data"][0]
        assert entry == {**alone, "index": index}


def test_one_model_ranks_without_a_spread(starter: Server) -> None:
    """Without members there is no std and no confidence, and the rules that need them refuse."""
    entry = picked(starter, model="starter/member-2")

    assert entry["confidence"] is None
    assert {one["std"] for one in entry["ranking"]} == {None}
    for rule in ("lower_bound", "variance_penalty"):
        refused = starter.http.post(
            "/best-of-n",
            json={"prompt": "a", "responses": ["b"], "rule": rule, "model": "starter/member-2"},
        )
        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == "rule"


def test_a_bad_group_fails_alone_where_that_is_asked(starter: Server) -> None:
    """`on_error: "item"` answers the good groups; `"fail"` names the response that is bad."""
    good = {"prompt": PROMPT, "responses": RESPONSES}
    bad = {"prompt": [{"role": "wizard", "content": "x"}], "responses": ["a", "b"]}
    body = {"groups": [bad, good]}

    answer = starter.http.post("/best-of-n", json={**body, "on_error": "item"})
    refused = starter.http.post("/best-of-n", json=body)

    first, second = answer.json()["data"]
    assert (first["error"]["code"], first["best"], first["n"]) == ("template_refused", None, 2)
    assert second == {**picked(starter), "index": 1}
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "groups[0].responses[0]"
