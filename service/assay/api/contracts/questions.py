"""Questions with options, as System One, OpenAI and SGLang ask them, put to a reward model.

The options are responses to one prompt, scored as on `/best-of-n`. The prompt is the input with the
question's instructions after a blank line: in the input's last turn if that is the user's, else in
a user turn of their own; without instructions it is the input alone. An option is read as its name,
or as "name: description"; the options aren't listed in the prompt. What is neither text nor a turn
is read as compact JSON.

The choice is the option with the highest reward, an ensemble's mean; probabilities are Luce's
choice by the same rewards (`reward.choice`). They say which answer the model prefers, not how
likely one is true: what needs that is refused with 501, as is what has no text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from assay import wire
from assay.api.contracts.contract import check_joined
from assay.errors import Unanswerable
from assay.items import NO_INPUTS, said
from assay.reward import choice
from assay.scoring import items
from assay.scoring.driver import sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from assay.api.contracts.contract import Ask
    from assay.items import TemplateInputs
    from assay.reward.choice import Choice
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.driver import Handler
    from assay.scoring.results import RequestResult

Content = str | dict[str, Any] | list[Any]


class Asked(Protocol):
    """A question as its contract has it: which of the options, or which of the levels."""

    @property
    def type(self) -> Literal["choice", "score"]:
        """The name of its answer, too."""

    def responses(self) -> dict[Any, str]:
        """Return the responses that the options are, by what the answer calls them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the responses to it, and where they are in the request."""

    body: Asked
    prompt: list[wire.Message]
    responses: dict[Any, str]
    where: str
    turns: str = ""  # where the prompt's turns are


@dataclass(frozen=True, slots=True)
class Answer:
    """The option to choose, or the expected level."""

    value: Any
    confidence: float
    probabilities: dict[Any, float]  # of each option


def text(content: Content | None) -> str:
    """Return what is read of a text, of JSON and of nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def option(name: str, description: Content | None = None) -> str:
    """Return the response that an option is."""
    return f"{name}: {words}" if (words := text(description)) else name


def turn(content: Content, role: str = "user") -> wire.Message:
    """Return one turn."""
    return wire.Message(role=role, content=text(content))


def prompt(turns: Sequence[wire.Message], *words: Content | None) -> list[wire.Message]:
    """Return the turns with the words at their end, blank lines between."""
    texts = [part for part in map(text, words) if part]
    before = list(turns)
    if texts and before and before[-1].role == "user":
        texts[:0] = filter(None, [said(before.pop().turn())])
    return [*before, turn("\n\n".join(texts))] if texts else before


def check_size(turns: Sequence[wire.Message], questions: int, field: str) -> None:
    """Refuse an input that is too large to stand before each of so many questions.

    Raises:
        BodyTooLarge: It is.
    """
    if turns and turns[-1].role == "user":
        check_joined(len(said(turns[-1].turn())), questions, field)


def unanswerable(ask: Ask, reason: str, where: str) -> Unanswerable:
    """Return the refusal of what no reward model answers, which clients needn't repeat."""
    ask.headers["x-should-retry"] = "false"
    return Unanswerable(reason, param=where)


def no_truth(ask: Ask, where: str) -> Unanswerable:
    """Return the refusal of a question for how likely something is true."""
    reason = (
        "a reward model says which answer is better, not how likely a statement is true; ask for "
        "a 'choice' between the two answers"
    )
    return unanswerable(ask, reason, where)


def no_image(ask: Ask, where: str) -> Unanswerable:
    """Return the refusal of whatever isn't text."""
    return unanswerable(ask, "the models served here read text only; leave images out", where)


def answered(
    call: Call,
    questions: Sequence[Question],
    entry: Callable[[Any, Answer], dict[str, Any]],
    *,
    temperature: float = 1.0,
    inputs: TemplateInputs = NO_INPUTS,
) -> Handler[tuple[RequestResult, list[dict[str, Any]]]]:
    """Answer all questions in one call; one bad option fails the request.

    `entry` makes of a question and its answer what the contract has for it.
    """
    yield from sized(sum(len(question.responses) for question in questions))
    groups = [(question.prompt, list(question.responses.values())) for question in questions]
    beside = [inputs] * len(groups)
    chosen: Iterator[Choice]
    if call.only_compares:
        outcome, matrices = yield from call.contest(groups, "questions", inputs=beside)
        yield from sized(sum(len(question.responses) ** 2 for question in questions))
        met = (matrix for matrix in matrices if isinstance(matrix, list))
        chosen = (choice.by_preferences(matrix, temperature=temperature) for matrix in met)
    else:
        owners = [question for question in questions for _ in question.responses]
        outcome, judged = yield from call.run(
            items.sources(groups, beside), lambda place, param: _path(owners[place], param)
        )
        chosen = _by_rewards(questions, judged, temperature)
    pairs = zip(questions, chosen, strict=True)
    return outcome, [entry(question.body, _answer(question, pick)) for question, pick in pairs]


def tokens(outcome: RequestResult) -> int:
    """Return how many tokens the options have, as an ensemble's first member reads them."""
    return sum(len(item.ids) for item in outcome.items)


def _path(question: Question, param: str | None) -> str:
    """Return where in the request an error of a question's option is."""
    if param is not None and items.is_shared(None, param):
        return param
    is_turn = param is not None and param.startswith("messages[") and question.turns
    return items.within(question.turns, param or "") if is_turn else question.where


def _by_rewards(
    questions: Sequence[Question], judged: Sequence[ScoredItem], temperature: float
) -> Iterator[Choice]:
    rewards = (item.reward for item in judged)
    for question in questions:
        question_rewards = list(islice(rewards, len(question.responses)))
        yield choice.by_rewards(question_rewards, temperature=temperature)


def _answer(question: Question, chosen: Choice) -> Answer:
    numbers = chosen.probabilities
    probabilities = dict(zip(question.responses, numbers, strict=True))
    if question.body.type == "score":
        return Answer(choice.level(numbers), choice.level_confidence(numbers), probabilities)
    best = list(question.responses)[chosen.best]
    return Answer(best, choice.confidence(numbers), probabilities)
