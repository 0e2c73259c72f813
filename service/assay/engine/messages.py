"""What crosses the wall between the front and a device process, and the frames that carry it.

Both ends are Assay's own processes on one machine, joined by a socket pair that nobody else holds,
so a frame is a length and a pickle. No torch here: the front reads and writes these too.
"""

from __future__ import annotations

import pickle
import signal
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from assay.cards.card import Card
    from assay.cards.repository import Checkpoint

Compile = Literal["auto", "on", "off"]
Stage = Literal["load", "verify", "compile", "warm up"]
FRONT_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})  # for the front alone
HEADER = struct.Struct("<Q")
PAGE_TOKENS = 8  # whose keys and values are kept together between batches


OUTLINE = "meta"  # torch's device of tensors without numbers


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One checkpoint to load, and the operator's overrides."""

    name: str
    folder: Path
    card: Card  # its tokens by their ids
    dtype: str
    max_tokens: int
    batch_tokens: int | None
    prefix_cache_mb: int | None  # None: as the device's memory allows
    base: Path | None = None  # of an adapter: the folder that it is merged into
    trusts_code: bool = False  # whether it is served by code of the checkpoint's own
    checkpoint: Checkpoint | None = None  # what must still be of `revision` once it is loaded
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """First message to a worker: where and what to load."""

    device: str
    threads: int | None
    compile: Compile
    models: tuple[ModelSpec, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one model's start has come; `fraction` of its stage is in [0, 1]."""

    model: str
    stage: Stage
    fraction: float


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads: ids below `vocabulary`, and segment ids below `segments` beside them.

    Of one segment all are 0; of 0 none is read at all. A decoder's class of transformers' own is
    read at the last token that isn't `padding`, if config.json names one.
    """

    vocabulary: int
    segments: int = 0
    padding: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """One model is loaded, verified and warm."""

    model: str
    architecture: str
    device: str
    dtype: str
    forward: Literal["packed", "padded"]
    attention: str
    is_compiled: bool
    shares_prefixes: bool
    reads: Literal["last", "first", "mean"]  # where an item without marks is read
    outputs: dict[str, int]  # how many numbers each head gives, side by side
    inputs: Inputs
    parameters: int
    budget_tokens: int
    prefix_pages: int  # of `PAGE_TOKENS` tokens, that the device keeps between batches
    tokens_per_s: float
    most_batch_tokens: int = 65_536  # that fit the device's memory
    warnings: tuple[str, ...] = ()  # what an operator should know: why it is slower than it could


@dataclass(frozen=True, slots=True)
class Refused:
    """A model can't be served; the worker ends after saying so."""

    model: str
    message: str


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """A batch as a prefix forest: runs of tokens, each computed once, parents before children.

    A run continues the tokens of its parent, the parent those of its own; the path from a root
    spells a sequence. Item i is read at the end of run `reads[i]`; several items may read one run,
    and a run with children may be read too. Where there are `marks`, these rows are read instead.

    The first `held` runs aren't computed: an earlier batch left their keys and values on the
    device, in `held_pages`. They come without ids and nobody reads them. In turn the device keeps
    `kept_rows` of this batch's keys and values in `kept_pages`.
    """

    ids: np.ndarray  # (tokens,) int32, the computed runs laid end to end
    lengths: np.ndarray  # (runs,) int32, each at least 1
    parents: np.ndarray  # (runs,) int32, -1 where a run begins a sequence
    reads: np.ndarray  # (items,) int32
    held: int = 0
    held_pages: np.ndarray = field(
        default_factory=_none
    )  # (pages,) int32, the held runs' laid end to end
    kept_pages: np.ndarray = field(default_factory=_none)  # (pages,) int32
    kept_rows: np.ndarray = field(
        default_factory=_none
    )  # (pages * PAGE_TOKENS,) int32, places in `ids`
    marks: np.ndarray | None = None  # (marks,) int32, places in `ids` that are read instead
    next_ids: np.ndarray = field(default_factory=_none)  # (marks,) int32, the tokens after them
    segments: np.ndarray | None = None  # (tokens,) int32, of unshared runs; None: all 0

    @classmethod
    def unshared(cls, sequences: Sequence[np.ndarray]) -> Self:
        """Return a forest of one run a sequence, each read at its end."""
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
    forest: Forest


@dataclass(frozen=True, slots=True)
class Ending:
    """Most of a batch is computed: the next one may be sent."""

    number: int


@dataclass(frozen=True, slots=True)
class Done:
    """What a model's heads gave: a row for each item of the batch, or for each of its marks."""

    number: int
    numbers: np.ndarray  # (items or marks, outputs) float64
    compute_s: float
    padded_tokens: int
    device_bytes: int | None = None  # what the worker holds of a GPU's memory


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch raised; the worker lives on. `reason` is the exception's class, never its text."""

    number: int
    reason: str
    out_of_memory: bool = False


ToWorker = Start | Batch
FromWorker = Progress | Loaded | Refused | Ending | Done | Failed


def encode(message: object) -> bytes:
    """Return the frame of a message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> object:
    """Return the message of a frame's body."""
    return pickle.loads(body)  # noqa: S301  our own process wrote it


def receive(stream: socket.socket) -> object | None:
    """Wait for the next message on a blocking socket; None when the other end is gone."""
    header = _read_exactly(stream, HEADER.size)
    if header is None:
        return None
    body = _read_exactly(stream, HEADER.unpack(header)[0])
    return None if body is None else decode(body)


def _read_exactly(stream: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = stream.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
