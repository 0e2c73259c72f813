"""What vLLM's clients read of each step of a solution: rows whose last number is the step's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assay.items import Ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.api.contracts.contract import FieldItems
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.targets import Target


def at_every_token(inputs: FieldItems, target: Target) -> FieldItems:
    """Return items whose token ids are read everywhere, of a model of separate steps.

    Where its steps end isn't to be seen in ids: clients know, and pick.
    """
    steps = target.card.steps
    if steps is None or steps.form != "separate" or not target.scores_steps:
        return inputs
    sources = [
        replace(source, reads_all=True) if isinstance(source, Ids) else source
        for source in inputs.sources
    ]
    return replace(inputs, sources=sources)


def shown(call: Call, judged: ScoredItem, outputs: Sequence[tuple[str, int]]) -> list[list[float]]:
    """Return what is answered of each step; the last number is the step's score."""
    scores = judged.verdict.steps or ()
    is_pair = call.target.card.score.rule == "softmax" and dict(outputs).get("reward") == 2
    return [[1.0 - score, score] if is_pair else [score] for score in scores]


def raw(call: Call, judged: ScoredItem, outputs: Sequence[tuple[str, int]]) -> list[list[float]]:
    """Return the reward head's numbers at each step, of two labels the good one last."""
    if judged.scored is None or judged.scored.numbers is None:
        return []
    names = [name for name, _ in outputs]
    begin = sum(size for _, size in outputs[: names.index("reward")])
    size = dict(outputs)["reward"]
    rows: list[list[float]] = judged.scored.numbers[0][:, begin : begin + size].tolist()
    rule = call.target.card.score
    is_reversed = rule.rule == "softmax" and rule.index == 0 and size == 2
    return [row[::-1] for row in rows] if is_reversed else rows
