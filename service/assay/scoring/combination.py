"""How the members of a target become one reward: by which rule, and on which scale.

The arithmetic is `reward.ensemble`'s. Not here: who the members are (`targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import SettingsError
from assay.reward import ensemble, transform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.cards import uncertainty
    from assay.cards.card import Moments
    from assay.settings import Ensemble

_MOST_RATIO = 1.5  # of one member's std to another's


@dataclass(frozen=True, slots=True)
class Combination:
    """A rule over members, and the mean and std that each of them is standardized by, if any."""

    rule: ensemble.Rule = "mean"
    penalty: float | None = None
    scales: tuple[tuple[float, float], ...] = ()

    @property
    def weight(self) -> float:
        """What a spread is multiplied by in the rule; of rules over no spread 0."""
        of_rule = ensemble.DEFAULT_PENALTY.get(self.rule, 0.0)
        return of_rule if self.penalty is None else self.penalty

    @property
    def said(self) -> dict[str, object]:
        """What decides the score beside the members' own, for the revision; empty by default."""
        said = {"rule": self.rule, "penalty": self.penalty, "scales": self.scales}
        default = Combination()
        return {name: value for name, value in said.items() if value != getattr(default, name)}

    def standardized(self, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return the members' rewards on one scale, or as they are."""
        if not self.scales:
            return tuple(rewards)
        return tuple(
            transform.standardize(reward, mean=mean, std=std)
            for reward, (mean, std) in zip(rewards, self.scales, strict=True)
        )


def of(
    name: str,
    said: uncertainty.Ensemble | Ensemble,
    moments: Sequence[tuple[str, Moments | None]],
) -> Combination:
    """Return what an ensemble's card or setting says, with each member's label and moments.

    Raises:
        SettingsError: Members are to be standardized, and the moments of one aren't known.
    """
    if not said.standardize:
        return Combination(said.rule, said.penalty)
    scales = []
    for label, known in moments:
        if known is None:
            raise SettingsError(
                f"ensemble '{name}' is to be standardized, and no mean and std of '{label}' is "
                "stored; add [statistics] to its card, or leave 'standardize' out"
            )
        scales.append((known.mean, known.std))
    return Combination(said.rule, said.penalty, tuple(scales))


def warnings(moments: Sequence[tuple[str, Moments | None]]) -> tuple[str, ...]:
    """Return why the members of an ensemble that isn't standardized may weigh unequally."""
    known = {label: moment for label, moment in moments if moment is not None}
    if unknown := [label for label, _ in moments if label not in known]:
        why = f"the scale of '{unknown[0]}' isn't known: its card has no [statistics]"
        return (_unequal(why),)
    widest, narrowest = (pick(known, key=lambda label: known[label].std) for pick in (max, min))
    least, most = known[narrowest].std, known[widest].std
    if most > _MOST_RATIO * least:
        return (_unequal(f"'{widest}' has a std of {most:g} and '{narrowest}' of {least:g}"),)
    means = [moment.mean for moment in known.values()]
    if max(means) - min(means) > least:
        return (_unequal(f"their means are {min(means):g} to {max(means):g}"),)
    return ()


def _unequal(why: str) -> str:
    return f"members are combined as they are, and {why}; 'standardize' brings them to one scale"
