"""The schema of `calibration.toml`: what was fitted for a target, and how well it does.

It lies beside the target's card, or where the setting `calibrations` says. It holds for one
revision of the target and isn't part of it. Not here: how it is fitted (`assay.calibration`).
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from assay import toml_file, validation
from assay.errors import CheckpointError
from assay.reward import calibration as link
from assay.reward import transform
from assay.reward.covariates import COVARIATES, Covariate

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "calibration.toml"
_MOST_BYTES = 2**16  # as of a card
_MOST_KNOTS = 256
MOST_RATES = 32  # that comparisons may be undecided at

Zero = Literal["prompt", "reference"]  # the responses to a prompt, or reference answers
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Finite, Finite]


def _rising(knots: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    if any(left[0] >= right[0] for left, right in pairwise(knots)):
        raise ValueError("the knots' first numbers rise")
    return knots


def _monotone(knots: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    for left, right in pairwise(_rising(knots)):
        if any(a > b for a, b in zip(left, right, strict=True)):
            raise ValueError("a probability doesn't fall from one knot to the next")
    return knots


def _ordered(knots: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    if any(low > high for _, low, high in knots):
        raise ValueError("an interval's lower end is first")
    return knots


class FittedTable(BaseModel):
    """Base of its tables, which a program writes: what isn't known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(FittedTable):
    """A number over held-out prompts, and its 95 % interval by bootstrap over prompts."""

    value: Finite
    interval: Interval


class Figures(FittedTable):
    """How good probabilities are: lower is better."""

    nll: Figure
    brier: Figure
    ece: Figure


class Report(FittedTable):
    """A calibration on the held-out part: without it, with it, and what it changes."""

    held_out: int
    prompts: int
    before: Figures | None = None
    after: Figures
    change: Figures | None = Field(default=None, description="After less before, paired.")
    methods: dict[str, Finite] = Field(
        default={}, description="NLL of each method, cross-validated in the part fitted on."
    )

    @property
    def helps(self) -> bool:
        """Whether it lowers the NLL by more than the interval of the change."""
        return self.change is not None and self.change.nll.interval[1] < 0


class Plain(FittedTable):
    """No method had a lower log loss than what there is without: probabilities stay as they are.

    Those of an ensemble are its members' averaged, and no function of one margin.
    """

    method: Literal["none"] = "none"
    report: Report | None = None

    def probability(self, margin: float) -> float:
        """Return P(a ≻ b) for r_a − r_b of one model: Bradley-Terry's."""
        return link.symmetric(margin, transform.sigmoid)


class Temperature(FittedTable):
    """P(a ≻ b) = σ(margin / temperature)."""

    method: Literal["temperature"] = "temperature"
    temperature: Positive
    report: Report | None = None

    def probability(self, margin: float) -> float:
        """Return P(a ≻ b) for r_a − r_b, of the target's scores."""
        return link.symmetric(margin, lambda size: transform.sigmoid(size / self.temperature))


class Platt(FittedTable):
    """σ(slope · |margin| + intercept) that the higher reward is right."""

    method: Literal["platt"] = "platt"
    slope: NotNegative
    intercept: NotNegative
    report: Report | None = None

    def probability(self, margin: float) -> float:
        """Return P(a ≻ b) for r_a − r_b, of the target's scores."""
        return link.symmetric(
            margin, lambda size: transform.sigmoid(self.slope * size + self.intercept)
        )


class Isotonic(FittedTable):
    """Straight lines between (|margin|, probability that the higher reward is right)."""

    method: Literal["isotonic"] = "isotonic"
    knots: Annotated[
        list[tuple[NotNegative, Annotated[float, Field(ge=0.5, le=1)]]],
        Field(min_length=1, max_length=_MOST_KNOTS),
        AfterValidator(_monotone),
    ]
    report: Report | None = None

    def probability(self, margin: float) -> float:
        """Return P(a ≻ b) for r_a − r_b, of the target's scores."""
        return link.symmetric(margin, lambda size: link.interpolate(self.knots, size))


Preference = Annotated[Plain | Temperature | Platt | Isotonic, Field(discriminator="method")]


class Acceptable(FittedTable):
    """The probability that a response is acceptable, by its score: Venn-Abers.

    A knot is a score, and the isotonic probability there if the response is labelled 0, and 1.
    """

    knots: Annotated[
        list[tuple[Finite, Share, Share]],
        Field(min_length=2, max_length=_MOST_KNOTS),
        AfterValidator(_monotone),
        AfterValidator(_ordered),
    ]
    report: Report | None = None

    def interval(self, score: float) -> Interval:
        """Return both probabilities for a score: the lower and the upper one."""
        return link.interpolate(self.knots, score, 1), link.interpolate(self.knots, score, 2)

    def probability(self, score: float) -> float:
        """Return one probability for a score."""
        return link.merged(*self.interval(score))


class Absolute(FittedTable):
    """A reward on one scale for all prompts: slope · score + intercept, fitted to Thurstone's e.

    P(a ≻ b) = ½ (1 + erf(e_a − e_b)) of two responses to one prompt (zELO 2509.12541). 0 is the
    mean response to a prompt that was fitted on, or the mean reference answer. `constant` to
    `spearman` are of held-out responses: the error of the mean target and of this reward, and the
    rank correlation of scores and targets over all prompts.
    """

    slope: NotNegative
    intercept: Finite
    zero: Zero = "prompt"
    fitted: int
    held_out: int
    prompts: int
    constant: Figure
    rmse: Figure
    spearman: Figure

    def reward(self, score: float) -> float:
        """Return the reward for a score."""
        return self.slope * score + self.intercept


class Threshold(FittedTable):
    """Where to abstain so that at most a share of all comparisons is decided wrongly.

    A comparison is undecided where |margin| is at most `margin`. `coverage` to `wrong` are of the
    held-out part: 1 less the share decided wrongly, its binomial interval, the share decided, and
    the share of these that is wrong.
    """

    error_rate: Annotated[float, Field(gt=0, lt=1)]
    margin: NotNegative
    coverage: Share | None = None
    interval: Interval | None = None
    decided: Share | None = None
    wrong: Share | None = None


class Abstention(FittedTable):
    """Split-conformal thresholds by error rate."""

    thresholds: Annotated[list[Threshold], Field(min_length=1, max_length=MOST_RATES)]

    def margin(self, error_rate: float) -> float | None:
        """Return up to which |margin| a comparison is undecided; None for a rate not fitted."""
        return next((one.margin for one in self.thresholds if one.error_rate == error_rate), None)


class Fitted(FittedTable):
    """What was fitted to one kind of score: the raw or the controlled one."""

    preference: Preference | None = None
    acceptable: Acceptable | None = None
    absolute: Absolute | None = None
    abstention: Abstention | None = None


class LengthControl(Fitted):
    """The score expected of a response by its length, or by another covariate: LOWESS.

    The controlled score is the raw one less what is expected, plus `mean`, which keeps the scale.
    What it was on held-out pairs, raw and controlled, stands in `spearman` to `balanced`.
    """

    covariate: Covariate = "characters"
    mean: Finite
    knots: Annotated[
        list[tuple[Finite, Finite]],
        Field(min_length=1, max_length=_MOST_KNOTS),
        AfterValidator(_rising),
    ]
    spearman: tuple[Finite, Finite] | None = None
    spearman_intervals: tuple[Interval, Interval] | None = Field(
        default=None, description="Of 95 %, by bootstrap over prompts."
    )
    longer_wins: tuple[Share, Share] | None = None
    accuracy: tuple[Share, Share] | None = None
    balanced: tuple[Share, Share] | None = Field(
        default=None, description="Accuracy where the longer one is right in half of the pairs."
    )

    def offset(self, text: str) -> float:
        """Return what to add to the raw score of a response."""
        return self.mean - link.interpolate(self.knots, COVARIATES[self.covariate](text))


class Baseline(FittedTable):
    """The raw scores and margins that it was fitted on: what is served is held against them."""

    mean: Finite
    std: NotNegative
    reference_mean: Finite | None = Field(
        default=None,
        description="The mean score of reference answers, or without any of chosen responses: less "
        "it, they average 0.",
    )
    margin_absolute: NotNegative | None = Field(default=None, description="Mean |margin|.")
    margin_squared: NotNegative | None = Field(default=None, description="Mean margin².")


class Counts(FittedTable):
    """What it was fitted on and held out; `failed` items had no score."""

    prompts: int
    pairs_fitted: int = 0
    pairs_held_out: int = 0
    labels_fitted: int = 0
    labels_held_out: int = 0
    failed: int = 0


class Calibration(Fitted):
    """All that was fitted for one revision of a target."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    target: str
    revision: str
    created: AwareDatetime
    source: str = Field(description="The name of the file with the pairs.")
    seed: int = 0
    counts: Counts
    length: LengthControl | None = None
    moments: Baseline | None = None

    def fitted(self, *, length_control: bool) -> Fitted | None:
        """Return what was fitted to raw scores, or to controlled ones."""
        return self.length if length_control else self

    def digest(self) -> str:
        """Return the first 12 hex digits of the SHA-256 of all that it says but its id."""
        said = self.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def identified(self) -> Self:
        """Return it with the id that its content has."""
        return self.model_copy(update={"id": self.digest()})

    def check(self, name: str, revision: str) -> None:
        """Refuse it for a target of another revision.

        Raises:
            CheckpointError: It was fitted on another.
        """
        if self.revision != revision:
            raise CheckpointError(
                f"{name}: its calibration {self.id} was fitted on revision {self.revision}, and "
                f"revision {revision} is to be served; run `assay calibrate` again, or take the "
                "file away"
            )


def read(path: Path) -> Calibration:
    """Return the calibration in a file.

    Raises:
        CheckpointError: It can't be read, isn't TOML, a field is wrong, or it was edited.
    """
    try:
        text = toml_file.content(path, _MOST_BYTES).decode()
        found = Calibration.model_validate(toml_file.parsed(text))
    except OSError as error:
        raise CheckpointError(
            f"the calibration {path} can't be read: {error.strerror or error}"
        ) from error
    except ValidationError as error:
        location, said = validation.first(error, Calibration)
        where = ".".join(map(str, location))
        raise CheckpointError(f"{path}: {where}: {said}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid TOML: {error}") from error
    if found.digest() != found.id:
        raise CheckpointError(
            f"{path}: its id isn't that of its content; take the file away, and run "
            "`assay calibrate` again"
        )
    return found


def beside(folder: Path) -> Calibration | None:
    """Return the calibration in a target's folder, if there is one; raises as `read`."""
    path = folder / FILE_NAME
    return read(path) if path.is_file() else None
