"""The process that device processes of a CPU are forked from: their imports, done once.

Started as `python -m assay.engine.fork_server FD`, where FD is its end of a socket pair. To import
torch and transformers takes longer than to load a small model. It computes nothing, so that it has
no threads of torch's, which wouldn't be in what it forks.
"""

from __future__ import annotations

import socket
import sys

from assay import child_process
from assay.engine import worker


def main() -> None:
    """Fork for the socket whose descriptor is the only argument."""
    child_process.follow_the_front()
    child_process.be_called("assay-forks")
    worker.import_libraries()
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        child_process.fork_for_each(stream, 1, _run)


def _run(_: bytes, streams: list[socket.socket]) -> None:
    theirs, front = streams
    child_process.be_known(front)
    with theirs:
        worker.serve(theirs)


if __name__ == "__main__":
    main()
