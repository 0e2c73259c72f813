"""What a card says of how sure a score is: by several members, or by a head of its own.

What it means: `reward.ensemble` and `reward.spread`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from assay.cards.mechanism import Beside, Table

RULES_WITH_PENALTY = ("lower_bound", "variance_penalty")


class Ensemble(Table):
    """Members combined into one reward: models beside the card, or numbers of one model's head.

    `folders`: each member is a model, in a folder beside the card. `outputs`: each number of the
    head `reward` is a member, by its name in `score.outputs`; all come of one forward pass.
    """

    of: Literal["folders", "outputs"] = "folders"
    members: list[Beside] = Field(
        default=[],
        validate_default=True,
        description="Of 'folders': their names beside the card, at least 2.",
    )
    rule: Literal["mean", "median", "min", "lower_bound", "variance_penalty"] = Field(
        default="mean", description="How the members' scores become one, unless a request says."
    )
    penalty: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Of 'lower_bound' (default 1) and 'variance_penalty' (default 0.5).",
    )
    standardize: bool = Field(
        default=False,
        description="Members are brought to one scale first: less their mean, divided by their "
        "std, by [statistics.members] or their own [statistics].",
    )

    @field_validator("members")
    @classmethod
    def _are_of_their_kind(cls, members: list[str], info: ValidationInfo) -> list[str]:
        is_of_folders = info.data.get("of") == "folders"
        if is_of_folders and len(members) < 2:
            raise ValueError("name at least 2 folders beside the card, or say of = 'outputs'")
        if members and not is_of_folders:
            raise ValueError("they go with of = 'folders'; outputs are named in [score]")
        return members

    @model_validator(mode="after")
    def _has_a_penalty(self) -> Self:
        if self.penalty is not None and self.rule not in RULES_WITH_PENALTY:
            raise ValueError("'penalty' goes with rule = 'lower_bound' or 'variance_penalty'")
        return self


class Spread(Table):
    """What the head `spread` gives: how sure the model is of each number of the head `reward`.

    `quantiles`: as many quantiles of each, side by side, which rise and fall together. `bins` (a
    distribution over values) and `gaussian`: the standard deviation of each, which vary
    independently. `laplace`: the standard deviation of the number at `score.index`.
    """

    kind: Literal["quantiles", "bins", "gaussian", "laplace"]
