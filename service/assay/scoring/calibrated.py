"""What a request uses of its target's calibration, refused where that doesn't have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay import wire
from assay.errors import InvalidField
from assay.items import Conversation, Solution, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.cards.calibration import Absolute, Acceptable, Calibration, Fitted, LengthControl
    from assay.items import Source
    from assay.scoring.targets import Target

_FIT = "run `assay calibrate`, or leave it out"
_OTHER_SCORES = ("normalize", "aggregate", "attributes")  # that the calibration wasn't fitted to


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The parts of a calibration that one request uses; `id` is None where it uses none.

    `probability` is of a margin of the target's scores; `threshold` is the |margin| up to which a
    comparison is undecided.
    """

    id: str | None = None
    length: LengthControl | None = None
    probability: Callable[[float], float] | None = None
    acceptable: Acceptable | None = None
    absolute: Absolute | None = None
    threshold: float | None = None


def of(target: Target, options: wire.Options) -> Calibrated:
    """Return what a request uses.

    A calibration is of the target's own raw score: a request for another one uses none.

    Raises:
        InvalidField: It asks for what wasn't fitted.
    """
    asked = _asked(options)
    other = _other(target, options)
    if asked and other:
        raise InvalidField(
            f"'{asked}' is fitted to the target's own raw score; leave '{other}' out", param=other
        )
    calibration = None if other else target.calibration
    if calibration is None:
        if asked:
            raise InvalidField(f"'{target.name}' has no calibration; {_FIT}", param=asked)
        return Calibrated()
    fitted = calibration.fitted(length_control=options.length_control)
    if fitted is None:
        raise InvalidField(
            f"'{target.name}' has a calibration without length control; {_FIT}",
            param="length_control",
        )
    by_temperature = isinstance(options, wire.CompareRequest) and options.temperature is not None
    preference = None if by_temperature or keeps_plain(fitted) else fitted.preference
    compares = isinstance(options, wire.CompareRequest) and preference is not None
    return Calibrated(
        id=calibration.id if asked or compares else None,
        length=calibration.length if options.length_control else None,
        probability=preference.probability if preference else None,
        **_of_one_response(target, options, fitted),
        threshold=_threshold(target, options, fitted),
    )


def _other(target: Target, options: wire.Options) -> str | None:
    """Return the option that asks for another score than the target's own, if one is given."""
    own = target.combination
    if options.rule not in (None, own.rule):
        return "rule"
    if options.penalty not in (None, own.weight):
        return "penalty"
    return next((name for name in _OTHER_SCORES if getattr(options, name)), None)


def response_of(source: Source) -> str:
    """Return the text of an item's response; wire refuses forms that don't tell it apart."""
    match source:
        case Conversation():
            return said(source.messages[-1])
        case Solution():
            return "\n".join(source.steps)
        case _:
            raise TypeError("an item without a response of its own")


def _asked(options: wire.Options) -> str | None:
    """Return the option that needs a calibration, if one is given."""
    if getattr(options, "abstain_at", None) is not None:
        return "abstain_at"
    if getattr(options, "calibrated", False):
        return "calibrated"
    return "length_control" if options.length_control else None


def _of_one_response(target: Target, options: wire.Options, fitted: Fitted) -> dict[str, Any]:
    """Return what `calibrated` answers of each response, by field: what was fitted of the two."""
    if not (isinstance(options, wire.ScoreRequest) and options.calibrated):
        return {}
    if fitted.acceptable is None and fitted.absolute is None:
        raise InvalidField(
            f"'{target.name}' has a calibration of no labels, which 'calibrated' needs, and of no "
            "several responses to a prompt; give `assay calibrate` items with a 'label', or leave "
            "it out",
            param="calibrated",
        )
    return {"acceptable": fitted.acceptable, "absolute": fitted.absolute}


def _threshold(target: Target, options: wire.Options, fitted: Fitted) -> float | None:
    rate: float | None = getattr(options, "abstain_at", None)
    if rate is None:
        return None
    abstention = fitted.abstention
    if abstention is None:
        raise InvalidField(
            f"'{target.name}' has a calibration of no pairs, which 'abstain_at' needs; {_FIT}",
            param="abstain_at",
        )
    threshold = abstention.margin(rate)
    if threshold is None:
        rates = ", ".join(f"{one.error_rate!r}" for one in abstention.thresholds)
        raise InvalidField(
            f"'{target.name}' isn't fitted for the error rate {rate!r}; send one of {rates}",
            param="abstain_at",
        )
    return threshold


def keeps_plain(fitted: Fitted) -> bool:
    """Return whether probabilities of preference are what they are without a calibration."""
    return fitted.preference is not None and fitted.preference.method == "none"


def error_rates(calibration: Calibration) -> list[float]:
    """Return the error rates for which comparisons may be undecided."""
    abstention = calibration.abstention
    return [one.error_rate for one in abstention.thresholds] if abstention else []
