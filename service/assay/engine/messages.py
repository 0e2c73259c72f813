"""What crosses the wall between the front and a device process, and the frames that carry it.

Both ends are Assay's own processes on one machine, joined by a socket pair that nobody else holds,
so a frame is a length and a pickle. No torch here: the front reads and writes these too.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    import numpy as np

Stage = Literal["load", "verify", "warm up"]
HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One checkpoint to load, and the operator's overrides."""

    name: str
    folder: Path
    dtype: str
    max_tokens: int
    batch_tokens: int | None


@dataclass(frozen=True, slots=True)
class Start:
    """First message to a worker: where and what to load."""

    device: str
    threads: int | None
    models: tuple[ModelSpec, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one model's start has come; `fraction` of its stage is in [0, 1]."""

    model: str
    stage: Stage
    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """One model is loaded, verified and warm."""

    model: str
    architecture: str
    device: str
    dtype: str
    forward: Literal["packed", "padded"]
    reads: Literal["last", "first", "mean"]
    parameters: int
    budget_tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A model can't be served; the worker ends after saying so."""

    model: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """One node of a batch's prefix forest: tokens computed once.

    `parent` is the index of the run these tokens continue (-1 for none). `is_scored` marks runs
    whose last token is an item's reading position; their order is the order of the scores.
    """

    ids: np.ndarray
    parent: int = -1
    is_scored: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """A planned forward pass of one model."""

    number: int
    model: str
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> int:
        """Tokens the device computes."""
        return sum(len(run.ids) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Done:
    """The scores of a batch, one for each scored run, NaN where the model answered none."""

    number: int
    scores: np.ndarray  # (scored runs,) float64
    compute_s: float
    padded_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch raised; the worker lives on. `reason` is the exception's class, never its text."""

    number: int
    reason: str


ToWorker = Start | Batch
FromWorker = Progress | Loaded | Refused | Done | Failed


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
