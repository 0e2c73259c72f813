"""An option changes the answer or is refused: each option of each native route, of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.http import texts
from tests.http.texts import PROMPT

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

KINDS = {
    "a model": "tiny",
    "an ensemble": "crew",
    "attributes": "helpsteer",
    "steps": "math",
    "pairs": "pairrm",
    "embeddings": "general",
    "a policy": "dpo",
    "a policy alone": "policy",
    "a composite": "mix",
    "a composite with a gate": "guarded",
    "a composite with steps": "sound",
}
OF_STEPS, COMPARING = {"math"}, {"pairrm", "general"}
SCORING = set(KINDS.values()) - COMPARING
HAVE_ATTRIBUTES = {"helpsteer", "mix", "guarded", "sound"}
WEIGHTS = {"helpsteer": "verbosity", "mix": "crew", "guarded": "quality", "sound": "plain"}
RESPONSES = [f"{one}\n\nThat is all." for one in texts.RESPONSES]  # two steps each
STEPPED = {"prompt": PROMPT, "steps": ["Two.", "Three of them.", "So five."]}
BODIES = {
    "/score": {"inputs": [{"prompt": PROMPT, "response": one} for one in RESPONSES]},
    "/compare": {"prompt": PROMPT, "responses": RESPONSES},
    "/best-of-n": {"prompt": PROMPT, "responses": RESPONSES},
}
VOLATILE = {"id", "created", "timing_ms", "usage"}
# Which kinds an option does something for, by route; all others refuse it by name.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, set[str]]]] = {
    "activation": ({"activation": "sigmoid"}, dict.fromkeys(BODIES, SCORING)),
    "normalize": ({"normalize": True}, {route: {"tiny"} for route in BODIES}),
    "aggregate": ({"aggregate": "mean"}, dict.fromkeys(BODIES, OF_STEPS | {"sound"})),
    "threshold": ({"threshold": 1e9}, dict.fromkeys(BODIES, OF_STEPS)),
    "attributes": ({"attributes": {}}, dict.fromkeys(BODIES, HAVE_ATTRIBUTES)),
    "members": ({"include": ["members"]}, dict.fromkeys(BODIES, SCORING)),
    "tokens": ({"include": ["tokens"]}, dict.fromkeys(BODIES, SCORING)),
    "include attributes": ({"include": ["attributes"]}, dict.fromkeys(BODIES, HAVE_ATTRIBUTES)),
    "include steps": ({"include": ["steps"]}, dict.fromkeys(BODIES, OF_STEPS)),
    "temperature": ({"temperature": 7.0}, {"/compare": SCORING}),
    "tie_margin": ({"tie_margin": 1e6}, {"/compare": SCORING | COMPARING}),
    "median": ({"rule": "median"}, {"/best-of-n": {"crew"}}),
    "min": ({"rule": "min"}, {"/best-of-n": {"crew"}}),
    "vote": ({"rule": "vote"}, {"/best-of-n": {"crew"}}),
    "lower_bound": ({"rule": "lower_bound"}, {"/best-of-n": {"crew"}}),
    "variance_penalty": ({"rule": "variance_penalty"}, {"/best-of-n": {"crew"}}),
    "penalty": ({"penalty": 1.0}, {"/best-of-n": set()}),
    "top_k": ({"top_k": 3}, {"/best-of-n": SCORING | COMPARING}),
    "min_score": ({"min_score": 1e6}, {"/best-of-n": SCORING | COMPARING}),
}
ALWAYS = {  # answered unasked, too; there the card's own threshold finds the same step
    ("include attributes", "/score"),
    ("include steps", "/score"),
    ("threshold", "/score"),
}


def posted(server: Server, route: str, **body: Any) -> httpx.Response:
    return server.http.post(route, json={**BODIES[route], **body})


def lasting(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name not in VOLATILE}


def given(option: str, model: str) -> dict[str, Any]:
    body = OPTIONS[option][0]
    return {"attributes": {WEIGHTS.get(model, "verbosity"): 3.5}} if "attributes" in body else body


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_the_answer_or_is_refused_by_name(families: Server, option: str) -> None:
    """On each route that has it and for each kind of target; median and mean of two are one."""
    (field,), effective = OPTIONS[option][0], OPTIONS[option][1]
    for route, kinds in effective.items():
        for model in KINDS.values():
            if route == "/score" and model in COMPARING:
                continue
            where = f"{option} on {route} for {model}"
            answer = posted(families, route, model=model, **given(option, model))
            if model not in kinds:
                assert answer.status_code == 422, where
                error = answer.json()["error"]
                assert (error["code"], error["param"]) == ("invalid_field", field), where
            elif (option, route) not in ALWAYS and option != "median":
                plain = lasting(posted(families, route, model=model))
                assert lasting(answer) != plain, where
            else:
                lasting(answer)


def test_members_of_each_response_are_those_of_score(families: Server) -> None:
    """`include` answers on `/compare` and `/best-of-n` what `/score` does, response by response."""
    wanted = ["members", "tokens"]
    for model in ("tiny", "crew", "mix", "dpo"):
        scored = posted(families, "/score", model=model, include=wanted).json()["data"]
        (compared,) = posted(families, "/compare", model=model, include=wanted).json()["data"]
        (picked,) = posted(families, "/best-of-n", model=model, include=wanted).json()["data"]
        for name in wanted:
            own = [entry[name] for entry in scored]
            assert all(own)
            assert compared[name] == own
            assert [one[name] for one in picked["ranking"]] == [
                own[one["index"]] for one in picked["ranking"]
            ]
    (alone, *_) = posted(families, "/score", model="tiny", include=["members"]).json()["data"]
    assert alone["members"] == {"tiny": alone["score"]}


def test_attributes_and_steps_of_each_response_are_those_of_score(families: Server) -> None:
    """Of a model that has them: on `/compare` a list, on `/best-of-n` in the ranking."""
    for model, options, names in (
        ("helpsteer", {"include": ["attributes"]}, ["attributes"]),
        ("sound", {"include": ["attributes"]}, ["attributes"]),
        ("math", {"include": ["steps"], "threshold": 1e9}, ["steps", "first_error"]),
    ):
        scored = posted(families, "/score", model=model, **options).json()["data"]
        (compared,) = posted(families, "/compare", model=model, **options).json()["data"]
        (picked,) = posted(families, "/best-of-n", model=model, **options).json()["data"]
        for name in names:
            own = [entry[name] for entry in scored]
            assert compared[name] == own
            assert [one[name] for one in picked["ranking"]] == [
                own[one["index"]] for one in picked["ranking"]
            ]


def test_the_first_error_by_a_threshold_comes_with_chains(families: Server) -> None:
    """`threshold` marks the first wrong step of each chain of `/best-of-n`."""
    chains = [STEPPED["steps"], [*STEPPED["steps"], "Or six."]]
    body = {"prompt": PROMPT, "chains": chains, "model": "math", "threshold": 1e9}

    (group,) = families.http.post("/best-of-n", json=body).json()["data"]

    assert [one["first_error"] for one in group["ranking"]] == [0, 0]


@pytest.mark.parametrize("rule", ["mean", "median", "min", "vote"])
def test_a_penalty_goes_with_a_rule_that_has_one(families: Server, rule: str) -> None:
    """Also of an ensemble; with the two rules that have one it changes the answer."""
    answer = posted(families, "/best-of-n", model="crew", rule=rule, penalty=0.5)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "penalty")
    assert "'lower_bound' and 'variance_penalty' have" in error["message"]
    for able in ("lower_bound", "variance_penalty"):
        mild, severe = (
            lasting(posted(families, "/best-of-n", model="crew", rule=able, penalty=penalty))
            for penalty in (0.5, 2.5)
        )
        assert mild != severe


@pytest.mark.parametrize("route", ["/score", "/v1/score", "/compare", "/best-of-n", "/tokenize"])
def test_options_in_the_url_are_refused(families: Server, route: str) -> None:
    """They are fields of the body; in the URL they would do nothing."""
    body = BODIES.get(route.removeprefix("/v1"), BODIES["/score"])

    answer = families.http.post(f"{route}?model=helpsteer", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "model")
    assert "fields of the body" in error["message"]
