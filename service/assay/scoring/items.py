"""Wire items to what a template renders, and the paths by which errors name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.engine.template import Contest, Conversation, Ids, Solution, Source, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay import wire

    Prompt = str | Sequence[wire.Message]
    Pairs = Sequence[tuple[int, int]]
    Candidates = list[str] | list[list[str]]
    Groups = Sequence[tuple[Prompt, Candidates]]
    Path = Callable[[int, str | None], str]  # by an item's place, and a field of it


def source(item: wire.Item) -> Source:
    """Return what a template renders for one item."""
    if item.input_ids is not None:
        return Ids(item.input_ids, segments=item.token_type_ids)
    if item.text is not None:
        return Text(item.text)
    if item.messages is not None:
        return Conversation(tuple(_turn(message) for message in item.messages))
    return _answered(item.prompt or "", item.steps or item.response or "")


def contests(prompt: Prompt, responses: Sequence[str], pairs: Pairs) -> list[Source]:
    """Return one source for each pair of responses, in order; the first of a pair is read first."""
    asked = _asked(prompt)
    return [Contest(asked, responses[one], responses[other]) for one, other in pairs]


def _answered(prompt: Prompt, answer: str | list[str]) -> Source:
    if isinstance(answer, list):
        return Solution(_asked(prompt), tuple(answer))
    return Conversation((*_asked(prompt), {"role": "assistant", "content": answer}))


def _asked(prompt: Prompt) -> tuple[dict[str, str], ...]:
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    return tuple(_turn(message) for message in prompt)


def _turn(message: wire.Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}


def sources(groups: Groups) -> list[Source]:
    """Return one source for each response of each (prompt, responses), in order."""
    return [_answered(prompt, answer) for prompt, answers in groups for answer in answers]


def item_path(place: int, param: str | None) -> str:
    """Return the path of an item of `/score`, or of the field of it that an error is about."""
    return f"inputs[{place}].{param}" if param else f"inputs[{place}]"


def paths(field: str, groups: Groups) -> Path:
    """Return the function from a source's place to its path in the request."""

    def path(place: int, _: str | None) -> str:
        for group, (_prompt, answers) in enumerate(groups):
            if place < len(answers):
                kind = "responses" if isinstance(answers[place], str) else "chains"
                return f"{field}[{group}].{kind}[{place}]"
            place -= len(answers)
        raise IndexError(place)

    return path
