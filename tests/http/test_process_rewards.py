"""Process reward models over HTTP: a score for each step, and what a request makes of them."""

from __future__ import annotations

import json
import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from assay import bulk
from assay.client.client import AsyncClient
from tests.families.process import HENS, ITEMS, LAID, SUM
from tests.families.serving import Served
from tests.http.conftest import STEPS_LIMIT
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.checkpoints import Family
    from tests.http.processes import Server

CLOSE = 1e-5
PAGE_TOKENS = 8
MODELS = ["math", "skywork", "whole"]
CHAIN: dict[str, Any] = {"prompt": HENS, "steps": LAID}
AGGREGATES = {"last": lambda steps: steps[-1], "min": min, "prod": math.prod, "mean": fmean}


def entries(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def picked(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/best-of-n", json=body)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return entry


@pytest.mark.parametrize("model", MODELS)
def test_each_step_has_its_familys_score(
    families: Server, catalogue: dict[str, Family], model: str
) -> None:
    """Steps and the card's aggregate of them are those of the family's own rule."""
    data = entries(families, ITEMS, model=model)

    for entry, expected in zip(data, catalogue[model].expected(ITEMS), strict=True):
        assert entry["steps"] == pytest.approx(expected.steps, abs=CLOSE)
        assert entry["score"] == pytest.approx(expected.score, abs=CLOSE)


@pytest.mark.parametrize("model", MODELS)
def test_an_entry_names_the_first_wrong_step(families: Server, model: str) -> None:
    """`first_error` is the first step below the card's threshold of 0.5; absent without one."""
    data = entries(families, ITEMS, model=model)

    for entry in data:
        wrong = [step for step, score in enumerate(entry["steps"]) if score < 0.5]
        assert entry.pop("first_error", None) == (wrong[0] if wrong else None)
        assert set(entry) == {"index", "score", "uncertainty", "steps", "n_tokens", "truncated"}
        assert entry["uncertainty"] is None


def test_a_prompt_and_steps_at_the_top_level_are_one_item(families: Server) -> None:
    """The shorthand is the item in `inputs`."""
    short = families.score(**CHAIN, model="math").json()["data"]

    assert short == entries(families, [CHAIN], model="math")


@pytest.mark.parametrize(("model", "split"), [("math", "\n\n"), ("skywork", "\n")])
def test_a_response_is_split_where_the_card_says(families: Server, model: str, split: str) -> None:
    """A response as one text, or as the last turn of messages, is the steps it has."""
    response = split.join(LAID)
    turns = [{"role": "user", "content": HENS}, {"role": "assistant", "content": response}]

    in_steps, whole, messages = entries(
        families, [CHAIN, {"prompt": HENS, "response": response}, {"messages": turns}], model=model
    )

    assert whole == {**in_steps, "index": 1}
    assert messages == {**in_steps, "index": 2}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("model", MODELS)
def test_a_request_may_say_what_becomes_of_the_steps(
    families: Server, model: str, aggregate: str
) -> None:
    """`aggregate` changes the score alone."""
    plain = entries(families, ITEMS, model=model)

    for entry, before in zip(
        entries(families, ITEMS, model=model, aggregate=aggregate), plain, strict=True
    ):
        expected = AGGREGATES[aggregate](before["steps"])
        assert entry["score"] == pytest.approx(expected, abs=1e-12)
        assert entry == {**before, "score": entry["score"]}


def test_a_request_may_say_which_step_is_an_error(families: Server) -> None:
    """`threshold` moves `first_error` and no score."""
    (plain,) = entries(families, CHAIN, model="math")
    steps = plain["steps"]

    for threshold in (0, 1.5, steps[2], max(steps)):
        (entry,) = entries(families, CHAIN, model="math", threshold=threshold)
        wrong = [step for step, score in enumerate(steps) if score < threshold]
        assert entry.get("first_error") == (wrong[0] if wrong else None)
        assert (entry["score"], entry["steps"]) == (plain["score"], steps)


def test_an_activation_is_of_the_score(families: Server) -> None:
    """Steps stay as the model gives them."""
    (plain,) = entries(families, CHAIN, model="math")
    (entry,) = entries(families, CHAIN, model="math", activation="sigmoid")

    assert entry["score"] == pytest.approx(1 / (1 + math.exp(-plain["score"])), abs=1e-12)
    assert entry["steps"] == plain["steps"]


@pytest.mark.parametrize(("model", "ends"), [("math", 2), ("skywork", 0)])
def test_a_growing_chain_costs_its_new_tokens(
    families: Server, catalogue: dict[str, Family], model: str, ends: int
) -> None:
    """Each step more is computed alone, and no bit differs from scoring the chain anew.

    A page that isn't full and the `ends` tokens behind the last step are computed again.
    """
    chain = {"prompt": f"{HENS} Take your time, and say how you know.", "steps": LAID * 3}
    parts = [{**chain, "steps": chain["steps"][:count]} for count in range(1, 13)]
    alone = Served(catalogue[model].folder).verdicts(parts, together=False)
    before = 0

    for part, anew in zip(parts, alone, strict=True):
        answer = families.score(inputs=part, model=model).json()
        (entry,) = answer["data"]
        assert entry["steps"] == list(anew.steps)
        new = entry["n_tokens"] - before
        if before:
            assert answer["usage"]["computed_tokens"] < new + ends + PAGE_TOKENS
        before = entry["n_tokens"]


def test_tokenize_shows_every_place_that_is_read(families: Server) -> None:
    """`read_positions` has a place a step; what it shows scores as the item does."""
    (seen,) = families.http.post("/tokenize", json={"inputs": CHAIN, "model": "math"}).json()[
        "data"
    ]
    (plain,) = entries(families, CHAIN, model="math")

    assert [seen["tokens"][at] for at in seen["read_positions"]] == ["<extra_0>"] * 4
    assert seen["read_position"] == seen["read_positions"][-1]
    for form in ("input_ids", "text"):
        (entry,) = entries(families, {form: seen[form]}, model="math")
        assert (entry["steps"], entry["score"]) == (plain["steps"], plain["score"])


def test_tokenize_shows_where_steps_that_stand_alone_end(families: Server) -> None:
    """Each is read at what stands behind it."""
    body = {"inputs": CHAIN, "model": "skywork"}
    (seen,) = families.http.post("/tokenize", json=body).json()["data"]

    assert len(seen["read_positions"]) == 4
    assert seen["read_positions"][-1] == seen["n_tokens"] - 1


def test_tokenize_shows_one_place_of_other_models(families: Server) -> None:
    """A scalar model is read once."""
    (seen,) = families.http.post("/tokenize", json={"inputs": PAIR}).json()["data"]

    assert seen["read_positions"] == [seen["read_position"]] == [seen["n_tokens"] - 1]


def test_models_say_that_they_score_steps(families: Server) -> None:
    """`GET /models` tells process reward models from others."""
    listed = {one["id"]: one for one in families.http.get("/models").json()["data"]}

    assert [name for name, one in listed.items() if one["scores_steps"]] == MODELS
    assert all(listed[name]["attributes"] == [] for name in MODELS)


def test_the_best_chain_has_the_best_aggregate(families: Server) -> None:
    """`chains` are ranked by the card's aggregate, or by the request's."""
    chains = [LAID, LAID[:1], LAID[::-1], ["42 eggs.", "Yes."], ["It is 42."]]
    items = [{"prompt": HENS, "steps": chain} for chain in chains]
    firsts = set()
    for options in ({}, *({"aggregate": name} for name in AGGREGATES)):
        scores = [one["score"] for one in entries(families, items, model="math", **options)]
        order = sorted(range(5), key=lambda i: -scores[i])

        entry = picked(families, prompt=HENS, chains=chains, model="math", top_k=2, **options)

        assert [one["index"] for one in entry["ranking"]] == order
        assert [one["index"] for one in entry["top"]] == order[:2]
        assert entry["best"] == {
            "index": order[0],
            "response": None,
            "steps": chains[order[0]],
            "score": scores[order[0]],
            "selection_score": scores[order[0]],
        }
        firsts.add(tuple(order))
    assert len(firsts) > 1


def test_groups_may_have_chains_or_responses(families: Server) -> None:
    """In `groups` each has its form; `min_score` keeps out what isn't good enough."""
    groups = [
        {"prompt": HENS, "chains": [LAID, LAID[:2]], "id": "a"},
        {"prompt": HENS, "responses": ["\n\n".join(LAID), "\n\n".join(LAID[:2])]},
    ]
    body = {"groups": groups, "model": "math", "min_score": 2}

    chains, responses = families.http.post("/best-of-n", json=body).json()["data"]

    assert chains["ranking"] == responses["ranking"]
    assert (chains["id"], chains["best"], chains["top"]) == ("a", None, [])


def test_solutions_are_compared_by_their_aggregates(families: Server) -> None:
    """`/compare` takes responses that the card splits."""
    responses = ["\n\n".join(LAID), "\n\n".join(LAID[:2])]
    items = [{"prompt": HENS, "response": response} for response in responses]
    for aggregate in ("min", "mean"):
        one, other = entries(families, items, model="math", aggregate=aggregate)
        body = {
            "prompt": HENS,
            "responses": responses,
            "model": "math",
            "aggregate": aggregate,
        }
        (entry,) = families.http.post("/compare", json=body).json()["data"]

        assert entry["scores"] == [one["score"], other["score"]]
        assert entry["margin"] == one["score"] - other["score"]


def test_the_prompt_gives_way_to_the_steps(families: Server) -> None:
    """A prompt over the limit loses its beginning, and every step is scored."""
    long = {"prompt": "first words " * STEPS_LIMIT, "steps": ["It is 42.", "Yes."]}

    (entry,) = entries(families, long, model="whole")

    assert (entry["truncated"], entry["n_tokens"]) == (True, STEPS_LIMIT)
    assert len(entry["steps"]) == 2


LONG = {"prompt": SUM, "steps": ["1 and 1 is 2. " * 10] * 5}
MARKED = {"prompt": SUM, "steps": ["40 <extra_0> and 2.", "42."]}
REFUSALS = {
    "steps for a scalar model": ("tiny", CHAIN, {}, "'response' instead", "inputs[0].steps"),
    "a response that nothing splits": ("whole", PAIR, {}, "'steps' instead", "inputs[0]"),
    "text where steps are read": ("whole", {"text": "x"}, {}, "'prompt' and 'steps'", "inputs[0]"),
    "text without a marker": ("math", {"text": "x"}, {}, "marker stands nowhere", "inputs[0]"),
    "a marker in a step": ("math", MARKED, {}, "at 3 places", "inputs[0].steps"),
    "a marker in the prompt": (
        "math",
        {"prompt": "<extra_0>", "steps": ["42"]},
        {},
        "at 2 places",
        "inputs[0].steps",
    ),
    "no steps": ("math", {"prompt": SUM, "steps": []}, {}, "at least 1", "inputs[0].steps"),
    "a step that is a number": (
        "math",
        {"prompt": SUM, "steps": ["42", 42]},
        {},
        "valid string",
        "inputs[0].steps[1]",
    ),
    "steps beside a response": (
        "math",
        {**CHAIN, "response": "42"},
        {},
        "either 'response' or 'steps'",
        "inputs[0]",
    ),
    "steps without a prompt": ("math", {"steps": LAID}, {}, "'prompt' is missing", "inputs[0]"),
    "an unknown aggregate": ("math", CHAIN, {"aggregate": "max"}, "'prod' or 'mean'", "aggregate"),
    "an aggregate of one number": ("tiny", PAIR, {"aggregate": "min"}, "no steps", "aggregate"),
    "a threshold of one number": ("tiny", PAIR, {"threshold": 0.5}, "no steps", "threshold"),
    "a threshold in words": ("math", CHAIN, {"threshold": "low"}, "send a number", "threshold"),
    "attributes of steps": (
        "math",
        CHAIN,
        {"attributes": {"right": 1.0}},
        "no attribute 'right'; it has none",
        "attributes",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_model_cant_do_with_steps_is_refused(families: Server, name: str) -> None:
    """The message says what to send, the path where."""
    model, item, options, says, param = REFUSALS[name]

    answer = families.score(inputs=[item], model=model, **options)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid_field")
    assert says in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("model", "body", "code", "says", "param"),
    [
        ("tiny", {"chains": [LAID]}, "invalid_field", "whole responses", "groups[0].chains[0]"),
        ("whole", {"responses": ["42"]}, "invalid_field", "steps", "groups[0].responses[0]"),
        ("math", {"chains": [LAID], "responses": ["42"]}, "invalid_field", "either", None),
        ("math", {"chains": []}, "invalid_field", "at least 1", "chains"),
        ("math", {"chains": [LAID, []]}, "invalid_field", "at least 1", "chains[1]"),
        (
            "whole",
            {"chains": [LAID, LONG["steps"]]},
            "item_too_long",
            "steps alone",
            "groups[0].chains[1]",
        ),
        (
            "math",
            {"chains": [LAID, MARKED["steps"]]},
            "invalid_field",
            "at 3 places",
            "groups[0].chains[1]",
        ),
    ],
)
def test_bad_chains_are_refused_by_their_place(
    families: Server, model: str, body: dict[str, Any], code: str, says: str, param: str | None
) -> None:
    """The path of `/best-of-n` leads to the chain or response."""
    answer = families.http.post("/best-of-n", json={"prompt": HENS, "model": model, **body})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("param")) == (422, code, param)
    assert says in error["message"]


def test_bad_solutions_fail_alone_where_that_is_asked(families: Server) -> None:
    """`on_error: "item"`: the good keep their bits."""
    system = {"role": "system", "content": "Be short."}
    bad = {
        "item_too_long": LONG,
        "template_refused": {"prompt": [system, {"role": "user", "content": SUM}], "steps": ["42"]},
        "invalid_field": PAIR,
    }
    good = [CHAIN, *ITEMS[:2]]
    mixed = [item for pair in zip(bad.values(), good, strict=True) for item in pair]

    data = entries(families, mixed, model="whole", on_error="item")

    assert [entry["error"]["code"] for entry in data[::2]] == list(bad)
    assert [(entry["score"], entry.get("steps")) for entry in data[::2]] == [(None, None)] * 3
    alone = entries(families, good, model="whole")
    assert [entry["steps"] for entry in data[1::2]] == [entry["steps"] for entry in alone]


def test_a_bad_chain_fails_its_group_alone_where_that_is_asked(families: Server) -> None:
    """The other groups are ranked."""
    groups = [{"prompt": HENS, "chains": [LAID, chain]} for chain in (MARKED["steps"], LAID[:1])]
    body = {"groups": groups, "model": "math", "on_error": "item"}

    bad, good = families.http.post("/best-of-n", json=body).json()["data"]

    assert (bad["error"]["code"], bad["best"], bad["n"]) == ("invalid_field", None, 2)
    assert len(good["ranking"]) == 2


async def test_a_file_of_solutions_is_scored_as_http_scores_them(
    families: Server, tmp_path: Path
) -> None:
    """Lines with `steps` go through `assay score`; a line of no steps fails alone."""
    source, sink = tmp_path / "items.jsonl", tmp_path / "scores.jsonl"
    lines = [*ITEMS, {"prompt": SUM, "steps": []}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async with AsyncClient(families.url) as client:
        tally = await bulk.run(source, sink, bulk.Remote(client), model="math")

    answers = [json.loads(line) for line in sink.read_text().splitlines()]
    expected = entries(families, ITEMS, model="math")
    assert (tally.lines, tally.errors) == (len(lines), 1)
    assert [one["steps"] for one in answers[:-1]] == [one["steps"] for one in expected]
    assert answers[-1]["error"]["code"] == "invalid_field"
