"""`assay` with the device processes of a fork server that many share: `python -P front.py ...`.

A front whose device processes have other variables than that fork server's starts its own, as ever.
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
    """Where the shared fork server listens, its id, and the variables that it has."""

    address: str
    pid: int
    variables: dict[str, str]

    def in_environment(self) -> dict[str, str]:
        """Return what a front that shares it gets."""
        return {GIVEN: json.dumps(self)}


class SharedForks:
    """What a front sees of it, in the place of a fork server of its own."""

    def __init__(self, given: Callable[[], Given]) -> None:
        self._given = given

    def forks(self, program: str, variables: Mapping[str, str]) -> bool:
        """Whether a process would be the same if it weren't forked."""
        return program == "assay.engine.worker" and variables == self._given().variables

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
            connection.connect(self._given().address)
            socket.send_fds(connection, [request], [theirs.fileno(), says.fileno(), 1, 2])
        return processes.Forked(_NeverKilled(), known), ours


class _NeverKilled:
    """A fork server that others use, too."""

    def kill(self) -> None:
        """Do nothing: what is still to be forked finds its stream closed."""


if __name__ == "__main__":
    given = Given(*json.loads(os.environ.pop(GIVEN)))
    processes._fork_servers.append(SharedForks(lambda: given))
    from assay.__main__ import main

    main()
