"""The reliability diagrams of a report as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.calibration.extra import library
from assay.errors import InvalidField

if TYPE_CHECKING:
    from pathlib import Path

    from assay.calibration.procedure import Report

_TITLES = {
    "preference": "The likelier order is right",
    "acceptable": "A response is acceptable",
}


def draw(said: Report, path: Path) -> None:
    """Write what was said against what came of held-out pairs and labels, before and after.

    Raises:
        InvalidField: The file can't be written, or its ending is of no picture.
    """
    figure_module = library("matplotlib.figure")
    kinds = [kind for kind in _TITLES if kind in said]
    figure = figure_module.Figure(figsize=(4.5 * len(kinds), 4.5), layout="constrained")
    for place, kind in enumerate(kinds, 1):
        axes = figure.add_subplot(1, len(kinds), place)
        _diagram(axes, said[kind]["reliability"], _TITLES[kind])
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InvalidField(f"the plot {path} can't be written: {error}") from error


def _diagram(axes: Any, sides: list[list[dict[str, float]]], title: str) -> None:
    low = 0.5 if title == _TITLES["preference"] else 0.0
    axes.plot([low, 1], [low, 1], color="0.7", linewidth=1)
    for bins, label in zip(sides, ("without", "calibrated"), strict=True):
        axes.plot(
            [one["probability"] for one in bins], [one["share"] for one in bins], "o-", label=label
        )
    axes.set(title=title, xlabel="probability", ylabel="share")
    axes.legend()
