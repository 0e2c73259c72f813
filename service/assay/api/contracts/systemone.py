"""System One's `/v1/systemone` (TypeSafe; also vLLM, SGLang): typed questions on one state.

The state is one user turn with a question's instructions behind it, after a blank line; vLLM's
`instructions` for all questions stand between. Options are responses to that, read as "name" or
"name: description"; JSON is read as compact text. `choice` is best-of-n over them, P(i) =
exp(reward_i) / Σ exp(reward), of an ensemble by its mean rewards; `score` is the
probability-weighted place of a level, from 0. `noul`, `box` and images are a 501. What vLLM and
SGLang add of a vocabulary (`diagnostics`, `x_label_mass`) isn't there: no token is predicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from assay.api.contracts import questions, shapes
from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.questions import Answer, Content, Question
from assay.api.contracts.turns import inputs_of
from assay.scoring.driver import sized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.scoring.driver import Handler


class Asked(Body):
    """What every question has."""

    instructions: Content | None = None


class Choice(Asked):
    """Which of the options: by name, each with a description or null."""

    type: Literal["choice"]
    criteria: dict[str, Content | None] = Field(min_length=1)

    def responses(self) -> dict[str, str]:
        """Return the responses that the options are, by name."""
        return {
            name: questions.option(name, criterion) for name, criterion in self.criteria.items()
        }


class Score(Asked):
    """Which of the levels, the lowest first."""

    type: Literal["score"]
    criteria: list[Content] = Field(min_length=1)

    def responses(self) -> dict[str, str]:
        """Return the responses that the levels are, by place."""
        return {
            str(place): questions.text(criterion) for place, criterion in enumerate(self.criteria)
        }


class Noul(Asked):
    """Is it true?"""

    type: Literal["noul"]


class Box(Asked):
    """Where is it in the image?"""

    type: Literal["box"]


class SystemOne(Body):
    """`questions` by names of the caller's, which come back with the answers."""

    state: Content
    questions: dict[str, Annotated[Choice | Score | Noul | Box, Field(discriminator="type")]] = (
        Field(min_length=1)
    )
    model: str | None = None
    instructions: Content | None = None
    assets: dict[str, Any] | None = None
    images: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's


def _answer(ask: Ask, body: SystemOne) -> Handler[dict[str, Any]]:
    call = ask.call(body.model)
    yield from sized(len(body.questions))  # no list has them
    parsed_questions = list(_questions(ask, body))
    outcome, answers = yield from questions.answered(
        call, parsed_questions, _entry, inputs=inputs_of(body)
    )
    return {
        "model": call.target.name,
        "answers": dict(zip(body.questions, answers, strict=True)),
        "usage": {"input_tokens": questions.tokens(outcome), "output_tokens": 0},
    }


def _questions(ask: Ask, body: SystemOne) -> Iterator[Question]:
    if body.assets or body.images:
        raise questions.no_image(ask, "assets" if body.assets else "images")
    turns = [questions.turn(body.state)]
    questions.check_size(turns, len(body.questions), "state")
    ahead = questions.text(body.instructions)
    for name, question in body.questions.items():
        where = f"questions.{name}"
        if isinstance(question, Noul):
            raise questions.no_truth(ask, where)
        if isinstance(question, Box):
            raise questions.unanswerable(ask, "a reward model finds no boxes in images", where)
        prompt = questions.prompt(turns, ahead, question.instructions)
        yield Question(question, prompt, question.responses(), where)


def _entry(question: Choice | Score, answer: Answer) -> dict[str, Any]:
    legend = dict(zip(answer.probabilities, question.criteria, strict=True))
    return {
        "type": question.type,
        question.type: answer.value,
        "confidence": answer.confidence,
        **({"legend": legend} if question.type == "score" else {}),
        "probabilities": answer.probabilities,
    }


CONTRACTS = (
    Contract(
        "systemone",
        ("/v1/systemone",),
        SystemOne,
        _answer,
        shapes.located,
        id_header="x-typesafe-request-id",
    ),
)
