"""Fork servers of tests: one that imports nothing, and one that all servers of a run share.

To import torch for each of them was half of the processor time of the tests.
"""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from assay import scratch
from assay.scheduling import workers
from tests.forks.front import Given

HERE = Path(__file__).parent
FRONT = [sys.executable, "-P", str(HERE / "front.py")]


@cache
def given() -> Given:
    """Start the shared one, which lives as long as this process; return what fronts are told."""
    address = str(Path(tempfile.mkdtemp(prefix="forks-")) / "s")
    variables = workers._variables(())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "shared.py"), str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            env={**variables, **scratch.variables()},
            stdin=subprocess.DEVNULL,
        )
    atexit.register(process.kill)
    return Given(address, process.pid, variables)
