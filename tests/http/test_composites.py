"""Composites over HTTP: several targets as one reward, its parts, its gate, and wrong settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from assay.calibration import overlay
from assay.errors import InvalidField, SettingsError
from assay.scoring import validation
from assay.settings import Settings
from assay.wire import BestOfNRequest, CompareRequest, ScoreRequest
from tests import resolving
from tests.families.layout import ITEMS, SINGLE
from tests.families.process import HENS, LAID
from tests.http.conftest import MEAN, OTHERWISE, STD, TOLERANCE
from tests.http.processes import run
from tests.http.texts import PAIR
from tests.scoring.fitted import fitted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.checkpoints import Family
    from tests.http.processes import Server

ROUNDING = 1e-12  # one reward computed in two orders of float64 operations
WEIGHTS = {"helpful": 0.5, "wordy": -0.25, "plain": 2.0, "crew": 1.0}


def entries(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.fixture(scope="module")
def parts(families: Server) -> list[dict[str, float]]:
    """Each item's parts of the composite "mix", from the targets they are of."""
    found = {name: entries(families, ITEMS, model=name) for name in ("helpsteer", "tiny", "crew")}
    return [
        {
            "helpful": helpsteer["attributes"]["helpfulness"],
            "wordy": helpsteer["attributes"]["verbosity"],
            "plain": (tiny["score"] - MEAN) / STD,
            "crew": crew["score"],
        }
        for helpsteer, tiny, crew in zip(*found.values(), strict=True)
    ]


def test_a_composite_is_the_weighted_sum_of_its_parts(
    families: Server, parts: list[dict[str, float]]
) -> None:
    """Attributes, a normalized score and an ensemble's mean; the answer has each part by name."""
    data = entries(families, ITEMS, model="mix")

    for entry, expected in zip(data, parts, strict=True):
        assert entry["attributes"] == pytest.approx(expected, abs=ROUNDING)
        total = sum(WEIGHTS[name] * part for name, part in expected.items())
        assert entry["score"] == pytest.approx(total, abs=ROUNDING)
        assert set(entry) == {
            "index",
            "score",
            "uncertainty",
            "attributes",
            "n_tokens",
            "truncated",
        }
        assert entry["uncertainty"] is None


def test_a_request_may_weigh_the_parts_itself(
    families: Server, parts: list[dict[str, float]]
) -> None:
    """Parts that it leaves out weigh nothing."""
    data = entries(families, ITEMS, model="mix", attributes={"crew": 3, "wordy": 1})

    for entry, expected in zip(data, parts, strict=True):
        assert entry["score"] == pytest.approx(
            3 * expected["crew"] + expected["wordy"], abs=ROUNDING
        )
        assert entry["attributes"] == pytest.approx(expected, abs=ROUNDING)


def test_members_are_the_models_it_is_made_of(families: Server) -> None:
    """`include: ["members"]` has each checkpoint once, with its own score."""
    data = entries(families, ITEMS, model="mix", include=["members"])

    named = {name: entries(families, ITEMS, model=name) for name in ("helpsteer", "tiny", "odin")}
    for index, entry in enumerate(data):
        assert entry["members"] == {name: own[index]["score"] for name, own in named.items()}


def test_a_gate_lets_through_what_is_good_enough(
    families: Server, catalogue: dict[str, Family], bar: float
) -> None:
    """Below it the reward is the gate's own number; the parts are shown either way."""
    quality = [one.attributes["quality"] for one in catalogue["odin"].expected(ITEMS)]
    plain = entries(families, ITEMS, model="tiny")

    data = entries(families, ITEMS, model="guarded")

    passes = [one >= bar for one in quality]
    assert 0 < sum(passes) < len(passes)
    for entry, own, is_good in zip(data, plain, passes, strict=True):
        assert entry["score"] == (own["score"] if is_good else OTHERWISE)
        assert entry["attributes"]["plain"] == own["score"]
        assert entry["gated"] is not is_good


def test_the_smallest_part_may_be_the_reward(
    families: Server, parts: list[dict[str, float]]
) -> None:
    """Each times its weight; a request's own weights choose among them by the same rule."""
    odin = entries(families, ITEMS, model="odin")
    data = entries(families, ITEMS, model="worst")
    chosen = entries(families, ITEMS, model="worst", attributes={"unweighed": 1.0})

    expected = [
        (part["plain"], 2 * own["attributes"]["quality"], part["crew"])
        for part, own in zip(parts, odin, strict=True)
    ]
    for entry, own, (plain, quality, crew) in zip(data, chosen, expected, strict=True):
        assert entry["score"] == pytest.approx(min(plain, quality), abs=ROUNDING)
        assert own["score"] == pytest.approx(crew, abs=ROUNDING)
        assert list(entry["attributes"]) == ["plain", "quality", "unweighed"]


def test_an_order_ranks_by_one_part_after_the_other(families: Server) -> None:
    """The longest of those that the first part finds alike; there is no score to be had."""
    prompt, responses = "Why?", [item["response"] for item in ITEMS if "response" in item]
    items = [{"prompt": prompt, "response": response} for response in responses]
    first, second = (entries(families, items, model=name) for name in ("tiny", "odin"))
    parts = [
        {"plain": one["score"], "long": two["attributes"]["length"]}
        for one, two in zip(first, second, strict=True)
    ]
    top = max(part["plain"] for part in parts)
    alike = [i for i, part in enumerate(parts) if part["plain"] >= top - TOLERANCE]
    longest = max(alike, key=lambda i: parts[i]["long"])
    body = {
        "prompt": prompt,
        "responses": responses,
        "model": "ordered",
        "include": ["attributes", "members"],
    }

    (compared,) = families.http.post("/compare", json=body).json()["data"]
    (best,) = families.http.post("/best-of-n", json=body).json()["data"]
    refused = families.score(inputs=items, model="ordered").json()["error"]

    assert len(alike) > 1
    assert longest != max(alike, key=lambda i: parts[i]["plain"])
    assert compared["winner"] == best["best"]["index"] == longest
    assert compared["attributes"] == parts
    assert (compared["margin"], compared["undecided"], compared["probability"]) == (None, False, 1)
    assert compared["ranking"] == [ranked["index"] for ranked in best["ranking"]]
    assert [ranked["attributes"] for ranked in best["ranking"]] == [
        parts[i] for i in compared["ranking"]
    ]
    assert compared["scores"] == sorted(
        (ranked["score"] for ranked in best["ranking"]), key=compared["scores"].index
    )
    assert "or /score with its parts' targets as 'targets'" in refused["message"]


def test_an_order_answers_other_servers_comparisons(families: Server) -> None:
    """NeMo Gym's, as a model does that only compares."""
    pair = [
        {"output": [{"type": "message", "role": "assistant", "content": text}]} for text in "ab"
    ]
    body = {"conversation_history": [{"role": "user", "content": "Why?"}], "response_objs": pair}
    (native,) = families.http.post(
        "/compare", json={"prompt": "Why?", "responses": ["a", "b"], "model": "ordered"}
    ).json()["data"]

    answer = families.http.post("/compare", json={**body, "model": "ordered"})

    assert answer.json()["rewards"] == native["scores"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attributes": {"plain": 1}}, "an order, not scores; leave 'attributes' out"),
        ({"normalize": True}, "leave 'normalize' out"),
        ({"include": ["steps"]}, "has no steps"),
        ({"aggregate": "min"}, "scores no steps"),
        ({"rule": "median"}, "an order, not scores; leave 'rule' out"),
        ({"penalty": 1.0}, "an order, not scores; leave 'penalty' out"),
    ],
)
def test_what_an_order_cant_give_is_refused(
    families: Server, options: dict[str, Any], says: str
) -> None:
    """By the field's name."""
    body = {"prompt": "Why?", "responses": ["a", "b"], "model": "ordered", **options}
    answer = families.http.post("/best-of-n", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, next(iter(options)))
    assert says in error["message"]


def test_every_route_says_whose_reward_the_gate_replaced(families: Server) -> None:
    """By response in a comparison, by place in a ranking."""
    items = [
        {"prompt": "Hi", "response": response}
        for response in [item["response"] for item in ITEMS if isinstance(item["prompt"], str)]
    ]
    gated = [entry["gated"] for entry in entries(families, items, model="guarded")]
    body = {"prompt": "Hi", "responses": [item["response"] for item in items], "model": "guarded"}

    (compared,) = families.http.post("/compare", json=body).json()["data"]
    (best,) = families.http.post("/best-of-n", json=body).json()["data"]

    assert compared["gated"] == gated
    assert {one["index"]: one["gated"] for one in best["ranking"]} == dict(enumerate(gated))


def test_a_composite_shows_its_parts_and_its_gate(families: Server, bar: float) -> None:
    """What each part is of, its weight, what it is standardized by, and the bar."""
    mix = families.http.get("/models/mix").json()
    guarded = families.http.get("/models/guarded").json()

    assert {name: part["weight"] for name, part in mix["parts"].items()} == WEIGHTS
    assert mix["parts"]["helpful"]["attribute"] == "helpfulness"
    assert mix["parts"]["plain"] == {"target": "tiny", "weight": 2.0, "mean": MEAN, "std": STD}
    assert "gate" not in mix
    assert guarded["gate"] == {"part": "quality", "at_least": bar, "otherwise": OTHERWISE}
    assert "parts" not in families.http.get("/models/tiny").json()
    worst, ordered = (families.http.get(f"/models/{name}").json() for name in ("worst", "ordered"))
    assert "rule" not in mix
    assert (worst["rule"], ordered["rule"]) == ("min", "lexicographic")
    assert ordered["parts"]["plain"] == {"target": "tiny", "weight": 1.0, "tolerance": TOLERANCE}


def test_a_gate_stands_before_a_requests_own_weights(families: Server) -> None:
    """Whatever is summed, what isn't good enough isn't rewarded."""
    gated = [entry["score"] == OTHERWISE for entry in entries(families, ITEMS, model="guarded")]

    data = entries(families, ITEMS, model="guarded", attributes={"quality": 1})

    for entry, is_gated in zip(data, gated, strict=True):
        assert entry["score"] == (OTHERWISE if is_gated else entry["attributes"]["quality"])


def test_a_part_may_score_steps(families: Server) -> None:
    """A process reward model's aggregate is a part, and a request may choose which."""
    item = {"prompt": HENS, "response": "\n\n".join(LAID)}
    (plain,) = entries(families, item, model="tiny")
    for options in ({}, {"aggregate": "min"}):
        (steps,) = entries(families, item, model="math", **options)

        (entry,) = entries(families, item, model="sound", **options)

        assert entry["attributes"] == {"steps": steps["score"], "plain": plain["score"]}
        assert entry["score"] == pytest.approx(sum(entry["attributes"].values()), abs=ROUNDING)
        assert "steps" not in entry


def test_composites_compare_and_rank(families: Server) -> None:
    """Every route answers for them."""
    prompt, responses = SINGLE[1]["prompt"], [one["response"] for one in SINGLE[1:4]]
    items = [{"prompt": prompt, "response": response} for response in responses]
    scores = [entry["score"] for entry in entries(families, items, model="mix")]
    body = {"prompt": prompt, "responses": responses, "model": "mix"}

    (compared,) = families.http.post("/compare", json=body).json()["data"]
    (best,) = families.http.post("/best-of-n", json=body).json()["data"]

    assert compared["scores"] == scores
    assert compared["agreement"] is None
    assert [one["score"] for one in best["ranking"]] == sorted(scores, reverse=True)


def test_models_list_composites(families: Server) -> None:
    """With what they are made of, and their parts as attributes."""
    entry = families.http.get("/models/mix").json()

    assert (entry["kind"], entry["state"]) == ("composite", "ready")
    assert entry["attributes"] == list(WEIGHTS)
    assert entry["members"] == ["helpsteer", "tiny", "odin"]
    assert entry["parameters"] == sum(
        families.http.get(f"/models/{name}").json()["parameters"] for name in entry["members"]
    )


def test_usage_and_metrics_count_a_composite(families: Server) -> None:
    """Tokens are those that every member read; metrics carry the composite's name."""
    before = families.metric("assay_items_total", model="mix", route="score")
    answer = families.score(inputs=list(ITEMS), model="mix").json()
    members = [
        entry
        for name in ("helpsteer", "tiny", "odin")
        for entry in entries(families, ITEMS, model=name)
    ]

    assert answer["usage"]["tokens"] == sum(entry["n_tokens"] for entry in members)
    assert families.metric("assay_items_total", model="mix", route="score") == before + len(ITEMS)
    assert families.metric("assay_score_count", model="mix") >= len(ITEMS)
    assert families.metric("assay_model_info", model="mix") == 1


@pytest.mark.parametrize(
    ("model", "options", "says", "param"),
    [
        ("mix", {"attributes": {"beauty": 1}}, "helpful, wordy, plain, crew", "attributes"),
        ("mix", {"normalize": True}, "no stored mean and std", "normalize"),
        ("mix", {"threshold": 0.5}, "scores no steps", "threshold"),
        ("mix", {"aggregate": "min"}, "scores no steps", "aggregate"),
        ("sound", {"threshold": 0.5}, "scores no steps", "threshold"),
        ("mix", {"penalty": 0.5}, "'mix' gives one reward", "penalty"),
        ("mix", {"rule": "min", "penalty": 0.5}, "rule 'min' has no penalty", "penalty"),
    ],
)
def test_what_a_composite_cant_give_is_refused(
    families: Server, model: str, options: dict[str, Any], says: str, param: str
) -> None:
    """By the field's name."""
    answer = families.score(**PAIR, model=model, **options)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_field", param)
    assert says in error["message"]


def test_an_item_that_one_member_refuses_has_no_reward(families: Server) -> None:
    """It fails alone where that is asked: steps go to a member that takes whole responses."""
    mixed = [{"prompt": HENS, "steps": LAID}, {"prompt": HENS, "response": LAID[0]}]

    bad, good = entries(families, mixed, model="sound", on_error="item")

    assert (bad["score"], bad["error"]["code"]) == (None, "invalid_field")
    assert "attributes" not in bad
    assert good["score"] == entries(families, mixed[1], model="sound")[0]["score"]


@pytest.mark.parametrize(
    ("composite", "says"),
    [
        ({"parts": {"a": {"target": "nope"}}}, "composites.c.parts.a: 'nope' isn't a served model"),
        (
            {"parts": {"a": {"target": "odin", "attribute": "beauty"}}},
            "'odin' has no attribute 'beauty'; it has length, quality",
        ),
        (
            {"parts": {"a": {"target": "odin", "normalize": True}}},
            "'odin' has no stored mean and std",
        ),
        ({"parts": {"a": {"target": "pairrm"}}}, "'pairrm' isn't a served model"),
        ({"parts": {"a": {"target": "c"}}}, "'c' isn't a served model"),
        (
            {
                "parts": {"a": {"target": "odin"}},
                "gate": {"part": "b", "at_least": 0, "otherwise": 0},
            },
            "composites.c.gate: 'b' isn't one of its parts (a)",
        ),
        (
            {
                "rule": "lexicographic",
                "parts": {"a": {"target": "odin"}},
                "gate": {"part": "a", "at_least": 0, "otherwise": 0},
            },
            "composites.c.gate: an order has no score that a gate could replace",
        ),
        (
            {"parts": {"a": {"target": "odin", "tolerance": 0.5}}},
            "composites.c.parts.a.tolerance: it is for the rule 'lexicographic'",
        ),
        (
            {"rule": "min", "parts": {"a": {"target": "odin", "weight": 0.0}}},
            "composites.c.parts: give one a weight other than 0",
        ),
    ],
)
def test_a_composite_of_what_isnt_there_stops_the_start(
    catalogue: dict[str, Family], composite: dict[str, Any], says: str
) -> None:
    """The message names the table and what there is."""
    models = tuple(str(catalogue[name].folder) for name in ("odin", "pairrm"))
    settings = Settings(models=models, composites={"c": composite})

    with pytest.raises(SettingsError) as caught:
        resolving.load(settings)

    assert says in caught.value.message


def test_a_gate_by_a_calibration_is_of_the_cards_own_aggregate(
    catalogue: dict[str, Family], tmp_path: Path
) -> None:
    """Steps aggregated otherwise are another score than what was fitted to."""
    models = (str(catalogue["math"].folder),)
    revision = resolving.load(Settings(models=models)).default.revision
    overlay.write(fitted("math", revision), tmp_path / "math.toml")
    gate = {"part": "a", "at_least": 0.5, "otherwise": 0.0, "calibrated": True}
    served = resolving.load(
        Settings(
            models=models,
            composites={"c": {"parts": {"a": {"target": "math"}}, "gate": gate}},
            calibrations={"math": str(tmp_path / "math.toml")},
        )
    )

    for request in (
        ScoreRequest(inputs=[]),
        CompareRequest(comparisons=[]),
        BestOfNRequest(groups=[]),
    ):
        validation.check(served.by_name["c"], request)
        other = request.model_copy(update={"aggregate": "min"})
        with pytest.raises(InvalidField, match=r"calibration of 'math'.*leave 'aggregate' out"):
            validation.check(served.by_name["c"], other)


def test_a_wrong_composite_ends_the_process_with_3(
    catalogue: dict[str, Family], tmp_path: Path
) -> None:
    """`[composites]` of assay.toml is resolved before any worker has loaded a model."""
    (tmp_path / "assay.toml").write_text('[composites.c.parts.a]\ntarget = "nope"\n')

    ended = run(
        "serve", "--port", "0", catalogue["odin"].folder, cwd=tmp_path, device="cpu", threads=1
    )

    assert ended.returncode == 3
    assert "composites.c.parts.a: 'nope' isn't a served model or ensemble" in ended.stderr
    assert "Traceback" not in ended.stderr
