"""A reward as a classifier's labels: LABEL_0, or one for each attribute of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from assay.reward.transform import sigmoid, softmax

if TYPE_CHECKING:
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.targets import Target

LABEL = "LABEL_0"
Applied = Literal["none", "sigmoid", "softmax"]  # to the scores; as transformers names it


def names(target: Target) -> list[str]:
    """Return the names of a target's labels."""
    return _attributes(target) or [LABEL]


def of(call: Call, item: ScoredItem, applied: Applied | None = None) -> list[dict[str, Any]]:
    """Return an item's labels with their scores, the highest first.

    `applied` is "none" for raw ones; by default a softmax of several, and of one its sigmoid.
    """
    numbers = {name: item.verdict.attributes[name] for name in _attributes(call.target)}
    numbers = numbers or {LABEL: item.reward}
    scores = list(numbers.values())
    if applied is None:
        applied = "softmax" if len(scores) > 1 else "sigmoid"
    if applied == "softmax":
        scores = softmax(scores)
    elif applied == "sigmoid":
        scores = [sigmoid(score) for score in scores]
    entries = [
        {"score": score, "label": label} for label, score in zip(numbers, scores, strict=True)
    ]
    return sorted(entries, key=lambda entry: -entry["score"])


def _attributes(target: Target) -> list[str]:
    return target.attributes if target.kind == "model" else []
