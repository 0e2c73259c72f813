"""Fork servers of tests: one that imports nothing, and two that all servers of a run share.

To import torch and transformers for each of them was half of the processor time of the tests.
"""

from __future__ import annotations

import atexit
import json
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from assay import scratch
from assay.prompts import loader
from assay.scheduling import workers
from tests.forks.front import GIVEN, Given

HERE = Path(__file__).parent
FRONT = [sys.executable, "-P", str(HERE / "front.py")]
_VARIABLES = {
    workers._PROGRAM: lambda: workers._variables(()),
    loader._PROGRAM: loader._variables,
}


def given(program: str) -> Given | None:
    """Return what a front is told of the fork server of a program, if there is one for it.

    It is started when it is first asked for, and lives as long as this process.
    """
    return _started(program) if program in _VARIABLES else None


def environment() -> dict[str, str]:
    """Return what a front that shares them gets, beside what it always does."""
    return {GIVEN: json.dumps({program: given(program) for program in _VARIABLES})}


def pids() -> list[int]:
    """Return the ids of the fork servers."""
    return [_started(program).pid for program in _VARIABLES]


@cache
def _started(program: str) -> Given:
    address = str(Path(tempfile.mkdtemp(prefix="forks-")) / "s")
    variables = _VARIABLES[program]()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "shared.py"), program, str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            env={**variables, **scratch.variables()},
            stdin=subprocess.DEVNULL,
        )
    atexit.register(process.kill)
    return Given(address, process.pid, variables)
