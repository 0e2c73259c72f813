"""What crosses between the front and the processes that read checkpoints and render items.

The front is trusted by them and not the other way round: what it sends is a pickle, what it is sent
msgpack, taken only as one of the types here. Frames are those of `worker_protocol`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from assay import errors, worker_protocol
from assay.cards.calibration import Calibration
from assay.cards.card import Card
from assay.cards.repository import Checkpoint
from assay.errors import AssayError, WorkerError, printable
from assay.items import ReadPositions, TokenizedItem
from assay.prompts.models import Facts, Inspected, Model, Padding, Reading, Resolved
from assay.worker_protocol import Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import Cutting, Source
    from assay.prompts.models import ResolveSettings

PLACE = struct.Struct("<I")  # of a model, among those that were read
_MOST_BYTES = 1 << 30  # of a frame that the front takes


# --- what the front asks -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolve:
    """Read what a reference stands for: `ResolvedFrame` or `Refusal`."""

    reference: str
    wanted: ResolveSettings


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look at what a reference stands for: `InspectedFrame` or `Refusal`."""

    reference: str
    wanted: ResolveSettings


@dataclass(frozen=True, slots=True)
class Restore:
    """Read a model's tokenizer again: `Restored` or `Refusal`.

    Or take that of another model that renders alike: a policy's reference has none of its own.
    """

    model: Model
    wanted: ResolveSettings
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """Nothing more is to be read: from now on each message is a model's place and a stream."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Take no other ids than a loaded model does; nothing is answered.

    With `leaves_cores` one core tokenizes: the others are the model's.
    """

    inputs: Inputs
    leaves_cores: bool


@dataclass(frozen=True, slots=True)
class Render:
    """Render items: `Outcomes`, or `Defect`. With `looks` also their texts and tokens."""

    sources: Sequence[Source]
    cutting: Cutting
    processor_s: float  # that it may take; the process is ended by then
    looks: bool = False


# --- what it is told ---------------------------------------------------------------------------


class Refusal(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One of Assay's errors, by the name of its class."""

    kind: str
    message: str
    param: str | None
    retry_after_s: float | None
    advice: str

    @classmethod
    def of(cls, error: AssayError) -> Refusal:
        """Return the frame of an error."""
        param = None if error.param is None else printable(error.param)
        kind = type(error).__name__
        return cls(kind, error.message, param, error.retry_after_s, printable(error.advice))

    def error(self) -> AssayError:
        """Return the error again."""
        kind = _ERRORS.get(self.kind, AssayError)
        return kind(
            self.message, param=self.param, retry_after_s=self.retry_after_s, advice=self.advice
        )


class ReadFrame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`TokenizedItem`, its arrays as bytes of int32; `tokens` and `text` where they were asked."""

    ids: bytes
    cut: str | None
    positions: bytes | None
    next_ids: bytes | None
    joined: int
    segments: bytes | None
    ends_as_expected: bool
    has_mentions: bool
    text: str | None
    tokens: list[str] | None

    @classmethod
    def of(cls, item: TokenizedItem, tokens: list[str] | None, *, looks: bool) -> ReadFrame:
        """Return the frame of what was rendered."""
        at = item.read_at
        return cls(
            ids=_bytes(item.ids),
            cut=item.cut,
            positions=None if at is None else _bytes(at.positions),
            next_ids=None if at is None or at.next_ids is None else _bytes(at.next_ids),
            joined=1 if at is None else at.joined,
            segments=None if item.segments is None else _bytes(item.segments),
            ends_as_expected=item.ends_as_expected,
            has_mentions=item.has_mentions,
            text=item.text if looks else None,
            tokens=tokens,
        )

    def rendered(self) -> TokenizedItem:
        """Return what was rendered."""
        read_at = None
        if self.positions is not None:
            following = None if self.next_ids is None else _ids(self.next_ids)
            read_at = ReadPositions(_ids(self.positions), following, self.joined)
        return TokenizedItem(
            _ids(self.ids),
            self.text,
            cast("Any", self.cut),
            read_at,
            None if self.segments is None else _ids(self.segments),
            self.ends_as_expected,
            self.has_mentions,
        )


class Outcomes(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What came of each item."""

    items: list[ReadFrame | Refusal]


class Hello(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A process that renders is there."""

    pid: int


class Defect(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Something raised what nobody foresaw: its class, and where; never its text."""

    kind: str
    frames: list[str]


class ModelFrame(msgspec.Struct, frozen=True):
    """`Model`."""

    name: str
    folder: str
    base: str | None
    card: dict[str, Any]
    files: str
    revision: str
    template_key: str
    max_tokens: int
    truncation: str
    inputs: tuple[int, int, int | None]
    padding: tuple[str | None, str | None, int | None, int | None, int | None]
    card_in_ids: dict[str, Any]
    trusted: str | None

    @classmethod
    def of(cls, model: Model) -> ModelFrame:
        """Return the frame of a model."""
        checkpoint, facts = model.checkpoint, model.facts
        inputs, padding = facts.inputs, facts.padding
        return cls(
            name=model.name,
            folder=str(checkpoint.folder),
            base=None if checkpoint.base is None else str(checkpoint.base),
            card=_said(checkpoint.card),
            files=model.files,
            revision=model.revision,
            template_key=model.template_key,
            max_tokens=facts.max_tokens,
            truncation=facts.truncation,
            inputs=(inputs.vocabulary, inputs.segments, inputs.padding),
            padding=(padding.text, padding.eos_text, padding.id, padding.eos_id, padding.bos_id),
            card_in_ids=_said(facts.card_in_ids),
            trusted=model.trusted,
        )

    def model(self) -> Model:
        """Return the model."""
        base = None if self.base is None else Path(self.base)
        card = Card.model_validate(self.card)
        return Model(
            name=self.name,
            checkpoint=Checkpoint(self.name, Path(self.folder), card, base),
            files=self.files,
            revision=self.revision,
            template_key=self.template_key,
            facts=Facts(
                max_tokens=self.max_tokens,
                truncation=cast("Any", self.truncation),
                inputs=Inputs(*self.inputs),
                padding=Padding(*self.padding),
                card_in_ids=Card.model_validate(self.card_in_ids),
            ),
            trusted=self.trusted,
        )


class ResolvedFrame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`Resolved`."""

    name: str
    card: dict[str, Any]
    kind: str
    models: list[ModelFrame]
    notes: list[str]
    notices: list[str]
    calibration: dict[str, Any] | None

    @classmethod
    def of(cls, resolved: Resolved) -> ResolvedFrame:
        """Return the frame of what a reference stands for."""
        models = [*map(ModelFrame.of, resolved.models)]
        return cls(
            resolved.name,
            _said(resolved.card),
            resolved.kind,
            models,
            [*resolved.notes],
            [*resolved.notices],
            None if resolved.calibration is None else resolved.calibration.model_dump(mode="json"),
        )

    def resolved(self) -> Resolved:
        """Return what a reference stands for."""
        return Resolved(
            self.name,
            Card.model_validate(self.card),
            cast("Any", self.kind),
            tuple(frame.model() for frame in self.models),
            tuple(self.notes),
            tuple(self.notices),
            None if self.calibration is None else Calibration.model_validate(self.calibration),
        )


class InspectedFrame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`Inspected`."""

    name: str
    folder: str
    family: str
    card: dict[str, Any]
    doubts: list[str]
    notes: list[str]
    notices: list[str]
    reading: tuple[list[str], list[int]] | None
    no_reading: str
    roles: dict[str, str]
    models: list[ModelFrame]
    problem: Refusal | None

    @classmethod
    def of(cls, inspected: Inspected) -> InspectedFrame:
        """Return the frame of what a reference was found to be."""
        return cls(
            name=inspected.name,
            folder=str(inspected.folder),
            family=inspected.family,
            card=_said(inspected.card),
            doubts=[*inspected.doubts],
            notes=[*inspected.notes],
            notices=[*inspected.notices],
            reading=(inspected.reading.tokens, inspected.reading.places)
            if inspected.reading
            else None,
            no_reading=inspected.no_reading,
            roles=dict(inspected.roles),
            models=[*map(ModelFrame.of, inspected.models)],
            problem=Refusal.of(inspected.problem) if inspected.problem else None,
        )

    def inspected(self) -> Inspected:
        """Return what a reference was found to be."""
        return Inspected(
            name=self.name,
            folder=Path(self.folder),
            family=self.family,
            card=Card.model_validate(self.card),
            doubts=tuple(self.doubts),
            notes=tuple(self.notes),
            notices=tuple(self.notices),
            reading=self.reading and Reading(*self.reading),
            no_reading=self.no_reading,
            roles=self.roles,
            models=tuple(frame.model() for frame in self.models),
            problem=self.problem.error() if self.problem else None,
        )


class Fetching(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A checkpoint is being fetched from a hub, which may take long; or that is over."""

    goes_on: bool


class Restored(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A model's tokenizer is read again."""

    template_key: str


Told = Outcomes | Hello | Defect | ResolvedFrame | InspectedFrame | Restored | Fetching | Refusal
_decoder: msgspec.msgpack.Decoder[Told] = msgspec.msgpack.Decoder(Told)
_encoder = msgspec.msgpack.Encoder()
_ERRORS = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, AssayError)
}


def told(message: object) -> bytes:
    """Return the frame of what the front is told."""
    return worker_protocol.frame(_encoder.encode(message))


def size(header: bytes) -> int:
    """Return how long a frame's body is.

    Raises:
        WorkerError: Longer than any that is taken.
    """
    (length,) = worker_protocol.HEADER.unpack(header)
    if length > _MOST_BYTES:
        raise WorkerError("a process that renders sent what isn't a message")
    return int(length)


def read(body: bytes) -> Told:
    """Return what the front is told.

    Raises:
        WorkerError: It isn't anything that is known.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WorkerError("a process that renders sent what isn't a message") from error


def _said(card: Card) -> dict[str, Any]:
    return card.model_dump(exclude_unset=True)


def _bytes(numbers: np.ndarray) -> bytes:
    return numbers.astype(np.int32, copy=False).tobytes()


def _ids(written: bytes) -> np.ndarray:
    return np.frombuffer(written, np.int32)
