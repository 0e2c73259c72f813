"""What is served, by name: models, ensembles of them, their templates and cards."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from assay.cards import calibration, paths, repository
from assay.cards import card as cards
from assay.errors import CheckpointError, SettingsError, UnknownTarget, shown
from assay.prompts.models import ResolveSettings
from assay.scoring import combination
from assay.scoring.combination import Combination
from assay.settings import Ensemble

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from assay.cards import uncertainty
    from assay.cards.calibration import Calibration
    from assay.prompts.models import Model, Resolved
    from assay.settings import Composite, CompositeRule, Gate, Settings
    from assay.settings import Part as PartSetting

logger = logging.getLogger("assay.targets")
start_logger = logging.getLogger("assay.start")
_STARTED = datetime.now()  # noqa: DTZ005  local, as transformers has it; for all that is loaded
Kind = Literal["model", "ensemble", "policy", "composite"]
_PLAIN = Combination()


@dataclass(frozen=True, slots=True)
class CompositePart:
    """One part of a composite: the target that it is of, and what it is measured in."""

    name: str
    target: str
    of: Target
    attribute: str | None
    weight: float
    mean: float
    std: float
    tolerance: float = 0.0

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


def assemble(
    settings: Settings, resolved: Iterable[Resolved], *, is_calibrated: bool = True
) -> Targets:
    """Return what the settings name, of what their models were resolved to, in that order.

    Without `is_calibrated` no target has its calibration: another is to be fitted.

    Raises:
        SettingsError: Two things share a name, or an ensemble names what isn't served.
        CheckpointError: An ensemble's card names no member of it, or a calibration is of another
            revision.
    """
    targets: dict[str, Target] = {}
    references: dict[str, str] = {}
    calibrations: dict[str, Calibration | None] = {}
    for reference, entry in zip(settings.models, resolved, strict=True):
        if entry.name in references:
            raise SettingsError(_namesakes(entry.name, references[entry.name], reference))
        for note in entry.notes:
            logger.info("%s: %s", entry.name, note)
        for notice in entry.notices:
            logger.warning("%s", notice)
        references[entry.name] = reference
        calibrations[entry.name] = entry.calibration
        for target in _of(entry):
            _add(targets, target)
    by_path = _as_given(references, targets)
    aliases = {alias: by_path.get(name, name) for alias, name in settings.aliases.items()}
    all_aliases = by_path | aliases
    for name, said in settings.ensembles.items():
        _add(targets, _configured(name, Ensemble.of(said), targets, all_aliases))
    composites = [
        _composite(*composite, targets, all_aliases) for composite in settings.composites.items()
    ]
    for target in composites:
        _add(targets, target)
    _check_aliases(aliases, targets)
    _check_remotes(settings, targets)
    if is_calibrated:
        _calibrate(targets, calibrations | _overlays(settings, targets, all_aliases))
    _warn(targets.values())
    unshadowed = {path: name for path, name in by_path.items() if path not in targets}
    return Targets(targets, unshadowed | aliases, references)


def _check_aliases(aliases: Mapping[str, str], targets: Mapping[str, Target]) -> None:
    for alias, name in aliases.items():
        if alias in targets or name not in targets:
            raise SettingsError(
                f"aliases.{alias}: "
                + (
                    "a served model has that name"
                    if alias in targets
                    else f"'{name}' isn't served; there are {', '.join(targets)}"
                )
            )


def _calibrate(targets: dict[str, Target], calibrations: Mapping[str, Calibration | None]) -> None:
    """Give targets what was fitted for them, if it was for their revisions."""
    for name, fitted in calibrations.items():
        if fitted is None:
            continue
        if targets[name].only_compares:
            raise SettingsError(
                f"'{name}' gives probabilities of winning and takes no calibration; take it away"
            )
        fitted.check(name, targets[name].revision)
        targets[name] = replace(targets[name], calibration=fitted)


def _overlays(
    settings: Settings, targets: Mapping[str, Target], aliases: Mapping[str, str]
) -> dict[str, Calibration | None]:
    """Return the calibrations that the settings name, by target."""
    overlays: dict[str, Calibration | None] = {}
    for given, path in settings.calibrations.items():
        name = aliases.get(given, given)
        if name not in targets:
            raise SettingsError(
                f"calibrations.{shown(given)}: '{shown(name)}' isn't served; there are "
                f"{', '.join(targets)}"
            )
        overlays[name] = calibration.read(paths.of(path))
    return overlays


def _warn(targets: Iterable[Target]) -> None:
    for target in targets:
        for warning in target.warnings:
            start_logger.warning("%s: %s", target.name, warning)


def _configured(
    name: str, table: Ensemble, targets: Mapping[str, Target], aliases: Mapping[str, str]
) -> Target:
    """Return the target of an entry of `[ensembles]`; `aliases` are other names of its members."""
    named = [aliases.get(member, member) for member in table.names]
    return _ensemble(name, cards.Card(), tuple(_members(name, named, targets)), table)


def _check_remotes(settings: Settings, targets: Mapping[str, Target]) -> None:
    served = {model.name for target in targets.values() for model in target.members}
    if unknown := settings.remotes.keys() - served:
        raise SettingsError(
            f"remotes.{min(unknown)}: no model of that name is served; there are "
            f"{', '.join(sorted(served))}"
        )


def _of(entry: Resolved) -> list[Target]:
    """Return the targets of one argument: a model, a policy, or an ensemble and its members."""
    if entry.kind == "policy":
        return [
            Target(entry.name, entry.card, entry.models, "policy", _combined_revision(entry.models))
        ]
    singles = list(map(_single, entry.models))
    if entry.kind == "ensemble" and entry.card.ensemble is not None:
        return [_ensemble(entry.name, entry.card, entry.models, entry.card.ensemble), *singles]
    return singles


def _as_given(references: Mapping[str, str], targets: Mapping[str, Target]) -> dict[str, str]:
    """Return what each model may be called besides: the path or hub id that it was given as.

    A path that two were given as, under two cards, is neither's.
    """
    names_by_path: dict[str, set[str]] = {}
    for name, reference in references.items():
        for spelt in paths.spellings(reference):
            names_by_path.setdefault(spelt, set()).add(name)
    return {
        spelt: names.pop()
        for spelt, names in names_by_path.items()
        if len(names) == 1 and spelt not in targets
    }


def _namesakes(name: str, first: str, other: str) -> str:
    """Say that two models have one name, and the options that tell them apart."""
    if first == other:
        return f"'{first}' is to be served twice under one name; give it once"
    told_apart = [paths.longer_name(reference) for reference in (first, other)]
    if len(set(told_apart)) == 1:
        told_apart = [f"{told_apart[0]}-{number}" for number in (1, 2)]
    options = " ".join(
        f"--name {shlex.quote(f'{apart}={reference}')}"
        for apart, reference in zip(told_apart, (first, other), strict=True)
    )
    return (
        f"two served models are named '{name}', '{first}' and '{other}'; name them, such as by "
        f"{options}"
    )


def _members(ensemble: str, names: Iterable[str], targets: Mapping[str, Target]) -> Iterable[Model]:
    taken: set[str] = set()
    for name in names:
        if name in taken:
            raise SettingsError(f"ensemble '{ensemble}' names '{name}' twice; name each once")
        taken.add(name)
        if name not in targets or targets[name].kind != "model":
            models = ", ".join(n for n, target in targets.items() if target.kind == "model")
            raise SettingsError(
                f"ensemble '{ensemble}' names '{name}', which isn't a served model; there are "
                f"{models}"
            )
        yield targets[name].members[0]


def _single(model: Model) -> Target:
    card = model.checkpoint.card
    if card.ensemble is None or not card.is_of_outputs:
        return Target(model.name, card, (model,), "model", model.revision)
    labels = tuple(card.score.outputs)
    _check_statistics(model.name, card, labels)
    stored = card.statistics.members if card.statistics else {}
    moments = [(label, stored.get(label)) for label in labels]
    return _combined(
        Target(model.name, card, (model,), "ensemble", model.revision, labels=labels),
        card.ensemble,
        moments,
    )


def _ensemble(
    name: str,
    card: cards.Card,
    members: tuple[Model, ...],
    said: Ensemble | uncertainty.Ensemble,
) -> Target:
    labels = tuple(model.name.removeprefix(f"{name}/") for model in members)
    _check_statistics(name, card, labels)
    for model in members:
        own = model.checkpoint.card
        if own.preference or own.steps or own.is_of_outputs:
            raise SettingsError(
                f"ensemble '{name}' names '{model.name}', which gives no single score; ensembles "
                "are of models that do"
            )
    if isinstance(said, Ensemble) and isinstance(said.members, dict):
        labels = tuple(said.members)
    stored = [model.checkpoint.card.statistics for model in members]
    moments = list(zip(labels, stored, strict=True))
    target = _combined(Target(name, card, members, "ensemble", "", labels=labels), said, moments)
    own_moments = card.statistics
    decided: dict[str, object] = dict(target.combination.said)
    if own_moments is not None:
        decided |= {"mean": own_moments.mean, "std": own_moments.std}
    return replace(target, revision=_combined_revision(members, decided or None))


def _combined(
    target: Target,
    said: Ensemble | uncertainty.Ensemble,
    moments: Sequence[tuple[str, cards.Moments | None]],
) -> Target:
    """Return a target with how its members are combined, by their moments."""
    return replace(
        target,
        combination=combination.of(target.name, said, moments),
        warnings=() if said.standardize else combination.warnings(moments),
    )


def _check_statistics(name: str, card: cards.Card, labels: Sequence[str]) -> None:
    if card.statistics is not None and (unknown := card.statistics.members.keys() - set(labels)):
        raise CheckpointError(
            f"{name}: statistics.members.{min(unknown)}: the ensemble has no such member; it has "
            f"{', '.join(sorted(labels))}"
        )


def _composite(
    name: str, table: Composite, targets: Mapping[str, Target], aliases: Mapping[str, str]
) -> Target:
    """Return the target of a `[composites]` table; `aliases` are other names of its parts.

    Raises:
        SettingsError: A part isn't served, or isn't what the table says of it.
    """
    _check_rule(f"composites.{name}", table)
    parts = tuple(
        _part(f"composites.{name}.parts.{label}", label, part, targets, aliases)
        for label, part in table.parts.items()
    )
    if table.gate is not None and table.gate.part not in table.parts:
        raise SettingsError(
            f"composites.{name}.gate: '{table.gate.part}' isn't one of its parts "
            f"({', '.join(table.parts)})"
        )
    named = dict.fromkeys(model for part in parts for model in part.models)
    every = {model.name: model for target in targets.values() for model in target.members}
    members = tuple(every[model] for model in named)
    return Target(
        name,
        cards.Card(),
        members,
        "composite",
        _combined_revision(members, _said(parts, table, targets)),
        parts=parts,
        gate=table.gate,
        rule=table.rule,
    )


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


def _said(
    parts: Sequence[CompositePart], table: Composite, targets: Mapping[str, Target]
) -> dict[str, object]:
    """Return all that decides a composite's scores beside its members, for its revision."""
    rule = {"rule": table.rule, "order": [(part.name, part.tolerance) for part in parts]}
    return {
        **(rule if table.rule != "weighted" else {}),
        "gate": table.gate.model_dump() if table.gate else None,
        "parts": {
            part.name: (targets[part.target].revision, part.attribute, part.weight, *part.moments)
            for part in parts
        },
    }


def _part(
    where: str,
    label: str,
    part: PartSetting,
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
    return CompositePart(
        name=label,
        target=target.name,
        of=target,
        attribute=part.attribute,
        weight=part.weight,
        mean=moments.mean if moments else 0.0,
        std=moments.std if moments else 1.0,
        tolerance=part.tolerance or 0.0,
    )


def _combined_revision(members: Iterable[Model], said: object = None) -> str:
    return repository.combined_revision((model.revision for model in members), said)


def _add(targets: dict[str, Target], target: Target) -> None:
    if target.name in targets:
        raise SettingsError(f"two served models are named '{target.name}'; give one another name")
    targets[target.name] = target
