"""A device process as a process: it follows the front, and ends at once."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from assay.worker_protocol import FRONT_SIGNALS, PID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_STREAMS = 2
_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
_NAME = 15  # and its PR_SET_NAME, of at most 15 bytes


def follow_the_front() -> None:
    """Ignore what asks the front to stop: it decides when. End at once where it is killed.

    What came so far, while the signals were held back, is forgotten. Where the front died before,
    the stream has ended.
    """
    for signum in FRONT_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FRONT_SIGNALS)
    end_with_the_parent()


def end_with_the_parent() -> None:
    """End at once where the process that started this one does."""
    _control(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def be_called(name: str) -> None:
    """Name this process, as `top` and `ps -o comm` show it: forks have one command line."""
    _control(_NAME, name.encode())


def _control(option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).prctl(option, value)


def fork_for_each(
    stream: socket.socket, size: int, run: Callable[[bytes, list[socket.socket]], None]
) -> NoReturn:
    """Fork a process for each message of `size` bytes, until the stream ends.

    `run` is called there, with the message and the streams that came with it. Nobody waits for
    those that end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(stream, size, _MOST_STREAMS)
        if not message:
            end()
        streams = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if os.fork() == 0:
            stream.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            end_with_the_parent()
            run(message, streams)
            end()
        for one in streams:
            one.close()


def be_known(stream: socket.socket) -> None:
    """Send this process's id and a descriptor of it, by which others than its parent can end it."""
    descriptor = os.pidfd_open(os.getpid())
    with stream:
        socket.send_fds(stream, [PID.pack(os.getpid())], [descriptor])
    os.close(descriptor)


@contextlib.contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end the process after so much processor time, whatever code it is in."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def end() -> NoReturn:
    """End without taking torch and transformers apart first, which takes more than a second."""
    atexit._run_exitfuncs()  # noqa: SLF001  torch ends processes of its own there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
