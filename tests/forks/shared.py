"""Processes forked for many fronts: `python shared.py MODULE FD`, a socket that listens.

Each connection brings one request: where the process works and its scratch folder, as JSON, and
four descriptors: its stream, who wants to know it, standard output and standard error.
"""

import importlib
import json
import os
import signal
import socket
import sys

from assay import child_process

MOST_BYTES = 2**16


def main() -> None:
    """Fork until this process is killed."""
    child_process.follow_the_front()
    module = importlib.import_module(sys.argv[1])
    module.import_libraries()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                request, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 4)
            if os.fork() == 0:
                listener.close()
                begin(json.loads(request), descriptors)
                with socket.socket(fileno=descriptors[0]) as stream:
                    module.serve(stream)
                child_process.end()
            for descriptor in descriptors:
                os.close(descriptor)


def begin(request: dict, descriptors: list[int]) -> None:
    """Be a process like one that the front has started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child_process.end_with_the_parent()
    os.chdir(request["folder"])
    os.environ.update(request["scratch"])
    for target, descriptor in zip((1, 2), descriptors[2:], strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    child_process.be_known(socket.socket(fileno=descriptors[1]))


if __name__ == "__main__":
    main()
