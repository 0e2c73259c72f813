"""Assay's own processes beside the front: what they are started with, and the stream to each.

They read what a checkpoint brings, and one may run its code: of the environment they get what they
need, by name, and none of its secrets.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from assay import scratch
from assay.worker_protocol import FRONT_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
_started_ahead: list[tuple[str, subprocess.Popen[bytes], socket.socket]] = []


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
def ahead(program: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Start a process before it is known what it is to do: it imports its libraries meanwhile.

    One that nobody needed by the end is killed.
    """
    _started_ahead.append((program, *_start(program, variables)))
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


def start(
    program: str, variables: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return a process of one of our modules and the stream to it: one started ahead, or a new one.

    It is to be started in the main thread: it ends with the thread that started it.
    """
    for entry in _started_ahead:
        if entry[0] == program:
            _started_ahead.remove(entry)
            return entry[1:]
    return _start(program, variables)


def _start(
    program: str, variables: Mapping[str, str]
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
                [sys.executable, "-m", program, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**variables, **scratch.variables()},
                stdin=subprocess.DEVNULL,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours
