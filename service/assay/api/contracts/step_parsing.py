"""Responses that come spelt in steps as a process reward model's card spells them, as steps.

Whichever contract brings them. How a response without markers is split: `prompts.spelling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.items import Conversation, Solution, carried, said

if TYPE_CHECKING:
    from assay.cards.mechanism import Steps
    from assay.items import Source

_STEP = "{step}"


def in_steps(source: Source, steps: Steps | None) -> Source:
    """Return a conversation as a solution where its last turn is spelt in the card's steps.

    What stands behind the last step's marker can't change a step's score, and is left out.
    """
    if not isinstance(source, Conversation) or steps is None or steps.form != "joined":
        return source
    *prompt, response = source.messages
    if carried(response):  # which no step has a place for
        return source
    step_texts = _read(said(response), steps)
    return Solution(tuple(prompt), tuple(step_texts), source.inputs) if step_texts else source


def _read(text: str, steps: Steps) -> list[str]:
    """Return the steps that a text begins with; none where a marker stands elsewhere, too."""
    step_texts: list[str] = []
    at, end = 0, 0
    while True:
        spelt = steps.step.replace("{number}", str(len(step_texts) + 1))
        ahead, _, marker = (steps.between * bool(step_texts) + spelt).partition(_STEP)
        if not marker:
            return []
        begin = at + len(ahead)
        end = text.find(marker, begin) if text.startswith(ahead, at) else -1
        if end < 0:
            return [] if marker in text[at:] else step_texts
        step_texts.append(text[begin:end])
        at = end + len(marker)
