"""Batches one after another: received, launched, read, answered.

A GPU works behind the host's back. While it computes a batch the host waits for whichever is first:
the point where the batch comes to its end, which the front is told; the next batch, which is then
launched behind it, so that the device goes from one to the other without the host; its scores.
"""

from __future__ import annotations

import logging
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from assay.engine import transfer
from assay.engine.faults import free_memory, is_out_of_memory, loses_the_device
from assay.worker_protocol import Batch, Done, Ending, Failed, FromWorker, receive

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from assay.engine.device_events import Event
    from assay.engine.model_runner import ModelRunner

logger = logging.getLogger("assay.passes")
_LOOK_S = 50e-6  # between two looks at a device that computes


class DeviceLost(Exception):
    """The device answers nothing more in this process; a new one may use it."""


@dataclass(slots=True, eq=False)
class Launched:
    """A pass that may still run."""

    trunk: ModelRunner
    batch: Batch
    numbers: torch.Tensor  # (items or rows, outputs) on the host, once `end` is reached
    begin: Event
    ending: Event | None  # from where on its end is near, until that is said
    end: Event


def serve(
    models: Mapping[str, ModelRunner], stream: socket.socket, send: Callable[[FromWorker], None]
) -> None:
    """Answer batches until the stream ends.

    Raises:
        BrokenPipeError: It ended while an answer was sent.
        DeviceLost: A batch broke the device.
    """
    last: Launched | None = None
    while True:
        if last is not None and not _is_overtaken(last, stream, send):
            send(read(last))
            last = None
        message = receive(stream)
        if message is not None and not isinstance(message, Batch):
            continue
        launched = None if message is None else launch(models[message.model], message, send)
        if last is not None:
            send(read(last))
        if launched is None:
            return
        last = launched if isinstance(launched, Launched) else None
        if isinstance(launched, Failed):
            send(launched)


def launch(
    trunk: ModelRunner, batch: Batch, send: Callable[[FromWorker], None]
) -> Launched | Failed:
    """Start a batch; an exception fails it, not the process.

    It is said that the batch comes to its end if it does so while it is launched, as on a CPU.
    """
    endings: list[Event] = []

    def on_ending() -> None:
        ending = trunk.event()
        if ending.is_reached():
            send(Ending(batch.number))
        else:
            endings.append(ending)

    try:
        begin = trunk.event()
        numbers = transfer.to_host(trunk.launch(batch.prefix_batch, on_ending, batch.ends_at))
        end = trunk.event()
    except Exception as error:  # noqa: BLE001  whatever a forward pass raises
        return _failed(batch, error)
    return Launched(trunk, batch, numbers, begin, endings[0] if endings else None, end)


def read(launched: Launched) -> Done | Failed:
    """Wait for a batch and return what was read, and how long the device took."""
    batch, trunk = launched.batch, launched.trunk
    try:
        launched.end.wait()
        computed_s = launched.end.seconds_since(launched.begin)
    except Exception as error:  # noqa: BLE001  a device reports here what went wrong meanwhile
        return _failed(batch, error)
    padding = trunk.padded_tokens(batch.prefix_batch)
    held = _device_bytes(trunk.device)
    return Done.of(batch.number, launched.numbers.numpy(), computed_s, padding, held)


def _is_overtaken(
    last: Launched, stream: socket.socket, send: Callable[[FromWorker], None]
) -> bool:
    """Return whether the front says more before a batch is computed; tell it meanwhile of its end.

    A device that fails is done.
    """
    while True:
        is_done = _is_reached(last.end)
        if last.ending is not None and _is_reached(last.ending):
            send(Ending(last.batch.number))
            last.ending = None
        if is_done:
            return False
        if select.select([stream], [], [], _LOOK_S)[0]:
            return True


def _is_reached(event: Event) -> bool:
    try:
        return event.is_reached()
    except RuntimeError:  # of the device; who reads the batch is told
        return True


def _device_bytes(device: torch.device) -> int | None:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def _failed(batch: Batch, error: Exception) -> Failed:
    logger.warning("batch %d of %s failed: %s", batch.number, batch.model, type(error).__name__)
    if loses_the_device(error):
        raise DeviceLost(type(error).__name__) from None
    out_of_memory = is_out_of_memory(error)
    if out_of_memory:
        free_memory(error)
    return Failed(batch.number, type(error).__name__, out_of_memory)
