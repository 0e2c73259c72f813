"""SGLang's own `/v1/decisions`, told from OpenAI's by the keys of its questions.

The input is one user turn with the question behind it, after a blank line: version 1 of our own
wording. Options are responses to that, read as "name" or "name: description"; JSON is read as
compact text. `choice` is best-of-n over them, P(i) = exp(reward_i / temperature) / Σ exp(...), of
an ensemble by its mean rewards; `score` is the probability-weighted place of a level, from 0.
`yes_no`, images and the ids of labels are a 501. There is no `label_mass`: no token is predicted.
`chat_template_kwargs` reach the model's own template, or are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from assay.api.contracts import questions, shapes
from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.questions import Answer, Content, Question
from assay.api.contracts.turns import inputs_of
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.scoring.driver import Handler

_WORDING = 1


class Asked(Body):
    """What every question has."""

    id: str
    question: Content


class Option(Body):
    """One of the options."""

    name: str = Field(min_length=1)
    description: Content | None = None


class Choice(Asked):
    """Which of the options?"""

    type: Literal["choice"]
    choices: list[Option] = Field(min_length=2, alias="options")

    @model_validator(mode="after")
    def _has_no_option_twice(self) -> Self:
        if len({option.name.strip().casefold() for option in self.choices}) < len(self.choices):
            raise ValueError("each of the 'options' must have a name of its own")
        return self

    def responses(self) -> dict[str, str]:
        """Return the responses that the options are, by name."""
        return {
            option.name: questions.option(option.name, option.description)
            for option in self.choices
        }


class Score(Asked):
    """Which of the levels, the lowest first?"""

    type: Literal["score"]
    levels: list[Content] = Field(min_length=2)

    def responses(self) -> dict[str, str]:
        """Return the responses that the levels are, by place."""
        return {str(place): questions.text(level) for place, level in enumerate(self.levels)}


class YesNo(Asked):
    """Is it true?"""

    type: Literal["yes_no"]


class Decisions(Body):
    """`questions` on one `input`, each with an `id` by which it is answered."""

    input: Content = Field(min_length=1)
    questions: list[Annotated[Choice | Score | YesNo, Field(discriminator="type")]] = Field(
        min_length=1
    )
    model: str | None = None
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    prompt_format_version: int | None = None
    return_prompt_token_ids: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    images: list[Any] | None = None

    @model_validator(mode="after")
    def _has_no_id_twice(self) -> Self:
        if len({question.id for question in self.questions}) < len(self.questions):
            raise ValueError("each of the 'questions' must have an id of its own")
        return self


def _answer(ask: Ask, body: Decisions) -> Handler[dict[str, Any]]:
    call = ask.call(body.model)
    parsed_questions = list(_questions(ask, body))
    outcome, answers = yield from questions.answered(
        call, parsed_questions, _entry, temperature=body.temperature, inputs=inputs_of(body)
    )
    read = questions.tokens(outcome)
    return {
        "object": "decisions",
        "model": call.target.name,
        "prompt_format_version": _WORDING,
        "answers": dict(zip((question.id for question in body.questions), answers, strict=True)),
        "usage": {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0},
    }


def _questions(ask: Ask, body: Decisions) -> Iterator[Question]:
    _check(ask, body)
    turns = [questions.turn(body.input)]
    questions.check_size(turns, len(body.questions), "input")
    for place, question in enumerate(body.questions):
        where = f"questions[{place}]"
        if isinstance(question, YesNo):
            raise questions.no_truth(ask, where)
        yield Question(
            question, questions.prompt(turns, question.question), question.responses(), where
        )


def _entry(question: Choice | Score, answer: Answer) -> dict[str, Any]:
    kind = question.type
    return {"type": kind, "probabilities": answer.probabilities, kind: answer.value}


def _check(ask: Ask, body: Decisions) -> None:
    if body.images:
        raise questions.no_image(ask, "images")
    if body.return_prompt_token_ids:
        reason = "a reward model reads a sequence for each option, no labels; POST /tokenize shows"
        raise questions.unanswerable(ask, f"{reason} what it sees", "return_prompt_token_ids")
    if body.prompt_format_version not in (None, _WORDING):
        raise InvalidField(
            f"prompts have the wording of version {_WORDING} here", param="prompt_format_version"
        )


CONTRACTS = (Contract("sglang.decisions", ("/v1/decisions",), Decisions, _answer, shapes.flat),)
