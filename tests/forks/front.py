"""`assay` with processes of fork servers that many share: `python -P front.py ...`.

A front whose processes have other variables than a fork server's starts its own, as ever.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from assay import processes, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GIVEN = "SHARED_FORKS"  # in a front's environment


class Given(NamedTuple):
    """Where a shared fork server listens, its id, and the variables that it has."""

    address: str
    pid: int
    variables: dict[str, str]


class SharedForks:
    """What a front sees of them, in the place of a fork server of its own."""

    def __init__(self, given: Callable[[str], Given | None]) -> None:
        """`given` tells of the one of a program, if there is one."""
        self._given = given
        self._address = ""

    def forks(self, program: str, variables: Mapping[str, str]) -> bool:
        """Whether a process would be the same if it weren't forked: then it is what `fork` does."""
        given = self._given(program)
        if given is None or given.variables != variables:
            return False
        self._address = given.address
        return True

    def fork(self) -> tuple[processes.Forked, socket.socket]:
        """Return a process and the stream to it."""
        ours, theirs = socket.socketpair()
        known, says = socket.socketpair()
        request = json.dumps({"folder": str(Path.cwd()), "scratch": scratch.variables()}).encode()
        with (
            theirs,
            says,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
        ):
            connection.connect(self._address)
            socket.send_fds(connection, [request], [theirs.fileno(), says.fileno(), 1, 2])
        return processes.Forked(_NeverKilled(), known), ours


class _NeverKilled:
    """A fork server that others use, too."""

    def kill(self) -> None:
        """Do nothing: what is still to be forked finds its stream closed."""


if __name__ == "__main__":
    told = {program: Given(*one) for program, one in json.loads(os.environ.pop(GIVEN)).items()}
    processes._fork_servers.append(SharedForks(told.get))
    from assay.__main__ import main

    main()
