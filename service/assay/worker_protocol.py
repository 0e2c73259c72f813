"""What crosses the wall between the front and a device process, and the frames that carry it.

A frame is a length and a body, through a socket pair that nobody else holds. What the front sends
is a pickle: a device process trusts the front. Not the other way round: it may run a checkpoint's
code, so what it sends is plain data of the types below, and anything else is refused. No torch
here: the front reads and writes these too.
"""

from __future__ import annotations

import math
import pickle
import signal
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, Self

import msgspec
import numpy as np

from assay.errors import WorkerError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from assay.cards.card import Card
    from assay.cards.code import Trust
    from assay.cards.repository import Checkpoint

Compile = Literal["auto", "on", "off"]
Attention = Literal["auto", "tree", "varlen", "native", "blocks"]
Quantized = Literal["none", "int8", "fp8"]
Stage = Literal["load", "verify", "compile", "warm up"]
FRONT_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})  # for the front alone
PID = struct.Struct("<i")  # what a forked process says of itself, beside a descriptor
HEADER = struct.Struct("<Q")
BLOCK_TOKENS = 8  # whose keys and values are kept together between batches
MOST_BYTES = 256 * 2**20  # of what a device process says at once
_MOST_BLOCKS = 2**26
_MOST_LISTED = 1024  # heads, warnings

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[float, msgspec.Meta(ge=0)]


OUTLINE = "meta"  # torch's device of tensors without numbers


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One checkpoint to load, and the operator's overrides."""

    name: str
    folder: Path
    card: Card  # its tokens by their ids
    dtype: str
    max_tokens: int
    prefix_cache_mb: int | None  # None: as the device's memory allows
    base: Path | None = None  # of an adapter: the folder that it is merged into
    trust: Trust | None = None  # by which it is served by code of the checkpoint's own
    checkpoint: Checkpoint | None = None  # what must still be of `revision` once it is loaded
    revision: str = ""
    quantize: Quantized | Literal["auto"] = "auto"

    @property
    def rounds_to(self) -> Quantized:
        """What its linear layers are quantized to, by the operator or the card."""
        kind = self.card.trunk.quantize if self.quantize == "auto" else self.quantize
        return kind or "none"


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a worker chooses each model's batch size; see `scheduling.policy`."""

    sizes: tuple[int, ...]  # of batches in tokens, the smallest first; the operator's alone
    longest_s: float
    shortest_s: float
    shortest_fast_s: float
    as_fast: float
    faster: float


@dataclass(frozen=True, slots=True)
class Start:
    """First message to a worker: where and what to load."""

    device: str
    threads: int | None
    compile: Compile
    models: tuple[ModelSpec, ...]
    warm_up: WarmUp
    attention: Attention = "auto"
    invariant: bool = False


class Progress(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """How far one model's start has come; `fraction` of its stage is in [0, 1]."""

    model: str
    stage: Stage
    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Take no fraction that isn't a number."""
        _check_finite(self.fraction)


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model reads: ids below `vocabulary`, and segment ids below `segments` beside them.

    Of one segment all are 0; of 0 none is read at all. A decoder's class of transformers' own is
    read at the last token that isn't `padding`, if config.json names one.
    """

    vocabulary: Count
    segments: Count = 0
    padding: int | None = None


class Loaded(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """One model is loaded, verified and warm."""

    model: str
    architecture: str
    device: str
    dtype: str
    forward: Literal["packed", "padded"]
    attention: str
    is_compiled: bool
    shares_prefixes: bool
    reads: Literal["last", "first", "mean"]  # where an item without read positions is read
    # How many numbers each head gives, side by side.
    outputs: Annotated[dict[str, Count], msgspec.Meta(max_length=_MOST_LISTED)]
    inputs: Inputs
    parameters: Count
    budget_tokens: Positive
    # Of `BLOCK_TOKENS` tokens, that the device keeps between batches.
    prefix_blocks: Annotated[int, msgspec.Meta(ge=0, le=_MOST_BLOCKS)]
    tokens_per_s: Number
    most_batch_tokens: Count  # that fit the device's memory
    quantized: Quantized = "none"
    # What an operator should know: why it is slower than it could be.
    warnings: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_LISTED)] = ()
    # The models, itself among them, whose adapters lie on one copy of a base: a batch may have
    # items of all. Adapters are numbered by their places here.
    shared_base: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_LISTED)] = ()

    def __post_init__(self) -> None:
        """Take no rate that isn't a number."""
        _check_finite(self.tokens_per_s)


class Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A model can't be served; the worker ends after saying so."""

    model: str
    message: str


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBatch:
    """A batch as a prefix tree: runs of tokens, each computed once, parents before children.

    A run continues the tokens of its parent, the parent those of its own; the path from a root
    spells a sequence. Item i is read at the end of run `reads[i]`; several items may read one run,
    and a run with children may be read too. Where there are `read_rows`, these are read instead.

    The first `held` runs aren't computed: an earlier batch left their keys and values on the
    device, in `cached_blocks`. They come without ids and nobody reads them. In turn the device
    keeps `new_rows` of this batch's keys and values in `new_blocks`.
    """

    ids: np.ndarray  # (tokens,) int32, the computed runs laid end to end
    lengths: np.ndarray  # (runs,) int32, each at least 1
    parents: np.ndarray  # (runs,) int32, -1 where a run begins a sequence
    reads: np.ndarray  # (items,) int32
    held: int = 0
    cached_blocks: np.ndarray = field(default_factory=_none)  # (blocks,) int32, of the held runs
    new_blocks: np.ndarray = field(default_factory=_none)  # (blocks,) int32
    new_rows: np.ndarray = field(default_factory=_none)  # (new tokens,) int32, places in `ids`
    read_rows: np.ndarray | None = None  # (rows,) int32, places in `ids` that are read instead
    next_ids: np.ndarray = field(default_factory=_none)  # (rows,) int32, the tokens after them
    segments: np.ndarray | None = None  # (tokens,) int32, of unshared runs; None: all 0
    adapters: np.ndarray | None = None  # (runs,) int32, the number of each's; see `joined_batch`

    @classmethod
    def unshared(cls, sequences: Sequence[np.ndarray]) -> Self:
        """Return a prefix batch of one run a sequence, each read at its end."""
        return cls(
            ids=np.concatenate([np.empty(0, np.int32), *sequences]).astype(np.int32, copy=False),
            lengths=np.fromiter(map(len, sequences), np.int32, len(sequences)),
            parents=np.full(len(sequences), -1, np.int32),
            reads=np.arange(len(sequences), dtype=np.int32),
        )

    @property
    def tokens(self) -> int:
        """Tokens the device computes."""
        return len(self.ids)

    def runs(self) -> list[np.ndarray]:
        """Return the ids of each computed run."""
        return self._by_run(self.ids)

    def segment_runs(self) -> list[np.ndarray]:
        """Return the segment ids of each computed run."""
        return self._by_run(np.zeros_like(self.ids) if self.segments is None else self.segments)

    def _by_run(self, numbers: np.ndarray) -> list[np.ndarray]:
        lengths = self.lengths[self.held :]
        return np.split(numbers, np.cumsum(lengths)[:-1]) if len(lengths) else []


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A planned forward pass of one model."""

    number: int
    model: str
    prefix_batch: PrefixBatch
    ends_at: float  # the part of its layers behind which `Ending` is said


class Ending(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Most of a batch is computed: the next one may be sent."""

    number: int


class Done(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, eq=False):
    """What a model's heads gave: a row for each item of the batch, or for each of its read rows."""

    number: int
    shape: tuple[Count, Count]  # (items or rows, outputs)
    data: bytes  # float64, row by row
    compute_s: Number
    padded_tokens: Count
    device_bytes: Count | None = None  # what the worker holds of a GPU's memory

    def __post_init__(self) -> None:
        """Take only as many numbers as the shape says, in a time that is a number."""
        _check_finite(self.compute_s)
        if len(self.data) != math.prod(self.shape) * _FLOAT.itemsize:
            raise ValueError("the numbers aren't as many as their shape says")

    @classmethod
    def of(
        cls,
        number: int,
        numbers: np.ndarray,
        compute_s: float,
        padded_tokens: int,
        device_bytes: int | None = None,
    ) -> Self:
        """Return the answer that holds some numbers, (items or rows, outputs)."""
        rows, outputs = numbers.shape
        data = numbers.astype(_FLOAT, copy=False).tobytes()
        return cls(number, (rows, outputs), data, compute_s, padded_tokens, device_bytes)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers, (items or rows, outputs) float64, bit for bit; they can't be written."""
        return np.frombuffer(self.data, _FLOAT).reshape(self.shape)


class Failed(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A batch raised; the worker lives on. `reason` is the exception's class, never its text."""

    number: int
    reason: str
    out_of_memory: bool = False


ToWorker = Start | Batch
FromWorker = Progress | Loaded | Refused | Ending | Done | Failed


_FLOAT = np.dtype("<f8")
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: object) -> tuple[bytes, bytes]:
    """Return the frame of a message of the front's: header and body, which may be large."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)), body


def decode(body: bytes) -> object:
    """Return the front's message in a frame's body."""
    return pickle.loads(body)  # noqa: S301  the front wrote it


def receive(stream: socket.socket) -> object | None:
    """Wait for the front's next message on a blocking socket; None when it is gone."""
    header = _read_exactly(stream, HEADER.size)
    if header is None:
        return None
    body = _read_exactly(stream, HEADER.unpack(header)[0])
    return None if body is None else decode(body)


def encode_answer(message: FromWorker) -> bytes:
    """Return the frame of what a device process says."""
    return frame(_encoder.encode(message))


def answer_size(header: bytes) -> int:
    """Return how long the body of what a device process says will be.

    Raises:
        WorkerError: Longer than anything it has to say.
    """
    size: int = HEADER.unpack(header)[0]
    if size > MOST_BYTES:
        raise WorkerError(f"the worker process sends {size} bytes at once, which no worker does")
    return size


def decode_answer(body: bytes) -> FromWorker:
    """Return what a device process says in a frame's body.

    Raises:
        WorkerError: It is none of what one says.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WorkerError("the worker process sends what no worker does") from error


def _check_finite(number: float) -> None:
    if not math.isfinite(number):
        raise ValueError("not a finite number")


def frame(body: bytes) -> bytes:
    """Return a body with its length before it."""
    return HEADER.pack(len(body)) + body


def _read_exactly(stream: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = stream.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
