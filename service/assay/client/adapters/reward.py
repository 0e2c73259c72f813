"""From a server's answers to the numbers a trainer takes: the options that all adapters share.

A reward is made in this order, and nowhere else:

    clip(activation(score − uncertainty_penalty × std) − length_penalty × n_tokens)

`score` is the target's raw score, or its normalized one where `normalize` is set; `std` the spread
of its members; `n_tokens` what the (first) model reads of the item, its prompt and template
included: within the responses to one prompt only the responses differ.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias, TypedDict

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from assay import errors, wire
from assay.client import response_parsing
from assay.client.adapters.connection import AdapterConnection
from assay.client.retry import PATIENCE_S
from assay.client.route import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Item: TypeAlias = dict[str, Any]
Urls: TypeAlias = "str | Sequence[str]"
logger = logging.getLogger("assay.client")

# What is wrong with an item itself. Any other error of an item is of the service, and is raised.
_OWN = frozenset(
    kind.code
    for kind in (
        errors.BodyTooLarge,
        errors.InvalidField,
        errors.TemplateRefused,
        errors.EmptyItem,
        errors.ItemTooLong,
        errors.NonFiniteScore,
        errors.ForwardFailed,
    )
)
_SERVICE: dict[str, type[errors.ServiceError]] = {
    kind.code: kind
    for kind in (*response_parsing.AWAY, errors.DeadlineExceeded, errors.InternalError)
}


class Options(TypedDict, total=False):
    """The fields of `Reward` beside `url`, as keywords."""

    api_key: str | None
    model: str | None
    name: str | None
    activation: wire.Activation
    normalize: bool
    attributes: dict[str, float] | None
    aggregate: wire.Aggregate | None
    truncation: wire.Truncation | None
    priority: wire.Priority
    tools: list[dict[str, Any]] | None
    documents: list[dict[str, Any]] | None
    chat_template_kwargs: dict[str, Any] | None
    uncertainty_penalty: float
    length_penalty: float
    clip: tuple[float, float] | None
    unscorable: float | None
    verbatim: bool
    turn_end: str
    deadline_s: float | None
    timeout_s: float | None
    patience_s: float
    retries: int | None


def _several(value: object) -> object:
    """Return addresses as a tuple; a string has them between commas."""
    if isinstance(value, str):
        return tuple(url.strip() for url in value.split(",") if url.strip())
    return _sequence(value)


def _sequence(value: object) -> object:
    """Return any sequence as a tuple: a configuration's lists are often of types of their own."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(value)
    return value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:  # NaN isn't, either
        raise ValueError("give the lowest reward, then a higher one")
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Reward(BaseModel):
    """Where rewards come from, and what becomes of them. Picklable: connections are not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        min_length=1, description="A server, or several of the same models."
    )
    api_key: str | None = Field(default=None, repr=False, description="Sent as a bearer token.")
    model: str | None = Field(default=None, description="A served target; default the server's.")
    name: str | None = Field(
        default=None, description="How logs call this reward; default the model, or 'assay'."
    )
    activation: wire.Activation = Field(
        default="none", description="'sigmoid' makes a probability of the score."
    )
    normalize: bool = Field(default=False, description="As in `wire.Options`.")
    attributes: dict[str, float] | None = Field(default=None, description="As in `wire.Options`.")
    aggregate: wire.Aggregate | None = Field(default=None, description="As in `wire.Options`.")
    truncation: wire.Truncation | None = Field(default=None, description="As in `wire.Options`.")
    priority: wire.Priority = Field(default="interactive", description="As in `wire.Options`.")
    tools: list[dict[str, Any]] | None = Field(default=None, description="As in `wire.Options`.")
    documents: list[dict[str, Any]] | None = Field(
        default=None, description="As in `wire.Options`."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="As in `wire.Options`."
    )
    uncertainty_penalty: Finite = Field(
        default=0.0,
        ge=0,
        description="Taken off for each standard deviation of an ensemble.",
    )
    length_penalty: Finite = Field(
        default=0.0,
        description="Taken off for each token that the model reads of the item: prompt, response "
        "and template. Below 0 it is a bonus.",
    )
    clip: (
        Annotated[tuple[float, float], BeforeValidator(_sequence), AfterValidator(_ordered)] | None
    ) = Field(default=None, description="The lowest and the highest reward.")
    unscorable: float | None = Field(
        default=None,
        description="The reward of an item that can't be scored. None leaves it out where a "
        "framework knows how, and is an error elsewhere.",
    )
    verbatim: bool = Field(
        default=False,
        description="A prompt that is a string is scored as one text with its response, as they "
        "stand. Else it is a user's turn, for the model's own template.",
    )
    turn_end: str = Field(
        default="",
        description="What the policy's turns end with, if the framework leaves it in responses: "
        "cut off where the model's own template is used.",
    )
    deadline_s: float | None = Field(
        default=None, gt=0, description="Longest a call may take, its retries included."
    )
    timeout_s: float | None = Field(
        default=None, gt=0, description="Longest silence of a server; None waits."
    )
    patience_s: float = Field(
        default=PATIENCE_S,
        ge=0,
        description="How long a request is sent again that gets no answer, as in `AsyncClient`.",
    )
    retries: int | None = Field(default=None, ge=0, description="As in `AsyncClient`.")

    @classmethod
    def of(cls, url: Urls, options: Mapping[str, Any], **defaults: Any) -> Self:
        """Return the reward of an adapter's arguments.

        Raises:
            InvalidField: One is unknown, of the wrong type or out of range.
        """
        try:
            return cls.model_validate({**defaults, **options, "url": url})
        except ValidationError as error:
            raise invalid(error, cls) from None

    @property
    def label(self) -> str:
        """How logs call it."""
        return self.name or self.model or "assay"

    def ask(self, items: Sequence[Item]) -> list[wire.ScoreEntry]:
        """Return the entries of native items, one each.

        Raises:
            AssayError: The request is refused, or nothing is answered. An item that can't be
                scored has an entry with its `error`.
        """
        return _checked(items, self._connection.client().score(items, **self._asked))

    async def aask(self, items: Sequence[Item]) -> list[wire.ScoreEntry]:
        """Do what `ask` does, on the running event loop."""
        client = await self._connection.aclient()
        return _checked(items, await client.score(items, **self._asked))

    def rewards(self, entries: Sequence[wire.ScoreEntry]) -> list[float | None]:
        """Return one reward an entry; what can't be scored has `unscorable`."""
        return [
            self.unscorable if entry.score is None else self._reward(entry, entry.score)
            for entry in entries
        ]

    def numbers(self, entries: Sequence[wire.ScoreEntry]) -> list[float]:
        """Return one reward an entry, each a number.

        Raises:
            RequestError: An item can't be scored, and has no number for that.
        """
        return [self._number(entry) for entry in entries]

    def steps(self, items: Sequence[Item], entries: Sequence[wire.ScoreEntry]) -> list[list[float]]:
        """Return the scores of each item's steps: activated and clipped, not penalized.

        Raises:
            InvalidField: The target scores no steps.
            RequestError: An item can't be scored, and has no number for that.
        """
        scores = []
        for item, entry in zip(items, entries, strict=True):
            if entry.error is not None:
                scores.append([self._number(entry)] * len(item["steps"]))
            elif entry.steps is None:
                raise errors.InvalidField("the target scores no steps", param="model")
            else:
                scores.append([self._clipped(self._activated(step)) for step in entry.steps])
        return scores

    @property
    def _connection(self) -> AdapterConnection:
        return AdapterConnection(
            self.url, self.api_key, self.timeout_s, self.patience_s, self.retries
        )

    @property
    def _asked(self) -> dict[str, Any]:
        """The options that the server applies; the others come after a penalty, thus here."""
        deadline_ms = None if self.deadline_s is None else max(1, round(1e3 * self.deadline_s))
        options = {
            "model": self.model,
            "aggregate": self.aggregate,
            "truncation": self.truncation,
            "attributes": self.attributes,
            "tools": self.tools,
            "documents": self.documents,
            "chat_template_kwargs": self.chat_template_kwargs,
            "deadline_ms": deadline_ms,
        }
        present = {name: value for name, value in options.items() if value is not None}
        return {
            **present,
            "normalize": self.normalize,
            "priority": self.priority,
            "on_error": "item",
        }

    def _number(self, entry: wire.ScoreEntry) -> float:
        (number,) = self.rewards([entry])
        if number is None:
            reason = entry.error.message if entry.error else "it has no score"
            raise errors.RequestError(
                f"an item can't be scored: {reason}; `unscorable` is the reward of such items"
            )
        return number

    def _reward(self, entry: wire.ScoreEntry, score: float) -> float:
        if self.uncertainty_penalty:
            if entry.uncertainty is None:
                raise errors.InvalidField(
                    "`uncertainty_penalty` needs an ensemble's spread, and the target is one "
                    "model; leave it out, or serve an ensemble",
                    param="uncertainty_penalty",
                )
            score -= self.uncertainty_penalty * entry.uncertainty.std
        score = self._activated(score)
        if self.length_penalty:
            score -= self.length_penalty * entry.n_tokens
        return self._clipped(score)

    def _activated(self, score: float) -> float:
        if self.activation == "none":
            return score
        if score >= 0:
            return 1.0 / (1.0 + math.exp(-score))
        grown = math.exp(score)
        return grown / (1.0 + grown)

    def _clipped(self, reward: float) -> float:
        if self.clip is None:
            return reward
        low, high = self.clip
        return min(max(reward, low), high)


def _checked(items: Sequence[Item], entries: list[wire.ScoreEntry]) -> list[wire.ScoreEntry]:
    """Return entries none of which lacks a score because of the service, or of the target."""
    refused = [
        (item, entry.error) for item, entry in zip(items, entries, strict=True) if entry.error
    ]
    for item, error in refused:
        if error.code not in _OWN:
            raise _SERVICE.get(error.code, errors.ServiceError)(error.message)
        if "steps" in item and error.code == errors.InvalidField.code:
            raise errors.InvalidField(error.message, param="model")
    if refused:
        logger.warning(
            "%d of %d items can't be scored; the first: %s",
            len(refused),
            len(items),
            refused[0][1].message,
        )
    if cut := sum(entry.truncated for entry in entries):
        logger.warning("%d of %d items were cut to the model's limit", cut, len(items))
    return entries
