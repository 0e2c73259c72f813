"""What callers give, for type checkers: things to ask about, and `wire`'s options as keywords."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar

from assay import wire

Turns: TypeAlias = str | list[dict[str, Any]] | list[wire.Message]
AnItem: TypeAlias = wire.Item | Mapping[str, Any] | tuple[Turns, str]
AComparison: TypeAlias = wire.Comparison | Mapping[str, Any] | tuple[Turns, list[str]]
AGroup: TypeAlias = wire.Group | Mapping[str, Any] | tuple[Turns, list[str]]
ATarget: TypeAlias = str | wire.NamedTarget | Mapping[str, Any]

ThingT = TypeVar("ThingT")
Several: TypeAlias = Iterable[ThingT] | AsyncIterable[ThingT]


class SharedOptions(TypedDict, total=False):
    """The fields of `wire.Options`; what isn't given is the server's to choose."""

    tools: list[dict[str, Any]] | None
    documents: list[dict[str, Any]] | None
    chat_template_kwargs: dict[str, Any] | None
    model: str | None
    activation: wire.Activation
    normalize: bool
    on_error: wire.OnError
    priority: wire.Priority
    deadline_ms: int | None
    cache_salt: str | None
    truncation: wire.Truncation | None
    special_tokens: wire.SpecialTokens | None
    include: list[wire.Include]
    aggregate: wire.Aggregate | None
    threshold: float | None
    attributes: dict[str, float] | None
    rule: wire.Rule | None
    penalty: float | None
    length_control: bool


class ScoreOptions(SharedOptions, total=False):
    """Those of `wire.ScoreRequest`."""

    calibrated: bool
    targets: Sequence[ATarget] | None


class CompareOptions(SharedOptions, total=False):
    """Those of `wire.CompareRequest`."""

    temperature: float | None
    tie_margin: float
    abstain_at: float | None


class BestOfNOptions(SharedOptions, total=False):
    """Those of `wire.BestOfNRequest`."""

    top_k: int
    min_score: float | None
    abstain_at: float | None
