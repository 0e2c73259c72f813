"""Wire items to what a template renders, and the paths by which errors name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.engine.template import Conversation, Ids, Source, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay import wire

    Prompt = str | Sequence[wire.Message]
    Groups = Sequence[tuple[Prompt, list[str]]]


def source(item: wire.Item) -> Source:
    """Return what a template renders for one item."""
    if item.input_ids is not None:
        return Ids(tuple(item.input_ids))
    if item.text is not None:
        return Text(item.text)
    if item.messages is not None:
        return Conversation(tuple(_turn(message) for message in item.messages))
    return _conversation(item.prompt or "", item.response or "")


def _conversation(prompt: Prompt, response: str) -> Conversation:
    asked = (
        [{"role": "user", "content": prompt}]
        if isinstance(prompt, str)
        else [_turn(message) for message in prompt]
    )
    return Conversation((*asked, {"role": "assistant", "content": response}))


def _turn(message: wire.Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}


def sources(groups: Groups) -> list[Source]:
    """Return one source for each response of each (prompt, responses), in order."""
    return [
        _conversation(prompt, response) for prompt, responses in groups for response in responses
    ]


def paths(field: str, groups: Groups) -> Callable[[int], str]:
    """Return the function from a source's place to its path in the request."""

    def path(place: int) -> str:
        for group, (_, responses) in enumerate(groups):
            if place < len(responses):
                return f"{field}[{group}].responses[{place}]"
            place -= len(responses)
        raise IndexError(place)

    return path
