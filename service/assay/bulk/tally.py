"""What a file's answers come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Line = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """The answers of a whole file, those of earlier runs included; `new` and `tokens` of this one.

    Accuracy counts lines with `chosen`; a tie counts half. `first` is where each kind of error came
    first: the line's number and the reason.
    """

    total: int = 0
    lines: int = 0
    new: int = 0
    errors: int = 0
    tokens: int = 0
    pairs: int = 0
    correct: float = 0.0
    by_agreement: dict[float, list[float]] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Share of pairs whose chosen response won."""
        return self.correct / self.pairs if self.pairs else None

    def add(self, number: int, line: Line, answer: Line) -> None:
        """Count one answered line."""
        self.lines += 1
        if error := answer.get("error"):
            self.errors += 1
            self.codes[error["code"]] += 1
            self.first.setdefault(error["code"], (number, error["message"]))
        elif "chosen" in line and "winner" in answer:
            won = {0: 1.0, None: 0.5}.get(answer["winner"], 0.0)
            self.pairs += 1
            self.correct += won
            self._agreed(answer.get("agreement"), won)

    def _agreed(self, agreement: float | None, won: float) -> None:
        """Count pairs and wins by how many members agree: memory doesn't grow with the file."""
        if agreement is not None:
            pairs, sum_won = self.by_agreement.setdefault(round(agreement, 3), [0.0, 0.0])
            self.by_agreement[round(agreement, 3)] = [pairs + 1, sum_won + won]
