"""What is forked in tests of forking: it imports nothing, and says its parent and a variable."""

import os
import socket

from assay.worker_protocol import Refused, encode_answer


def import_libraries() -> None:
    """Import nothing."""


def serve(stream: socket.socket) -> None:
    """Say so, and wait until the front hangs up."""
    said = os.environ.get("VENDOR_LICENSE_SERVER", "")
    stream.sendall(encode_answer(Refused(str(os.getppid()), said)))
    while stream.recv(4096):
        pass
