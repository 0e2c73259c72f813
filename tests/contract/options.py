"""What questions with options are to be answered, from the native routes alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.contract.served import natively, post

if TYPE_CHECKING:
    from tests.http.processes import Server

STATE = "The package arrived with a broken screen."
ASKED = "Which department should handle this complaint?"
SEVERITY = "How severe is the damage?"
JOINED = f"{STATE}\n\n{ASKED}"  # the prompt of a question
SCORED = ["tiny", "crew", "helpsteer", "math"]  # a model, an ensemble, attributes, steps


def softmax(rewards: list[float], temperature: float = 1.0) -> list[float]:
    """Return Luce's choice in float64."""
    grown = [math.exp((one - max(rewards)) / temperature) for one in rewards]
    return [one / math.fsum(grown) for one in grown]


def chosen(server: Server, prompt: Any, options: list[str], **body: Any) -> list[float]:
    """Return the softmax of the native scores of options as responses to a prompt."""
    inputs = [{"prompt": prompt, "response": one} for one in options]
    return softmax(natively(server, inputs, **body))


def best(server: Server, prompt: Any, options: list[str], **body: Any) -> int:
    """Return which option `/best-of-n` picks."""
    (group,) = post(server, "/best-of-n", prompt=prompt, responses=options, **body)["data"]
    place: int = group["best"]["index"]
    return place


def expected_level(probabilities: list[float]) -> float:
    """Return the probability-weighted place."""
    return math.fsum(place * one for place, one in enumerate(probabilities))
