"""The schema of `card.toml`: what a model or ensemble is, what it was measured to do.

Not here: finding the card (`repository`), and reading a checkpoint without one.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "card.toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Moments(_Table):
    """Mean and standard deviation of the raw reward over a fixed reference set."""

    mean: float
    std: float = Field(gt=1e-8)


class Statistics(Moments):
    """Moments of the target, and of each member of an ensemble."""

    members: dict[str, Moments] = {}


class Ensemble(_Table):
    """Members combined into one reward, by the folder names beside the card."""

    members: list[str] = Field(min_length=2)


class Limits(_Table):
    """What the model may be asked."""

    max_tokens: int | None = Field(default=None, gt=0)
    truncation: Literal["prompt_start", "response_end"] = "prompt_start"


class Data(_Table):
    """One source of training pairs."""

    name: str
    source: str
    license: str
    pairs: int


class Evaluation(_Table):
    """One measured accuracy, with the baselines it must be read beside."""

    name: str
    pairs: int
    accuracy: float
    interval: tuple[float, float]
    longer_wins: float | None = None
    bag_of_words: float | None = None
    members: dict[str, float] = {}


class Agreement(_Table):
    """Accuracy over the pairs on which a share of the members agrees."""

    agreement: float
    pairs: int
    accuracy: float
    interval: tuple[float, float]


class Length(_Table):
    """How the score moves with the response's length."""

    spearman: float


class Card(_Table):
    """A model's or an ensemble's card; every field is optional but what it states must be right."""

    summary: str | None = None
    license: str | None = None
    languages: list[str] = []
    intended_use: str | None = None
    limitations: str | None = None
    ensemble: Ensemble | None = None
    limits: Limits = Limits()
    statistics: Statistics | None = None
    data: list[Data] = []
    evaluation: list[Evaluation] = []
    agreement: list[Agreement] = []
    length: Length | None = None


def read(folder: Path) -> Card:
    """Return the card in a folder, or an empty one where there is none.

    Raises:
        CheckpointError: The file isn't TOML, or a field is wrong; its path is named.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Card()
    try:
        return Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {where}: {first['msg']}") from error
