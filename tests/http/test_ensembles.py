"""Ensembles of every kind over HTTP: outputs of one head, an operator's rule, a model's spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.families import attributes
from tests.http.conftest import CAREFUL

if TYPE_CHECKING:
    from tests.http.conftest import Family
    from tests.http.processes import Server

ITEMS = [dict(one) for one in attributes.ITEMS]
PROMPT = ITEMS[1]["prompt"]
RESPONSES = [one["response"] for one in ITEMS if one["prompt"] == PROMPT]
CLOSE = {"abs": 1e-5, "rel": 1e-5}


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    """Return the one entry of an answer."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    entry: dict[str, Any] = answer.json()["data"][0]
    return entry


def test_outputs_are_answered_as_members(families: Server, catalogue: dict[str, Family]) -> None:
    """With their names, mean and spread; what other routes make of members they make of these."""
    expected = np.array(
        [list(one.attributes.values()) for one in catalogue["panel"].expected(ITEMS[1:4])]
    )
    scored = post(families, "/score", model="panel", inputs=ITEMS[1:2], include=["members"])
    compared = post(families, "/compare", model="panel", prompt=PROMPT, responses=RESPONSES[:2])
    best = post(
        families, "/best-of-n", model="panel", prompt=PROMPT, responses=RESPONSES, rule="vote"
    )
    listed = families.http.get("/models/panel").json()

    assert scored["score"] == pytest.approx(expected[0].mean(), **CLOSE)
    assert scored["members"] == pytest.approx(
        dict(zip(attributes.HELPSTEER, expected[0], strict=True)), **CLOSE
    )
    assert scored["uncertainty"] == pytest.approx(
        {"std": expected[0].std(), "variance": expected[0].var(), "members": 5}, **CLOSE
    )
    margins = expected[0] - expected[1]
    winner = int(margins.mean() < 0)
    assert compared["margin_std"] == pytest.approx(margins.std(), **CLOSE)
    assert compared["agreement"] == np.mean(margins < 0 if winner else margins > 0)
    votes = np.bincount(expected.argmax(0), minlength=3) / 5
    assert [one["selection_score"] for one in best["ranking"]] == sorted(votes, reverse=True)
    assert listed["kind"] == "ensemble"
    assert listed["members"] == list(attributes.HELPSTEER)
    assert "isn't known" in listed["warnings"][0]


def test_an_operators_rule_is_the_score_until_a_request_says_another(families: Server) -> None:
    """/score, /compare and the foreign routes report it; the plain mean is a request away."""
    options: dict[str, Any] = {"model": "careful", "include": ["members"]}
    scored = post(families, "/score", inputs=ITEMS[1:2], **options)
    mean = post(families, "/score", inputs=ITEMS[1:2], rule="mean", **options)
    other = post(families, "/score", inputs=ITEMS[1:2], rule="lower_bound", **options)
    compared = post(families, "/compare", model="careful", prompt=PROMPT, responses=RESPONSES[:2])
    best = post(families, "/best-of-n", model="careful", prompt=PROMPT, responses=RESPONSES)
    foreign = families.http.post(
        "/classify", json={"model": "careful", "input": ["Human: Hi"], "use_activation": False}
    )
    text = post(families, "/score", model="careful", inputs=[{"text": "Human: Hi"}])

    members = np.array(list(scored["members"].values()))
    lower = members.mean() - CAREFUL["penalty"] * members.std()
    assert list(scored["members"]) == list(CAREFUL["members"])
    assert scored["score"] == other["score"] == pytest.approx(lower, rel=1e-12)
    assert mean["score"] == pytest.approx(members.mean(), rel=1e-12)
    assert compared["scores"][0] == scored["score"]
    assert compared["margin"] == compared["scores"][0] - compared["scores"][1]
    assert compared["winner"] == int(compared["margin"] < 0)
    first = next(one for one in best["ranking"] if one["index"] == 0)
    assert (first["selection_score"], first["score"]) == (scored["score"], mean["score"])
    assert foreign.json()["data"][0]["probs"] == [text["score"]]


def test_a_model_that_says_how_sure_it_is_has_an_uncertainty(
    families: Server, catalogue: dict[str, Family]
) -> None:
    """URM's normal distributions: its kind, its lower bound, and none of members'."""
    expected = catalogue["urm"].expected(ITEMS[1:4])
    stds = [one.std or 0.0 for one in expected]
    scored = post(families, "/score", model="urm", inputs=ITEMS[1:2])
    lower = post(families, "/score", model="urm", inputs=ITEMS[1:2], rule="lower_bound")
    compared = post(families, "/compare", model="urm", prompt=PROMPT, responses=RESPONSES[:2])
    best = post(
        families,
        "/best-of-n",
        model="urm",
        prompt=PROMPT,
        responses=RESPONSES,
        rule="variance_penalty",
    )
    refused = families.http.post("/score", json={"model": "urm", "inputs": ITEMS, "rule": "min"})

    assert scored["uncertainty"].pop("kind") == "gaussian"
    assert scored["uncertainty"] == pytest.approx(
        {"std": stds[0], "variance": stds[0] ** 2}, **CLOSE
    )
    assert scored["score"] == pytest.approx(expected[0].score, **CLOSE)
    assert lower["score"] == pytest.approx(scored["score"] - stds[0], **CLOSE)
    assert compared["margin_std"] == pytest.approx(np.hypot(*stds[:2]), **CLOSE)
    assert (compared["agreement"], best["confidence"]) == (None, None)
    by_index = {one["index"]: one for one in best["ranking"]}
    assert by_index[2]["std"] == pytest.approx(stds[2], **CLOSE)
    assert by_index[2]["selection_score"] == pytest.approx(
        expected[2].score - 0.5 * stds[2] ** 2, **CLOSE
    )
    assert refused.json()["error"]["param"] == "rule"
