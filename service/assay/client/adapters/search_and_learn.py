"""search-and-learn: a process reward model in place of `sal.models.reward_models.load_prm`'s.

Scores are the model's own for each step, with `activation` and `clip` applied. All steps of an
unscorable output have the score `unscorable`, 0 unless given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.client.adapters import items
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls


def process_reward(url: Urls, *, separator: str | None = "\n\n", **options: Unpack[Options]) -> PRM:
    """Return a process reward model, as `prm` of `best_of_n`, `beam_search` and `dvts`.

    `separator` parts an output's steps; with None an output is one step.
    """
    return PRM(Reward.of(url, options, unscorable=0.0), separator)


@dataclass(frozen=True)
class PRM:
    """As `sal.models.reward_models.PRM`."""

    reward: Reward
    separator: str | None

    def score(
        self, questions: Sequence[str], outputs: Sequence[Sequence[str]], **_: Any
    ) -> list[list[list[float]]]:
        """Return a score for each step of each output to each question."""
        inputs = [
            items.solution(question, output, self.separator)
            for question, several in items.together(questions=questions, outputs=outputs)
            for output in several
        ]
        scores = iter(self.reward.steps(inputs, self.reward.ask(inputs)))
        return [[next(scores) for _ in several] for several in outputs]
