"""OpenAI's `/v1/decisions` (`client.decisions` of the openai package): typed questions on an input.

The input is a user turn or a conversation; a question's instructions stand behind it, after a blank
line in its last turn if that is the user's. Options are responses to that, read as "value" or
"value: description". `choice` is best-of-n over them, P(i) = exp(reward_i) / Σ exp(reward), of an
ensemble by its mean rewards; `score` is the probability-weighted place of a level, from 0.
Confidences are System One's. A predicate, images, custom tools and streams are a 501: no answer
is ever a `refusal`. Calls of functions and their outputs are turns with `tool_calls` and of `tool`.
Limits on how many there are of anything are the server's own.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictStr, Tag, ValidationError, model_validator

from assay import validation, wire
from assay.api.contracts import questions, shapes
from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.questions import Answer, Content, Question
from assay.api.contracts.turns import BY_FORM, ROLES
from assay.errors import InvalidField, UnknownTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.errors import AssayError
    from assay.scoring.driver import Handler


class Part(Body):
    """A piece of a turn or of instructions."""

    type: Literal["input_text", "output_text", "refusal", "input_json", "input_image"]
    text: str = ""
    refusal: str = ""
    data: Content | None = None

    def said(self) -> str:
        """Return what is read of it."""
        return questions.text(self.data) if self.type == "input_json" else self.text or self.refusal


Said = Annotated[
    Annotated[str, Tag("as-text")] | Annotated[list[Part], Tag("as-messages")], BY_FORM
]


class Turn(Body):
    """One turn, or a call of a tool or its output, which have other fields."""

    type: Literal[
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    ] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Said | None = None
    call_id: str | None = None  # from here on of calls and their outputs
    name: str | None = None
    arguments: str | None = None
    output: Said | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.type == "message" and (self.role is None or self.content is None):
            raise ValueError("a message has 'role' and 'content'")
        if self.type == "function_call" and self.name is None:
            raise ValueError("a call has the 'name' of its function")
        if self.type == "function_call_output" and self.output is None:
            raise ValueError("an output of a call has 'output'")
        return self

    def call(self) -> dict[str, Any]:
        """Return a call of a function as chat completions have it."""
        function = {"name": self.name, "arguments": self.arguments}
        name = {} if self.call_id is None else {"id": self.call_id}
        return {"type": "function", **name, "function": function}


Input = Annotated[
    Annotated[str, Tag("as-text")] | Annotated[list[Turn], Field(min_length=1), Tag("as-messages")],
    BY_FORM,
]


class Asked(Body):
    """What every question has."""

    instructions: Said
    name: str | None = None


class Predicate(Asked):
    """Is it true?"""

    type: Literal["predicate"]


class Option(Body):
    """One of the choices; "true" and true are two."""

    value: StrictStr | StrictBool
    description: str | None = None

    def response(self) -> str:
        """Return what is read of it; true is read as "true"."""
        word = self.value if isinstance(self.value, str) else str(self.value).lower()
        return questions.option(word, self.description)


class Choice(Asked):
    """Which of the choices?"""

    type: Literal["choice"]
    choices: list[Option] = Field(min_length=2)

    @model_validator(mode="after")
    def _has_no_choice_twice(self) -> Self:
        if len({(type(option.value), option.value) for option in self.choices}) < len(self.choices):
            raise ValueError("each of the 'choices' must have a value of its own")
        return self

    def responses(self) -> dict[str | bool, str]:
        """Return the responses that the choices are, by value."""
        return {option.value: option.response() for option in self.choices}


class Level(Body):
    """One level of a score."""

    label: str
    description: str | None = None


class Score(Asked):
    """Which of the levels, the lowest first?"""

    type: Literal["score"]
    levels: list[Level] = Field(min_length=2)

    def responses(self) -> dict[int, str]:
        """Return the responses that the levels are, by place."""
        levels = enumerate(self.levels)
        return {place: questions.option(level.label, level.description) for place, level in levels}


class Decisions(Body):
    """`questions` on one `input`; the answers come in their order."""

    input: Input
    questions: list[Annotated[Predicate | Choice | Score, Field(discriminator="type")]] = Field(
        min_length=1
    )
    model: str | None = None
    stream: bool | None = None


def _answer(ask: Ask, body: Decisions) -> Handler[dict[str, Any]]:
    call = ask.call(body.model)
    parsed_questions = list(_questions(ask, body))
    outcome, answers = yield from questions.answered(call, parsed_questions, _entry)
    read = questions.tokens(outcome)
    cached = max(0, read - round(outcome.computed_tokens / len(call.target.members)))
    return {
        "model": call.target.name,
        "answers": answers,
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read,
        },
    }


def _questions(ask: Ask, body: Decisions) -> Iterator[Question]:
    if body.stream:
        raise questions.unanswerable(ask, "decisions come at once; leave 'stream' out", "stream")
    turns = _turns(ask, body.input)
    questions.check_size(turns, len(body.questions), "input")
    for place, question in enumerate(body.questions):
        where = f"questions[{place}]"
        if isinstance(question, Predicate):
            raise questions.no_truth(ask, where)
        words = _said(ask, question.instructions, f"{where}.instructions")
        prompt = questions.prompt(turns, words)
        yield Question(question, prompt, question.responses(), where, turns="input")


def _entry(question: Choice | Score, answer: Answer) -> dict[str, Any]:
    labels = (
        [{"label": level.label} for level in question.levels]
        if question.type == "score"
        else repeat({})
    )
    return {
        "type": question.type,
        "name": question.name,
        question.type: answer.value,
        "probabilities": [
            {"value": value, **label, "probability": p}
            for label, (value, p) in zip(labels, answer.probabilities.items(), strict=False)
        ],
        "confidence": answer.confidence,
    }


def _turns(ask: Ask, body_input: Input) -> list[wire.Message]:
    if isinstance(body_input, str):
        return [questions.turn(body_input)]
    turns: list[dict[str, Any]] = []
    for place, entry in enumerate(body_input):
        where = f"input[{place}]"
        match entry.type:
            case "function_call" if turns and turns[-1]["role"] == "assistant":
                turns[-1].setdefault("tool_calls", []).append(entry.call())  # of the same turn
            case "function_call":
                turns.append({"role": "assistant", "tool_calls": [entry.call()]})
            case "function_call_output":
                said = _said(ask, entry.output or "", f"{where}.output")
                turns.append({"role": "tool", "content": said, "tool_call_id": entry.call_id})
            case "message":
                said = _said(ask, entry.content or "", f"{where}.content")
                turns.append({"role": ROLES.get(entry.role or "", entry.role), "content": said})
            case _:
                reason = "a reward model's template has no custom tools; tell of them in a message"
                raise questions.unanswerable(ask, reason, where)
    return _checked(turns)


def _checked(turns: list[dict[str, Any]]) -> list[wire.Message]:
    try:
        return [wire.Message.model_validate(turn) for turn in turns]
    except ValidationError as error:
        said = validation.sentence(error.errors(include_url=False, include_input=False)[0])
        raise InvalidField(said, param="input") from None


def _said(ask: Ask, content: Said, where: str) -> str:
    if isinstance(content, str):
        return content
    for place, part in enumerate(content):
        if part.type == "input_image":
            raise questions.no_image(ask, f"{where}[{place}]")
    return "\n".join(part.said() for part in content)


def _problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    code = "model_not_found" if isinstance(error, UnknownTarget) else error.code
    detail = shapes.fields(error, shapes.openai_type(error), code)
    return shapes.named(error)[0], {"error": detail}


CONTRACTS = (Contract("decisions", ("/v1/decisions",), Decisions, _answer, _problem),)
