"""What chaos counts as right, as an error that may pass, and as a lie."""

import json

import pytest

from loadtest.chaos import Absence, Plan, Probe, untruths
from loadtest.questions import Answer, Question, judge, questions

QUESTION = Question("one", "/score", "good", b"{}")
JSON = {b"content-type": b"application/json"}
RIGHT = (200, {"data": [{"score": 0.1}]})


def answer(status, body, **headers):
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Answer(status, JSON | named, json.dumps(body).encode())


def error(code):
    return {"error": {"code": code, "message": "", "retryable": True}, "request_id": "a"}


def test_a_right_answer_may_differ_in_names_and_clocks_only():
    """Its scores, never; nor its status."""
    body = {"id": "0123456789abcdef0123456789abcdef", "created": 1, **RIGHT[1]}

    assert judge(QUESTION, RIGHT, answer(200, body)) == "right"
    with pytest.raises(ValueError, match="instead of"):
        judge(QUESTION, RIGHT, answer(200, {"data": [{"score": 0.1 + 1e-16}]}))
    with pytest.raises(ValueError, match="instead of"):
        judge(QUESTION, RIGHT, answer(201, body))


def test_only_documented_errors_may_pass():
    """With their own status, in their own shape, and with a time to come back."""
    assert judge(QUESTION, RIGHT, answer(503, error("not_ready"), retry_after=b"2")) == "not_ready"
    for wrong in (
        answer(503, error("not_ready")),
        answer(504, error("not_ready")),
        answer(500, error("internal_error")),
        answer(503, {"oops": 1}, retry_after=b"2"),
    ):
        with pytest.raises(ValueError, match=r"shape|Retry-After|code|oops|instead"):
            judge(QUESTION, RIGHT, wrong)


def test_readiness_lies_when_it_outlasts_the_worker():
    """Or when it says so before and after a refusal."""
    true = [Probe(0, 0.1, True), Probe(1.0, 1.1, True, True), Probe(1.2, 1.3, is_ready=False)]

    assert untruths(true, [Absence(1.0, 3.0)]) == []
    assert untruths([*true, Probe(2.0, 2.1, True, False)], [Absence(1.0, 3.0)])
    assert untruths([true[1], Probe(1.2, 1.3, True, False)], [])


def test_a_plan_is_a_timetable():
    """Every deed within the time, in order."""
    plan = Plan(seconds=100, kill_every_s=45, reload_every_s=60, stop_at_s=70)

    assert plan.deeds() == [
        *((25, "greed"), (45, "kill"), (50, "greed"), (60, "reload"), (70, "stop")),
        *((75, "greed"), (90, "kill")),
    ]


def test_every_question_has_a_name_of_its_own():
    """And there are some of each kind."""
    asked = questions(7)

    assert len({one.name for one in asked}) == len(asked)
    assert {one.kind for one in asked} == {"good", "state", "malformed", "oversize", "nan"}
