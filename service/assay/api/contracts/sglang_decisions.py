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

from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.questions import (
    Content,
    Question,
    answered,
    check_size,
    no_image,
    no_truth,
    option,
    prompt,
    size,
    text,
    tokens,
    turn,
    unanswerable,
)
from assay.api.contracts.turns import inputs_of
from assay.api.contracts.vllm import named
from assay.errors import InvalidField
from assay.reward import choice
from assay.scoring.offload import offload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.errors import AssayError

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
        if len({one.name.strip().casefold() for one in self.choices}) < len(self.choices):
            raise ValueError("each of the 'options' must have a name of its own")
        return self

    def options(self) -> list[str]:
        """Return the responses that the options are."""
        return [option(one.name, one.description) for one in self.choices]

    def answer(self, found: choice.Choice) -> dict[str, Any]:
        """Return the answer that the rewards gave."""
        names = [one.name for one in self.choices]
        return {
            "type": "choice",
            "probabilities": dict(zip(names, found.probabilities, strict=True)),
            "choice": names[found.best],
        }


class Score(Asked):
    """Which of the levels, the lowest first?"""

    type: Literal["score"]
    levels: list[Content] = Field(min_length=2)

    def options(self) -> list[str]:
        """Return the responses that the levels are."""
        return [text(one) for one in self.levels]

    def answer(self, found: choice.Choice) -> dict[str, Any]:
        """Return the answer that the rewards gave."""
        return {
            "type": "score",
            "probabilities": {str(place): p for place, p in enumerate(found.probabilities)},
            "score": choice.level(found.probabilities),
        }


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
        if len({one.id for one in self.questions}) < len(self.questions):
            raise ValueError("each of the 'questions' must have an id of its own")
        return self


async def _answer(ask: Ask, wanted: Decisions) -> dict[str, Any]:
    call = ask.call(wanted.model)
    asked = await offload(len(wanted.questions), lambda: list(_asked(ask, wanted)))
    questions = [question for _, question in asked]
    outcome, found = await answered(
        call, questions, temperature=wanted.temperature, inputs=inputs_of(wanted)
    )
    pairs, read = zip(asked, found, strict=True), tokens(outcome)
    return {
        "object": "decisions",
        "model": call.target.name,
        "prompt_format_version": _WORDING,
        "answers": await offload(
            size(questions), lambda: {one.id: one.answer(its) for (one, _), its in pairs}
        ),
        "usage": {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0},
    }


def _asked(ask: Ask, wanted: Decisions) -> Iterator[tuple[Choice | Score, Question]]:
    _check(ask, wanted)
    turns = [turn(wanted.input)]
    check_size(turns, len(wanted.questions), "input")
    for place, one in enumerate(wanted.questions):
        where = f"questions[{place}]"
        if isinstance(one, YesNo):
            raise no_truth(ask, where)
        yield one, Question(prompt(turns, text(one.question)), one.options(), where)


def _check(ask: Ask, wanted: Decisions) -> None:
    if wanted.images:
        raise no_image(ask, "images")
    if wanted.return_prompt_token_ids:
        reason = "a reward model reads a sequence for each option, no labels; POST /tokenize shows"
        raise unanswerable(ask, f"{reason} what it sees", "return_prompt_token_ids")
    if wanted.prompt_format_version not in (None, _WORDING):
        raise InvalidField(
            f"prompts have the wording of version {_WORDING} here", param="prompt_format_version"
        )


def _problem(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    del request_id
    status, kind = named(error)
    return status, {
        "object": "error",
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": status,
    }


CONTRACTS = (
    Contract(
        "sglang.decisions",
        ("/v1/decisions",),
        Decisions,
        _answer,
        _problem,
        tells=frozenset(
            {
                "questions[].question",
                "prompt_format_version",
                "return_prompt_token_ids",
            }
        ),
    ),
)
