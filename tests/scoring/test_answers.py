"""Native requests on their way to answers, without a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from assay import wire
from assay.items import Conversation, Text
from assay.scoring import answers
from assay.scoring.driver import Pause

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from assay.items import Source
    from assay.scoring.call import Call
    from assay.scoring.items import Path

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TALK = [*TURNS, {"role": "user", "content": "c"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
ITEMS: list[dict[str, Any]] = [
    {"prompt": "p", "response": "r", "id": "first"},
    {"prompt": TALK, "response": "r"},
    {"messages": TURNS},
    {"text": "t"},
    {"prompt": "p", "response": "r", "tools": TOOLS},
]


class Waiting:
    """A call whose items are never scored."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.path: Path = lambda place, param: f"{place} {param}"

    def run(self, sources: list[Source], path: Path) -> Generator[Pause, Any, None]:
        """Take what is to be scored, and wait."""
        self.sources, self.path = sources, path
        yield Pause(None)


@pytest.fixture
def call() -> tuple[Waiting, wire.ScoreRequest]:
    """A call that has begun, and its request."""
    waiting, request = Waiting(), wire.ScoreRequest.model_validate({"inputs": ITEMS})
    handler = answers.score(cast("Call", waiting), request, "score-1")
    while not waiting.sources:
        next(handler)
    return waiting, request


def test_a_request_that_waits_has_let_go_of_its_items(
    call: tuple[Waiting, wire.ScoreRequest],
) -> None:
    """What is made of them is there; as they were parsed they would take ten times the memory."""
    waiting, request = call

    assert request.inputs == []
    assert [type(source) for source in waiting.sources] == [
        *[Conversation] * 3,
        Text,
        Conversation,
    ]


@pytest.mark.parametrize(
    ("place", "param", "path"),
    [
        (0, "messages[0].content", "inputs[0].prompt"),
        (0, "messages[1].content", "inputs[0].response"),
        (1, "messages[2].content", "inputs[1].prompt[2].content"),
        (1, "messages[3].content", "inputs[1].response"),
        (2, "messages[1].content", "inputs[2].messages[1].content"),
        (3, "text", "inputs[3].text"),
        (3, None, "inputs[3]"),
        (0, "tools", "tools"),
        (4, "tools", "inputs[4].tools"),
        (4, "messages[1].content", "inputs[4].response"),
    ],
)
def test_errors_say_where_in_the_request_an_item_was(
    call: tuple[Waiting, wire.ScoreRequest], place: int, param: str | None, path: str
) -> None:
    """By the names that the caller gave, though the items are gone."""
    assert call[0].path(place, param) == path
