"""What is served, by name: models, ensembles of them, their templates and cards."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from assay.errors import UnknownTarget, shown
from assay.prompts.models import ResolveSettings
from assay.scoring.combination import Combination

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from assay.cards import card as cards
    from assay.cards.calibration import Acceptable, Calibration
    from assay.prompts.models import Model
    from assay.settings import CompositeRule, Gate, Settings

_STARTED = datetime.now()  # noqa: DTZ005  local, as transformers has it; for all that is loaded
Kind = Literal["model", "ensemble", "policy", "composite"]
_PLAIN = Combination()


@dataclass(frozen=True, slots=True)
class CompositePart:
    """One part of a composite: the target that it is of, and what it is measured in.

    `tolerance` is in the part's own unit, times its weight; by a calibration it is the margin up to
    which the better response is better with a probability of `alike_up_to`. `acceptable` is what a
    calibrated gate looks at in place of the part. `calibration` is the id of what either is by.
    """

    name: str
    target: str
    of: Target
    attribute: str | None
    weight: float
    mean: float
    std: float
    tolerance: float = 0.0
    alike_up_to: float | None = None
    acceptable: Acceptable | None = None
    calibration: str | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that its target has."""
        return tuple(model.name for model in self.of.members)

    @property
    def moments(self) -> tuple[float, float]:
        """What it is standardized by: 0 and 1 change nothing."""
        return self.mean, self.std


@dataclass(frozen=True, slots=True)
class Target:
    """What a request can name: one model, or several combined into one reward."""

    name: str
    card: cards.Card
    members: tuple[Model, ...]
    kind: Kind
    revision: str
    parts: tuple[CompositePart, ...] = ()
    gate: Gate | None = None
    labels: tuple[str, ...] = ()  # what answers call its members; none: as the models are called
    combination: Combination = _PLAIN
    warnings: tuple[str, ...] = ()  # what an operator should know of how they are combined
    calibration: Calibration | None = None
    rule: CompositeRule = "weighted"  # of the parts

    @property
    def is_ensemble(self) -> bool:
        """Whether the members' spread is an uncertainty."""
        return self.kind == "ensemble"

    @property
    def is_of_outputs(self) -> bool:
        """Whether its members are the numbers of one model's head."""
        return self.is_ensemble and self.card.is_of_outputs

    @property
    def has_spread(self) -> bool:
        """Whether one model says itself how sure it is of a score."""
        return self.kind == "model" and self.card.spread is not None

    @property
    def only_compares(self) -> bool:
        """Whether it says which of two responses is better, and gives no scores."""
        return self.card.preference is not None or self.orders

    @property
    def orders(self) -> bool:
        """Whether it is an order of responses by their parts."""
        return self.rule == "lexicographic"

    @property
    def scores_steps(self) -> bool:
        """Whether a verdict has steps."""
        return (self.kind == "model" or self.is_of_outputs) and self.card.is_by_step

    @property
    def attributes(self) -> list[str]:
        """The names of the attributes that a verdict has; a composite's are its parts."""
        if self.kind == "composite":
            return [part.name for part in self.parts]
        if self.kind != "model" or self.only_compares or self.scores_steps:
            return []
        return list(self.card.score.outputs)

    @property
    def calibrations(self) -> dict[str, str]:
        """The ids of the calibrations that a composite's gate or tolerances are by, by part."""
        return {part.name: part.calibration for part in self.parts if part.calibration}

    @property
    def member_labels(self) -> tuple[str, ...]:
        """What answers call its members."""
        return self.labels or tuple(
            model.name.removeprefix(f"{self.name}/") for model in self.members
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything served; the first is the default."""

    by_name: Mapping[str, Target] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)  # what was asked for, by name

    @property
    def default(self) -> Target:
        """The target of requests that name none."""
        return next(iter(self.by_name.values()))

    @property
    def asked_for(self) -> list[str]:
        """The names of what was asked for: without the members that an ensemble brings."""
        return [
            name
            for name, target in self.by_name.items()
            if name in self.references or target.kind != "model"
        ]

    @property
    def models(self) -> list[Model]:
        """Every checkpoint, once."""
        return list({m.name: m for t in self.by_name.values() for m in t.members}.values())

    def get(self, name: str | None) -> Target:
        """Return the named target, or the default.

        Raises:
            UnknownTarget: Nothing of that name is served; the message lists what is.
        """
        if name is None:
            return self.default
        name = self.aliases.get(name, name)
        if name not in self.by_name:
            served = ", ".join(f"'{target_name}'" for target_name in self.by_name)
            raise UnknownTarget(
                f"no model '{shown(name)}' is served; there are {served}", param="model"
            )
        return self.by_name[name]

    def reference(self, name: str) -> str:
        """Return the name, path or hub id that a target was loaded from.

        Raises:
            UnknownTarget: Nothing of that name was: it isn't served, or made of others.
        """
        name = self.aliases.get(name, name)
        if name not in self.references:
            loaded = ", ".join(f"'{target_name}'" for target_name in self.references)
            raise UnknownTarget(
                f"no model '{shown(name)}' was loaded; there are {loaded}", param="model"
            )
        return self.references[name]

    def folder(self, target: Target) -> Path | None:
        """Return the folder where a target's card is, or may be; None where there is none.

        What settings combine has none, nor has a member that an ensemble brings, and a hub's cache
        is for what the hub has.
        """
        if target.name not in self.references:
            return None
        folder = target.members[0].checkpoint.folder
        if folder.parent.name == "snapshots":
            return None
        return folder.parent if len(target.members) > 1 else folder


def resolve_settings(settings: Settings) -> ResolveSettings:
    """Return the settings by which names are resolved."""
    return ResolveSettings(
        repository=settings.repository,
        trust=settings.trust_remote_code,
        names=tuple((reference, name) for name, reference in settings.names.items()),
        max_tokens=settings.max_tokens,
        dtype=settings.dtype,
        quantize=settings.quantize,
        remotes=frozenset(settings.remotes),
        moment=_STARTED,
    )
