"""OpenAI's decisions, and SGLang's of the same path, told apart by the keys of their questions."""

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
    softmax,
)
from tests.contract.served import natively, post, refused
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

PATH = "/v1/decisions"
CHOICES = [
    {"value": "returns", "description": "items that arrive damaged"},
    {"value": "billing"},
    {"value": True},
]
VALUES = ["returns", "billing", True]
READ = ["returns: items that arrive damaged", "billing", "true"]
CHOICE = {"type": "choice", "name": "team", "instructions": ASKED, "choices": CHOICES}
LABELS = ["cosmetic", "broken"]
SCORE = {
    "type": "score",
    "instructions": SEVERITY,
    "levels": [{"label": one} for one in LABELS],
}
PREDICATE = {"type": "predicate", "instructions": "Does the customer report a damaged item?"}
OPTIONS = [
    {"name": "returns", "description": "items that arrive damaged"},
    {"name": "billing", "description": None},
    {"name": "sales"},
]
SGLANG_CHOICE = {"id": "team", "type": "choice", "question": ASKED, "options": OPTIONS}
SGLANG_READ = [*READ[:2], "sales"]
SGLANG_SCORE = {"id": "bad", "type": "score", "question": SEVERITY, "levels": LABELS}
SUM = 1e-12  # each probability is rounded once


def asked(server: Server, *questions: Any, given: Any = STATE, model: str = "tiny") -> list[Any]:
    """Return OpenAI's answers."""
    answers: list[Any] = post(server, PATH, model=model, input=given, questions=questions)[
        "answers"
    ]
    return answers


def probabilities(answer: dict[str, Any]) -> list[float]:
    """Return the probabilities of an answer of OpenAI's."""
    return [one["probability"] for one in answer["probabilities"]]


def sent(server: Server, **body: Any) -> httpx.Response:
    """Return the answer to a body of OpenAI's that has a question unless it says otherwise."""
    return server.http.post(PATH, json={"input": STATE, "questions": [CHOICE], **body})


def sent_to_sglang(server: Server, *questions: Any, **body: Any) -> httpx.Response:
    """Return the answer to a body of SGLang's."""
    return server.http.post(
        PATH, json={"input": STATE, "questions": questions or [SGLANG_CHOICE], **body}
    )


@pytest.mark.parametrize("name", exchanges("decisions"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", SCORED)
def test_a_choice_is_best_of_n_with_a_softmax_of_the_rewards(served: Server, model: str) -> None:
    """To the last bit, for whatever kind of target scores; an ensemble's rewards are its means."""
    expected = chosen(served, JOINED, READ, model=model)
    winner = best(served, JOINED, READ, model=model)

    (answer,) = asked(served, CHOICE, model=model)

    assert answer["probabilities"] == [
        {"value": value, "probability": one} for value, one in zip(VALUES, expected, strict=True)
    ]
    assert math.fsum(expected) == pytest.approx(1.0, abs=SUM)
    assert answer["choice"] == VALUES[winner]
    assert expected[winner] == max(expected)
    assert answer["confidence"] == (3 * max(expected) - 1) / 2


@pytest.mark.parametrize("model", SCORED)
def test_a_score_is_the_probability_weighted_level(served: Server, model: str) -> None:
    """From 0 for the first."""
    expected = chosen(served, f"{STATE}\n\n{SEVERITY}", LABELS, model=model)

    (answer,) = asked(served, SCORE, model=model)

    assert answer["probabilities"] == [
        {"value": place, "label": label, "probability": one}
        for place, (label, one) in enumerate(zip(LABELS, expected, strict=True))
    ]
    assert answer["score"] == expected_level(expected)


@pytest.mark.parametrize("model", ["tiny", "pairrm"])
def test_several_questions_are_answered_in_order_as_each_alone(served: Server, model: str) -> None:
    """With their names, or null."""
    alone = [asked(served, one, model=model)[0] for one in (CHOICE, SCORE)]

    together = asked(served, CHOICE, SCORE, model=model)

    assert together == alone
    assert [one["name"] for one in together] == ["team", None]


def test_one_request_computes_the_input_once(served: Server) -> None:
    """The options of all questions are one call: what they share is reported as cached."""
    once = "This was never asked before. " * 3

    usage = post(served, PATH, input=once, questions=[CHOICE, SCORE])["usage"]

    cached = usage["input_tokens_details"]["cached_tokens"]
    assert usage["input_tokens"] == usage["total_tokens"]
    assert 0 < usage["input_tokens"] - cached < usage["input_tokens"] / 2


@pytest.mark.parametrize("model", SCORED)
def test_usage_counts_each_option_once(served: Server, model: str) -> None:
    """As an ensemble's first member reads it, on both contracts; what was shared is cached."""
    (openai, sglang) = ([{"value": one} for one in LABELS], [{"name": one} for one in LABELS])
    inputs = [{"prompt": JOINED, "response": one} for one in LABELS]
    expected = sum(
        one["n_tokens"] for one in post(served, "/score", inputs=inputs, model=model)["data"]
    )

    one = sent(served, questions=[{**CHOICE, "choices": openai}], model=model).json()["usage"]
    other = sent_to_sglang(served, {**SGLANG_CHOICE, "options": sglang}, model=model).json()

    assert one["input_tokens"] == one["total_tokens"] == expected
    assert 0 < one["input_tokens_details"]["cached_tokens"] < expected
    assert other["usage"] == {
        "prompt_tokens": expected,
        "total_tokens": expected,
        "completion_tokens": 0,
    }


def test_a_conversation_ends_with_the_instructions(served: Server) -> None:
    """In the last user turn, or in one of their own; a developer's turn is the system's."""
    talk: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be strict."},
        {"role": "user", "content": [{"type": "input_text", "text": one} for one in "ab"]},
    ]
    reply = {"role": "assistant", "content": [{"type": "output_text", "text": "c"}]}
    data = {"type": "input_json", "data": {"d": [1]}}
    question = {**CHOICE, "instructions": [{"type": "input_text", "text": "e"}, data]}
    system = {"role": "system", "content": "Be strict."}
    words = 'e\n{"d":[1]}'

    (open_,) = asked(served, question, given=talk)
    (answered,) = asked(served, question, given=[*talk, {"type": "message", **reply}])

    first = [system, {"role": "user", "content": f"a\nb\n\n{words}"}]
    second = [
        system,
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": words},
    ]
    assert probabilities(open_) == chosen(served, first, READ)
    assert probabilities(answered) == chosen(served, second, READ)


def test_without_instructions_it_is_best_of_n_of_the_input(served: Server) -> None:
    """Candidates as choices, the input as their prompt."""
    candidates = [{"value": one} for one in RESPONSES]

    (answer,) = asked(
        served, {"type": "choice", "instructions": "", "choices": candidates}, given=PROMPT
    )

    assert probabilities(answer) == chosen(served, PROMPT, RESPONSES)
    assert answer["choice"] == RESPONSES[best(served, PROMPT, RESPONSES)]


def test_a_text_and_a_truth_value_are_two_choices(served: Server) -> None:
    """They read alike, so they are equally likely, and the first is chosen as it was sent."""
    choices = [{"value": True}, {"value": "true"}]

    (answer,) = asked(served, {**CHOICE, "choices": choices})

    assert answer["choice"] is True
    assert answer["probabilities"] == [
        {"value": True, "probability": 0.5},
        {"value": "true", "probability": 0.5},
    ]


def test_a_model_that_only_compares_chooses_who_wins_most(served: Server) -> None:
    """And rates by the same preferences."""
    (choice, score) = asked(served, CHOICE, SCORE, model="pairrm")
    (native,) = post(
        served, "/compare", prompt=f"{STATE}\n\n{SEVERITY}", responses=LABELS, model="pairrm"
    )["data"]

    assert choice["choice"] == VALUES[best(served, JOINED, READ, model="pairrm")]
    assert score["score"] == pytest.approx(1 - native["probability"], abs=1e-7)


def test_unknown_fields_are_taken(served: Server) -> None:
    """Those of OpenAI's that change nothing here, and a newer client's."""
    plain = sent(served).json()["answers"]

    answer = sent(
        served,
        safety_identifier="x",
        prompt_cache_key="y",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"},
        newer=[1],
    )

    assert answer.json()["answers"] == plain


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "3"}
CUSTOM = {"type": "custom_tool_call", "call_id": "1", "name": "f", "input": "x"}


@pytest.mark.parametrize(
    ("change", "says", "param"),
    [
        ({"questions": [CHOICE, PREDICATE]}, "ask for a 'choice'", "questions[1]"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "text only", "input[0].content[0]"),
        (
            {"questions": [{**CHOICE, "instructions": [IMAGE]}]},
            "text only",
            "questions[0].instructions[0]",
        ),
        ({"input": [CUSTOM]}, "no custom tools", "input[0]"),
        ({"stream": True}, "at once", "stream"),
    ],
)
def test_what_a_reward_model_cant_answer_is_a_501_that_says_why(
    served: Server, change: dict[str, Any], says: str, param: str
) -> None:
    """One sentence and the place; the openai package is told not to try again."""
    answer = sent(served, **change)

    assert answer.status_code == 501, answer.text
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", param, "unanswerable")
    assert says in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_call_that_the_template_does_not_render_is_refused_by_its_name(served: Server) -> None:
    """The model's template has no place for it: 400, not a score without it."""
    answer = sent(served, input=[{"role": "user", "content": "2 + 1?"}, CALL, OUTPUT])

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input[1].tool_calls"


@pytest.mark.parametrize(
    "change",
    [
        {"questions": []},
        {"questions": [{"type": "rank", "instructions": "a"}]},
        {"questions": [{**CHOICE, "choices": []}]},
        {"questions": [{**CHOICE, "choices": CHOICES[:1]}]},
        {"questions": [{**CHOICE, "choices": [*CHOICES, {"value": "billing"}]}]},
        {"questions": [{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}]},
        {"questions": [{**SCORE, "levels": SCORE["levels"][:1]}]},
        {"input": 7},
        {"input": []},
        {"input": [{"role": "user"}]},
        {"questions": [{**CHOICE, "choices": [*CHOICES, {"value": "y " * 9000}]}]},
    ],
)
def test_a_bad_request_is_a_400(served: Server, change: dict[str, Any]) -> None:
    """No options, one, the same twice, values that are neither text nor true, one too long."""
    answer = sent(served, **change)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(*change)


def test_unknown_models_and_overload(served: Server) -> None:
    """404 as OpenAI tells it, and 503 with Retry-After."""
    unknown = sent(served, model="gpt-6-luna")
    full = refused(served, PATH, input=STATE, questions=[CHOICE])

    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert (full.status_code, full.json()["error"]["type"]) == (503, "overloaded_error")
    assert int(full.headers["retry-after"]) >= 1


@pytest.mark.parametrize("temperature", [None, 1.0, 0.25, 3])
@pytest.mark.parametrize("model", SCORED)
def test_sglangs_choice_and_score_are_the_same_softmax(
    served: Server, model: str, temperature: float | None
) -> None:
    """Keyed by id; the temperature divides the rewards."""
    divided = {} if temperature is None else {"temperature": temperature}
    expected = [
        softmax(
            natively(served, [{"prompt": prompt, "response": one} for one in options], model=model),
            temperature or 1.0,
        )
        for prompt, options in ((JOINED, SGLANG_READ), (f"{STATE}\n\n{SEVERITY}", LABELS))
    ]

    answer = sent_to_sglang(served, SGLANG_CHOICE, SGLANG_SCORE, model=model, **divided).json()

    team, bad = answer["answers"]["team"], answer["answers"]["bad"]
    names = [one["name"] for one in OPTIONS]
    assert (answer["object"], answer["model"]) == ("decisions", model)
    assert team["probabilities"] == dict(zip(names, expected[0], strict=True))
    assert team["choice"] == names[best(served, JOINED, SGLANG_READ, model=model)]
    assert bad["probabilities"] == dict(zip("01", expected[1], strict=True))
    assert bad["score"] == expected_level(expected[1])


def test_sglang_is_told_by_its_questions_or_its_own_fields(served: Server) -> None:
    """The same input in either shape has the same probabilities."""
    openai = {**CHOICE, "choices": [{"value": one} for one in LABELS]}
    sglang = {**SGLANG_CHOICE, "options": [{"name": one} for one in LABELS]}

    (one,) = asked(served, openai)
    other = sent_to_sglang(served, sglang).json()["answers"]["team"]
    empty = sent(served, questions=[], prompt_format_version=1)
    named = sent(served, questions=[{**openai, "id": "mine"}]).json()["answers"]

    assert probabilities(one) == list(other["probabilities"].values())
    assert empty.json()["object"] == "error"
    assert named == [one]


def test_sglangs_input_may_be_json(served: Server) -> None:
    """Read as compact text, like its levels and descriptions."""
    question = {**SGLANG_SCORE, "question": ["how?"], "levels": [{"a": 1}, "b"]}

    answer = sent_to_sglang(served, question, input={"c": None}, prompt_format_version=1).json()

    expected = chosen(served, '{"c":null}\n\n["how?"]', ['{"a":1}', "b"])
    assert list(answer["answers"]["bad"]["probabilities"].values()) == expected


@pytest.mark.parametrize(
    ("questions", "change", "says"),
    [
        ([{"id": "a", "type": "yes_no", "question": "b"}], {}, "ask for a 'choice'"),
        ([], {"return_prompt_token_ids": True}, "/tokenize"),
        ([], {"images": ["data:image/png;base64,"]}, "text only"),
    ],
)
def test_sglangs_other_questions_are_a_501(
    served: Server, questions: list[Any], change: dict[str, Any], says: str
) -> None:
    """In its own shape."""
    answer = sent_to_sglang(served, *questions, **change)

    found = answer.json()
    assert (answer.status_code, found["type"]) == (501, "NotImplementedError")
    assert list(found) == ["object", "message", "type", "param", "code"]
    assert says in found["message"]


@pytest.mark.parametrize(
    ("questions", "change", "status"),
    [
        ([SGLANG_CHOICE, {**SGLANG_SCORE, "id": "team"}], {}, 400),
        ([{**SGLANG_CHOICE, "options": []}], {}, 400),
        ([{**SGLANG_CHOICE, "options": [*OPTIONS, {"name": " Sales"}]}], {}, 400),
        ([{**SGLANG_SCORE, "levels": ["a"]}], {}, 400),
        ([], {"input": ""}, 400),
        ([], {"temperature": 0}, 400),
        ([], {"prompt_format_version": 2}, 400),
        ([], {"model": "nope"}, 404),
    ],
)
def test_sglangs_errors_are_flat(
    served: Server, questions: list[Any], change: dict[str, Any], status: int
) -> None:
    """As its OpenAI-like routes answer."""
    answer = sent_to_sglang(served, *questions, **change)

    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert answer.json()["object"] == "error"


def test_sglang_is_overloaded_with_retry_after(served: Server) -> None:
    """503 in its own shape."""
    full = refused(served, PATH, input=STATE, questions=[SGLANG_CHOICE])

    assert (full.status_code, full.json()["object"]) == (503, "error")
    assert int(full.headers["retry-after"]) >= 1


def test_a_body_that_is_not_json_is_answered_in_openais_shape(served: Server) -> None:
    """Nothing tells whose it is."""
    answer = served.http.post(PATH, content=b"{")

    assert (answer.status_code, list(answer.json())) == (400, ["error"])
