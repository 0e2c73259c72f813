"""From measured pairs to a calibration and its report: fitted on one part, held against the other.

Of the ways from a margin to a probability the one with the lowest NLL in cross-validation is kept,
which sees the fitted part alone: what is reported of the other part is of a method that was chosen
without it. All is fitted twice: to raw scores, and to controlled ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from assay.calibration import fit, pairs, report, thurstone
from assay.cards import calibration as cards
from assay.errors import InvalidField
from assay.reward.covariates import COVARIATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.bulk import Target
    from assay.calibration.measured import Labelled, Measured, Pairs
    from assay.calibration.pairs import Example
    from assay.reward.covariates import Covariate

PartT = TypeVar("PartT", "Pairs", "Labelled")
Report = dict[str, Any]
_NO_ID = "0" * 12


@dataclass(frozen=True, slots=True)
class Options:
    """How to divide, and what to fit."""

    seed: int = 0
    error_rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    covariate: Covariate = "characters"


class _Sides(NamedTuple, Generic[PartT]):
    """What is fitted on, and what is held out."""

    fitted_on: PartT
    held_out: PartT


def check(examples: Sequence[Example], options: Options) -> None:
    """Refuse what is too little to be divided and fitted to, before anything is scored.

    Raises:
        InvalidField: A side of the split is empty, or has labels of one kind alone; or there are
            too few pairs, labels or prompts.
    """
    scored = [example for example in examples if example.kind == "score"]
    compared = [example.group for example in examples if example.kind == "chosen"]
    compared += [scored[better].group for better, _ in pairs.scored_pairs(scored)]
    labelled = [example for example in examples if example.kind == "label"]
    if scored or compared:
        pairs.check_count(len(compared), "pairs")
        _held_out(compared, None, options)
    if labelled:
        pairs.check_count(len(labelled), "labelled responses")
        labels = [example.value for example in labelled]
        _held_out([example.group for example in labelled], labels, options)


def calibrate(
    found: Measured, target: Target, source: str, options: Options
) -> tuple[cards.Calibration, Report]:
    """Return what is fitted for a target, and the whole report, which is plain JSON.

    Raises:
        InvalidField: A side of the split is empty, or has labels of one kind alone.
    """
    pair_sides = _split(found.pairs, None, options)
    label_sides = _split(found.labelled, found.labelled.labels.tolist(), options)
    fitted, said = _fitted(pair_sides, label_sides, options)
    length = fit.length(*_responses(pair_sides[0], label_sides[0]), options.covariate)
    controlled_pairs = _Sides(*(side.shifted(length.offset) for side in pair_sides))
    controlled_labels = _Sides(*(side.shifted(length.offset) for side in label_sides))
    controlled, controlled_said = _fitted(controlled_pairs, controlled_labels, options)
    figures = _length(pair_sides[1], controlled_pairs[1], label_sides[1], length, options.seed)
    counts = cards.Counts(
        prompts=len({*found.pairs.groups, *found.labelled.groups}),
        pairs_fitted=len(pair_sides[0].groups),
        pairs_held_out=len(pair_sides[1].groups),
        labels_fitted=len(label_sides[0].groups),
        labels_held_out=len(label_sides[1].groups),
        failed=sum(found.failed.values()),
    )
    calibration = cards.Calibration(
        id=_NO_ID,
        target=target.model,
        revision=target.revision,
        created=datetime.now(UTC).replace(microsecond=0),
        source=source,
        seed=options.seed,
        counts=counts,
        length=length.model_copy(update={**controlled, **figures}),
        moments=_moments(pair_sides[0], label_sides[0]),
        **fitted,
    ).identified()
    return calibration, {
        "id": calibration.id,
        "target": target.model,
        "revision": target.revision,
        "counts": counts.model_dump(),
        "errors": found.failed,
        **said,
        "length": {"covariate": options.covariate, **figures, **controlled_said},
    }


def _split(found: PartT, labels: Sequence[float] | None, options: Options) -> _Sides[PartT]:
    """Return what is fitted on, and what is held out; raises as `_held_out`."""
    held_out = _held_out(found.groups, labels, options) if found.groups else []
    return _Sides(found.of([not is_out for is_out in held_out]), found.of(held_out))


def _held_out(
    groups: Sequence[str], labels: Sequence[float] | None, options: Options
) -> list[bool]:
    """Return what is held out, by the groups of pairs or of labelled responses.

    Raises:
        InvalidField: One side is empty, all of its labels are alike, or what is fitted on is too
            little: of one prompt, or of fewer pairs than an error rate needs.
    """
    what = "pairs" if labels is None else "labelled responses"
    held_out = [pairs.is_held_out(group, options.seed) for group in groups]
    for is_out, name in ((False, "fitted on"), (True, "held out")):
        places = [place for place, side in enumerate(held_out) if side is is_out]
        if not places:
            raise InvalidField(
                f"no {what} would be {name}: all are of {len(set(groups))} prompt(s); give "
                "more prompts, or another --seed"
            )
        if labels is not None and len({labels[place] for place in places}) < 2:
            raise InvalidField(
                f"all {what} that would be {name} have the label {labels[places[0]]:g}; give both, "
                "or another --seed"
            )
    if labels is None:
        fitted_on = [group for group, is_out in zip(groups, held_out, strict=True) if not is_out]
        if len(set(fitted_on)) < 2:
            raise InvalidField(
                "all pairs that would be fitted on are of one prompt, and a method is chosen by "
                "leaving prompts out; give more prompts, or another --seed"
            )
        fit.check_rates(len(fitted_on), options.error_rates)
    return held_out


def _responses(fit_pairs: Pairs, fit_labelled: Labelled) -> tuple[list[str], np.ndarray]:
    """Return the texts and scores of all responses of a part."""
    texts, scores = fit_pairs.responses()
    return [*texts, *fit_labelled.texts], np.concatenate([scores, fit_labelled.scores])


def _moments(fit_pairs: Pairs, fit_labelled: Labelled) -> cards.Baseline:
    _, scores = _responses(fit_pairs, fit_labelled)
    good = fit_pairs.scores[np.array(fit_pairs.references, dtype=bool).reshape(-1, 2)].tolist()
    good = good or [*fit_pairs.scores[:, 0], *fit_labelled.scores[fit_labelled.labels == 1]]
    margins = fit_pairs.margins
    has_pairs = len(margins) > 0
    return cards.Baseline(
        mean=fit.rounded(scores.mean()),
        std=fit.rounded(scores.std()),
        reference_mean=fit.rounded(np.mean(good)) if good else None,
        margin_absolute=fit.rounded(np.abs(margins).mean()) if has_pairs else None,
        margin_squared=fit.rounded((margins**2).mean()) if has_pairs else None,
    )


def _fitted(
    pair_sides: _Sides[Pairs], label_sides: _Sides[Labelled], options: Options
) -> tuple[dict[str, Any], Report]:
    """Return the tables that are fitted to one kind of score, and what they do."""
    tables: dict[str, Any] = {}
    said: Report = {}
    if pair_sides[0].groups:
        tables["preference"], said["preference"] = _preference(*pair_sides, options.seed)
        tables["abstention"] = _abstention(*pair_sides, options.error_rates)
        if found := thurstone.absolute(*pair_sides, options.seed):
            tables["absolute"], said["absolute"] = found
        said["abstention"] = tables["abstention"].model_dump()["thresholds"]
        said["uncertainty"] = _uncertainty(pair_sides[1], options.seed)
    if label_sides[0].groups:
        tables["acceptable"], said["acceptable"] = _acceptable(*label_sides, options.seed)
    return tables, said


def _preference(fitted_on: Pairs, held_out: Pairs, seed: int) -> tuple[cards.Preference, Report]:
    """Return the method with the lowest NLL in cross-validation; of several the first."""
    methods = _cross_validated(fitted_on, seed)
    best = fit.METHODS[min(methods, key=methods.__getitem__)](fitted_on.margins)
    plain, probabilities = _plain(held_out), _probabilities(best, held_out)
    draws = report.Resampled(held_out.groups, seed)
    sides = [_confident(each, held_out.margins) for each in (plain, probabilities)]
    table, said = _reported(sides, draws, methods)
    return best.model_copy(update={"report": table}), {"method": best.method, **said}


def _cross_validated(fitted_on: Pairs, seed: int) -> dict[str, float]:
    """Return each method's NLL of pairs whose prompts it wasn't fitted to."""
    folds = pairs.folds(fitted_on.groups, seed)
    losses = dict.fromkeys(fit.METHODS, 0.0)
    for number in set(folds):
        rest = fitted_on.of([fold != number for fold in folds])
        part = fitted_on.of([fold == number for fold in folds])
        for name, method in fit.METHODS.items():
            probabilities = _probabilities(method(rest.margins), part)
            losses[name] += report.nll(*_confident(probabilities, part.margins)).sum()
    return {name: fit.rounded(loss / len(folds)) for name, loss in losses.items()}


def _reported(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    draws: report.Resampled,
    methods: dict[str, float] | None = None,
) -> tuple[cards.Report, Report]:
    """Return the report on (probabilities, outcomes) without a calibration and with it."""
    before, after = (report.figures(*side, draws) for side in sides)
    table = cards.Report(
        held_out=len(sides[0][0]),
        prompts=draws.prompts,
        before=before[0],
        after=after[0],
        change=report.compared(before, after),
        methods=methods or {},
    )
    return table, {
        **table.model_dump(),
        "helps": table.helps,
        "sharpness": [report.sharpness(probabilities) for probabilities, _ in sides],
        "reliability": [report.reliability(*side) for side in sides],
    }


def _plain(compared: Pairs) -> np.ndarray:
    """Return P(chosen ≻ rejected) as it is without a calibration: Bradley-Terry's mean."""
    return np.asarray(_sigmoid(compared.by_member).mean(axis=1))


def _probabilities(fitted: cards.Preference, compared: Pairs) -> np.ndarray:
    """Return P(chosen ≻ rejected) as it is with one."""
    if isinstance(fitted, cards.Plain):
        return _plain(compared)
    return np.array([fitted.probability(margin) for margin in compared.margins])


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -scores)))


def _confident(probabilities: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how probable the likelier order is, and whether it is right: 0.5 for a tie.

    Of two that are equally probable the margin says which is meant.
    """
    sides = np.where(probabilities == 0.5, margins, probabilities - 0.5)
    return np.maximum(probabilities, 1 - probabilities), (np.sign(sides) + 1) / 2


def _abstention(
    fitted_on: Pairs, held_out: Pairs, error_rates: Sequence[float]
) -> cards.Abstention:
    found = fit.abstention(fitted_on.margins, error_rates)
    return cards.Abstention(
        thresholds=[report.covered(one, held_out.margins) for one in found.thresholds]
    )


def _uncertainty(held_out: Pairs, seed: int) -> Report:
    """Return what a small margin, and members who differ, say of being wrong."""
    margins, groups = held_out.margins, held_out.groups
    sizes, right = np.abs(margins), (np.sign(margins) + 1) / 2
    said: Report = {
        "accuracy": report.accuracy(right, groups, seed),
        "by_margin": report.by_size(sizes, right, groups, seed),
        "auroc": {"margin": report.auroc(-sizes, right, groups, seed)},
        "risk_coverage": report.risk_coverage(sizes, right),
    }
    if held_out.rewards.shape[2] < 2:
        return said
    stds = held_out.by_member.std(axis=1)
    ratio = sizes / np.maximum(stds, 1e-12)
    sides = np.sign(held_out.by_member) == np.sign(margins)[:, None]
    agreement = sides.mean(axis=1)
    said["by_margin_over_std"] = report.by_bins(ratio, right, groups, seed)
    said["by_agreement"] = report.by_value(agreement, right, groups, seed)
    said["auroc"]["std_over_margin"] = report.auroc(-ratio, right, groups, seed)
    said["auroc"]["disagreement"] = report.auroc(-agreement, right, groups, seed)
    said["auroc"]["std"] = report.auroc(stds, right, groups, seed)
    return said


def _acceptable(
    fitted_on: Labelled, held_out: Labelled, seed: int
) -> tuple[cards.Acceptable, Report]:
    table = fit.acceptable(fitted_on.scores, fitted_on.labels)
    plain = _sigmoid(held_out.scores)
    probabilities = np.array([table.probability(score) for score in held_out.scores])
    draws = report.Resampled(held_out.groups, seed)
    sides = [(each, held_out.labels) for each in (plain, probabilities)]
    reported, said = _reported(sides, draws)
    return table.model_copy(update={"report": reported}), said


def _length(
    held_out: Pairs,
    controlled: Pairs,
    labelled: Labelled,
    length: cards.LengthControl,
    seed: int,
) -> dict[str, Any]:
    """Return what length control changes, on held-out responses: before, after."""
    measure = COVARIATES[length.covariate]
    texts, scores = _responses(held_out, labelled)
    values = np.array([measure(text) for text in texts])
    shifted = scores + np.array([length.offset(text) for text in texts])
    groups = [*(group for group in held_out.groups for _ in range(2)), *labelled.groups]
    draws = report.Resampled(groups, seed)
    correlations = [report.resampled_spearman(values, each, draws) for each in (scores, shifted)]
    said: dict[str, Any] = {"spearman": tuple(one.value for one in correlations)}
    if held_out.groups:
        differences = np.array([measure(a) - measure(b) for a, b in held_out.texts])
        both = held_out.margins, controlled.margins
        rights = [(np.sign(margins) + 1) / 2 for margins in both]
        said["longer_wins"] = tuple(report.higher_wins(differences, margins) for margins in both)
        said["accuracy"] = tuple(float(right.mean()) for right in rights)
        said["balanced"] = tuple(report.balanced(differences, right) for right in rights)
    rounded = {name: tuple(map(fit.rounded, both)) for name, both in said.items()}
    return {**rounded, "spearman_intervals": tuple(one.interval for one in correlations)}
