"""What a request asks beside its items, refused where its target can't give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import wire
from assay.errors import InvalidField, shown
from assay.reward.ensemble import DEFAULT_PENALTY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.scoring.targets import Target


def check(target: Target, options: wire.Options) -> None:
    """Refuse a request whose options mean nothing to the target.

    Raises:
        InvalidField: One does; the message says what it is for.
    """
    if target.only_compares:
        _check_comparing(target, options)
        return
    _check_penalty(target, options)
    _check_steps(target, options)
    _check_attributes(target, options)
    _check_included(target, options)
    if options.normalize and target.card.statistics is None:
        raise InvalidField(
            f"'{target.name}' has no stored mean and std; leave 'normalize' out, or add "
            "[statistics] to its card",
            param="normalize",
        )
    _check_rule(target, options)


def for_target(
    target: Target, request: wire.ScoreRequest, entry: wire.NamedTarget | None = None
) -> wire.ScoreRequest:
    """Return a request's options for one of several targets: those that it understands."""
    own: dict[str, object] = {"include": [name for name in request.include if _gives(target, name)]}
    if not target.scores_steps:
        own["threshold"] = None
    if not _reads_steps(target):
        own["aggregate"] = None
    if not _has_members(target):
        own |= {"rule": None, "penalty": None}
    if entry is not None:
        own["attributes"] = entry.attributes
        if entry.normalize is not None:
            own["normalize"] = entry.normalize
    return request.model_copy(update=own)


def _has_members(target: Target) -> bool:
    """Whether a rule may be over something of a target: members, or a spread of its own."""
    return target.is_ensemble or target.has_spread


def check_each(targets: Sequence[Target], request: wire.ScoreRequest) -> None:
    """Refuse what none of several targets understands.

    Raises:
        InvalidField: One doesn't; the message names it.
    """
    unknown = {
        "threshold": request.threshold is not None
        and not any(target.scores_steps for target in targets),
        "aggregate": request.aggregate is not None and not any(map(_reads_steps, targets)),
    }
    if name := next((name for name, is_unknown in unknown.items() if is_unknown), None):
        raise InvalidField(f"no target scores steps; leave '{name}' out", param=name)
    for name in ("rule", "penalty"):
        if getattr(request, name) is not None and not any(map(_has_members, targets)):
            raise InvalidField(
                f"no target is an ensemble or says how sure it is; leave '{name}' out", param=name
            )
    for name in request.include:
        if not any(_gives(target, name) for target in targets):
            raise InvalidField(
                f"no target has {name}; leave '{name}' out of 'include'", param="include"
            )


def _check_comparing(target: Target, options: wire.Options) -> None:
    """Refuse whatever is about scores: the target gives probabilities of winning, or an order."""
    orders = target.orders
    if isinstance(options, wire.ScoreRequest):
        named = ", or /score with its parts' targets as 'targets'" if orders else ""
        raise InvalidField(
            f"'{target.name}' compares responses and has no score for one alone; use /compare or "
            f"/best-of-n{named}",
            param="model",
        )
    requested = {
        "normalize": options.normalize,
        "activation": options.activation != "none",
        "aggregate": options.aggregate is not None and not orders,
        "threshold": options.threshold is not None,
        "attributes": options.attributes is not None,
        "include": bool(options.include) and not orders,
        "penalty": options.penalty is not None,
        "rule": options.rule not in (None, "mean") and orders,
        "temperature": isinstance(options, wire.CompareRequest)
        and options.temperature not in (None, 1.0),
    }
    if name := next((name for name, is_asked in requested.items() if is_asked), None):
        raise InvalidField(
            f"'{target.name}' gives {'an order' if orders else 'probabilities of winning'}, not "
            f"scores; leave '{name}' out",
            param=name,
        )
    if orders:  # it has parts
        _check_steps(target, options)
        _check_included(target, options)
    elif options.rule not in (None, "mean"):
        raise InvalidField(
            f"'{target.name}' compares, and responses are ranked by their mean probability of "
            "winning; use rule 'mean'",
            param="rule",
        )


def _check_steps(target: Target, options: wire.Options) -> None:
    """A composite has steps' scores in its parts, but no first error of its own.

    What a part's calibration is of are steps' scores as its card aggregates them.
    """
    scores_steps = target.scores_steps
    if options.threshold is not None and not scores_steps:
        raise InvalidField(
            f"'{target.name}' scores no steps; leave 'threshold' out", param="threshold"
        )
    if options.aggregate is not None and not _reads_steps(target):
        raise InvalidField(
            f"'{target.name}' scores no steps; leave 'aggregate' out", param="aggregate"
        )
    by_calibration = (part for part in target.parts if part.calibration and part.of.scores_steps)
    if options.aggregate is not None and (part := next(by_calibration, None)):
        raise InvalidField(
            f"'{target.name}' is by the calibration of '{part.target}', which is of its own "
            "aggregate; leave 'aggregate' out",
            param="aggregate",
        )


def _check_attributes(target: Target, options: wire.Options) -> None:
    if options.attributes is None:
        return
    named = target.attributes
    if unknown := [name for name in options.attributes if name not in named]:
        has = ", ".join(named) or "none"
        raise InvalidField(
            f"'{target.name}' has no attribute '{shown(unknown[0])}'; it has {has}",
            param="attributes",
        )
    if options.normalize:
        raise InvalidField(
            "the stored mean and std are those of the model's own score, not of a sum by "
            "'attributes'; send one of the two",
            param="normalize",
        )


def _check_included(target: Target, options: wire.Options) -> None:
    """Refuse to include what the target doesn't give."""
    for name in options.include:
        if not _gives(target, name):
            raise InvalidField(
                f"'{target.name}' has no {name}; leave '{name}' out of 'include'",
                param="include",
            )


def _check_penalty(target: Target, options: wire.Options) -> None:
    rule = options.rule or target.combination.rule
    if options.penalty is not None and options.rule is None and not _has_members(target):
        raise InvalidField(
            f"'{target.name}' gives one reward, and a penalty is on a spread over members; leave "
            "'penalty' out, or serve an ensemble",
            param="penalty",
        )
    if options.penalty is not None and rule not in DEFAULT_PENALTY:
        rules = " and ".join(f"'{rule}'" for rule in DEFAULT_PENALTY)
        raise InvalidField(
            f"rule '{rule}' has no penalty, {rules} have; leave 'penalty' out",
            param="penalty",
        )


def _check_rule(target: Target, options: wire.Options) -> None:
    """Refuse what is over an ensemble's members: of one model all rules are its score.

    One that says itself how sure it is has the rules over a spread.
    """
    rule = options.rule
    if rule == "vote" and not isinstance(options, wire.BestOfNRequest):
        raise InvalidField(
            "rule 'vote' is among several responses; use it with /best-of-n, or another rule here",
            param="rule",
        )
    is_over_spread = target.has_spread and rule in DEFAULT_PENALTY
    if rule not in (None, "mean") and not (target.is_ensemble or is_over_spread):
        raise InvalidField(
            f"rule '{rule}' is over an ensemble's members and '{target.name}' gives one "
            "reward; use 'mean', or serve an ensemble",
            param="rule",
        )


def _gives(target: Target, included: str) -> bool:
    """Whether a target has what `include` names; all have members, if only themselves."""
    gives = {"attributes": bool(target.attributes), "steps": target.scores_steps}
    return gives.get(included, True)


def _reads_steps(target: Target) -> bool:
    """Whether it scores steps, if only in the parts of a composite."""
    return target.scores_steps or any(model.checkpoint.card.is_by_step for model in target.members)
