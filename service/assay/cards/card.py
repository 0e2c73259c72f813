"""The schema of `card.toml`: what a model or ensemble is, what it was measured to do.

Not here: how a score is computed (`mechanism`), finding the card (`repository`), and what a
checkpoint without one is taken for (`recognise`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationError, model_validator

from assay import toml_file, validation
from assay.cards.mechanism import (
    Head,
    Policy,
    Preference,
    Read,
    Score,
    Steps,
    Table,
    Template,
    Trunk,
)
from assay.cards.uncertainty import Ensemble, Spread  # noqa: TC001  pydantic reads them
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_NAME = "card.toml"
_MOST_BYTES = 2**16  # what takes tomllib longest takes a second at that size
_NOT_A_POLICYS = ("read", "steps", "preference", "score")
_HEADS = frozenset({"reward", "gate", "spread"})


class Moments(Table):
    """Mean and standard deviation of the raw reward over a fixed reference set."""

    mean: float
    std: float = Field(gt=1e-8)


class Statistics(Moments):
    """Moments of the target, and of each member of an ensemble."""

    members: dict[str, Moments] = Field(default={})


class Limits(Table):
    """What the model may be asked."""

    max_tokens: int | None = Field(default=None, gt=0)
    truncation: Literal["prompt_start", "response_end", "longest_first"] | None = Field(
        default=None,
        description="What is cut of an item over the limit: the prompt's start; the response's "
        "end; or of both, the longer first. Default: of a pair encoder 'longest_first', at the end "
        "that its tokenizer cuts; else 'prompt_start'.",
    )


class Data(Table):
    """One source of training pairs."""

    name: str
    source: str
    license: str
    pairs: int


class Evaluation(Table):
    """One measured accuracy, with the baselines it must be read beside."""

    name: str
    pairs: int
    accuracy: float
    interval: tuple[float, float]
    longer_wins: float | None = None
    bag_of_words: float | None = None
    members: dict[str, float] = Field(default={})


class Agreement(Table):
    """Accuracy over the pairs on which a share of the members agrees."""

    agreement: float
    pairs: int
    accuracy: float
    interval: tuple[float, float]


class Length(Table):
    """How the score moves with the response's length."""

    spearman: float


class Source(Table):
    """Where the weights are: a hub id, and the revision the card was written for."""

    id: str
    revision: str | None = None


class Averaged(Table):
    """One checkpoint of those whose weights were averaged into these."""

    name: str
    revision: str


class Golden(Table):
    """One example whose score is known; `tolerance` is that of the dtype it was published in."""

    prompt: str | None = None
    response: str | None = None
    steps: list[str] | None = None
    text: str | None = None
    score: float
    tolerance: float = Field(gt=0)
    origin: str = Field(description="Who published the number.")


class Card(Table):
    """A model's or an ensemble's card; every field is optional but what it states must be right."""

    family: str | None = Field(default=None, description="Whose recipe the model follows.")
    summary: str | None = None
    source: Source | None = None
    averaged: list[Averaged] = Field(default=[])
    license: str | None = None
    languages: list[str] = Field(default=[])
    intended_use: str | None = None
    limitations: str | None = None
    ensemble: Ensemble | None = None
    trunk: Trunk = Trunk()
    template: Template = Template()
    steps: Steps | None = None
    read: Read | None = None
    heads: dict[str, Head] = Field(default={})
    score: Score = Score()
    spread: Spread | None = None
    preference: Preference | None = None
    policy: Policy | None = None
    limits: Limits = Limits()
    statistics: Statistics | None = None
    data: list[Data] = Field(default=[])
    evaluation: list[Evaluation] = Field(default=[])
    agreement: list[Agreement] = Field(default=[])
    length: Length | None = None
    golden: list[Golden] = Field(default=[])

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.heads.keys() - {"spread"} and not self.has_reward_head:
            raise ValueError("heads: one of them is named 'reward'")
        if len({head.joined for head in self.heads.values()}) > 1:
            raise ValueError("heads: all read equally many places side by side ('joined')")
        if self.score.rule == "gated" and "gate" not in self.heads:
            raise ValueError("score: rule 'gated' needs a head named 'gate'")
        if self.policy is not None and self.heads:
            raise ValueError("policy: its head is the model's own vocabulary; leave 'heads' out")
        preference, pair = self.preference, self.template.pair
        if preference is not None and preference.form == "pair" and pair is None:
            raise ValueError("preference: form 'pair' needs [template.pair]")
        if idle := next(iter(self._idle()), None):
            raise ValueError(idle)
        return self

    @property
    def has_reward_head(self) -> bool:
        """Whether the head is the card's own; else transformers' class or the vocabulary is it."""
        return "reward" in self.heads

    @property
    def folders(self) -> list[str]:
        """The names of the members beside the card, where it is of several models."""
        return self.ensemble.members if self.ensemble else []

    @property
    def is_of_outputs(self) -> bool:
        """Whether the numbers of one head are the members of an ensemble."""
        return self.ensemble is not None and self.ensemble.of == "outputs"

    @property
    def is_by_step(self) -> bool:
        """Whether a model scores each step of a solution."""
        return self.steps is not None and self.read is not None and self.read.is_several

    def _idle(self) -> Iterator[str]:
        """Yield a sentence for each table or field that nothing would read in such a card."""
        if self.policy is not None:
            yield from (
                f"policy: it is read at each token of the response; leave [{name}] out"
                for name in _NOT_A_POLICYS
                if name in self.model_fields_set
            )
        if self.trunk.architecture and not self.has_reward_head and self.policy is None:
            yield "trunk: 'architecture' goes with [heads] or [policy]; else config.json names it"
        yield from (
            f"heads: '{name}' is read by nothing; they are 'reward', 'gate' and 'spread'"
            for name in self.heads.keys() - _HEADS
        )
        is_bilinear = self.preference is not None and self.preference.form == "bilinear"
        if "gate" in self.heads and self.score.rule != "gated" and not is_bilinear:
            yield "heads: 'gate' goes with [score] rule = 'gated', or with a bilinear preference"
        if (
            self.preference is not None
            and (is_bilinear or self.preference.logit)
            and self.score != Score()
        ):
            yield "score: the preference is computed from the heads' numbers; leave [score] out"
        yield from self._misplaced()
        yield from self._unsure()
        if self.is_of_outputs:
            yield from self._of_outputs()

    def _unsure(self) -> Iterator[str]:
        """Yield a sentence for each thing that doesn't go with the head `spread`."""
        if (self.spread is None) != ("spread" not in self.heads):
            yield "spread: [spread] goes with a head named 'spread'"
        if self.spread is None:
            return
        if self.steps is not None or self.preference is not None:
            yield "spread: it is of one score for one response; leave [spread] out"
        if self.score.rule in ("softmax", "sum") or self.score.transform == "sigmoid":
            yield "spread: it is of a weighted sum of numbers, not of a probability or of places"
        if self.spread.kind == "laplace" and self.score.rule != "index":
            yield "spread: kind 'laplace' goes with [score] rule = 'index'"

    def _of_outputs(self) -> Iterator[str]:
        """Yield a sentence for each thing that doesn't go with outputs that are members."""
        names = self.score.outputs
        if len(names) < 2 or len(set(names)) < len(names):
            yield "ensemble: of = 'outputs' needs at least 2 different names in [score] outputs"
        if idle := self.score.says("rule", "index", "weights", "bias"):
            yield f"score: each output is a member by itself; leave '{idle}' out"
        if self.preference is not None or self.policy is not None or self.spread is not None:
            yield "ensemble: outputs are members of one score each, without a [spread] of their own"
        if self.steps is not None and self.ensemble is not None and self.ensemble.standardize:
            yield "ensemble: 'standardize' isn't of models that score steps"

    def _misplaced(self) -> Iterator[str]:
        """Yield a sentence for each reading that doesn't go with the heads or the steps."""
        places = [head.read.at for head in self.heads.values() if head.read is not None]
        if any(at in ("mean", "steps") for at in places):
            yield "heads: 'mean' and 'steps' are of all heads alike; put it into [read]"
        if places and self.read is not None and self.read.at in ("mean", "steps"):
            yield f"read: '{self.read.at}' is of all heads alike; leave the heads' own 'read' out"
        is_separate = self.steps is not None and self.steps.form == "separate"
        if is_separate != (self.read is not None and self.read.at == "steps"):
            yield "read: at = 'steps' goes with [steps] form = 'separate', and the other way"
        if is_separate and (idle := self.template.says("append", "eos", "chat", "turns")):
            yield f"template: '{idle}' isn't of steps that are tokenized each alone"


def read(folder: Path) -> Card:
    """Return the card in a folder, or an empty one where there is none.

    Raises:
        CheckpointError: The file isn't TOML, or a field is wrong; its path is named.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Card()
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path} has over {_MOST_BYTES} bytes, which no card needs")
        return Card.model_validate(toml_file.parsed(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        location, said = validation.first(error, Card)
        where = ".".join(map(str, location))
        message = f"{where}: {said}" if where else said
        raise CheckpointError(f"{path}: {message}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid TOML: {error}") from error
