"""A process that others are forked from: their imports, done once.

Started as `python -m assay.fork_server MODULE FD`, where FD is its end of a socket pair: the
module's `import_libraries` is called here, its `serve` in each fork, with that one's stream. To
import torch takes longer than to load a small model. Nothing is computed here, for that begins
threads, which wouldn't be in what is forked.
"""

from __future__ import annotations

import importlib
import socket
import sys

from assay import child_process


def main() -> None:
    """Fork for the socket whose descriptor is the last argument."""
    child_process.follow_the_front()
    child_process.be_called("assay-forks")
    module = importlib.import_module(sys.argv[1])
    module.import_libraries()

    def run(_: bytes, streams: list[socket.socket]) -> None:
        theirs, front = streams
        child_process.be_known(front)
        with theirs:
            module.serve(theirs)

    with socket.socket(fileno=int(sys.argv[2])) as stream:
        child_process.fork_for_each(stream, 1, run)


if __name__ == "__main__":
    main()
