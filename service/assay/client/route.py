"""The three questions that are asked about many things: how one is written, and how refused.

What is malformed is found here, before it is sent: the server refuses a request as a whole where
one of its items can't be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from assay import errors, validation, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

AnswerT = TypeVar("AnswerT", wire.ScoreAnswer, wire.CompareAnswer, wire.BestOfNAnswer)
EntryT = TypeVar("EntryT", bound=wire.Entry)


@dataclass(frozen=True, slots=True)
class Element:
    """One thing that is asked about: its JSON, or why it has none."""

    place: int
    id: str | None
    json: bytes
    refusal: errors.RequestError | None = None


@dataclass(frozen=True, slots=True)
class Route(Generic[EntryT]):
    """A path of the native API that takes a list, and what the list is made of."""

    path: str
    field: str
    one: type[wire.Item | wire.Comparison | wire.Group]
    second: tuple[str, type]  # what follows the prompt in a pair, and its type
    request: type[wire.Options]
    answer: type[wire.ScoreAnswer | wire.CompareAnswer | wire.BestOfNAnswer]
    refused: Callable[[int, str | None, wire.ItemError], EntryT]

    def is_one(self, value: object) -> bool:
        """Whether a value stands for one thing rather than several."""
        if isinstance(value, tuple):
            return len(value) == 2 and isinstance(value[1], self.second[1])
        return isinstance(value, self.one | Mapping)

    def element(self, place: int, value: object) -> Element:
        """Return one thing as it is sent, or with the reason why it can't be."""
        try:
            read = value if isinstance(value, self.one) else self._read(value)
            return Element(place, read.id, written(read))
        except (ValidationError, errors.InvalidField) as error:
            element_id = value.get("id") if isinstance(value, Mapping) else None
            return Element(
                place,
                element_id if isinstance(element_id, str) else None,
                b"",
                invalid(error, self.one, f"{self.field}[{place}]"),
            )

    def options(self, fields: Mapping[str, Any]) -> wire.Options:
        """Return the options of a call.

        Raises:
            InvalidField: One is unknown, of the wrong type or out of range.
        """
        try:
            return self.request.model_validate({**fields, self.field: []})
        except ValidationError as error:
            raise invalid(error, self.request) from None

    def _read(self, value: object) -> wire.Item | wire.Comparison | wire.Group:
        if isinstance(value, Mapping):
            return self.one.model_validate(dict(value))
        if self.is_one(value):
            assert isinstance(value, tuple)
            return self.one.model_validate({"prompt": value[0], self.second[0]: value[1]})
        raise self.strange(value)

    def strange(self, value: object) -> errors.InvalidField:
        """Return the refusal of something that can't be asked about."""
        return errors.InvalidField(
            f"give a dict, a wire.{self.one.__name__}, or a tuple of prompt and "
            f"{self.second[0]}; not a {_kind(value)}"
        )


SCORE = Route(
    "/score",
    "inputs",
    wire.Item,
    ("response", str),
    wire.ScoreRequest,
    wire.ScoreAnswer,
    lambda index, id_, error: wire.ScoreEntry(
        index=index, id=id_, error=error, score=None, n_tokens=0, truncated=False
    ),
)
COMPARE = Route(
    "/compare",
    "comparisons",
    wire.Comparison,
    ("responses", list),
    wire.CompareRequest,
    wire.CompareAnswer,
    lambda index, id_, error: wire.CompareEntry(index=index, id=id_, error=error),
)
BEST_OF_N = Route(
    "/best-of-n",
    "groups",
    wire.Group,
    ("responses", list),
    wire.BestOfNRequest,
    wire.BestOfNAnswer,
    lambda index, id_, error: wire.BestOfNEntry(index=index, id=id_, error=error, n=0),
)


def _kind(value: object) -> str:
    """Return what something is; what it holds stays unsaid."""
    inside = [type(part).__name__ for part in value[:3]] if isinstance(value, tuple) else []
    return type(value).__name__ + (f" of {', '.join(inside)}" if inside else "")


def written(request: wire.Request, *without: str) -> bytes:
    """Return what was set of a request as JSON.

    Raises:
        InvalidField: A text in it isn't one: half of a surrogate pair.
    """
    try:
        return request.model_dump_json(exclude_unset=True, exclude=set(without)).encode()
    except PydanticSerializationError:
        raise errors.InvalidField("a text has a lone surrogate; send whole characters") from None


def invalid(
    error: ValidationError | errors.InvalidField, kind: type[BaseModel], path: str = ""
) -> errors.InvalidField:
    """Return what is wrong in the server's words, below a path; never what was given.

    `kind` is what was validated.
    """
    if isinstance(error, errors.InvalidField):
        return errors.InvalidField(f"field '{path}': {error.message}", param=path)
    location, said = validation.first(error, kind)
    for part in (part for part in location if not str(part).startswith("as-")):
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return errors.InvalidField(f"field '{path}': {said}" if path else said, param=path or None)
