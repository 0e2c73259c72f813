"""The device process: load models, then score batches until the front hangs up.

Forked from a `fork_server`, or started as `python -m assay.engine.worker FD`, where FD is its end
of a socket pair. One thread; the next batch waits in the socket, so the device goes from batch to
batch.
"""

from __future__ import annotations

import gc
import itertools
import socket
import sys

from assay import child_process
from assay.errors import CheckpointError, refusing
from assay.notebook import Notebook
from assay.worker_protocol import FromWorker, Refused, Start, encode_answer, receive


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    child_process.follow_the_front()
    import_libraries()
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        serve(stream)


def serve(stream: socket.socket) -> None:
    """Do what the front says first, and answer until it hangs up."""
    child_process.be_called("assay-worker")
    start = receive(stream)
    if isinstance(start, Start):
        run(start, stream)


def run(start: Start, stream: socket.socket) -> None:
    """Load what `start` asks for, then answer batches until the stream ends."""
    import torch  # noqa: PLC0415

    from assay.engine import batch_loop, loading  # noqa: PLC0415

    def send(message: FromWorker) -> None:
        stream.sendall(encode_answer(message))

    if start.threads is not None:
        torch.set_num_threads(start.threads)
    loader = loading.Loader(start, send, Notebook("batches.json"))
    try:
        for step, spec in itertools.product((loader.load, loader.warm_up), start.models):
            try:
                with refusing(spec.folder):
                    step(spec)
            except CheckpointError as error:
                send(Refused(spec.name, error.message))
                return
        batch_loop.serve(loader.runners, stream, send)
    except (BrokenPipeError, batch_loop.DeviceLost):
        return


def import_libraries() -> None:
    """Import torch and transformers, and take them out of the garbage collector's sight.

    All of it stays; to look for garbage in it meanwhile was a sixth of a start's processor time.
    """
    gc.disable()
    import transformers  # noqa: PLC0415

    from assay.engine import batch_loop, loading  # noqa: F401, PLC0415

    gc.freeze()
    gc.enable()
    # Standard error is for what an operator must know.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
    child_process.end()
