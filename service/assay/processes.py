"""Assay's own processes beside the front: what they are started with, and the stream to each.

They read what a checkpoint brings, and one may run its code: of the environment they get what they
need, by name, and none of its secrets. Where a fork server runs, those that use its libraries are
forked from it, and needn't import them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import select
import signal
import socket
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Protocol

from assay import scratch
from assay.worker_protocol import FRONT_SIGNALS, PID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# The system's, Python's, and those of the libraries that compute or keep files.
_NEEDED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM"),
    *("TMPDIR", "TEMP", "TMP", "XDG_*", "LD_*", "DYLD_*", "GLIBC_TUNABLES", "MALLOC_*"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_*", "COV_CORE_*", "COVERAGE_*"),
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "CUBLAS_*", "CUDNN_*", "HIP_*", "ROCR_*", "HSA_*", "GPU_*"),
    *("TORCH*", "PYTORCH_*", "TRITON_*", "ATEN_*", "CC", "CXX", "CFLAGS", "CXXFLAGS", "MAX_JOBS"),
    *(
        "OMP_*",
        "GOMP_*",
        "KMP_*",
        "MKL_*",
        "OPENBLAS_*",
        "BLIS_*",
        "DNNL_*",
        "ONEDNN_*",
        "NUMEXPR_*",
    ),
    *("HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*", "SAFETENSORS_*", "ACCELERATE_*"),
)
_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH)S?(_|$)", re.IGNORECASE)
_FORK_SERVER = "assay.fork_server"
_started_ahead: list[tuple[str, subprocess.Popen[bytes], socket.socket]] = []
_fork_servers: list[ForkServer] = []


class Process(Protocol):
    """What is known of a process, and done to it."""

    @property
    def pid(self) -> int | None:
        """Its id; None while it is only asked for."""

    def poll(self) -> int | None:
        """Return a number once it has ended."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """Wait, in this thread, until it has ended."""


def environment(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that a process gets: those it needs, and `more` by their exact names."""
    named = frozenset(more)
    return {
        name: value
        for name, value in os.environ.items()
        if name in named
        or (
            any(fnmatch.fnmatchcase(name, pattern) for pattern in _NEEDED)
            and not _SECRET.search(name)
        )
    }


@contextlib.contextmanager
def ahead(program: str, variables: Mapping[str, str], *, forks: bool) -> Iterator[None]:
    """Import a module's libraries before it is known what its processes are to do.

    Where it `forks`, they are forked from one that lives until the block ends, within another block
    of the same from that one's; else the first is started already. One that nobody needed by the
    end is killed.
    """
    if forks and _can_be_forked():
        if any(server.forks(program, variables) for server in _fork_servers):
            yield
            return
        server = ForkServer(program, variables)
        _fork_servers.append(server)
        try:
            yield
        finally:
            _fork_servers.remove(server)
            server.close()
        return
    _started_ahead.append((program, *_start([program], variables)))
    try:
        yield
    finally:
        left = [entry for entry in _started_ahead if entry[0] == program]
        for entry in left:
            _started_ahead.remove(entry)
            _, process, stream = entry
            process.kill()
            process.wait()
            stream.close()


def _can_be_forked() -> bool:
    """Whether a process that isn't a child can be held by a descriptor: on Linux, mostly."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def start(program: str, variables: Mapping[str, str]) -> tuple[Process, socket.socket]:
    """Return a process of one of our modules and the stream to it.

    It is forked, or was started ahead, or is a new one. It is to be started in the main thread: it
    ends with the thread that started it or its fork server.
    """
    for server in _fork_servers:
        if server.forks(program, variables):
            return server.fork()
    for entry in _started_ahead:
        if entry[0] == program:
            _started_ahead.remove(entry)
            return entry[1:]
    return _start([program], variables)


class ForkServer:
    """A process that forks others, which have its variables; started again once it has died."""

    def __init__(self, program: str, variables: Mapping[str, str]) -> None:
        self._program = program
        self._variables = dict(variables)
        self._process, self._stream = _start([_FORK_SERVER, program], variables)

    def forks(self, program: str, variables: Mapping[str, str]) -> bool:
        """Whether it forks processes of this program that have these variables."""
        return self._program == program and self._variables == variables

    def fork(self) -> tuple[Forked, socket.socket]:
        """Return a process that it will fork, and the stream to that; it may still import."""
        if self._process.poll() is not None:
            self._stream.close()
            self._process, self._stream = _start([_FORK_SERVER, self._program], self._variables)
        ours, theirs = socket.socketpair()
        known, says = socket.socketpair()
        with theirs, says, contextlib.suppress(OSError):  # it has just died: both streams end
            socket.send_fds(self._stream, [b"f"], [theirs.fileno(), says.fileno()])
        return Forked(self._process, known), ours

    def close(self) -> None:
        """End it, and what it forked."""
        self._stream.close()
        self._process.kill()
        self._process.wait()


class Forked:
    """A process of a fork server's: no child of this one, so it is held by a descriptor."""

    def __init__(self, server: subprocess.Popen[bytes], known: socket.socket) -> None:
        """On `known` come its id and a descriptor of it, or the end where it never was."""
        self._server = server
        self._known = known
        self._descriptor: int | None = None
        self._pid: int | None = None
        self._has_ended = False
        known.setblocking(False)

    @property
    def pid(self) -> int | None:
        """Its id; None until it was forked."""
        self._look()
        return self._pid

    def poll(self) -> int | None:
        """Return 0 once it has ended, or never will be."""
        self._look()
        if self._descriptor is not None and not self._has_ended:
            self._has_ended = bool(self._polled(0))
        return 0 if self._has_ended else None

    def wait(self) -> int:
        """Wait until it has ended; one that was never forked has."""
        self._look()
        if self._descriptor is not None:
            self._polled(None)
        return 0

    def _polled(self, milliseconds: float | None) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._descriptor or -1, select.POLLIN)
        return poll.poll(milliseconds)

    def kill(self) -> None:
        """End it; a fork server that hasn't forked it yet is ended, too."""
        self._look()
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        elif not self._has_ended:
            self._server.kill()
            self._end()

    def _look(self) -> None:
        """Take note of what the process has said of itself."""
        if self._descriptor is not None or self._has_ended:
            return
        try:
            said, descriptors, _, _ = socket.recv_fds(self._known, PID.size, 1)
        except BlockingIOError:
            return
        if not descriptors:
            self._end()
            return
        self._known.close()
        self._pid, self._descriptor = PID.unpack(said)[0], descriptors[0]
        weakref.finalize(self, os.close, self._descriptor)

    def _end(self) -> None:
        self._known.close()
        self._has_ended = True


def _start(
    arguments: Sequence[str], variables: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process that no signal to the group ends before it can say that it ignores these.

    systemd and a terminal signal the whole group. A mask is inherited; a loop's own way to start
    processes may clear it.
    """
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FRONT_SIGNALS)
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", *arguments, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**variables, **scratch.variables()},
                stdin=subprocess.DEVNULL,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours
