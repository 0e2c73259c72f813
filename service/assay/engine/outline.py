"""A checkpoint loaded without its numbers: what names and shapes alone tell against it.

Started as a device process is, as `python -m assay.engine.outline FD`, and ends by itself: for each
model of its `Start` it says `Progress` or `Refused`.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
from typing import TYPE_CHECKING

import torch

from assay import child_process
from assay.cards import adapter
from assay.engine import bounds, checkpoint
from assay.errors import CheckpointError, refusing
from assay.worker_protocol import OUTLINE, Progress, Refused, Start, encode_answer, receive

if TYPE_CHECKING:
    from assay.worker_protocol import ModelSpec


def main() -> None:
    """Answer on the socket whose descriptor is the only argument."""
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        start = receive(stream)
        for spec in start.models if isinstance(start, Start) else ():
            try:
                with refusing(spec.folder):
                    check(spec)
                stream.sendall(encode_answer(Progress(spec.name, "verify", 1.0)))
            except CheckpointError as error:
                stream.sendall(encode_answer(Refused(spec.name, error.message)))


def check(spec: ModelSpec) -> None:
    """Refuse what loading would refuse by names and shapes; no weight is read.

    Of an adapter, of code of the checkpoint's own, and where `accelerate` isn't installed, only
    loading tells.

    Raises:
        CheckpointError: A tensor is missing, left over or misshapen, or the card doesn't fit.
    """
    is_told = importlib.util.find_spec("accelerate") or spec.card.trunk.layout != "transformers"
    if not is_told or spec.trust or adapter.is_adapter(spec.folder):
        return
    device = torch.device(OUTLINE)
    model, readout = checkpoint.load(spec.folder, spec.card, device=device, dtype=torch.float32)
    bounds.check(model, readout, spec.card, spec.max_tokens)


if __name__ == "__main__":
    main()
    child_process.end()
