"""Models that only compare, over HTTP: probabilities and tournaments, no score for one alone."""

from __future__ import annotations

import json
import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from assay import bulk
from assay.client.client import AsyncClient
from tests.families.pairwise import ITEMS
from tests.families.process import LAID
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.checkpoints import Family
    from tests.http.processes import Server

CLOSE = 1e-5
ROUNDING = 1e-12
MODELS = ["pairrm", "general"]
FOUR = ITEMS[3]  # four responses
PAIRS = [item for item in ITEMS if len(item["responses"]) == 2]
ENTRY = {
    "index",
    "scores",
    "margin",
    "margin_std",
    "probability",
    "agreement",
    "winner",
    "undecided",
    "n_tokens",
    "truncated",
}


def compared(server: Server, comparisons: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.http.post("/compare", json={"comparisons": comparisons, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def picked(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/best-of-n", json=body)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return entry


def mean_wins(matrix: list[list[float]]) -> list[float]:
    return [fmean(p for j, p in enumerate(row) if j != i) for i, row in enumerate(matrix)]


@pytest.mark.parametrize("model", MODELS)
def test_two_responses_have_their_familys_probability(
    families: Server, catalogue: dict[str, Family], model: str
) -> None:
    """P(0 ≻ 1), the winner, and as scores the probabilities of winning."""
    data = compared(families, PAIRS, model=model)

    for entry, expected in zip(data, catalogue[model].expected(PAIRS), strict=True):
        probability = expected.probabilities[0][1]
        assert set(entry) == ENTRY
        assert entry["probability"] == pytest.approx(probability, abs=CLOSE)
        assert entry["scores"][0] == entry["probability"]
        assert sum(entry["scores"]) == pytest.approx(1, abs=ROUNDING)
        assert entry["winner"] == (0 if probability > 0.5 else 1)
        assert entry["undecided"] is False
        assert (entry["margin"], entry["margin_std"], entry["agreement"]) == (None, None, None)


@pytest.mark.parametrize("model", MODELS)
def test_several_responses_all_meet(
    families: Server, catalogue: dict[str, Family], model: str
) -> None:
    """The matrix is the family's; responses are ranked by their mean probability of winning."""
    (entry,) = compared(families, [FOUR], model=model)
    (expected,) = catalogue[model].expected([FOUR])

    for i, row in enumerate(entry["probabilities"]):
        for j, p in enumerate(row):
            wanted = 0.5 if i == j else expected.probabilities[i][j]
            assert p == pytest.approx(wanted, abs=CLOSE)
            assert p + entry["probabilities"][j][i] == pytest.approx(1, abs=ROUNDING)
    scores = mean_wins(entry["probabilities"])
    assert entry["scores"] == pytest.approx(scores, abs=ROUNDING)
    assert entry["ranking"] == sorted(range(4), key=lambda i: -entry["scores"][i])
    first, second = entry["ranking"][:2]
    assert entry["probability"] == entry["probabilities"][first][second]
    assert entry["winner"] == first
    assert entry["undecided"] == (entry["probability"] <= 0.5)


@pytest.mark.parametrize("model", MODELS)
def test_the_best_wins_most(families: Server, model: str) -> None:
    """`/best-of-n` ranks by the mean probability of winning."""
    (whole,) = compared(families, [FOUR], model=model)

    entry = picked(families, **FOUR, model=model, top_k=2)

    assert [one["index"] for one in entry["ranking"]] == whole["ranking"]
    assert [one["score"] for one in entry["ranking"]] == sorted(whole["scores"], reverse=True)
    assert entry["best"]["response"] == FOUR["responses"][whole["ranking"][0]]
    assert len(entry["top"]) == 2
    assert all(one["std"] is None for one in entry["ranking"])
    assert (entry["n"], entry["confidence"]) == (4, None)
    assert entry["kl"] == pytest.approx(math.log(4) - 3 / 4, abs=ROUNDING)


@pytest.mark.parametrize("model", MODELS)
def test_a_lone_response_meets_nobody(families: Server, model: str) -> None:
    """It is the best, with even odds."""
    entry = picked(families, prompt="hello!", responses=["hi!"], model=model)

    assert (entry["best"]["index"], entry["best"]["score"]) == (0, 0.5)


@pytest.mark.parametrize("model", MODELS)
def test_equal_responses_tie(families: Server, model: str) -> None:
    """Position plays no part."""
    (entry,) = compared(families, [{"prompt": "hello!", "responses": ["hi!"] * 2}], model=model)
    ranked = picked(families, prompt="hello!", responses=["hi!"] * 3, model=model)

    assert entry["probability"] == pytest.approx(0.5, abs=CLOSE)
    assert [one["score"] for one in ranked["ranking"]] == pytest.approx([0.5] * 3, abs=CLOSE)


def test_a_tie_is_a_probability_near_a_half(families: Server) -> None:
    """`tie_margin` is in probability here."""
    (plain,) = compared(families, PAIRS[:1], model="pairrm")
    ahead = abs(plain["probability"] - 0.5)

    (tied,) = compared(families, PAIRS[:1], model="pairrm", tie_margin=ahead)
    (won,) = compared(families, PAIRS[:1], model="pairrm", tie_margin=ahead * 0.99)

    assert (tied["winner"], tied["undecided"]) == (None, True)
    assert (won["winner"], won["undecided"]) == (plain["winner"], False)


def test_chosen_and_rejected_are_the_first_and_the_second(families: Server) -> None:
    """The short form is a comparison of two."""
    one = PAIRS[0]
    body = {
        "prompt": one["prompt"],
        "chosen": one["responses"][0],
        "rejected": one["responses"][1],
        "model": "pairrm",
    }
    short = families.http.post("/compare", json=body).json()["data"]

    assert short == compared(families, [one], model="pairrm")


@pytest.mark.parametrize("model", MODELS)
def test_comparisons_have_the_same_bits_in_any_company(families: Server, model: str) -> None:
    """Alone and among others."""
    together = compared(families, ITEMS, model=model)

    for entry, item in zip(together, ITEMS, strict=True):
        (alone,) = compared(families, [item], model=model)
        assert alone == {**entry, "index": 0}


def test_many_responses_meet_in_rings(families: Server) -> None:
    """More than sixteen don't all meet; each is ranked all the same."""
    responses = [f"Answer {number}, and no other one." for number in range(20)]
    body = {"prompt": "Which?", "responses": responses, "model": "pairrm"}

    answer = families.http.post("/best-of-n", json=body).json()

    (entry,) = answer["data"]
    assert sorted(one["index"] for one in entry["ranking"]) == list(range(20))
    assert all(0 < one["score"] < 1 for one in entry["ranking"])
    assert families.http.post("/best-of-n", json=body).json()["data"] == answer["data"]


def test_usage_counts_what_was_read(families: Server) -> None:
    """A model that reads both reads each pair in both orders; metrics count it too."""
    labels = {"model": "pairrm", "route": "compare"}
    before = families.metric("assay_items_total", **labels)

    answer = families.http.post("/compare", json={**FOUR, "model": "pairrm"}).json()

    assert answer["usage"]["tokens"] > 0
    assert families.metric("assay_items_total", **labels) == before + 12
    assert families.metric("assay_requests_total", **labels, outcome="ok") > 0
    assert families.metric("assay_model_info", model="pairrm") == 1


def test_models_say_that_they_only_compare(families: Server) -> None:
    """`GET /models` tells them from those that score."""
    listed = families.http.get("/models").json()["data"]

    assert [one["id"] for one in listed if one["only_compares"]] == [*MODELS, "ordered"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("route", "options", "says", "param"),
    [
        ("/score", {}, "compares responses and has no score for one alone", "model"),
        ("/compare", {"normalize": True}, "probabilities of winning, not scores", "normalize"),
        ("/compare", {"activation": "sigmoid"}, "leave 'activation' out", "activation"),
        ("/compare", {"aggregate": "min"}, "leave 'aggregate' out", "aggregate"),
        ("/compare", {"threshold": 0.5}, "leave 'threshold' out", "threshold"),
        ("/compare", {"attributes": {"a": 1}}, "leave 'attributes' out", "attributes"),
        ("/compare", {"temperature": 2}, "leave 'temperature' out", "temperature"),
        ("/best-of-n", {"normalize": True}, "leave 'normalize' out", "normalize"),
        ("/best-of-n", {"rule": "median"}, "use rule 'mean'", "rule"),
        ("/best-of-n", {"rule": "lower_bound"}, "use rule 'mean'", "rule"),
        ("/best-of-n", {"rule": "vote"}, "use rule 'mean'", "rule"),
    ],
)
def test_what_is_about_scores_is_refused(
    families: Server, model: str, route: str, options: dict[str, Any], says: str, param: str
) -> None:
    """The sentence says what the model does instead."""
    body = PAIR if route == "/score" else FOUR

    answer = families.http.post(route, json={**body, "model": model, **options})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_field", param)
    assert says in error["message"]
    assert f"'{model}'" in error["message"]


SYSTEM = {"role": "system", "content": "Be kind."}
TALK = [SYSTEM, {"role": "user", "content": "hello!"}]


@pytest.mark.parametrize(
    ("body", "code", "says", "param"),
    [
        ({"prompt": "a", "chains": [LAID] * 2}, "invalid_field", "'responses'", "groups[0].chains"),
        (
            {"prompt": TALK, "responses": ["a", "b"]},
            "template_refused",
            "one user turn",
            "groups[0]",
        ),
        (
            {"prompt": "a", "responses": ["b", "<|source|>" + "long " * 3000]},
            "item_too_long",
            "nothing of it can be cut",
            "groups[0]",
        ),
    ],
)
def test_bad_groups_are_refused_by_their_place(
    families: Server, body: dict[str, Any], code: str, says: str, param: str
) -> None:
    """The path leads to the group."""
    answer = families.http.post("/best-of-n", json={**body, "model": "pairrm"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, code, param)
    assert says in error["message"]


@pytest.mark.parametrize("model", MODELS)
def test_bad_comparisons_fail_alone_where_that_is_asked(families: Server, model: str) -> None:
    """The good ones keep their bits and places."""
    bad = {"prompt": [{"role": "wizard", "content": "hello!"}], "responses": ["a", "long " * 5000]}

    failed, good = compared(families, [bad, PAIRS[0]], model=model, on_error="item")

    assert failed["error"]["code"] in ("template_refused", "item_too_long")
    assert (failed["scores"], failed["probability"], failed["winner"]) == ([], None, None)
    assert good == {**compared(families, [PAIRS[0]], model=model)[0], "index": 1}


def test_a_group_of_chains_fails_alone_where_that_is_asked(families: Server) -> None:
    """What is wrong with a group is wrong with no other."""
    groups = [{"prompt": "a", "chains": [LAID] * 2}, FOUR]
    body = {"groups": groups, "model": "pairrm", "on_error": "item"}

    bad, good = families.http.post("/best-of-n", json=body).json()["data"]

    assert (bad["error"]["code"], bad["best"], bad["n"]) == ("invalid_field", None, 2)
    assert good["ranking"] == picked(families, **FOUR, model="pairrm")["ranking"]


async def test_a_file_of_comparisons_is_answered(families: Server, tmp_path: Path) -> None:
    """`assay score` counts the pairs whose chosen response won."""
    source, sink = tmp_path / "pairs.jsonl", tmp_path / "answers.jsonl"
    lines = [
        {"prompt": one["prompt"], "chosen": one["responses"][0], "rejected": one["responses"][1]}
        for one in PAIRS
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async with AsyncClient(families.url) as client:
        tally = await bulk.run(source, sink, bulk.Remote(client), model="general")

    expected = compared(families, PAIRS, model="general")
    answers = [json.loads(line) for line in sink.read_text().splitlines()]
    assert [one["probability"] for one in answers] == [one["probability"] for one in expected]
    assert (tally.pairs, tally.correct) == (
        len(PAIRS),
        sum(one["winner"] == 0 for one in expected),
    )
