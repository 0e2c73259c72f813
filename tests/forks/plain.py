"""A fork server that imports nothing: what it forks says its number and one of its variables."""

import os
import socket
import sys

from assay import child_process
from assay.worker_protocol import Refused, encode_answer


def run(_: bytes, streams: list[socket.socket]) -> None:
    """Say so, and wait until the front hangs up."""
    theirs, front = streams
    child_process.be_known(front)
    said = os.environ.get("VENDOR_LICENSE_SERVER", "")
    theirs.sendall(encode_answer(Refused(str(os.getppid()), said)))
    while theirs.recv(4096):
        pass


if __name__ == "__main__":
    child_process.follow_the_front()
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        child_process.fork_for_each(stream, 1, run)
