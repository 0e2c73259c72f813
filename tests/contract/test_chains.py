"""A solution spelt in the card's steps means the same on every contract that takes responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import pytest

from assay.api.contracts.step_parsing import in_steps
from assay.cards.mechanism import Steps
from assay.items import Conversation, Solution, Text
from tests.contract.cases import SCORES, Case, Item
from tests.families.process import HENS, LAID

if TYPE_CHECKING:
    from tests.http.processes import Server

MARKED = Item(HENS, "".join(f"{step}<extra_0>" for step in LAID))
SPLIT = Item(HENS, "\n\n".join(LAID))  # where the card itself splits a response
RESPONSES = [case for case in SCORES if not case.is_text]
QWEN = Steps(step="{step}<extra_0>")
SHEPHERD = Steps(step="Step {number}: {step} ки", between="\n")


def talk(response: str) -> Conversation:
    return Conversation(
        ({"role": "user", "content": HENS}, {"role": "assistant", "content": response})
    )


def read(response: str, steps: Steps) -> tuple[str, ...] | None:
    """Return the steps of a response; None where it stays one text."""
    source = in_steps(talk(response), steps)
    if isinstance(source, Solution):
        assert source.messages == talk("").messages[:1]
        return source.steps
    assert source == talk(response)
    return None


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.id)
def test_markers_are_the_steps_that_they_end(served: Server, case: Case) -> None:
    """On every contract, whether the model has one number for the item or one for each step."""
    marked = case.scores(served, [MARKED], model="math")

    assert marked == case.scores(served, [SPLIT], model="math")
    assert len(marked) in (1, len(LAID))


@pytest.mark.parametrize("path", ["/compare", "/get_feedback"])
def test_markers_are_steps_where_responses_meet(served: Server, path: str) -> None:
    """OAT's pairs: a solution against itself with its markers is a tie."""
    body = {
        "batch_prompt": [HENS],
        "batch_candidates": [[MARKED.response, SPLIT.response]],
        "model": "math",
    }

    assert served.http.post(path, json=body).json()["batch_first_win_prob"] == [0.5]


@pytest.mark.parametrize(
    ("response", "steps", "expected"),
    [
        ("a<extra_0>b<extra_0>", QWEN, ("a", "b")),
        ("a<extra_0>b<extra_0> and so", QWEN, ("a", "b")),
        ("<extra_0>", QWEN, ("",)),
        ("a\n\nb", QWEN, None),
        ("", QWEN, None),
        ("Step 1: a ки\nStep 2: b ки", SHEPHERD, ("a", "b")),
        ("Step 1: a ки\nStep 2: b ки\nStep 3: open", SHEPHERD, ("a", "b")),
        ("Step 1: a ки", SHEPHERD, ("a",)),
        ("Step 2: a ки", SHEPHERD, None),
        ("Step 1: a ки Step 2: b ки", SHEPHERD, None),
        ("So: Step 1: a ки", SHEPHERD, None),
        ("a ки", SHEPHERD, None),
        ("Step 1: a", Steps(step="Step {number}: {step}"), None),
        ("a<extra_0>", Steps(form="separate", step="{step}<extra_0>"), None),
    ],
)
def test_a_response_is_in_steps_where_it_begins_as_the_card_spells_them(
    response: str, steps: Steps, expected: tuple[str, ...] | None
) -> None:
    """A marker anywhere else leaves it as it is: which step it would end can't be told."""
    assert read(response, steps) == expected


def test_whatever_has_no_response_stays_as_it_is() -> None:
    """Texts, and all items of models that don't score steps."""
    assert in_steps(Text("a<extra_0>"), QWEN) == Text("a<extra_0>")
    assert in_steps(talk("a<extra_0>"), None) == talk("a<extra_0>")


@pytest.mark.parametrize("response", ["a" * 1000, "a<extra_0>" * 100, "Step 1: " * 100])
@pytest.mark.parametrize("steps", [QWEN, SHEPHERD])
def test_a_response_is_looked_through_once(response: str, steps: Steps) -> None:
    """However long it is, and wherever the markers stand."""
    looked = 0

    class Counted(str):
        __slots__ = ()

        def find(self, sub: str, begin: SupportsIndex | None = 0, *_: SupportsIndex | None) -> int:
            nonlocal looked
            found = super().find(sub, begin)
            end = len(self) if found < 0 else found + len(sub)
            looked += end - int(begin or 0)
            return found

    in_steps(talk(Counted(response)), steps)

    begins = steps is QWEN or response.startswith("Step 1: ")  # elsewhere it isn't searched at all
    assert (looked > 0) == begins
    assert looked <= len(response)
