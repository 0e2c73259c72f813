"""System One's typed questions, as TypeSafe's SDK, vLLM's and SGLang's clients ask them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.options import (
    ASKED,
    JOINED,
    SCORED,
    SEVERITY,
    STATE,
    best,
    chosen,
    expected_level,
)
from tests.contract.served import post, refused
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

PATH = "/v1/systemone"
TEAMS = {"returns": "items that arrive damaged", "billing": None, "sales": {"about": ["prices"]}}
READ = ["returns: items that arrive damaged", "billing", 'sales: {"about":["prices"]}']
CHOICE = {"type": "choice", "instructions": ASKED, "criteria": TEAMS}
LEVELS = ["cosmetic", "broken", "beyond repair"]
SCORE = {"type": "score", "instructions": SEVERITY, "criteria": LEVELS}
SUM = 1e-12  # each probability is rounded once


def asked(server: Server, state: Any, model: str = "tiny", **questions: Any) -> dict[str, Any]:
    """Return the answers."""
    answers: dict[str, Any] = post(server, PATH, model=model, state=state, questions=questions)[
        "answers"
    ]
    return answers


def sent(server: Server, **body: Any) -> httpx.Response:
    """Return the answer to a body that has a question unless it says otherwise."""
    return server.http.post(PATH, json={"state": STATE, "questions": {"team": CHOICE}, **body})


@pytest.mark.parametrize("name", exchanges("systemone"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", SCORED)
def test_a_choice_is_best_of_n_with_a_softmax_of_the_rewards(served: Server, model: str) -> None:
    """To the last bit, for whatever kind of target scores; an ensemble's rewards are its means."""
    expected = chosen(served, JOINED, READ, model=model)
    winner = list(TEAMS)[best(served, JOINED, READ, model=model)]

    answer = asked(served, STATE, model, team=CHOICE)["team"]

    assert answer["probabilities"] == dict(zip(TEAMS, expected, strict=True))
    assert math.fsum(expected) == pytest.approx(1.0, abs=SUM)
    assert answer["choice"] == winner == max(TEAMS, key=answer["probabilities"].__getitem__)
    assert answer["confidence"] == (3 * max(expected) - 1) / 2


@pytest.mark.parametrize("model", SCORED)
def test_a_score_is_the_probability_weighted_level(served: Server, model: str) -> None:
    """From 0 for the first, with a legend of the levels."""
    expected = chosen(served, f"{STATE}\n\n{SEVERITY}", LEVELS, model=model)

    answer = asked(served, STATE, model, damage=SCORE)["damage"]

    assert list(answer["probabilities"].values()) == expected
    assert answer["score"] == expected_level(expected)
    assert answer["legend"] == dict(zip("012", LEVELS, strict=True))
    assert 0 <= answer["confidence"] <= 1


def test_without_instructions_it_is_best_of_n_of_the_state(served: Server) -> None:
    """Candidates as options, the state as their prompt."""
    candidates = dict.fromkeys(RESPONSES)

    answer = asked(served, PROMPT, best={"type": "choice", "criteria": candidates})["best"]

    assert list(answer["probabilities"].values()) == chosen(served, PROMPT, RESPONSES)
    assert answer["choice"] == RESPONSES[best(served, PROMPT, RESPONSES)]


@pytest.mark.parametrize("model", ["tiny", "pairrm"])
def test_several_questions_are_answered_as_each_alone(served: Server, model: str) -> None:
    """By the names that they were asked under, in order, in one call that shares the state."""
    alone = {
        **asked(served, STATE, model, team=CHOICE),
        **asked(served, STATE, model, **{"how bad?": SCORE}),
    }

    together = asked(served, STATE, model, **{"team": CHOICE, "how bad?": SCORE})

    assert together == alone
    assert list(together) == ["team", "how bad?"]


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ({"ticket": "Zerbrochen – 24″"}, '{"ticket":"Zerbrochen – 24″"}'),
        ([1, {"a": None}], '[1,{"a":null}]'),
    ],
)
def test_json_is_read_as_compact_text(served: Server, state: Any, read: str) -> None:
    """A state that is no text, and instructions that are none."""
    told = {"type": "choice", "instructions": {"do": "sort"}, "criteria": TEAMS}
    prompt = f'{read}\n\n{{"do":"sort"}}'

    answer = asked(served, state, team=told)["team"]

    assert list(answer["probabilities"].values()) == chosen(served, prompt, READ)


def test_vllms_instructions_for_all_questions_stand_behind_the_state(served: Server) -> None:
    """As it places them."""
    body = {"state": STATE, "questions": {"team": CHOICE}, "instructions": "Be strict."}

    answer = post(served, PATH, **body)["answers"]["team"]

    expected = chosen(served, f"{STATE}\n\nBe strict.\n\n{ASKED}", READ)
    assert list(answer["probabilities"].values()) == expected


def test_a_model_that_only_compares_chooses_who_wins_most(served: Server) -> None:
    """Of two with its own probability, of more in the order of their mean ones."""
    two = {"returns": None, "billing": None}
    (native,) = post(served, "/compare", prompt=JOINED, responses=list(two), model="pairrm")["data"]

    pair = asked(served, STATE, "pairrm", team={**CHOICE, "criteria": two})["team"]
    many = asked(served, STATE, "pairrm", team=CHOICE)["team"]

    assert pair["probabilities"]["returns"] == pytest.approx(native["probability"], abs=1e-7)
    assert many["choice"] == list(TEAMS)[best(served, JOINED, READ, model="pairrm")]
    assert many["choice"] == max(TEAMS, key=many["probabilities"].__getitem__)
    assert math.fsum(many["probabilities"].values()) == pytest.approx(1.0, abs=SUM)


@pytest.mark.parametrize("model", ["tiny", "pairrm"])
def test_a_lone_option_is_certain(served: Server, model: str) -> None:
    """The contract allows it."""
    answers = asked(
        served,
        STATE,
        model,
        team={**CHOICE, "criteria": {"returns": None}},
        damage={**SCORE, "criteria": ["broken"]},
    )

    assert (answers["team"]["choice"], answers["team"]["confidence"]) == ("returns", 1.0)
    assert (answers["damage"]["score"], answers["damage"]["confidence"]) == (0.0, 1.0)


def test_levels_that_read_alike_share_the_probability(served: Server) -> None:
    """A level may come twice; an option can't, it is a key."""
    answer = asked(served, STATE, damage={**SCORE, "criteria": ["broken", "broken"]})["damage"]

    assert answer["probabilities"] == {"0": 0.5, "1": 0.5}
    assert (answer["score"], answer["confidence"]) == (0.5, 0.0)


@pytest.mark.parametrize("model", [*SCORED, "pairrm"])
def test_usage_counts_the_tokens_of_all_options(served: Server, model: str) -> None:
    """As an ensemble's first member reads them, or the pairs that meet; nothing is generated."""
    inputs = [{"prompt": JOINED, "response": one} for one in READ]
    if model == "pairrm":
        native = post(served, "/best-of-n", prompt=JOINED, responses=READ, model=model)
        expected = native["usage"]["tokens"]
    else:
        data = post(served, "/score", inputs=inputs, model=model)["data"]
        expected = sum(one["n_tokens"] for one in data)

    answer = post(served, PATH, state=STATE, questions={"team": CHOICE}, model=model)

    assert answer["usage"] == {"input_tokens": expected, "output_tokens": 0}


def test_the_request_id_is_where_the_sdk_looks(served: Server) -> None:
    """The same as everywhere, under the contract's name too, whatever the answer is."""
    answers = {
        200: sent(served),
        422: sent(served, questions={}),
        404: sent(served, model="nope"),
        501: sent(served, images=["data:image/png;base64,"]),
        400: served.http.post(PATH, content=b"{"),
        405: served.http.get(PATH),
        503: refused(served, PATH, state=STATE, questions={"team": CHOICE}),
    }

    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["x-typesafe-request-id"] == answer.headers["x-request-id"]
    assert "x-typesafe-request-id" not in served.http.get("/health").headers


def test_unknown_fields_are_taken(served: Server) -> None:
    """Those of vLLM's and SGLang's clients, and a question's."""
    plain = sent(served).json()["answers"]

    answer = sent(
        served,
        questions={"team": {**CHOICE, "weight": 1}},
        seed=1,
        priority=0,
        assets=None,
    )

    assert answer.json()["answers"] == plain


@pytest.mark.parametrize(
    ("change", "says", "where"),
    [
        (
            {"questions": {"a": {"type": "noul", "instructions": "Is it?"}}},
            "ask for a 'choice'",
            "questions.a: ",
        ),
        ({"questions": {"a": CHOICE, "b": {"type": "box"}}}, "no boxes", "questions.b: "),
        ({"assets": {"x": {"type": "image"}}}, "text only", "assets: "),
        ({"images": ["data:image/png;base64,"]}, "text only", "the models"),
    ],
)
def test_what_a_reward_model_cant_answer_is_a_501_that_says_why(
    served: Server, change: dict[str, Any], says: str, where: str
) -> None:
    """One sentence that names the question, and nothing is scored."""
    answer = sent(served, **change)

    assert (answer.status_code, list(answer.json())) == (501, ["detail"])
    assert says in answer.json()["detail"]
    assert answer.json()["detail"].startswith(where)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"questions": {}}, ["body", "questions"]),
        ({"questions": {"a": {"type": "rank"}}}, ["body", "questions", "a"]),
        (
            {"questions": {"a": {"type": "choice", "criteria": {}}}},
            ["body", "questions", "a", "choice", "criteria"],
        ),
        (
            {"questions": {"a": {"type": "score", "criteria": []}}},
            ["body", "questions", "a", "score", "criteria"],
        ),
        (
            {"questions": {"a": {**CHOICE, "criteria": {"x": "y " * 9000}}}},
            ["body", "questions", "a"],
        ),
    ],
)
def test_a_bad_request_is_a_422_that_says_where(
    served: Server, change: dict[str, Any], place: list[str]
) -> None:
    """As FastAPI tells it."""
    answer = sent(served, **change)

    assert answer.status_code == 422, answer.text
    (entry,) = answer.json()["detail"]
    assert list(entry) == ["loc", "msg", "type"]
    assert entry["loc"] == place


def test_unknown_models_and_overload(served: Server) -> None:
    """404 in one sentence, and 503 with Retry-After."""
    unknown = sent(served, model="jev-latest")
    full = refused(served, PATH, state=STATE, questions={"team": CHOICE})

    assert unknown.status_code == 404
    assert "jev-latest" in unknown.json()["detail"]
    assert (full.status_code, list(full.json())) == (503, ["detail"])
    assert int(full.headers["retry-after"]) >= 1


def test_a_body_that_is_not_json_is_answered_in_the_same_shape(served: Server) -> None:
    """A 400."""
    answer = served.http.post(PATH, content=b"{")

    assert (answer.status_code, list(answer.json())) == (400, ["detail"])
