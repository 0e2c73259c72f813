"""The parts of a composite, held against the targets that they are of, and what its gate is by.

The arithmetic is `reward.composite`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.errors import SettingsError
from assay.reward import calibration
from assay.scoring.targets import CompositePart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.cards.calibration import Calibration
    from assay.scoring.targets import Target
    from assay.settings import Composite
    from assay.settings import Part as PartSetting


def parts(
    name: str, table: Composite, targets: Mapping[str, Target], aliases: Mapping[str, str]
) -> tuple[CompositePart, ...]:
    """Return the parts of a `[composites]` table; `aliases` are other names of their targets.

    Raises:
        SettingsError: A part isn't served, isn't what the table says of it, or has no calibration
            that the table asks for.
    """
    where = f"composites.{name}"
    _check_rule(where, table)
    found = tuple(
        _part(f"{where}.parts.{label}", label, part, table, targets, aliases)
        for label, part in table.parts.items()
    )
    if table.gate is not None and table.gate.part not in table.parts:
        raise SettingsError(
            f"{where}.gate: '{table.gate.part}' isn't one of its parts ({', '.join(table.parts)})"
        )
    return found


def said(parts: Sequence[CompositePart], table: Composite) -> dict[str, object]:
    """Return all that decides a composite's scores beside its members, for its revision."""
    order = [(part.name, table.parts[part.name].tolerance) for part in parts]
    calibrations = {part.name: part.calibration for part in parts if part.calibration}
    return {
        **({"rule": table.rule, "order": order} if table.rule != "weighted" else {}),
        **({"calibrations": calibrations} if calibrations else {}),
        "gate": table.gate.model_dump(exclude_defaults=True) if table.gate else None,
        "parts": {
            part.name: (part.of.revision, part.attribute, part.weight, *part.moments)
            for part in parts
        },
    }


def calibrated(table: Composite, aliases: Mapping[str, str]) -> set[str]:
    """Return the targets whose calibrations a table asks for."""
    labels = {label for label, part in table.parts.items() if part.calibrated}
    if table.gate is not None and table.gate.calibrated:
        labels |= {table.gate.part} & table.parts.keys()
    named = {table.parts[label].target for label in labels}
    return {aliases.get(target, target) for target in named}


def _check_rule(where: str, table: Composite) -> None:
    """Refuse what a composite's rule has no use for."""
    by_order = table.rule == "lexicographic"
    if by_order and table.gate is not None:
        raise SettingsError(
            f"{where}.gate: an order has no score that a gate could replace; give "
            f"'{table.gate.part}' as the first part instead"
        )
    for label, part in table.parts.items():
        if part.tolerance is not None and not by_order:
            raise SettingsError(
                f"{where}.parts.{label}.tolerance: it is for the rule 'lexicographic'; leave it out"
            )
    if table.rule != "weighted" and not any(part.weight for part in table.parts.values()):
        raise SettingsError(f"{where}.parts: give one a weight other than 0")


def _part(
    where: str,
    label: str,
    part: PartSetting,
    table: Composite,
    targets: Mapping[str, Target],
    aliases: Mapping[str, str],
) -> CompositePart:
    target = targets.get(aliases.get(part.target, part.target))
    if target is None or target.kind not in ("model", "ensemble") or target.card.preference:
        raise SettingsError(f"{where}: '{part.target}' isn't a served model or ensemble")
    if part.attribute is not None and part.attribute not in target.attributes:
        named = ", ".join(target.attributes) or "none"
        raise SettingsError(
            f"{where}: '{part.target}' has no attribute '{part.attribute}'; it has {named}"
        )
    moments = target.card.statistics if part.normalize else None
    if part.normalize and (moments is None or part.attribute is not None):
        raise SettingsError(f"{where}: '{part.target}' has no stored mean and std of that score")
    std = moments.std if moments else 1.0
    gate, fitted = table.gate, None
    tolerance, acceptable = part.tolerance or 0.0, None
    if part.calibrated:
        fitted = _fitted(where, part, target)
        tolerance = _margin(where, fitted, part, target) * abs(part.weight or 1.0) / std
    if gate is not None and gate.calibrated and gate.part == label:
        fitted = _fitted(where, part, target)
        acceptable = fitted.acceptable
        if acceptable is None:
            raise _without(where, target, "labels", "responses with a 'label'")
    return CompositePart(
        name=label,
        target=target.name,
        of=target,
        attribute=part.attribute,
        weight=part.weight,
        mean=moments.mean if moments else 0.0,
        std=std,
        tolerance=tolerance,
        alike_up_to=part.tolerance if part.calibrated else None,
        acceptable=acceptable,
        calibration=fitted.id if fitted else None,
    )


def _fitted(where: str, part: PartSetting, target: Target) -> Calibration:
    """Return the calibration of a part's target."""
    if part.attribute is not None:
        raise SettingsError(
            f"{where}: a calibration is of the score of '{target.name}', not of its attribute "
            f"'{part.attribute}'; leave 'calibrated' or 'attribute' out"
        )
    if target.calibration is None:
        raise SettingsError(
            f"{where}: '{target.name}' has no calibration; run `assay calibrate`, or leave "
            "'calibrated' out"
        )
    return target.calibration


def _margin(where: str, fitted: Calibration, part: PartSetting, target: Target) -> float:
    """Return up to which margin of scores the better response isn't surely enough the better."""
    preference = fitted.preference
    if preference is None:
        raise _without(where, target, "pairs", "pairs")
    if preference.method == "none" and target.is_ensemble:
        raise SettingsError(
            f"{where}: the probabilities of '{target.name}' are its members' own (method 'none'), "
            "and not of a margin; leave 'calibrated' out, and say 'tolerance' in scores"
        )
    return calibration.largest_margin(preference.probability, at_most=part.tolerance or 0.5)


def _without(where: str, target: Target, what: str, items: str) -> SettingsError:
    return SettingsError(
        f"{where}: '{target.name}' has a calibration of no {what}; give `assay calibrate` {items}, "
        "or leave 'calibrated' out"
    )
