"""How an in-process peer is asked: a line of JSON in, a line of JSON out, no HTTP.

In: {"phases": [[[prompt, response, text], ...], ...]}. Out: {"ready": note} once, then for each
line in {"seconds": s, "scores": [...]}, or {"error": kind}. Only the scoring is timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Scorer(Protocol):
    """A peer."""

    def score(self, items: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return the scores of (prompt, response, templated text), in order."""
        ...


def private_output() -> IO[str]:
    """Return what was standard output, and let everything that prints use standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def serve(scorer: Scorer, note: str, answers: IO[str]) -> None:
    """Answer until the input ends."""
    _answer(answers, {"ready": note})
    for line in sys.stdin:
        phases = json.loads(line)["phases"]
        _answer(answers, _score(scorer, phases))


def _score(scorer: Scorer, phases: list[list[tuple[str, str, str]]]) -> dict[str, object]:
    begin = time.perf_counter()
    try:
        scores = [score for items in phases for score in scorer.score(items)]
    except (RuntimeError, MemoryError) as error:  # the peer's own failure is a result
        return {"error": type(error).__name__, "message": str(error)}
    return {"seconds": time.perf_counter() - begin, "scores": scores}


def _answer(answers: IO[str], answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
