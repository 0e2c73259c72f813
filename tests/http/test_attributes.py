"""Attributes over HTTP: named numbers beside the score, and scores by a request's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.families.attributes import ARMORM, HELPSTEER
from tests.families.layout import ITEMS, SINGLE
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from tests.http.checkpoints import Family
    from tests.http.processes import Server

CLOSE = 1e-5
NAMES = {"helpsteer": HELPSTEER, "armorm": ARMORM, "odin": ("length", "quality")}


def entries(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.mark.parametrize("model", NAMES)
def test_attributes_are_those_of_the_family(
    families: Server, catalogue: dict[str, Family], model: str
) -> None:
    """Each item has every attribute by name, beside the score that the family's rule gives."""
    data = entries(families, ITEMS, model=model)

    for entry, expected in zip(data, catalogue[model].expected(ITEMS), strict=True):
        assert tuple(entry["attributes"]) == NAMES[model]
        assert entry["attributes"] == pytest.approx(expected.attributes, abs=CLOSE, rel=CLOSE)
        assert entry["score"] == pytest.approx(expected.score, abs=CLOSE, rel=CLOSE)
        assert set(entry) == {
            "index",
            "score",
            "uncertainty",
            "attributes",
            "n_tokens",
            "truncated",
        }


def test_attributes_have_the_same_bits_in_any_company(families: Server) -> None:
    """Alone, and among the others in another order."""
    together = entries(families, ITEMS, model="armorm")

    for entry, item in zip(together, ITEMS, strict=True):
        (alone,) = entries(families, item, model="armorm")
        assert (alone["attributes"], alone["score"]) == (entry["attributes"], entry["score"])


@pytest.mark.parametrize(
    "weights",
    [
        {"helpfulness": 1.0},
        {"helpfulness": 0.7, "verbosity": -0.4},
        dict.fromkeys(HELPSTEER, 1),
        {"coherence": 0.0},
    ],
)
def test_a_request_may_weigh_attributes_itself(families: Server, weights: dict[str, float]) -> None:
    """The score is their weighted sum; attributes are what they were."""
    plain = entries(families, ITEMS, model="helpsteer")

    data = entries(families, ITEMS, model="helpsteer", attributes=weights)

    for entry, before in zip(data, plain, strict=True):
        expected = sum(weight * before["attributes"][name] for name, weight in weights.items())
        assert entry["score"] == pytest.approx(expected, abs=1e-12)
        assert entry["attributes"] == before["attributes"]


def test_the_cards_own_weights_give_the_cards_own_score(families: Server) -> None:
    """What is weighed are the numbers that the card weighs."""
    card = families.http.get("/models/helpsteer").json()["card"]
    plain = entries(families, ITEMS, model="helpsteer")

    data = entries(families, ITEMS, model="helpsteer", attributes=card["score"]["weights"])

    for entry, before in zip(data, plain, strict=True):
        assert entry["score"] == pytest.approx(before["score"], abs=1e-12)


def test_weights_rank_and_compare(families: Server) -> None:
    """Every route takes them."""
    prompt, responses = SINGLE[1]["prompt"], [one["response"] for one in SINGLE[1:4]]
    items = [{"prompt": prompt, "response": response} for response in responses]
    attributes = [one["attributes"] for one in entries(families, items, model="odin")]
    for sign in (1, -1):
        body = {
            "prompt": prompt,
            "responses": responses,
            "model": "odin",
            "attributes": {"length": sign},
        }
        scores = [sign * one["length"] for one in attributes]
        order = sorted(range(3), key=lambda i: -scores[i])

        (best,) = families.http.post("/best-of-n", json=body).json()["data"]
        (compared,) = families.http.post("/compare", json=body).json()["data"]

        assert [one["index"] for one in best["ranking"]] == order
        assert best["best"]["score"] == max(scores)
        assert (compared["scores"], compared["ranking"]) == (scores, order)


def test_models_name_their_attributes(families: Server) -> None:
    """`GET /models` lists them for every target, so that a caller can weigh them."""
    listed = {one["id"]: one["attributes"] for one in families.http.get("/models").json()["data"]}

    assert {name: tuple(listed[name]) for name in NAMES} == NAMES
    assert listed["tiny"] == listed["crew"] == listed["pairrm"] == []


@pytest.mark.parametrize(
    ("model", "options", "says", "param"),
    [
        ("odin", {"attributes": {"beauty": 1}}, "it has length, quality", "attributes"),
        ("odin", {"attributes": {"quality": 1, "beauty": 1}}, "'beauty'", "attributes"),
        ("tiny", {"attributes": {"quality": 1}}, "it has none", "attributes"),
        ("crew", {"attributes": {"quality": 1}}, "it has none", "attributes"),
        ("dpo", {"attributes": {"quality": 1}}, "it has none", "attributes"),
        ("odin", {"attributes": {}}, "at least 1", "attributes"),
        ("odin", {"attributes": {"quality": "much"}}, "send a number", "attributes.quality"),
        ("odin", {"attributes": {"quality": 1e9}}, "less than", "attributes.quality"),
        ("odin", {"attributes": ["quality"]}, "an object", "attributes"),
        ("odin", {"attributes": {"quality": 1}, "normalize": True}, "one of the two", "normalize"),
        ("odin", {"normalize": True}, "no stored mean", "normalize"),
        ("odin", {"aggregate": "min"}, "scores no steps", "aggregate"),
        ("tiny", {"include": ["attributes"]}, "'tiny' has no attributes", "include"),
        ("odin", {"include": ["attributes", "steps"]}, "'odin' has no steps", "include"),
    ],
)
def test_what_attributes_cant_give_is_refused(
    families: Server, model: str, options: dict[str, Any], says: str, param: str
) -> None:
    """The message lists the attributes there are."""
    answer = families.score(**PAIR, model=model, **options)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_field", param)
    assert says in error["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_weights_are_finite(families: Server, number: str) -> None:
    """A score is never null without an error."""
    body = (
        f'{{"prompt": "a", "response": "b", "model": "odin", "attributes": {{"length": {number}}}}}'
    )

    answer = families.http.post("/score", content=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "attributes.length")


def test_bad_items_fail_alone_where_that_is_asked(families: Server) -> None:
    """A prompt without the end that ArmoRM's gate reads, an empty item, and good ones."""
    mixed = [ITEMS[0], {"text": "no turns"}, {"input_ids": []}, ITEMS[1]]

    data = entries(families, mixed, model="armorm", on_error="item")

    assert [entry.get("error", {}).get("code") for entry in data] == [
        None,
        "invalid_field",
        "empty_item",
        None,
    ]
    assert ["attributes" in entry for entry in data] == [True, False, False, True]
    assert data[0] == entries(families, ITEMS[0], model="armorm")[0]
