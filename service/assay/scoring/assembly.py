"""From settings and what their models were resolved to, to all that is served."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from assay.cards import calibration, paths, repository
from assay.cards import card as cards
from assay.errors import CheckpointError, SettingsError, shown
from assay.scoring import combination, composites
from assay.scoring.targets import Target, Targets
from assay.settings import Ensemble

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from assay.cards import uncertainty
    from assay.cards.calibration import Calibration
    from assay.prompts.models import Model, Resolved
    from assay.settings import Composite, Settings

logger = logging.getLogger("assay.targets")
start_logger = logging.getLogger("assay.start")


def assemble(
    settings: Settings, resolved: Iterable[Resolved], *, is_calibrated: bool = True
) -> Targets:
    """Return what the settings name, of what their models were resolved to, in that order.

    Without `is_calibrated` no target has its calibration, for another is to be fitted; those that a
    composite's gate or tolerances are by remain.

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
    named = set(targets) | settings.composites.keys()
    fitted_to = named
    if not is_calibrated:
        tables = settings.composites.values()
        fitted_to = set().union(*(composites.calibrated(table, all_aliases) for table in tables))
    calibrations |= _overlays(settings, named, fitted_to, all_aliases)
    fitted = {name: table for name, table in calibrations.items() if table and name in fitted_to}
    _calibrate(targets, fitted)
    for target in [
        _composite(*composite, targets, all_aliases) for composite in settings.composites.items()
    ]:
        _add(targets, target)
    _check_aliases(aliases, targets)
    _check_remotes(settings, targets)
    _calibrate(targets, {name: fitted[name] for name in settings.composites if name in fitted})
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


def _calibrate(targets: dict[str, Target], fitted: Mapping[str, Calibration]) -> None:
    """Give targets what was fitted for them, if it was for their revisions."""
    for name in targets.keys() & fitted.keys():
        if targets[name].only_compares:
            raise SettingsError(
                f"'{name}' gives probabilities of winning and takes no calibration; take it away"
            )
        fitted[name].check(name, targets[name].revision)
        targets[name] = replace(targets[name], calibration=fitted[name])


def _overlays(
    settings: Settings,
    named: Collection[str],
    fitted_to: Collection[str],
    aliases: Mapping[str, str],
) -> dict[str, Calibration | None]:
    """Return the calibrations that the settings name, by target, of those that are wanted."""
    overlays: dict[str, Calibration | None] = {}
    for given, path in settings.calibrations.items():
        name = aliases.get(given, given)
        if name not in named:
            raise SettingsError(
                f"calibrations.{shown(given)}: '{shown(name)}' isn't served; there are "
                f"{', '.join(sorted(named))}"
            )
        if name in fitted_to:
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
        SettingsError: As `composites.parts`.
    """
    parts = composites.parts(name, table, targets, aliases)
    named = dict.fromkeys(model for part in parts for model in part.models)
    every = {model.name: model for target in targets.values() for model in target.members}
    members = tuple(every[model] for model in named)
    return Target(
        name,
        cards.Card(),
        members,
        "composite",
        _combined_revision(members, composites.said(parts, table)),
        parts=parts,
        gate=table.gate,
        rule=table.rule,
    )


def _combined_revision(members: Iterable[Model], said: object = None) -> str:
    return repository.combined_revision((model.revision for model in members), said)


def _add(targets: dict[str, Target], target: Target) -> None:
    if target.name in targets:
        raise SettingsError(f"two served models are named '{target.name}'; give one another name")
    targets[target.name] = target
