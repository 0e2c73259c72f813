"""A device process as a process: it follows the front, and ends at once."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from assay.worker_protocol import FRONT_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


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
    with contextlib.suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


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
