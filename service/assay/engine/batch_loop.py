"""Batches one after another: received, launched, read, answered.

A GPU works behind the host's back. Where the next batch has come already, it is launched before the
last one's scores are waited for, so that the device goes from one to the other without the host.
"""

from __future__ import annotations

import logging
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from assay.engine.faults import is_out_of_memory, loses_the_device
from assay.worker_protocol import Batch, Done, Ending, Failed, FromWorker, receive

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from assay.engine.model_runner import ModelRunner

logger = logging.getLogger("assay.passes")


class DeviceLost(Exception):
    """The device answers nothing more in this process; a new one may use it."""


@dataclass(frozen=True, slots=True, eq=False)
class Launched:
    """A pass that may still run."""

    trunk: ModelRunner
    batch: Batch
    numbers: torch.Tensor  # (items or rows, outputs) on the device
    begin: float


def serve(
    models: Mapping[str, ModelRunner], stream: socket.socket, send: Callable[[FromWorker], None]
) -> None:
    """Answer batches until the stream ends.

    Raises:
        BrokenPipeError: It ended while an answer was sent.
        DeviceLost: A batch broke the device.
    """
    last: Launched | None = None
    while (message := receive(stream)) is not None:
        if not isinstance(message, Batch):
            continue
        launched = launch(models[message.model], message, send)
        if last is not None:
            send(read(last))
            last = None
        if isinstance(launched, Failed):
            send(launched)
        elif launched.trunk.runs_behind and _has_more(stream):
            last = launched
        else:
            send(read(launched))
    if last is not None:
        send(read(last))


def launch(
    trunk: ModelRunner, batch: Batch, send: Callable[[FromWorker], None]
) -> Launched | Failed:
    """Start a batch, and say when it comes to an end; an exception fails it, not the process."""
    begin = time.perf_counter()
    try:
        numbers = trunk.launch(
            batch.prefix_batch, lambda: send(Ending(batch.number)), batch.ends_at
        )
    except Exception as error:  # noqa: BLE001  whatever a forward pass raises
        return _failed(batch, error)
    return Launched(trunk, batch, numbers, begin)


def read(launched: Launched) -> Done | Failed:
    """Wait for a batch and return what was read."""
    batch = launched.batch
    try:
        numbers = launched.numbers.double().cpu().numpy()
    except Exception as error:  # noqa: BLE001  a device reports here what went wrong meanwhile
        return _failed(batch, error)
    padding = launched.trunk.padded_tokens(batch.prefix_batch)
    passed_s = time.perf_counter() - launched.begin
    return Done.of(batch.number, numbers, passed_s, padding, _device_bytes(launched.numbers.device))


def _device_bytes(device: torch.device) -> int | None:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def _failed(batch: Batch, error: Exception) -> Failed:
    logger.warning("batch %d of %s failed: %s", batch.number, batch.model, type(error).__name__)
    if loses_the_device(error):
        raise DeviceLost(type(error).__name__) from None
    out_of_memory = is_out_of_memory(error)
    if out_of_memory and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Failed(batch.number, type(error).__name__, out_of_memory)


def _has_more(stream: socket.socket) -> bool:
    return bool(select.select([stream], [], [], 0)[0])
